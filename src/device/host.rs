//! Device `host`: a stock Linux kernel with any number of memory nodes, CXL included.

use std::ffi::CStr;
use std::ops::ControlFlow;

use super::Device;
use crate::error::{Errno, Error, Result};
use crate::os::lazy::Lazy;
use crate::os::vma::{self, Backing, Vma};
use crate::os::{SysResult, advice, mapping, numa};
use crate::page::PageRange;

/// The machine's own memory.
pub struct Host;

impl Device for Host {
    fn c_name(&self) -> &'static CStr {
        c"host"
    }

    fn numa_id(&self) -> Result<i32> {
        let here = numa::current_node();
        let nodes = known_nodes();
        let nearest = if nodes.contains(here) {
            Some(here)
        } else {
            nodes.iter().min_by_key(|node| numa::distance(here, *node).unwrap_or(usize::MAX))
        };
        Ok(nearest.and_then(|node| i32::try_from(node).ok()).unwrap_or(0))
    }

    fn node(&self, hnid: i32) -> Result<usize> {
        let node = usize::try_from(hnid).unwrap_or(usize::MAX);
        if known_nodes().contains(node) {
            return Ok(node);
        }
        // Memory may have been plugged in since.
        let nodes = numa::memory_nodes();
        if nodes.contains(node) {
            return Ok(node);
        }
        Err(Error::NotAMemoryNode { hnid, nodes: nodes.to_string() })
    }

    fn prefetch(&self, asked: PageRange, node: usize) -> Result<()> {
        let segments = plan_prefetch(asked)?;
        if known_nodes().contains(node) && known_nodes().len() == 1 {
            return segments.iter().try_for_each(|segment| segment.with_margin(|s| s.populate()));
        }
        // A kernel built without memory policies has no second node to prefer.
        let preferred = numa::PreferNode::new(node).ok();
        segments.iter().try_for_each(|segment| segment.with_margin(|s| s.populate()))?;
        drop(preferred);
        segments.iter().try_for_each(|segment| segment.with_margin(|s| settle(s.range, node)))
    }

    fn free_eager(&self, pages: PageRange) -> Result<()> {
        let plan = plan_free(pages)?;
        plan.segments.iter().try_for_each(|(range, kind)| match kind {
            Memory::Private => drop_private(*range),
            Memory::Shared => advice::drop_shared(*range).map_err(|errno| {
                let remedy = match errno.0 {
                    libc::EPERM => "; the memfd is sealed against writing (fcntl(2), F_ADD_SEALS)",
                    _ => "",
                };
                system("MADV_REMOVE", *range, errno, remedy)
            }),
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
}

/// The memory nodes when first asked for: reading them is three system calls, and they seldom change.
/// A node that has gone since is found out by the pages that are not there.
fn known_nodes() -> &'static numa::NodeSet {
    static NODES: Lazy<numa::NodeSet> = Lazy::new(numa::memory_nodes);
    NODES.get()
}

// ---- prefetch ---------------------------------------------------------------------------------

/// Memory to populate alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Segment {
    range: PageRange,
    /// The part that was asked for; the rest is margin, which may change or be refused at any time.
    asked: PageRange,
    /// As if written: where the mapping permits it, so that the first store takes no fault either.
    write: bool,
}

impl Segment {
    /// Do it with the margin; if that fails, what counts is the part that was asked for.
    fn with_margin(self, act: impl Fn(Self) -> Result<()>) -> Result<()> {
        match act(self) {
            Err(_) if self.asked.is_empty() => Ok(()),
            Err(_) if self.asked != self.range => act(Self { range: self.asked, ..self }),
            outcome => outcome,
        }
    }

    fn populate(self) -> Result<()> {
        let (result, call) = if self.write {
            (advice::populate_write(self.range), "MADV_POPULATE_WRITE")
        } else {
            (advice::populate_read(self.range), "MADV_POPULATE_READ")
        };
        result.map_err(|errno| match errno.0 {
            libc::EINVAL if !advice::can_populate() => system(
                call,
                self.range,
                Errno(libc::EOPNOTSUPP),
                "; the kernel is older than Linux 5.14",
            ),
            libc::EINVAL => Error::Unsupported {
                verb: "gmemPrefetch",
                from: self.range.start(),
                to: self.range.end(),
                what: "a device mapping",
                remedy: "Its driver places it.",
                errno: libc::EINVAL,
            },
            libc::EFAULT => system(
                call,
                self.range,
                errno,
                "; part of it lies beyond the end of its file, is a guard page \
                 (MADV_GUARD_INSTALL), or no hugetlb page is free (vm.nr_hugepages)",
            ),
            libc::ENOMEM => system(
                call,
                self.range,
                errno,
                "; no memory is left for it (see free -h and the memory cgroup), or it was \
                 unmapped meanwhile",
            ),
            _ => system(call, self.range, errno, ""),
        })
    }
}

