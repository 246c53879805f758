//! Whether there is enough memory for a prefetch. If there is not, the kernel would place pages elsewhere or kill processes.

use super::plan::Segment;
use super::{migrate, populate, tally};
use crate::device::Request;
use crate::error::{Error, Result};
use crate::os::vma::Backing;
use crate::os::{mapping, memory};

/// Refuse a prefetch that exceeds the free memory of the node; on a machine with `one_node`, of memory and swap.
pub fn check(segments: &[Segment], request: &Request<'_>, one_node: bool) -> Result<()> {
    for segment in segments.iter().filter(|segment| segment.huge_tlb) {
        check_pool(*segment, request.node, one_node)?;
    }
    let ordinary = || segments.iter().filter(|segment| takes_memory(segment));
    let asked: usize = ordinary().map(|segment| segment.asked.len()).sum();
    // For a small range the check takes longer than populating.
    if one_node && asked <= populate::PIECE_BYTES {
        return Ok(());
    }
    let free = if one_node { memory::available() } else { memory::available_on(request.node) };
    let Some(free) = free.filter(|free| asked > *free) else { return Ok(()) };
    // At most as much as the process has in memory can be resident already. That bound spares looking through a range that is
    // larger than all memory.
    let at_least = asked.saturating_sub(memory::resident().unwrap_or(asked));
    let needed =
        if at_least > free { at_least } else { absent(ordinary(), request.node, one_node) };
    if needed <= free {
        return Ok(());
    }
    let (from, to) = (request.asked.start(), request.asked.end());
    let whose = if one_node { "this machine".into() } else { format!("node {}", request.node) };
    Err(Error::NotEnoughMemory { from, to, needed, free, whose })
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
