//! Managed memory that the driver gives for blocks of the heap.
//!
//! The driver calls `malloc` and `free` itself, with its locks held, and threads of its own call the program's functions, in
//! which calls of the driver are forbidden. Wherever one of its frames is on the stack, ordinary memory is given, and what
//! is freed is kept until later.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Accelerator;
use crate::error::{Error, Result};
use crate::os::cuda::{Given, is_called_by_the_driver};
use crate::os::mapping;
use crate::os::mapping::Region;
use crate::page::PageRange;

/// What the driver has given. Not looked at in a forked child, where the lock may be held for ever.
pub struct Regions {
    /// By their first GMEM page.
    blocks: Mutex<BTreeMap<usize, Block>>,
    /// Bytes in all of them, and at most: what the GPU had free when it was opened. More would not fit there together, and
    /// the driver would move it to and fro.
    live: AtomicUsize,
    most: usize,
    /// First pages of those that were given back from inside the driver; 0 is none.
    later: [AtomicUsize; 64],
}

struct Block {
    end: usize,
    given: Given,
}

impl Regions {
    /// None yet, and at most so many bytes.
    pub fn with_room_for(most: usize) -> Self {
        let later = [const { AtomicUsize::new(0) }; 64];
        Self { blocks: Mutex::default(), live: AtomicUsize::new(0), most, later }
    }

    /// The parts of a range that the driver gave.
    pub fn within(&self, range: PageRange) -> Vec<PageRange> {
        let blocks = self.blocks();
        let before_end = blocks.range(..range.end()).rev();
        let mut parts: Vec<_> = before_end
            .map(|(start, block)| PageRange::new(*start, block.end))
            .take_while(|block| block.end() > range.start())
            .map(|block| block.intersect(range))
            .collect();
        parts.reverse();
        parts
    }

    fn blocks(&self) -> MutexGuard<'_, BTreeMap<usize, Block>> {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_room(&self, length: usize) -> bool {
        let before = self.live.fetch_add(length, Ordering::Relaxed);
        let fits = before.saturating_add(length) <= self.most;
        if !fits {
            self.live.fetch_sub(length, Ordering::Relaxed);
        }
        fits
    }

    /// False if there is no room to remember it.
    fn keep_for_later(&self, start: usize) -> bool {
        self.later.iter().any(|slot| {
            slot.compare_exchange(0, start, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        })
    }
}

impl Accelerator {
    /// See [`map`](crate::device::DeviceMemory::map).
    pub fn map(&self, length: usize) -> Result<Region> {
        self.is_in_its_process()?;
        if is_called_by_the_driver() {
            return Err(Error::OutOfMemory { what: "the CUDA driver's own use" });
        }
        self.unmap_what_was_kept();
        let too_large = Error::OutOfMemory { what: "a block that the GPU has room for" };
        if !self.regions.take_room(length) {
            return Err(too_large);
        }
        let has_room = self.context.free_bytes().is_ok_and(|free| length <= free);
        let allocated =
            if has_room { self.context.allocate(length, mapping::gmem_page()).ok() } else { None };
        let Some((region, given)) = allocated else {
            self.regions.live.fetch_sub(length, Ordering::Relaxed);
            return Err(too_large);
        };
        let range = region.range();
        self.regions.blocks().insert(range.start(), Block { end: range.end(), given });
        Ok(region)
    }

    /// See [`unmap`](crate::device::DeviceMemory::unmap).
    pub fn unmap(&self, region: Region) {
        let first = region.range().start();
        if self.is_in_its_process().is_err() {
            return;
        }
        if is_called_by_the_driver() {
            // Where there is no room to remember it, it is lost, which is better than waiting for ever.
            let _ = self.regions.keep_for_later(first);
            return;
        }
        self.unmap_what_was_kept();
        self.give_back(first);
    }

    fn unmap_what_was_kept(&self) {
        for slot in &self.regions.later {
            // Most often nothing was kept, and looking is cheaper than taking.
            if slot.load(Ordering::Relaxed) != 0 {
                self.give_back(slot.swap(0, Ordering::Relaxed));
            }
        }
    }

    fn give_back(&self, first: usize) {
        let block = self.regions.blocks().remove(&first);
        if let Some(block) = block {
            self.context.free(block.given);
            self.regions.live.fetch_sub(block.end - first, Ordering::Relaxed);
        }
    }
}
