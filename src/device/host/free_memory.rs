//! Whether there is enough memory for a prefetch. If there is not, the kernel would place pages elsewhere or kill processes.

use super::plan::Segment;
use super::{migrate, populate, tally};
use crate::device::Request;
use crate::error::{Error, Result};
use crate::os::vma::Backing;
use crate::os::{cgroup, mapping, memory};

/// For a smaller range, asking for the memory of the machine takes longer than populating.
const MACHINE_CHECKED_FROM: usize = populate::PIECE_BYTES + 1;
/// Groups are small, and their limit is the one that kills. Asking takes some tens of microseconds.
const GROUP_CHECKED_FROM: usize = 1 << 20;

/// Refuse a prefetch that exceeds the free memory of the node, or of the process's control group; on a machine with `one_node`,
/// of memory and swap.
pub fn check(segments: &[Segment], request: &Request<'_>, one_node: bool) -> Result<()> {
    for segment in segments.iter().filter(|segment| segment.huge_tlb) {
        check_pool(*segment, request.node, one_node)?;
    }
    let ordinary = || segments.iter().filter(|segment| takes_memory(segment));
    let asked: usize = ordinary().map(|segment| segment.asked.len()).sum();
    if !one_node || asked >= MACHINE_CHECKED_FROM {
        let node = request.node;
        let (free, whose) = match one_node {
            true => (memory::available(), "this machine".into()),
            false => (memory::available_on(node), format!("node {node}")),
        };
        let needed = || absent(ordinary(), node, one_node);
        refuse_beyond(free, asked, needed, request, whose)?;
    }
    if asked >= GROUP_CHECKED_FROM {
        // The group pays for the margin and for page tables as well, but not for pages that only move.
        let needed = || {
            let parts = ordinary().map(|segment| Segment { asked: segment.range, ..*segment });
            let bytes = parts.map(|part| absent([part].iter(), request.node, true)).sum();
            with_page_tables(bytes)
        };
        let (free, whose) =
            (cgroup::available_memory(), "the memory cgroup of this process".into());
        refuse_beyond(free, asked, needed, request, whose)?;
    }
    Ok(())
}

/// Refuse a prefetch of `asked` bytes if `needed` of them, which takes long to find out, are more than `free`.
fn refuse_beyond(
    free: Option<usize>,
    asked: usize,
    needed: impl FnOnce() -> usize,
    request: &Request<'_>,
    whose: String,
) -> Result<()> {
    // The margin adds less than two GMEM pages.
    let at_most = with_page_tables(asked + 2 * mapping::gmem_page().bytes());
    let Some(free) = free.filter(|free| at_most > *free) else { return Ok(()) };
    // At most as much as the process has in memory can be resident already. That bound spares looking through a range that is
    // larger than all memory.
    let at_least = asked.saturating_sub(memory::resident().unwrap_or(asked));
    let needed = if at_least > free { at_least } else { needed() };
    if needed <= free {
        return Ok(());
    }
    let (from, to) = (request.asked.start(), request.asked.end());
    Err(Error::NotEnoughMemory { from, to, needed, free, whose })
}

/// A page of memory needs an entry of 8 bytes in a page table.
const fn with_page_tables(bytes: usize) -> usize {
    bytes + bytes / 512
}

/// Refuse a segment for which the hugetlb pool has too few pages: populating would stop half-way.
fn check_pool(segment: Segment, node: usize, one_node: bool) -> Result<()> {
    let size = segment.page_bytes;
    let Some(free) = memory::free_pool_pages(size, (!one_node).then_some(node)) else {
        return Ok(());
    };
    let needed = absent([segment].iter(), node, one_node).div_ceil(size);
    if needed <= free {
        return Ok(());
    }
    let (from, to) = (segment.asked.start(), segment.asked.end());
    Err(Error::PoolTooSmall { from, to, needed, free, kib: size >> 10 })
}

/// Whether populating a segment takes free memory. Pages of the pool are reserved, and pages of files can be dropped.
fn takes_memory(segment: &Segment) -> bool {
    !segment.huge_tlb && (segment.backing != Backing::File || segment.write)
}

/// The bytes that are not in memory, or not on the node.
fn absent<'a>(segments: impl Iterator<Item = &'a Segment>, node: usize, one_node: bool) -> usize {
    let base = mapping::base_page().bytes();
    let of_segment = |segment: &Segment| {
        let elsewhere: usize = if one_node {
            0
        } else {
            let pages = migrate::misplaced(segment.asked, node).unwrap_or_default();
            pages.iter().map(|page| page.base_pages * base).sum()
        };
        let present = tally::present_bytes(segment.asked);
        segment.asked.len().saturating_sub(present.saturating_sub(elsewhere))
    };
    segments.map(of_segment).sum()
}
