//! Counts the pages of a range. The difference between the counts before and after a prefetch is its effect.

use super::migrate;
use super::plan::Segment;
use crate::os::mapping;
use crate::os::pagemap::{self, Files};
use crate::page::PageRange;

/// The pages of the requested part of a segment.
#[derive(Debug, Clone, Copy)]
pub struct Tally {
    /// Base pages in memory, ready for the access for which the segment is populated.
    pub present: usize,
    /// Base pages in memory on another node.
    pub elsewhere: usize,
    /// GMEM pages with requested bytes that are huge pages; `None` if the kernel does not report them.
    pub huge: Option<usize>,
    /// The first address that is not in memory.
    pub first_absent: Option<usize>,
    /// The first address on another node.
    pub first_elsewhere: Option<usize>,
}

impl Tally {
    /// Count now. `node` is where the pages should be; `None` on a machine with one node.
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
        // Pages about which the kernel gives no information count as absent.
        let _ = pagemap::scan_telling(asked, Files::NotTold, |run| {
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

/// The bytes of a range that are in memory.
pub fn present_bytes(range: PageRange) -> usize {
    let mut bytes = 0;
    let _ = pagemap::scan_telling(range, Files::NotTold, |run| {
        bytes += if run.present { run.range.len() } else { 0 }
    });
    bytes
}
