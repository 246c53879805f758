//! Managed memory that the driver gives for blocks of the heap.
//!
//! The driver calls `malloc` and `free` itself, with its locks held, and threads of its own call the program's functions, in
//! which calls of the driver are forbidden. Wherever one of its frames is on the stack, ordinary memory is given, and what
//! is freed is kept until later.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::Accelerator;
use crate::device::driver::Blocks;
use crate::error::{Error, Result};
use crate::os::cuda::{Given, is_called_by_the_driver};
use crate::os::mapping;
use crate::os::mapping::Region;
use crate::page::PageRange;

/// What the driver has given.
pub struct Regions {
    blocks: Blocks<Given>,
    /// Bytes in all of them, and at most: what the GPU had free when it was opened. More would not fit there together, and
    /// the driver would move it to and fro.
    live: AtomicUsize,
    most: usize,
}

impl Regions {
    /// None yet, and at most so many bytes.
    pub fn with_room_for(most: usize) -> Self {
        Self { blocks: Blocks::default(), live: AtomicUsize::new(0), most }
    }

    /// The parts of a range that the driver gave.
    pub fn within(&self, range: PageRange) -> Vec<PageRange> {
        self.blocks.within(range)
    }

    fn take_room(&self, length: usize) -> bool {
        let before = self.live.fetch_add(length, Ordering::Relaxed);
        let fits = before.saturating_add(length) <= self.most;
        if !fits {
            self.live.fetch_sub(length, Ordering::Relaxed);
        }
        fits
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
        self.regions.blocks.insert(region.range(), given);
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
            let _ = self.regions.blocks.keep_for_later(first);
            return;
        }
        self.unmap_what_was_kept();
        if let Some((block, given)) = self.regions.blocks.remove(first) {
            self.give_back(block, given);
        }
    }

    fn unmap_what_was_kept(&self) {
        self.regions.blocks.kept().for_each(|(block, given)| self.give_back(block, given));
    }

    fn give_back(&self, block: PageRange, given: Given) {
        self.context.free(given);
        self.regions.live.fetch_sub(block.len(), Ordering::Relaxed);
    }
}
