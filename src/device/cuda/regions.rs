//! Managed memory for blocks of the heap.
//!
//! The driver calls `malloc` and `free` while it holds its locks, and its threads run host functions, in which calls of the
//! driver are forbidden. While the driver is on the call stack, blocks come from ordinary memory.
//!
//! A thread of libgmem frees the blocks: `cuMemFree` waits for all work of the GPU, and that work may wait for the thread that
//! calls `free`.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

use super::Accelerator;
use super::driver::{Allocation, is_called_by_the_driver};
use crate::device::common::Blocks;
use crate::error::{Error, Result};
use crate::os::mapping::{self, Region};
use crate::os::own_thread;
use crate::page::PageRange;

/// The blocks of managed memory.
pub struct Regions {
    blocks: Blocks<Allocation>,
    /// The bytes of all blocks, and their maximum: the free memory of the GPU when it was opened. More would not fit there
    /// together, and the driver would move blocks to and fro.
    live: AtomicUsize,
    most: usize,
    /// Held while blocks are freed, so that another thread can wait for that.
    door: Mutex<()>,
    /// Whether a block was kept since the thread last looked.
    kept: Mutex<bool>,
    changed: Condvar,
}

impl Regions {
    /// No blocks yet, and at most `most` bytes.
    pub fn with_capacity(most: usize) -> Self {
        Self {
            blocks: Blocks::default(),
            live: AtomicUsize::new(0),
            most,
            door: Mutex::default(),
            kept: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// The parts of a range that lie in a block.
    pub fn within(&self, range: PageRange) -> Vec<PageRange> {
        self.blocks.within(range)
    }

    fn wake(&self) {
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_one();
    }

    fn sleep(&self) {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = self.changed.wait_while(kept, |kept| !*kept);
        *kept.unwrap_or_else(PoisonError::into_inner) = false;
    }
}

impl Accelerator {
    /// See [`map`](crate::device::DeviceMemory::map).
    pub fn map(&self, length: usize) -> Result<Region> {
        self.is_in_its_process()?;
        if is_called_by_the_driver() {
            return Err(Error::OutOfMemory { what: "the CUDA driver's own use" });
        }
        let allocated = self.allocate(length).or_else(|| {
            // Blocks that are waiting to be freed may be what is missing.
            self.give_back_what_was_kept();
            self.allocate(length)
        });
        allocated.ok_or(Error::OutOfMemory { what: "a block that fits into the memory of the GPU" })
    }

    /// Allocate a block, if all blocks fit into the memory of the GPU together.
    fn allocate(&self, length: usize) -> Option<Region> {
        let regions = &self.regions;
        let live = regions.live.fetch_add(length, Ordering::Relaxed).saturating_add(length);
        let fits = live <= regions.most
            && self
                .context
                .free_bytes()
                .is_ok_and(|free| live <= free + self.free_memory.resident_bytes());
        let allocated =
            if fits { self.context.allocate(length, mapping::gmem_page()).ok() } else { None };
        if allocated.is_none() {
            regions.live.fetch_sub(length, Ordering::Relaxed);
        }
        let (region, given) = allocated?;
        regions.blocks.insert(region.range(), given);
        Some(region)
    }

    /// See [`unmap`](crate::device::DeviceMemory::unmap).
    pub fn unmap(&self, region: Region) {
        let first = region.range().start();
        if self.is_in_its_process().is_err() {
            return;
        }
        if self.regions.blocks.keep_for_later(first) {
            self.regions.wake();
        } else if !is_called_by_the_driver() {
            // Otherwise the block leaks, which is better than waiting for ever.
            let removed = self.regions.blocks.remove(first);
            removed.into_iter().for_each(|(block, given)| self.give_back(block, given));
        }
    }

    /// Start the thread that frees blocks. Without it they are freed when memory for a new one is missing.
    pub fn start_giving_back(&'static self) {
        // If no thread can be started, only time is lost.
        let _ = own_thread::start(
            c"gmem-cuda",
            Box::new(move || {
                loop {
                    self.regions.sleep();
                    self.give_back_what_was_kept();
                }
            }),
        );
    }

    /// Free all blocks that were kept.
    fn give_back_what_was_kept(&self) {
        let _door = self.regions.door.lock().unwrap_or_else(PoisonError::into_inner);
        self.regions.blocks.kept().for_each(|(block, given)| self.give_back(block, given));
    }

    fn give_back(&self, block: PageRange, given: Allocation) {
        // Before another block can get the addresses.
        self.free_memory.has_gone(block);
        self.context.free(given);
        self.regions.live.fetch_sub(block.len(), Ordering::Relaxed);
    }
}