/// What to populate for `asked`: all of it, or an error before anything is touched; and of the
/// margin up to whole GMEM pages what is ordinary memory.
fn plan_prefetch(asked: PageRange) -> Result<Vec<Segment>> {
    let outer = asked.outward(mapping::gmem_page());
    let asked = asked.outward(mapping::base_page());
    let mut segments: Vec<Segment> = Vec::new();
    let mut refusal = None;
    let mut covered = asked.start();

    walk(outer, |vma| {
        let inside = vma.range.intersect(asked);
        if !inside.is_empty() {
            if inside.start() > covered {
                return ControlFlow::Break(());
            }
            covered = inside.end();
            if !vma.read && !vma.write {
                refusal = Some(inside);
                return ControlFlow::Break(());
            }
        }
        let ordinary = vma.backing == Backing::Anonymous && vma.write;
        let wanted = if ordinary { vma.range.intersect(outer) } else { inside };
        if !wanted.is_empty() {
            push(&mut segments, Segment { range: wanted, asked: inside, write: vma.write });
        }
        ControlFlow::Continue(())
    })?;

    if let Some(range) = refusal {
        return Err(Error::Unsupported {
            verb: "gmemPrefetch",
            from: range.start(),
            to: range.end(),
            what: "mapped without any access (PROT_NONE)",
            remedy: "Make it accessible with mprotect(2) first.",
            errno: libc::EACCES,
        });
    }
    if covered < asked.end() {
        return Err(Error::Hole {
            at: covered,
            from: asked.start(),
            to: asked.end(),
            done: "nothing was moved. Pass a range that is mapped throughout",
        });
    }
    Ok(segments)
}

/// Neighbours that are populated alike become one system call.
fn push(segments: &mut Vec<Segment>, next: Segment) {
    if let Some(last) = segments.last_mut()
        && last.write == next.write
        && last.range.end() == next.range.start()
        && let Some(range) = last.range.union(next.range)
    {
        // Of neighbours the asked parts touch too, unless one of them has none.
        last.asked = match (last.asked.is_empty(), next.asked.is_empty()) {
            (true, _) => next.asked,
            (_, true) => last.asked,
            _ => last.asked.union(next.asked).unwrap_or(range),
        };
        last.range = range;
    } else {
        segments.push(next);
    }
}

/// Move the pages of `range` that lie on another node. Pages without a place of their own, such as
/// the zero page, are as good anywhere.
fn settle(range: PageRange, node: usize) -> Result<()> {
    /// Base pages asked about in one call: 128 MiB of 4 KiB pages.
    const BATCH: usize = 1 << 15;
    let base = mapping::base_page().bytes();
    let huge = mapping::gmem_page().bytes();
    let failed = |errno| system("move_pages", range, errno, "");

    let mut left = 0;
    let addresses: Vec<usize> = (range.start()..range.end()).step_by(base).collect();
    for batch in addresses.chunks(BATCH) {
        let elsewhere = misplaced(batch, node).map_err(failed)?;
        if elsewhere.is_empty() {
            continue;
        }
        // One address moves a whole huge page, and naming its others as well would report them
        // busy: first one address per huge page, then whatever is still elsewhere.
        let heads: Vec<usize> = elsewhere
            .chunk_by(|a, b| a / huge == b / huge)
            .filter_map(|page| page.first().copied())
            .collect();
        let mut elsewhere = elsewhere;
        for candidates in [Some(heads), None] {
            // A partial move is an error on some kernels and a count on others; the truth is where
            // the pages are afterwards.
            let _ = numa::migrate(candidates.as_deref().unwrap_or(&elsewhere), node);
            elsewhere = misplaced(&elsewhere, node).map_err(failed)?;
            if elsewhere.is_empty() {
                break;
            }
        }
        left += elsewhere.len();
    }
    if left == 0 {
        return Ok(());
    }
    Err(Error::NotMoved {
        left,
        pages: addresses.len(),
        from: range.start(),
        to: range.end(),
        hnid: i32::try_from(node).unwrap_or(i32::MAX),
    })
}

