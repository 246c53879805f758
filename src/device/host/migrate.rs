//! Pages that are on another node than they should be.

use super::{hnid, system};
use std::time::Duration;

use crate::error::{Errno, Error, Result};
use crate::os::{SysResult, mapping, numa, pagemap, process};
use crate::page::PageRange;

/// Pages asked about at once; their addresses lie on the stack.
const ASKED_AT_ONCE: usize = 1024;

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

/// What moving did to the pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moved {
    /// None had to be moved.
    Nothing,
    /// They are what they were.
    AsTheyWere,
    /// Huge pages were among them. Where the node has none free, the kernel takes them apart, and what of them is all
    /// zeros is not there any more (Linux 6.12).
    PerhapsApart,
}

/// Move the pages of `range` that lie on another node. Pages without a place of their own, such as
/// the zero page, are as good anywhere.
pub fn migrate_misplaced(range: PageRange, node: usize) -> Result<Moved> {
    let failed = |errno| system("move_pages", range, errno, "");
    let huge = mapping::gmem_page().bytes();
    let mut left = misplaced_at_rest(range, node).map_err(failed)?;
    if left.is_empty() {
        return Ok(Moved::Nothing);
    }
    let has_huge = !pagemap::knows_huge() || left.iter().any(|page| page.base_pages > 1);
    // One address moves a whole huge page, and naming its others as well would report them busy. Where the kernel
    // does not tell which are huge, one address of each that might be goes first.
    if !pagemap::knows_huge() {
        left.dedup_by_key(|page| page.address / huge);
    }
    for _ in 0..3 {
        let mut addresses = Vec::new();
        addresses.try_reserve_exact(left.len()).map_err(|_| failed(Errno(libc::ENOMEM)))?;
        addresses.extend(left.iter().map(|page| page.address));
        // A partial move is an error on some kernels and a count on others; the truth is where the pages are
        // afterwards.
        let _ = numa::migrate(&addresses, node);
        left = misplaced_at_rest(range, node).map_err(failed)?;
        if left.is_empty() {
            return Ok(if has_huge { Moved::PerhapsApart } else { Moved::AsTheyWere });
        }
    }
    Err(Error::NotMoved {
        left: left.iter().map(|page| page.base_pages).sum(),
        pages: range.len() / mapping::base_page().bytes(),
        from: range.start(),
        to: range.end(),
        hnid: hnid(node),
    })
}

/// The same as [`misplaced`] of a range that is in memory: a page that the kernel is moving at this moment, to join
/// free memory for one, is nowhere, and is asked about again.
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

/// The pages of `range` that lie on another node than `node`.
pub fn misplaced(range: PageRange, node: usize) -> SysResult<Vec<Page>> {
    look(range, node).map(|(left, _)| left)
}

/// Those, and whether any page is nowhere: swapped out, or being moved.
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
