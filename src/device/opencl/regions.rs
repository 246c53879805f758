//! Memory that the driver gives.
//!
//! While the driver is being called it gets ordinary memory, and what it frees is kept until later.

use std::cell::Cell;

use super::driver::Allocation;
use super::{Accelerator, Device, Host, failed};
use crate::device::common::Blocks;
use crate::error::{Error, Result};
use crate::os::mapping::Region;
use crate::os::{advice, mapping};

/// What the driver has given.
pub type Regions = Blocks<Allocation>;

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
        self.regions.insert(region.range(), given);
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
            if let Some((_, given)) = self.regions.remove(first) {
                self.context.free(given);
            }
        } else if !is_here || !self.regions.keep_for_later(first) {
            // The addresses are lost; the memory, where it is ordinary, is not.
            let _ = Host.free_eager(range);
        }
    }

    fn unmap_what_was_kept(&self) {
        self.regions.kept().for_each(|(_, given)| self.context.free(given));
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
