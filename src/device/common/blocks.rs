//! Blocks of memory that a driver allocated.
//!
//! A driver calls `malloc` and `free`, so it may re-enter libgmem while it holds its locks. Blocks that are freed then are kept
//! and freed later.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::page::PageRange;

/// The blocks that a driver allocated, each with the driver's handle. Not used in a forked child, where the lock may be held
/// for ever.
pub struct Blocks<Allocation> {
    /// The blocks, by the address of their first GMEM page.
    known: Mutex<BTreeMap<usize, (PageRange, Allocation)>>,
    /// The first pages of blocks that were freed from inside the driver; 0 marks an empty slot.
    later: [AtomicUsize; 64],
}

impl<Allocation> Default for Blocks<Allocation> {
    fn default() -> Self {
        Self { known: Mutex::default(), later: [const { AtomicUsize::new(0) }; 64] }
    }
}

impl<Allocation> Blocks<Allocation> {
    /// Add a block that the driver has allocated.
    pub fn insert(&self, block: PageRange, given: Allocation) {
        self.lock().insert(block.start(), (block, given));
    }

    /// Remove the block that begins at `first`, which is about to be freed.
    pub fn remove(&self, first: usize) -> Option<(PageRange, Allocation)> {
        self.lock().remove(&first)
    }

    /// The parts of a range that lie in a block, ascending.
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

    /// Keep the block that begins at `first` until it can be freed. False if all slots are taken.
    pub fn keep_for_later(&self, first: usize) -> bool {
        self.later.iter().any(|slot| {
            slot.compare_exchange(0, first, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        })
    }

    /// Remove the blocks that were kept.
    pub fn kept(&self) -> impl Iterator<Item = (PageRange, Allocation)> {
        // Usually nothing was kept, and a load is cheaper than a swap.
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