fn misplaced(addresses: &[usize], node: usize) -> SysResult<Vec<usize>> {
    let places = numa::placement(addresses)?;
    Ok(addresses
        .iter()
        .zip(places)
        .filter(|(_, place)| matches!(place, numa::Placement::Node(other) if *other != node))
        .map(|(address, _)| *address)
        .collect())
}

// ---- eager free -------------------------------------------------------------------------------

/// How memory is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Memory {
    Private,
    Shared,
}

struct FreePlan {
    segments: Vec<(PageRange, Memory)>,
    /// First address that is not mapped.
    hole: Option<usize>,
}

/// What is mapped in `pages`, by how it is dropped; an error where part of it must not be dropped.
fn plan_free(pages: PageRange) -> Result<FreePlan> {
    let mut plan = FreePlan { segments: Vec::new(), hole: None };
    let mut refusal = None;
    let mut covered = pages.start();

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
            _ => plan.segments.push((inside, memory)),
        }
        ControlFlow::Continue(())
    })?;

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
    let result = match advice::drop_private(range) {
        // Locked memory asks for its own advice.
        Err(Errno(libc::EINVAL)) => advice::drop_private_locked(range),
        other => other,
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

// ---- both -------------------------------------------------------------------------------------

fn walk(range: PageRange, visit: impl FnMut(Vma) -> ControlFlow<()>) -> Result<()> {
    vma::walk(range, visit).map_err(|errno| {
        let remedy = match errno.0 {
            libc::EMFILE | libc::ENFILE => "; raise ulimit -n or fs.file-max",
            _ => "; libgmem needs /proc to be mounted",
        };
        system("reading /proc/self/maps", range, errno, remedy)
    })
}

fn system(call: &'static str, range: PageRange, errno: Errno, remedy: &'static str) -> Error {
    Error::System { call, from: range.start(), to: range.end(), errno, remedy }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::os::mapping::{gmem_page, map_aligned, unmap};

    #[test]
    fn neighbours_populated_alike_are_one_segment() {
        let mut segments = Vec::new();
        let none = PageRange::new(0, 0);
        for (start, end, asked, write) in [
            (0, 10, none, true),
            (10, 20, PageRange::new(15, 20), true),
            (20, 30, PageRange::new(20, 30), true),
            (30, 40, none, false),
            (50, 60, none, false),
        ] {
            push(&mut segments, Segment { range: PageRange::new(start, end), asked, write });
        }
        let ranges: Vec<_> = segments.iter().map(|s| (s.range.start(), s.range.end())).collect();
        assert_eq!(ranges, [(0, 30), (30, 40), (50, 60)]);
        assert_eq!(segments[0].asked, PageRange::new(15, 30));
    }

    #[test]
    fn a_plan_covers_the_margin_of_ordinary_memory() {
        let page = gmem_page();
        let start = map_aligned(2 * page.bytes(), page).unwrap();
        let at = start.addr().get();
        let plan = plan_prefetch(PageRange::new(at + 5, at + 6)).unwrap();
        let asked = PageRange::new(at, at + mapping::base_page().bytes());
        let range = PageRange::new(at, at + page.bytes());
        assert_eq!(plan, [Segment { range, asked, write: true }]);
        unmap(start, 2 * page.bytes()).unwrap();
        assert!(matches!(plan_prefetch(PageRange::new(at + 5, at + 6)), Err(Error::Hole { .. })));
    }

    #[test]
    fn the_current_node_is_a_memory_node() {
        let hnid = Host.numa_id().unwrap();
        assert_eq!(Host.node(hnid).unwrap(), usize::try_from(hnid).unwrap());
        assert!(Host.node(-1).is_err() && Host.node(i32::MAX).is_err());
    }

    #[test]
    fn settling_where_the_pages_are_is_nothing_to_do() {
        let page = gmem_page();
        let start = map_aligned(page.bytes(), page).unwrap();
        let range = PageRange::new(start.addr().get(), start.addr().get() + page.bytes());
        let node = Host.node(Host.numa_id().unwrap()).unwrap();
        Host.prefetch(range, node).unwrap();
        settle(range, node).unwrap();
        unmap(start, page.bytes()).unwrap();
    }
}
