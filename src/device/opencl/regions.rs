//! Memory that the driver gives.
//!
//! A driver calls `malloc` and `free`, and so may come back here while it is being called, with its locks held. Then it
//! gets ordinary memory, and what it frees is kept until later.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Accelerator, Device, Host, failed};
use crate::error::{Error, Result};
use crate::os::mapping::Region;
use crate::os::opencl::Given;
use crate::os::{advice, mapping};
use crate::page::PageRange;

/// What the driver has given. Not looked at in a forked child, where the lock may be held for ever.
pub struct Regions {
    /// By their first GMEM page.
    blocks: Mutex<BTreeMap<usize, Block>>,
    /// First pages of those that were given back from inside the driver; 0 is none.
    later: [AtomicUsize; 64],
}

struct Block {
    end: usize,
    given: Given,
}

impl Default for Regions {
    fn default() -> Self {
        Self { blocks: Mutex::default(), later: [const { AtomicUsize::new(0) }; 64] }
    }
}

impl Regions {
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

    /// False if there is no room to remember it.
    fn keep_for_later(&self, start: usize) -> bool {
        self.later.iter().any(|slot| {
            slot.compare_exchange(0, start, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        })
    }
}

thread_local! {
    // Without a destructor, so that the first use takes no memory.
    static IN_THE_DRIVER: Cell<bool> = const { Cell::new(false) };
}

/// The calling thread is in the driver while it lives.
pub struct Turn(());

impl Turn {
    /// `None` if it is there already.
    pub fn take() -> Option<Self> {
        if IN_THE_DRIVER.replace(true) { None } else { Some(Self(())) }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        IN_THE_DRIVER.set(false);
    }
}

impl Accelerator {
    /// See [`map`](crate::device::DeviceMemory::map).
    pub fn map(&self, length: usize) -> Result<Region> {
        let out_of_memory = Error::OutOfMemory { what: "a block of the OpenCL device" };
        let Some(_turn) = Turn::take() else { return Err(out_of_memory) };
        self.is_in_its_process()?;
        self.unmap_what_was_kept();
        let Some((mut region, given)) = self.context.allocate(length, mapping::gmem_page()) else {
            return Err(out_of_memory);
        };
        if let Err(failure) = self.zero(&mut region) {
            self.context.free(given);
            return Err(failure);
        }
        let range = region.range();
        self.regions.blocks().insert(range.start(), Block { end: range.end(), given });
        Ok(region)
    }

    /// See [`unmap`](crate::device::DeviceMemory::unmap).
    pub fn unmap(&self, region: Region) {
        let range = region.range();
        let first = range.start();
        let turn = Turn::take();
        let is_here = self.is_in_its_process().is_ok();
        if turn.is_some() && is_here {
            self.unmap_what_was_kept();
            self.give_back(first);
        } else if !is_here || !self.regions.keep_for_later(first) {
            // The addresses are lost; the memory, where it is ordinary, is not.
            let _ = Host.free_eager(range);
        }
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
        }
    }

    /// What the driver gives may hold anything.
    fn zero(&self, region: &mut Region) -> Result<()> {
        let range = region.range();
        if self.own_node.is_none() {
            advice::huge_pages(range);
            // Ordinary memory reads as zeros when it is dropped, and takes no memory before it is used.
            if Host.free_eager(range).is_ok() {
                return Ok(());
            }
        }
        self.context.zero(region).map_err(|code| failed("clEnqueueSVMMemFill", range, code))
    }
}
