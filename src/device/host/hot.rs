//! Marks pages that are already resident as used, so that the kernel reclaims others first.
//!
//! Populating a page again marks it once. The kernel activates a base page at the second mark, with multi-generational LRU
//! (`lru_gen`) at the fifth. For a huge page one mark suffices.

use super::plan::Segment;
use super::touch::populate_and_touch;
use crate::error::Result;
use crate::os::lazy::Lazy;
use crate::os::pagemap::{self, Files};
use crate::os::{advice, machine, mapping};
use crate::page::PageRange;

/// The maximum number of runs that are marked separately; the rest of the range is one run.
const MAX_RUNS: usize = 64;

/// The number of marks that a base page needs.
fn marks() -> u32 {
    static MARKS: Lazy<u32> =
        Lazy::new(|| if machine::multi_generational() == Some(true) { 5 } else { 2 });
    *MARKS.get()
}

/// The runs of resident base pages in a range.
#[derive(Default)]
pub struct ResidentRuns {
    runs: Vec<PageRange>,
}

impl ResidentRuns {
    /// The runs now.
    pub fn in_range(range: PageRange) -> Self {
        let mut runs: Vec<PageRange> = Vec::new();
        // Pages about which the kernel gives no information are not marked.
        let _ = pagemap::scan_telling(range, Files::NotTold, |run| {
            if !run.present || run.huge == Some(true) {
                return;
            }
            if runs.capacity() == 0 && runs.try_reserve_exact(MAX_RUNS).is_err() {
                // Without memory for the list nothing is marked.
                return;
            }
            let is_full = runs.len() == MAX_RUNS;
            match runs.last_mut() {
                Some(last) if is_full || last.end() == run.range.start() => {
                    *last = PageRange::new(last.start(), run.range.end());
                }
                _ => runs.push(run.range),
            }
        });
        Self { runs }
    }

    /// Mark the pages, after `segment`, which contains them, was populated.
    pub fn mark(&self, segment: Segment) -> Result<()> {
        for run in &self.runs {
            for _ in 1..marks() {
                populate_and_touch(Segment { range: *run, ..segment })?;
            }
        }
        Ok(())
    }
}

/// The fast path: if all of a range and its margin is resident, on pages of one kind, mark it and return true. Otherwise return
/// false, having marked some pages at most.
pub fn mark_if_all_resident(asked: PageRange) -> bool {
    let outer = asked.outward(mapping::gmem_page());
    let mut first = None;
    let mut runs = 0;
    let scanned = pagemap::scan_telling(outer, Files::NotTold, |run| {
        runs += 1;
        first.get_or_insert(run);
    });
    let resident = match first {
        Some(run) if scanned.is_ok() && runs == 1 => run,
        _ => return false,
    };
    if !resident.present || resident.range != outer {
        return false;
    }
    let marks = if resident.huge == Some(true) { 1 } else { marks() };
    // Pages may be shared with a forked child, or be the zero page; populating for writing replaces those. It fails for memory
    // that is not writable.
    (0..marks).all(|_| advice::populate_write(asked.outward(mapping::base_page())).is_ok())
}
