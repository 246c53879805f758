//! Pages that are on another node than they should be.

use super::{hnid, system};
use crate::error::{Error, Result};
use crate::os::{SysResult, mapping, numa, pagemap};
use crate::page::PageRange;

/// Pages asked about in one call: 128 MiB of 4 KiB pages.
const BATCH: usize = 1 << 15;

/// Refuse a node that the process's cpuset does not have: there every attempt to place a page ends elsewhere.
pub fn is_allowed(node: usize) -> Result<()> {
    match numa::allowed_nodes() {
        Some(nodes) if !nodes.contains(node) => {
            Err(Error::NodeForbidden { hnid: hnid(node), allowed: nodes.to_string() })
        }
        _ => Ok(()),
    }
}

/// A page, which moves as a whole; or the part of one that a range holds.
#[derive(Debug, Clone, Copy)]
pub struct Page {
    /// An address in it.
    pub address: usize,
    /// Base pages of the range that move with it.
    pub base_pages: usize,
}

/// Move the pages of `range` that lie on another node. Pages without a place of their own, such as
/// the zero page, are as good anywhere.
pub fn settle(range: PageRange, node: usize) -> Result<()> {
    let failed = |errno| system("move_pages", range, errno, "");
    let huge = mapping::gmem_page().bytes();
    let mut left = misplaced(range, node).map_err(failed)?;
    if left.is_empty() {
        return Ok(());
    }
    // One address moves a whole huge page, and naming its others as well would report them busy. Where the kernel
    // does not tell which are huge, one address of each that might be goes first.
    let heads: Vec<usize> = if pagemap::knows_huge() {
        left.iter().map(|page| page.address).collect()
    } else {
        left.chunk_by(|a, b| a.address / huge == b.address / huge)
            .filter_map(|page| page.first().map(|page| page.address))
            .collect()
    };
    let mut next = heads;
    for _ in 0..3 {
        for batch in next.chunks(BATCH) {
            // A partial move is an error on some kernels and a count on others; the truth is where the pages are
            // afterwards.
            let _ = numa::migrate(batch, node);
        }
        left = misplaced(range, node).map_err(failed)?;
        if left.is_empty() {
            return Ok(());
        }
        next = left.iter().map(|page| page.address).collect();
    }
    let base = mapping::base_page().bytes();
    Err(Error::NotMoved {
        left: left.iter().map(|page| page.base_pages).sum(),
        pages: range.len() / base,
        from: range.start(),
        to: range.end(),
        hnid: hnid(node),
    })
}

/// The pages of `range` that lie on another node than `node`.
pub fn misplaced(range: PageRange, node: usize) -> SysResult<Vec<Page>> {
    let mut left = Vec::new();
    let mut addresses = Vec::new();
    let pages = pages(range)?;
    for batch in pages.chunks(BATCH) {
        addresses.clear();
        addresses.extend(batch.iter().map(|page| page.address));
        let places = numa::placement(&addresses)?;
        left.extend(
            batch
                .iter()
                .zip(places)
                .filter(|(_, at)| matches!(at, numa::Placement::Node(other) if *other != node))
                .map(|(page, _)| *page),
        );
    }
    Ok(left)
}

/// The pages of `range` that are in memory.
fn pages(range: PageRange) -> SysResult<Vec<Page>> {
    let (base, huge) = (mapping::base_page(), mapping::gmem_page());
    let mut pages = Vec::new();
    pagemap::scan(range, |run| {
        let size = if run.huge == Some(true) { huge } else { base };
        let mut at = run.range.start();
        while run.present && at < run.range.end() {
            let next = (size.floor(at) + size.bytes()).min(run.range.end());
            pages.push(Page { address: at, base_pages: (next - at) / base.bytes() });
            at = next;
        }
    })?;
    Ok(pages)
}
