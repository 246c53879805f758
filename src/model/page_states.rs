//! The states of the GMEM pages of a model in private memory.
//!
//! A thread that changes a page first takes it into its hands, so no other one changes it, and never waits while it holds one.
//! A page that was in the hands of a parent's thread when its process forked belongs to nobody in the child.

use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::error::{Error, Result};
use crate::os::process;

/// What a page shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shows {
    /// The file.
    File,
    /// Private memory with the file's bytes.
    Copy,
}

/// The state of each page: [`FILE`], [`COPY`], or the process in whose hands it is.
pub struct PageStates(Vec<AtomicU32>);

const FILE: u32 = 0;
const COPY: u32 = 1;

/// In the hands of a thread of this process.
fn in_hand() -> u32 {
    // Another number than that of the parent and of the processes before it.
    2 + (process::forks() % u64::from(u32::MAX - 2)) as u32
}

impl PageStates {
    /// All pages show the file.
    pub fn new(pages: usize) -> Result<Self> {
        let mut states = Vec::new();
        states
            .try_reserve_exact(pages)
            .map_err(|_| Error::OutOfMemory { what: "the states of the model's pages" })?;
        states.resize_with(pages, || AtomicU32::new(FILE));
        Ok(Self(states))
    }

    /// What a page shows; `None` while it is in somebody's hands.
    pub fn get(&self, page: usize) -> Option<Shows> {
        match self.0[page].load(Ordering::Acquire) {
            FILE => Some(Shows::File),
            COPY => Some(Shows::Copy),
            held if held == in_hand() => None,
            // A thread of the parent held it, which does not exist here. It shows the right bytes in any case.
            _ => Some(Shows::File),
        }
    }

    /// From now on all pages show the file.
    pub fn reset(&self) {
        self.0.iter().for_each(|state| state.store(FILE, Ordering::Release));
    }

    /// Number of pages that show copies.
    pub fn copies(&self) -> usize {
        (0..self.0.len()).filter(|page| self.get(*page) == Some(Shows::Copy)).count()
    }

    /// The first run of pages in `pages` for which `wanted` holds, taken into the caller's hands. `None` if there is none.
    pub fn take_run(&self, pages: Range<usize>, wanted: fn(Shows) -> bool) -> Option<Taken<'_>> {
        let first = pages.clone().find(|page| self.take(*page, wanted))?;
        let mut end = first + 1;
        while end < pages.end && self.take(end, wanted) {
            end += 1;
        }
        Some(Taken { states: self, pages: first..end, leave: FILE })
    }

    fn take(&self, page: usize, wanted: fn(Shows) -> bool) -> bool {
        let before = self.0[page].load(Ordering::Acquire);
        self.get(page).is_some_and(wanted)
            && self.0[page]
                .compare_exchange(before, in_hand(), Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
    }
}

/// Pages in the caller's hands. Dropped, they count as showing the file, unless it says otherwise.
pub struct Taken<'a> {
    states: &'a PageStates,
    pages: Range<usize>,
    leave: u32,
}

impl Taken<'_> {
    /// The pages.
    pub fn pages(&self) -> Range<usize> {
        self.pages.clone()
    }

    /// From now on they show copies.
    pub fn became_copies(mut self) {
        self.leave = COPY;
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        for page in self.pages.clone() {
            self.states.0[page].store(self.leave, Ordering::Release);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_in_one_hand_at_a_time() {
        let states = PageStates::new(5).unwrap();
        let any = |_| true;
        let shows_file = |shows| shows == Shows::File;
        let one = states.take_run(1..3, shows_file).unwrap();
        assert_eq!(one.pages(), 1..3);
        assert_eq!((states.get(0), states.get(1)), (Some(Shows::File), None));
        let two = states.take_run(0..5, any).unwrap();
        assert_eq!(two.pages(), 0..1);
        assert!(states.take_run(1..3, any).is_none());
        one.became_copies();
        drop(two);
        assert_eq!(states.copies(), 2);
        assert_eq!(states.take_run(0..5, |shows| shows == Shows::Copy).unwrap().pages(), 1..3);
        assert_eq!(states.copies(), 0);
    }

    #[test]
    fn a_page_in_the_hands_of_a_parent_is_free() {
        let states = PageStates::new(1).unwrap();
        states.0[0].store(in_hand() + 1, Ordering::Relaxed);
        assert_eq!(states.get(0), Some(Shows::File));
        assert!(states.take_run(0..1, |_| true).is_some());
    }
}
