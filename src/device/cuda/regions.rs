//! Managed memory that the driver gives for blocks of the heap.
//!
//! The driver calls `malloc` and `free` itself, with its locks held, and threads of its own call the program's functions, in
//! which calls of the driver are forbidden. Wherever one of its frames is on the stack, ordinary memory is given.
//!
//! What is freed goes back by a thread of libgmem's: `cuMemFree` waits for all that the GPU has to do, and that may be
//! waiting for whoever calls `free`.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

use super::Accelerator;
use super::driver::{Allocation, is_called_by_the_driver};
use crate::device::common::Blocks;
use crate::error::{Error, Result};
use crate::os::mapping::{self, Region};
use crate::os::process;
use crate::page::PageRange;

/// What the driver has given.
pub struct Regions {
    blocks: Blocks<Allocation>,
    /// Bytes in all of them, and at most: what the GPU had free when it was opened. More would not fit there together, and
    /// the driver would move it to and fro.
    live: AtomicUsize,
    most: usize,
    /// Held by whoever gives blocks back, so that another one can wait for that.
    door: Mutex<()>,
    /// Whether something was kept since the thread last looked.
    kept: Mutex<bool>,
    changed: Condvar,
}

impl Regions {
    /// None yet, and at most so many bytes.
    pub fn with_room_for(most: usize) -> Self {
        Self {
            blocks: Blocks::default(),
            live: AtomicUsize::new(0),
            most,
            door: Mutex::default(),
            kept: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// The parts of a range that the driver gave.
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
            // What is on its way back may be what is missing.
            self.give_back_what_was_kept();
            self.allocate(length)
        });
        allocated.ok_or(Error::OutOfMemory { what: "a block that the GPU has room for" })
    }

    /// One more block, if all of them can be on the GPU together.
    fn allocate(&self, length: usize) -> Option<Region> {
        let regions = &self.regions;
        let live = regions.live.fetch_add(length, Ordering::Relaxed).saturating_add(length);
        let fits = live <= regions.most
            && self.context.free_bytes().is_ok_and(|free| live <= free + self.room.bytes_there());
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
            // Else it is lost, which is better than waiting for ever.
            let removed = self.regions.blocks.remove(first);
            removed.into_iter().for_each(|(block, given)| self.give_back(block, given));
        }
    }

    /// Start the thread that gives blocks back; without it they are given back when there is no room for more.
    pub fn start_giving_back(&'static self) {
        let thread = std::thread::Builder::new().name("gmem-cuda".into());
        // Where there are no threads to be had, nothing is lost but time.
        let _ = process::with_signals_blocked(|| {
            thread.spawn(move || {
                loop {
                    self.regions.sleep();
                    self.give_back_what_was_kept();
                }
            })
        });
    }

    /// All of it, also what the thread is about to.
    fn give_back_what_was_kept(&self) {
        let _door = self.regions.door.lock().unwrap_or_else(PoisonError::into_inner);
        self.regions.blocks.kept().for_each(|(block, given)| self.give_back(block, given));
    }

    fn give_back(&self, block: PageRange, given: Allocation) {
        // Before its addresses can be somebody else's.
        self.room.has_gone(block);
        self.context.free(given);
        self.regions.live.fetch_sub(block.len(), Ordering::Relaxed);
    }
}
