//! Blocks of memory that a driver gives.
//!
//! A driver calls `malloc` and `free`, and so may come back to libgmem while it is being called, with its locks held.
//! What it frees then is kept until later.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::page::PageRange;

/// Blocks that a driver has given, each with what it is given back by. Not looked at in a forked child, where the lock
/// may be held for ever.
pub struct Blocks<Allocation> {
    /// By their first GMEM page.
    known: Mutex<BTreeMap<usize, (PageRange, Allocation)>>,
    /// First pages of those that were given back from inside the driver; 0 is none.
    later: [AtomicUsize; 64],
}

impl<Allocation> Default for Blocks<Allocation> {
    fn default() -> Self {
        Self { known: Mutex::default(), later: [const { AtomicUsize::new(0) }; 64] }
    }
}

impl<Allocation> Blocks<Allocation> {
    /// The driver has given one.
    pub fn insert(&self, block: PageRange, given: Allocation) {
        self.lock().insert(block.start(), (block, given));
    }

    /// The one that begins there is about to be given back.
    pub fn remove(&self, first: usize) -> Option<(PageRange, Allocation)> {
        self.lock().remove(&first)
    }

    /// The parts of a range that the driver gave.
    pub fn within(&self, range: PageRange) -> Vec<PageRange> {
        let known = self.lock();
        let before_end = known.range(..range.end()).rev();
        let mut parts: Vec<_> = before_end
            .map(|(_, (block, _))| *block)
            .take_while(|block| block.end() > range.start())
            .map(|block| block.intersect(range))
            .collect();
        parts.reverse();
        parts
    }

    /// The one that begins there cannot be given back now. False if there is no room to remember it.
    pub fn keep_for_later(&self, first: usize) -> bool {
        self.later.iter().any(|slot| {
            slot.compare_exchange(0, first, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        })
    }

    /// Those that were kept, each of which is removed now.
    pub fn kept(&self) -> impl Iterator<Item = (PageRange, Allocation)> {
        // Most often nothing was kept, and looking is cheaper than taking.
        let full = self.later.iter().filter(|slot| slot.load(Ordering::Relaxed) != 0);
        full.filter_map(|slot| self.remove(slot.swap(0, Ordering::Relaxed)))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<usize, (PageRange, Allocation)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_come_in_order_and_what_is_kept_comes_once() {
        let blocks = Blocks::default();
        let block = |start| PageRange::new(start, start + 10);
        for start in [40, 20, 60] {
            blocks.insert(block(start), start);
        }
        let parts = blocks.within(PageRange::new(25, 62));
        assert_eq!(parts, [PageRange::new(25, 30), block(40), PageRange::new(60, 62)]);
        assert!(blocks.keep_for_later(40) && blocks.keep_for_later(99));
        assert_eq!(blocks.kept().collect::<Vec<_>>(), [(block(40), 40)]);
        assert_eq!((blocks.kept().count(), blocks.remove(40)), (0, None));
        assert!((0..64).all(|_| blocks.keep_for_later(1)) && !blocks.keep_for_later(1));
    }
}
