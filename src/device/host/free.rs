//! Eager free: releases whole GMEM pages.

use std::ops::ControlFlow;

use super::{system, walk};
use crate::error::{Errno, Error, Result};
use crate::os::advice;
use crate::os::vma::Backing;
use crate::page::PageRange;

/// Drop the memory that is mapped in `pages`, or nothing if a part must not be dropped. `first` is called before with each part
/// that is private memory.
pub fn drop_pages(pages: PageRange, first: impl Fn(PageRange) -> Result<()>) -> Result<()> {
    let plan = plan(pages)?;
    plan.segments.iter().try_for_each(|(range, kind)| match kind {
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
        let memory = match vma.backing {
            Backing::Anonymous => Memory::Private,
            Backing::SharedMemory if vma.write => Memory::Shared,
            Backing::SharedMemory | Backing::File => {
                refusal = Some((inside, vma.backing));
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
    if let Some((range, backing)) = refusal {
        let (what, remedy, errno) = match backing {
            Backing::File => (
                "a file or device mapping",
                "Free anonymous or shared memory only; for a file see posix_fadvise(2).",
                libc::EINVAL,
            ),
            _ => (
                "shared memory mapped read-only",
                "Map it PROT_WRITE, because dropping it changes it for everyone.",
                libc::EACCES,
            ),
        };
        let (from, to) = (range.start(), range.end());
        return Err(Error::Unsupported { verb: "gmemFreeEager", from, to, what, remedy, errno });
    }
    if covered < pages.end() {
        plan.hole.get_or_insert(covered);
    }
    Ok(plan)
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
            libc::EPERM => "; the memfd is sealed against writing (fcntl(2), F_ADD_SEALS)",
            _ => "",
        };
        system("MADV_REMOVE", range, errno, remedy)
    })
}
