//! Moves pages that are on another node than the requested one.

use super::{hnid, system};
use std::time::Duration;

use crate::error::{Errno, Error, Result};
use crate::os::{SysResult, mapping, numa, pagemap, process};
use crate::page::PageRange;

/// The pages of one query; their addresses are on the stack.
const ASKED_AT_ONCE: usize = 1024;

/// Refuse a node that is not in the cpuset of the process: the kernel would place every page elsewhere.
pub fn is_allowed(node: usize) -> Result<()> {
    match numa::allowed_nodes() {
        Some(nodes) if !nodes.contains(node) => {
            Err(Error::NodeForbidden { hnid: hnid(node), allowed: nodes.to_string() })
        }
        _ => Ok(()),
    }
}

/// A page, which moves as a whole, or the part of it in a range.
#[derive(Debug, Clone, Copy)]
pub struct Page {
    /// An address in the page.
    pub address: usize,
    /// The base pages of the range that move with it.
    pub base_pages: usize,
}

/// The effect of moving pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moved {
    /// No page had to be moved.
    Nothing,
    /// All moved pages are whole.
    AsTheyWere,
    /// Huge pages were moved. If the node has none free, the kernel splits them and drops the parts that are all zeros
    /// (Linux 6.12), so the range has to be populated again.
    PerhapsApart,
}

/// Move the pages of `range` that are on another node. Pages that belong to no node, such as the zero page, stay.
pub fn migrate_misplaced(range: PageRange, node: usize) -> Result<Moved> {
    let failed = |errno| system("move_pages", range, errno, "");
    let huge = mapping::gmem_page().bytes();
    let mut left = misplaced_at_rest(range, node).map_err(failed)?;
    if left.is_empty() {
        return Ok(Moved::Nothing);
    }
    let has_huge = !pagemap::knows_huge() || left.iter().any(|page| page.base_pages > 1);
    // One address moves a whole huge page; with several addresses of one page the kernel reports it busy. If the kernel does not
    // tell which pages are huge, the first attempt has one address for each GMEM page.
    if !pagemap::knows_huge() {
        left.dedup_by_key(|page| page.address / huge);
    }
    for _ in 0..3 {
        let mut addresses = Vec::new();
        addresses.try_reserve_exact(left.len()).map_err(|_| failed(Errno(libc::ENOMEM)))?;
        addresses.extend(left.iter().map(|page| page.address));
        // Kernels report a partial move as an error or as a count. Only the locations afterwards are reliable.
        let _ = numa::migrate(&addresses, node);
        left = misplaced_at_rest(range, node).map_err(failed)?;
        if left.is_empty() {
            return Ok(if has_huge { Moved::PerhapsApart } else { Moved::AsTheyWere });
        }
    }
    Err(not_moved(left.iter().map(|page| page.base_pages).sum(), range, node))
}

/// The error for `left` base pages of a range that are not on the node.
pub fn not_moved(left: usize, range: PageRange, node: usize) -> Error {
    let (from, to) = (range.start(), range.end());
    let pages = range.outward(mapping::base_page()).len() / mapping::base_page().bytes();
    Error::NotMoved { left, pages, from, to, hnid: hnid(node) }
}

/// The misplaced pages of a resident range, once no page is in transit: while the kernel moves a page, for compaction, it
/// reports no location for it, so the query is repeated.
fn misplaced_at_rest(range: PageRange, node: usize) -> SysResult<Vec<Page>> {
    const ATTEMPTS: usize = 20;
    for _ in 1..ATTEMPTS {
        let (left, moving) = look(range, node)?;
        if !moving {
            return Ok(left);
        }
        process::sleep(Duration::from_millis(1));
    }
    misplaced(range, node)
}

/// The pages of `range` that are on another node than `node`.
pub fn misplaced(range: PageRange, node: usize) -> SysResult<Vec<Page>> {
    look(range, node).map(|(left, _)| left)
}

/// The misplaced pages, and whether a page has no location: it is swapped out, or in transit.
fn look(range: PageRange, node: usize) -> SysResult<(Vec<Page>, bool)> {
    let (base, huge) = (mapping::base_page(), mapping::gmem_page());
    let mut left: Vec<Page> = Vec::new();
    let mut moving = false;
    let mut outcome = Ok(());
    let mut addresses = [0; ASKED_AT_ONCE];
    pagemap::scan(range, |run| {
        if !run.present {
            moving = true;
            return;
        }
        let size = if run.huge == Some(true) { huge } else { base };
        let end_of = |at| (size.floor(at) + size.bytes()).min(run.range.end());
        let mut at = run.range.start();
        while at < run.range.end() && outcome.is_ok() {
            let mut count = 0;
            while at < run.range.end() && count < addresses.len() {
                addresses[count] = at;
                count += 1;
                at = end_of(at);
            }
            let mut full = false;
            let asked = numa::placement(&addresses[..count], |address, place| match place {
                numa::Placement::Node(other) if other != node => {
                    full |= left.try_reserve(1).is_err();
                    if !full {
                        let base_pages = (end_of(address) - address) / base.bytes();
                        left.push(Page { address, base_pages });
                    }
                }
                numa::Placement::Unknown(Errno(libc::ENOENT)) => moving = true,
                _ => {}
            });
            outcome = if full { Err(Errno(libc::ENOMEM)) } else { asked };
        }
    })?;
    outcome.map(|()| (left, moving))
}
