//! What a range looks like: counted before a prefetch and after, the difference is what it did.

use super::migrate;
use super::plan::Segment;
use crate::os::{mapping, pagemap};
use crate::page::PageRange;

/// Pages of the part of a segment that was asked for.
#[derive(Debug, Clone, Copy)]
pub struct Tally {
    /// Base pages in memory, ready for the access that the segment is populated for.
    pub present: usize,
    /// Those of them on another node.
    pub elsewhere: usize,
    /// GMEM pages of which some was asked for that lie on a huge page; `None` where the kernel does not tell.
    pub huge: Option<usize>,
    /// First address that is not in memory.
    pub first_absent: Option<usize>,
    /// First address on another node.
    pub first_elsewhere: Option<usize>,
}

impl Tally {
    /// As it is now. `node` is where the pages should be, `None` if they cannot be elsewhere.
    pub fn of(segment: Segment, node: Option<usize>) -> Self {
        let asked = segment.asked;
        let (base, huge_page) = (mapping::base_page(), mapping::gmem_page());
        let mut tally = Self {
            present: 0,
            elsewhere: 0,
            huge: Some(0),
            first_absent: None,
            first_elsewhere: None,
        };
        let mut seen = asked.start();
        let mut huge_until = 0;
        // What the kernel will not tell counts as not there.
        let _ = pagemap::scan(asked, |run| {
            if !run.present || (run.zero && segment.write) {
                return;
            }
            if run.range.start() > seen {
                tally.first_absent.get_or_insert(seen);
            }
            seen = run.range.end();
            tally.present += run.range.len() / base.bytes();
            let pages = run.range.outward(huge_page);
            tally.huge = tally.huge.zip(run.huge).map(|(count, is_huge)| {
                let pages = PageRange::new(pages.start().max(huge_until), pages.end());
                if is_huge { count + pages.len() / huge_page.bytes() } else { count }
            });
            huge_until = pages.end();
        });
        if seen < asked.end() {
            tally.first_absent.get_or_insert(seen);
        }
        if let Some(node) = node {
            let elsewhere = migrate::misplaced(asked, node).unwrap_or_default();
            tally.elsewhere = elsewhere.iter().map(|page| page.base_pages).sum();
            tally.first_elsewhere = elsewhere.first().map(|page| page.address);
        }
        tally
    }
}

/// Bytes of a range that are in memory.
pub fn present_bytes(range: PageRange) -> usize {
    let mut bytes = 0;
    let _ = pagemap::scan(range, |run| bytes += if run.present { run.range.len() } else { 0 });
    bytes
}
