//! *Where* memory can live: the trait [`Device`], and the current device.
//!
//! A new device is a folder here and a line in [`ALL`]. Code that several devices share is in [`common`].
//!
//! - [`mod@current`]: the current device, and how it became that
//! - [`auto`]: the choice of a device where none is named

mod ascend;
mod auto;
mod common;
mod cuda;
mod current;
mod gmem;
mod host;
mod opencl;

pub use common::{
    DriverEvent, DriverStreams, HostFunction, Registered, in_host_function, is_in_host_function,
};
pub use current::{
    DEFAULT, DEVICE, current, current_index, current_index_for_streams, explain, known_index,
    named_index, set_current,
};

pub use host::{check_memory_for, prefer_node};

use std::ffi::{CStr, c_void};
use std::ptr;

use crate::config::SettingRow;
use crate::error::{Error, Result};
use crate::huge_policy::HugePolicy;
use crate::os::mapping::Region;
use crate::page::PageRange;
use crate::report::Report;

/// A set of memory nodes, and the operations that bring a range there and free it.
pub trait Device: Sync {
    /// The name by which GMEM_DEVICE and gmemSetDevice know it.
    fn c_name(&self) -> &'static CStr;

    /// The documentation of the `GMEM_*` variables that it reads.
    fn settings(&self) -> Vec<SettingRow> {
        Vec::new()
    }

    /// Open what the device needs, before it becomes the current one; fails if it cannot be used.
    fn open(&self) -> Result<()> {
        Ok(())
    }

    /// The best node to prefetch to from the calling thread.
    fn numa_id(&self) -> Result<i32>;

    /// The node with the id `hnid`, if the device can keep memory there.
    fn node(&self, hnid: i32) -> Result<usize>;

    /// Bring a range to a node, together with the margin that rounding outward adds, where that is ordinary memory. After
    /// success an access to the requested range takes no fault. `report` is filled after a failure, too.
    fn prefetch(&self, request: &Request<'_>, report: &mut Report) -> Result<()>;

    /// Set the huge-page policy of the memory that is mapped in a range.
    fn advise_huge(&self, range: PageRange, policy: HugePolicy) -> Result<()> {
        host::Host.advise_huge(range, policy)
    }

    /// Release the memory of whole GMEM pages, whose contents their owner has given up. They read as zeros afterwards, unless
    /// libgmem.h says otherwise for the device.
    fn free_eager(&self, pages: PageRange) -> Result<()>;

    /// Fails where [`free_eager`](Self::free_eager) would refuse the pages without releasing any. Releases nothing.
    fn may_free_eager(&self, pages: PageRange) -> Result<()> {
        host::Host.may_free_eager(pages)
    }

    /// The driver's context that the memory belongs to; NULL if there is none.
    fn context(&self) -> Result<*mut c_void> {
        Ok(ptr::null_mut())
    }

    /// The nodes of the device that are not memory nodes of the machine, ascending, with their present state.
    fn nodes(&self) -> Vec<DeviceNode> {
        Vec::new()
    }

    /// The driver's streams, if programs can pass them to libgmem directly.
    fn driver_streams(&self) -> Option<&dyn DriverStreams> {
        None
    }

    /// The memory for the heap's large blocks; `None` if ordinary memory serves as well. Also `None` until the device is open:
    /// `malloc` calls this and must not open a driver.
    fn memory(&self) -> Option<&dyn DeviceMemory> {
        None
    }
}

/// A node of a device. Its id is above those of the memory nodes of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceNode {
    /// The heterogeneous NUMA id.
    pub id: usize,
    /// Bytes of its memory; `None` if the driver does not report them.
    pub total: Option<usize>,
    /// Bytes that are free; `None` if the driver does not report them.
    pub free: Option<usize>,
}

/// Memory that a device maps, and that the CPU can use as well. Drivers call `malloc` and `free`, so do not call these
/// functions with a lock held that `malloc` or `free` takes.
pub trait DeviceMemory: Sync {
    /// Map `length` bytes, a multiple of the GMEM page, aligned to a GMEM page. The caller uses ordinary memory if this fails.
    fn map(&self, length: usize) -> Result<Region>;

