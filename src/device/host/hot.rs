//! Pages that are there already are marked as used, so that under memory pressure others go first.
//!
//! Populating marks a page as used once, and the kernel takes one mark for nothing: it activates a page at the second,
//! with multi-generational LRU (`lru_gen`) at the fifth. A huge page has one mark, set by the first.

use super::plan::Segment;
use super::touch::populate_and_touch;
use crate::error::Result;
use crate::os::lazy::Lazy;
use crate::os::{advice, machine, mapping, pagemap};
use crate::page::PageRange;

/// Runs of pages that are marked one by one; where a range has more of them, it is marked as a whole.
const MAX_RUNS: usize = 64;

/// How often a base page has to be marked.
fn marks() -> u32 {
    static MARKS: Lazy<u32> =
        Lazy::new(|| if machine::multi_generational() == Some(true) { 5 } else { 2 });
    *MARKS.get()
}

/// The base pages of a range that are in memory, in runs.
#[derive(Default)]
pub struct ResidentRuns {
    runs: Vec<PageRange>,
}

impl ResidentRuns {
    /// As it is now.
    pub fn in_range(range: PageRange) -> Self {
        let mut runs: Vec<PageRange> = Vec::new();
        // What the kernel will not tell is not marked.
        let _ = pagemap::scan(range, |run| {
            if !run.present || run.huge == Some(true) {
                return;
            }
            if runs.capacity() == 0 && runs.try_reserve_exact(MAX_RUNS).is_err() {
                // Without memory for a list nothing is marked.
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

    /// Mark them, after `segment`, which they lie in, was populated.
    pub fn mark(&self, segment: Segment) -> Result<()> {
        for run in &self.runs {
            for _ in 1..marks() {
                populate_and_touch(Segment { range: *run, ..segment })?;
            }
        }
        Ok(())
    }
}

/// The quick way for a range of which nothing has to be looked up: all of it, with its margin, is in memory on pages of
/// one kind. False where that is not so; then nothing was done but to mark pages.
pub fn mark_if_all_resident(asked: PageRange) -> bool {
    let outer = asked.outward(mapping::gmem_page());
    let mut first = None;
    let mut runs = 0;
    let scanned = pagemap::scan(outer, |run| {
        runs += 1;
        first.get_or_insert(run);
    });
    let there = match first {
        Some(run) if scanned.is_ok() && runs == 1 => run,
        _ => return false,
    };
    if !there.present || there.range != outer {
        return false;
    }
    let marks = if there.huge == Some(true) { 1 } else { marks() };
    // What is there may be shared with a forked child, or the zero page: this takes care of it. Memory that may not be
    // written is refused.
    (0..marks).all(|_| advice::populate_write(asked.outward(mapping::base_page())).is_ok())
}
