//! *Where* memory can live: the trait [`Device`], and which device is current.
//!
//! To add a device, write its file and add it to [`ALL`]; nothing else changes.

mod ascend;
mod cuda;
mod driver;
mod gmem;
mod host;
mod opencl;

pub use driver::{
    HostFunction, Mark, NativeStreams, Registered, in_host_function, is_in_host_function,
};

use std::ffi::{CStr, c_void};
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::config::config;
use crate::error::{Error, Result};
use crate::huge_policy::HugePolicy;
use crate::os::mapping::Region;
use crate::page::PageRange;
use crate::report::Report;

/// A place for memory: a set of memory nodes, and how a range gets there and away.
pub trait Device: Sync {
    /// The name by which GMEM_DEVICE and gmemSetDevice know it.
    fn c_name(&self) -> &'static CStr;

    /// Whether it can be used, else why not; asked before it becomes the current one. What it needs is opened here.
    fn open(&self) -> Result<()> {
        Ok(())
    }

    /// The node that [`prefetch`](Device::prefetch) is best asked for from the calling thread.
    fn numa_id(&self) -> Result<i32>;

    /// The node that `hnid` stands for, if the device can keep memory there.
    fn node(&self, hnid: i32) -> Result<usize>;

    /// Bring a range to a node, with the margin that rounding outward adds where that is ordinary
    /// memory. On success an access to what was asked for takes no fault. `report` gets what was done, also when not
    /// all of it was.
    fn prefetch(&self, request: &Request<'_>, report: &mut Report) -> Result<()>;

    /// Have the memory that is mapped in a range be huge, or not, from now on.
    fn advise_huge(&self, range: PageRange, policy: HugePolicy) -> Result<()> {
        host::Host.advise_huge(range, policy)
    }

    /// Give the memory of whole GMEM pages back; afterwards they read as zeros, unless libgmem.h says otherwise of the
    /// device.
    fn free_eager(&self, pages: PageRange) -> Result<()>;

    /// The driver's own object that its memory belongs to; NULL where there is none.
    fn context(&self) -> Result<*mut c_void> {
        Ok(ptr::null_mut())
    }

    /// The nodes that it has beside the machine's, as they are now, ascending.
    fn nodes(&self) -> Vec<DeviceNode> {
        Vec::new()
    }

    /// Its driver's streams, if programs may hand them over as they are.
    fn native_streams(&self) -> Option<&dyn NativeStreams> {
        None
    }

    /// Where the heap's large blocks come from; `None` where ordinary memory is as good, and as long as the device is not
    /// open: `malloc` asks.
    fn memory(&self) -> Option<&dyn DeviceMemory> {
        None
    }
}

/// A node of a device's own, behind those of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceNode {
    /// Its heterogeneous NUMA id.
    pub id: usize,
    /// Bytes; `None` where the driver does not say.
    pub total: Option<usize>,
    /// Bytes of them that nobody has.
    pub free: Option<usize>,
}

/// Memory that a device maps itself, for the processor to use as well. Not called with a lock held that `malloc` or
/// `free` may want: a driver calls both.
pub trait DeviceMemory: Sync {
    /// Map `length` bytes, a multiple of the GMEM page, on a GMEM page. Fails where the device is not
    /// there or has none left; ordinary memory is taken then.
    fn map(&self, length: usize) -> Result<Region>;

    /// Give back what [`map`](Self::map) gave, all of it.
    fn unmap(&self, region: Region);

    /// Whether what it maps reads as zeros; else there may be anything in it.
    fn clears(&self) -> bool {
        true
    }

    /// Whether small blocks may share a page of it: not where one that is touched takes the page away from the others.
    fn is_for_small_blocks(&self) -> bool {
        true
    }
}

/// What to prefetch, and how.
pub struct Request<'a> {
    /// The range as it was asked for.
    pub asked: PageRange,
    /// Where to.
    pub node: usize,
    /// Huge pages or not.
    pub huge: HugePolicy,
    /// At most as many threads, the caller's included; 0 for as many as help.
    pub max_threads: usize,
    /// Whether somebody reads the report: counting costs a little.
    pub wants_report: bool,
    /// Who may end it before its end.
    pub watch: &'a dyn Watch,
}

/// Looks on while a prefetch works.
pub trait Watch: Sync {
    /// Whether to go on, `done` bytes of `total` being done; asked by each thread before each piece of work.
    fn go_on(&self, done: usize, total: usize) -> Result<()>;

    /// The same, asked after each piece by the calling thread alone, which may call functions of the user's.
    fn progress(&self, done: usize, total: usize) -> Result<()>;
}

/// Nobody does.
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
    /// The same as text.
    fn name(&self) -> &'static str {
        self.c_name().to_str().unwrap_or_default()
    }
}

/// Every device, in the order in which messages list them.
const ALL: [&dyn Device; 5] =
    [&host::Host, &gmem::Gmem, &ascend::Ascend, &opencl::OpenCl, &cuda::Cuda];

/// The device chosen when the library was configured (`-DLIBGMEM_DEVICE`).
pub const DEFAULT: &str = match option_env!("GMEM_DEFAULT_DEVICE") {
    Some(name) => name,
    None => "host",
};

/// Index into [`ALL`], plus one; 0 before the first use.
static CURRENT: AtomicUsize = AtomicUsize::new(0);

/// The current device; on first use the one that the environment or the build names.
pub fn current() -> Result<&'static dyn Device> {
    current_index().map(by_index)
}

/// Its place among the devices.
pub fn current_index() -> Result<usize> {
    let mut current = CURRENT.load(Ordering::Relaxed);
    if current == 0 {
        let first = find(config().device.as_deref().unwrap_or(DEFAULT))? + 1;
        ALL[first - 1].open()?;
        // A gmemSetDevice that came in between wins.
        current = match CURRENT.compare_exchange(0, first, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => first,
            Err(set) => set,
        };
    }
    Ok(current - 1)
}

/// The same without opening it, for `malloc`: a driver that is being opened calls that itself.
pub fn current_index_unopened() -> Result<usize> {
    match CURRENT.load(Ordering::Relaxed) {
        0 => find(config().device.as_deref().unwrap_or(DEFAULT)),
        chosen => Ok(chosen - 1),
    }
}

/// The device at a place that [`current_index`] gave.
pub fn by_index(index: usize) -> &'static dyn Device {
    ALL.get(index).copied().unwrap_or(&host::Host)
}

/// Make the named device the current one.
pub fn set_current(name: &str) -> Result<()> {
    let index = find(name)?;
    ALL[index].open()?;
    CURRENT.store(index + 1, Ordering::Relaxed);
    Ok(())
}

/// The device that the machine's own memory belongs to.
pub fn host_name() -> &'static CStr {
    host::Host.c_name()
}

fn find(name: &str) -> Result<usize> {
    ALL.iter().position(|device| device.name() == name).ok_or_else(|| Error::UnknownDevice {
        name: name.to_owned(),
        known: ALL.map(<dyn Device>::name).join(", "),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_device_is_refused_with_the_list() {
        let failure = set_current("abacus").err().map(|failure| failure.to_string());
        assert!(failure.is_some_and(|text| text.contains("abacus") && text.contains("host")));
        assert_eq!(current().map(<dyn Device>::name), Ok("host"));
    }
}
