//! Memory that the driver allocates.
//!
//! The driver itself calls `malloc` and `free`. While a thread is inside the driver, it gets ordinary memory, and the blocks that
//! it frees are kept until later.

use std::cell::Cell;

use super::driver::Allocation;
use super::{Accelerator, Device, Host, failed};
use crate::device::common::Blocks;
use crate::error::{Error, Result};
use crate::os::mapping::Region;
use crate::os::{advice, mapping};

/// The blocks that the driver allocated.
pub type Regions = Blocks<Allocation>;

thread_local! {
    // Without a destructor, so that the first use takes no memory.
    static IN_THE_DRIVER: Cell<bool> = const { Cell::new(false) };
}

/// While this lives, the calling thread is inside the driver.
pub struct Turn(());

impl Turn {
    /// `None` if the thread is inside the driver already.
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
            // The addresses leak; the memory is released if it is ordinary.
            let _ = Host.free_eager(range);
        }
    }

    fn unmap_what_was_kept(&self) {
        self.regions.kept().for_each(|(_, given)| self.context.free(given));
    }

    /// Fill a new block with zeros: its contents are arbitrary.
    fn zero(&self, region: &mut Region) -> Result<()> {
        let range = region.range();
        if self.own_node.is_none() {
            advice::huge_pages(range);
            // Ordinary memory reads as zeros after it was dropped, and then takes no space until it is used.
            if Host.free_eager(range).is_ok() {
                return Ok(());
            }
        }
        self.context.zero(region).map_err(|code| failed("clEnqueueSVMMemFill", range, code))
    }
}
