//! Eager free: releases whole GMEM pages.
//!
//! Clean pages of a file are released, too: they come back from the file. The bytes that a program has written to a private
//! mapping of a file do not, so a range with such pages is refused, even if it is mapped read-only by now.

use std::ops::ControlFlow;

use super::{system, walk};
use crate::error::{Errno, Error, Result};
use crate::os::SysResult;
use crate::os::advice;
use crate::os::pagemap;
use crate::os::vma::{Backing, Vma};
use crate::page::PageRange;

/// Drop the memory that is mapped in `pages`, or nothing if a part must not be dropped. `first` is called before with each part
/// that is private memory.
pub fn drop_pages(pages: PageRange, first: impl Fn(PageRange) -> Result<()>) -> Result<()> {
    let plan = plan(pages)?;
    // Files first: the kernel refuses mappings of some devices only now, and nothing is lost by then.
    let of_files = |(_, kind): &&(PageRange, Memory)| *kind == Memory::File;
    plan.segments.iter().filter(of_files).try_for_each(|(range, _)| drop_clean(*range))?;
    plan.segments.iter().try_for_each(|(range, kind)| match kind {
        Memory::File => Ok(()),
        Memory::Private => first(*range).and_then(|()| drop_private(*range)),
        Memory::Shared => drop_shared(*range),
    })?;
    match plan.hole {
        None => Ok(()),
        Some(at) => Err(Error::Hole {
            at,
            from: pages.start(),
            to: pages.end(),
            done: "what is mapped there was freed. Pass addresses that are mapped",
        }),
    }
}

/// Fails if a part of what is mapped in `pages` must not be dropped.
pub fn may_drop(pages: PageRange) -> Result<()> {
    plan(pages).map(drop)
}

/// The way in which memory is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Memory {
    Private,
    Shared,
    /// Clean pages of a file.
    File,
}

struct Plan {
    segments: Vec<(PageRange, Memory)>,
    /// The first address that is not mapped.
    hole: Option<usize>,
}

/// The memory that is mapped in `pages`, by the way in which it is dropped; an error if a part must not be dropped.
fn plan(pages: PageRange) -> Result<Plan> {
    let mut plan = Plan { segments: Vec::new(), hole: None };
    let mut refusal = None;
    let mut covered = pages.start();
    let mut is_full = false;

    walk(pages, |vma| {
        let inside = vma.range.intersect(pages);
        if inside.start() > covered {
            plan.hole.get_or_insert(covered);
        }
        covered = inside.end();
        let memory = match kind(vma, inside) {
            Ok(memory) => memory,
            Err(refused) => {
                refusal = Some(refused);
                return ControlFlow::Break(());
            }
        };
        match plan.segments.last_mut() {
            Some((last, kind)) if *kind == memory && last.end() == inside.start() => {
                *last = PageRange::new(last.start(), inside.end());
            }
            _ => {
                is_full = plan.segments.try_reserve(1).is_err();
                if is_full {
                    return ControlFlow::Break(());
                }
                plan.segments.push((inside, memory));
            }
        }
        ControlFlow::Continue(())
    })?;

    if is_full {
        return Err(Error::OutOfMemory { what: "the list of what is mapped in the range" });
    }
    if let Some(refused) = refusal {
        return Err(refused);
    }
    if covered < pages.end() {
        plan.hole.get_or_insert(covered);
    }
    Ok(plan)
}

/// How the part `inside` of a mapping is dropped; an error if it must not be.
fn kind(vma: Vma, inside: PageRange) -> Result<Memory> {
    match vma.backing {
        Backing::Anonymous => Ok(Memory::Private),
        Backing::SharedMemory if vma.write => Ok(Memory::Shared),
        Backing::SharedMemory => Err(refused(
            inside,
            "shared memory mapped read-only",
            "Map it PROT_WRITE, because dropping it changes it for everyone.",
            libc::EACCES,
        )),
        Backing::File if vma.write => Err(refused(
            inside,
            "a file mapping that may be written",
            "Map the file read-only, or free anonymous or shared memory.",
            libc::EINVAL,
        )),
        // A shared mapping has the file's own pages only.
        Backing::File if vma.shared => Ok(Memory::File),
        Backing::File => match first_copy(inside) {
            Ok(None) => Ok(Memory::File),
            Ok(Some(at)) => Err(refused(
                PageRange::new(at, inside.end()),
                "a file mapping with pages that were written before it became read-only",
                "Their bytes are nowhere else; free the parts around them.",
                libc::EINVAL,
            )),
            Err(errno) => {
                Err(system("reading /proc/self/pagemap", inside, errno, "; nothing was done"))
            }
        },
    }
}

fn refused(range: PageRange, what: &'static str, remedy: &'static str, errno: i32) -> Error {
    let (from, to) = (range.start(), range.end());
    Error::Unsupported { verb: "gmemFreeEager", from, to, what, remedy, errno }
}

/// The first page of a private file mapping that is a copy of the file's, in memory or swapped out.
fn first_copy(range: PageRange) -> SysResult<Option<usize>> {
    let mut copy = None;
    pagemap::scan(range, |run| {
        if !run.file && !run.zero {
            copy.get_or_insert(run.range.start());
        }
    })?;
    Ok(copy)
}

/// Drop pages that hold what their file holds.
fn drop_clean(range: PageRange) -> Result<()> {
    // SAFETY: no page of the range differs from the file: the mapping is shared, or `first_copy` found no page of its own in
    // it, and it could not be written. So the next read gives the bytes that it has now.
    let result = unsafe {
        match advice::drop_private(range) {
            // Locked memory needs its own advice.
            Err(Errno(libc::EINVAL)) => advice::drop_private_locked(range),
            other => other,
        }
    };
    result.map_err(|errno| match errno.0 {
        libc::EINVAL => refused(
            range,
            "a device mapping, or a locked one on a kernel older than Linux 5.18",
            "Leave it out, or munlock(2) it first.",
            libc::EINVAL,
        ),
        _ => system("MADV_DONTNEED", range, errno, ""),
    })
}

fn drop_private(range: PageRange) -> Result<()> {
    // SAFETY: the range is part of what was passed to `Device::free_eager`, whose callers pass only memory whose contents
    // their owner has given up: the program's, by gmemFreeEager(), or a device's own block.
    let result = unsafe {
        match advice::drop_private(range) {
            // Locked memory needs its own advice.
            Err(Errno(libc::EINVAL)) => advice::drop_private_locked(range),
            other => other,
        }
    };
    result.map_err(|errno| {
        let remedy = match errno.0 {
            libc::EINVAL => {
                "; it is locked and the kernel older than Linux 5.18: munlock(2) it first"
            }
            libc::ENOMEM => "; it was unmapped meanwhile",
            _ => "",
        };
        system("MADV_DONTNEED", range, errno, remedy)
    })
}

fn drop_shared(range: PageRange) -> Result<()> {
    // SAFETY: the range is part of what was passed to `Device::free_eager`, whose callers pass only memory whose contents the
    // program has given up by gmemFreeEager().
    unsafe { advice::drop_shared(range) }.map_err(|errno| {
        let remedy = match errno.0 {
            libc::EINVAL => {
                "; the kernel does not release locked shared memory: munlock(2) it first"
            }
            libc::EPERM => "; the memfd is sealed against writing (fcntl(2), F_ADD_SEALS)",
            _ => "",
        };
        system("MADV_REMOVE", range, errno, remedy)
    })
}
