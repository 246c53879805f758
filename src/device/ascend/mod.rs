//! Device `ascend`: Huawei's Ascend accelerators behind openEuler's GMEM kernel.
//!
//! The kernel manages the memory, so [`Gmem`] does everything that concerns memory. This device adds the streams of Ascend's
//! runtime (ACL): the C functions accept an `aclrtStream` as a stream. The runtime is opened when the first one comes;
//! a program that has a stream has the runtime, too.
//!
//! - [`discovery`]: finding the runtime, or saying where it was searched
//! - [`driver`], [`codes`]: bindings of the runtime, and its error codes
//! - [`reports`]: the threads that an older runtime needs to run host functions

mod codes;
mod discovery;
mod driver;
mod reports;

use std::ffi::{CStr, c_void};

use super::gmem::Gmem;
use super::{Device, DeviceMemory, DeviceNode, DriverStreams, HostFunction, Request};
use crate::error::{Error, Result};
use crate::os::lazy::LazyResult;
use crate::os::process;
use crate::page::PageRange;
use crate::report::Report;
use codes::unavailable;
use driver::Runtime;

/// The device of a GMEM kernel whose driver is Ascend's.
pub struct Ascend;

impl Device for Ascend {
    fn c_name(&self) -> &'static CStr {
        c"ascend"
    }

    fn numa_id(&self) -> Result<i32> {
        Gmem.numa_id()
    }

    fn node(&self, hnid: i32) -> Result<usize> {
        Gmem.node(hnid)
    }

    fn prefetch(&self, request: &Request<'_>, report: &mut Report) -> Result<()> {
        Gmem.prefetch(request, report)
    }

    fn free_eager(&self, pages: PageRange) -> Result<()> {
        Gmem.free_eager(pages)
    }

    fn context(&self) -> Result<*mut c_void> {
        Gmem.context()
    }

    fn nodes(&self) -> Vec<DeviceNode> {
        Gmem.nodes()
    }

    fn driver_streams(&self) -> Option<&dyn DriverStreams> {
        Some(self)
    }

    fn memory(&self) -> Option<&dyn DeviceMemory> {
        Gmem.memory()
    }
}

impl DriverStreams for Ascend {
    fn may_be(&self, stream: usize) -> bool {
        // A pointer to a structure with pointers, and not to the page that is never mapped.
        const LOWEST: usize = 1 << 12;
        stream >= LOWEST && stream.is_multiple_of(align_of::<usize>())
    }

    fn begin(&self, stream: usize) -> Result<()> {
        match runtime()? {
            Runtime::WithThreads(_) => Ok(()),
            Runtime::WithoutThreads(_) => reports::begin(stream),
        }
    }

    fn launch(&self, stream: usize, function: HostFunction, argument: usize) -> Result<()> {
        match runtime()? {
            Runtime::WithThreads(runtime) => runtime
                .launch(stream, function, argument)
                .map_err(|code| code.error("aclrtLaunchHostFunc", stream)),
            Runtime::WithoutThreads(runtime) => {
                reports::launch(runtime, stream, function, argument)
            }
        }
    }

    fn forget(&self, stream: usize) {
        if let Ok(Runtime::WithoutThreads(runtime)) = runtime() {
            reports::forget(runtime, stream);
        }
    }
}

/// The runtime, once it is open.
struct Opened {
    runtime: Runtime,
    /// The forks between the process that opened it and the first process.
    forks: u64,
}

fn runtime() -> Result<&'static Runtime> {
    static OPENED: LazyResult<Opened, Error> = LazyResult::new(|| {
        discovery::open().map(|runtime| Opened { runtime, forks: process::forks() })
    });
    let opened = OPENED.get()?;
    if opened.forks == process::forks() {
        return Ok(&opened.runtime);
    }
    Err(unavailable(
        "the runtime was used before fork(), and does not work in the child",
        "Start the child with posix_spawn() or exec(), or use streams of gmemStreamCreate() there",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_a_pointer_is_no_stream() {
        assert!(![0, 1, 8, 0xff8, 0x1001, 0x1004].into_iter().any(|number| Ascend.may_be(number)));
        assert!([0x1000, 0x7f12_3456_7890, !0xfff].into_iter().all(|number| Ascend.may_be(number)));
    }

    #[test]
    fn memory_is_the_gmem_kernels() {
        let of = |device: &dyn Device| (device.numa_id(), device.node(0), device.nodes());
        assert_eq!(of(&Ascend), of(&Gmem));
        assert_eq!(Ascend.node(-1), Gmem.node(-1));
        assert!(Ascend.memory().is_some());
    }
}