    /// Unmap a whole region that [`map`](Self::map) returned.
    fn unmap(&self, region: Region);

    /// Whether a new region reads as zeros. Otherwise its contents are arbitrary.
    fn is_zeroed(&self) -> bool {
        true
    }

    /// Whether small blocks may share a page. They may not if only one side can have a page at a time: a touch of one block
    /// would take the page from the others.
    fn is_for_small_blocks(&self) -> bool {
        true
    }
}

/// A prefetch: its range, its destination and its options.
pub struct Request<'a> {
    /// The requested range, not rounded.
    pub asked: PageRange,
    /// The destination node.
    pub node: usize,
    /// The huge-page policy.
    pub huge: HugePolicy,
    /// The maximum number of threads, including the caller's; 0 for no maximum.
    pub max_threads: usize,
    /// Whether the caller reads the report. Counting pages costs time.
    pub wants_report: bool,
    /// Whether the range is a file that the kernel reads huge page by huge page as it is populated. Then threads wait for the
    /// disk, and nothing is read ahead, because the kernel would use small pages for that.
    pub reads_huge_pages: bool,
    /// Whether pages stay on the node that they are on, because other processes use them.
    pub stays: bool,
    /// Observes the prefetch and may end it early.
    pub watch: &'a dyn Watch,
}

/// Observes a prefetch.
pub trait Watch: Sync {
    /// Fails if the prefetch is to end, with `done` of `total` bytes done. Each thread calls it before each piece of work.
    fn go_on(&self, done: usize, total: usize) -> Result<()>;

    /// Fails if the prefetch is to end. Only the calling thread calls it, after each piece of work; it may call user functions.
    fn progress(&self, done: usize, total: usize) -> Result<()>;
}

/// Never ends a prefetch.
pub struct Unwatched;

impl Watch for Unwatched {
    fn go_on(&self, _: usize, _: usize) -> Result<()> {
        Ok(())
    }

    fn progress(&self, _: usize, _: usize) -> Result<()> {
        Ok(())
    }
}

impl dyn Device {
    /// The name by which `GMEM_DEVICE` and `gmemSetDevice` know it.
    fn name(&self) -> &'static str {
        self.c_name().to_str().unwrap_or_default()
    }
}

/// Every device, in the order in which messages list them, one line each. CMake reads the names here: a device is called
/// what its folder is called.
#[rustfmt::skip]
const ALL: &[&dyn Device] = &[
    &host::Host,
    &gmem::Gmem,
    &ascend::Ascend,
    &opencl::OpenCl,
    &cuda::Cuda,
];

/// The documentation of the settings of all devices, each with the name of its device.
pub fn settings() -> Vec<(&'static str, SettingRow)> {
    ALL.iter()
        .flat_map(|device| device.settings().into_iter().map(|row| (device.name(), row)))
        .collect()
}

/// The device at an index that [`current_index`] returned.
pub fn by_index(index: usize) -> &'static dyn Device {
    ALL.get(index).copied().unwrap_or(&host::Host)
}

/// The name of the device that owns the machine's memory.
pub fn host_name() -> &'static CStr {
    host::Host.c_name()
}

/// Whether a name stands for the choice of a device.
pub fn is_auto(name: &[u8]) -> bool {
    name == auto::NAME.as_bytes()
}

/// The names of all devices.
pub fn names() -> Vec<&'static str> {
    ALL.iter().map(|device| device.name()).collect()
}

fn find(name: &str) -> Result<usize> {
    ALL.iter().position(|device| device.name() == name).ok_or_else(|| Error::UnknownDevice {
        name: name.to_owned(),
        known: format!("{}; \"{}\" chooses one", names().join(", "), auto::NAME),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `libgmem_check_device()` in cmake/cargo.cmake reads the list with the same rule.
    #[test]
    fn cmake_reads_the_names_of_all_devices() {
        let (_, list) = include_str!("mod.rs").split_once("const ALL:").unwrap_or_default();
        let (list, _) = list.split_once("];").unwrap_or_default();
        let lines = list.lines().filter_map(|line| line.strip_prefix("    &")?.split_once("::"));
        assert_eq!(lines.map(|(name, _)| name).collect::<Vec<_>>(), names());
    }
}
