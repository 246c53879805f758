//! Bindings of the CUDA driver, `libcuda.so.1`, which is opened at run time.
//!
//! - [`codes`]: error codes
//! - [`context`]: memory, streams and events of a GPU
//! - [`backtrace`]: whether the driver is on the call stack
//!
//! Names, numbers and rules are those of NVIDIA's `cuda.h`; a test compares them (`tests/standins/cuda/layout.cpp`).

mod backtrace;
mod codes;
mod context;

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::ptr;

use crate::os::dynamic::{Missing, functions};
pub use backtrace::is_called_by_the_driver;
pub use codes::{CuCode, unavailable};
pub use context::{Allocation, Context, Destination, Event};

/// The name of the driver's library, which includes the version of its binary interface.
pub const LIBRARY: &CStr = c"libcuda.so.1";

/// Result of a call.
pub type CuResult<T> = std::result::Result<T, CuCode>;

type Handle = *mut c_void;
type HostFunction = extern "C" fn(*mut c_void);

/// `CUmemLocation`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Location {
    kind: c_int,
    id: c_int,
}

// A CUdeviceptr is 64 bits wide, like an address of the process. In functions without `_ptsz` NULL means the legacy stream;
// it is never passed.
functions! {
    cuInit(c_uint) -> c_int;
    cuDriverGetVersion(*mut c_int) -> c_int;
    cuDeviceGetCount(*mut c_int) -> c_int;
    cuDeviceGet(*mut c_int, c_int) -> c_int;
    cuDeviceGetName(*mut c_char, c_int, c_int) -> c_int;
    cuDeviceGetUuid(*mut [u8; 16], c_int) -> c_int;
    cuDeviceGetAttribute(*mut c_int, c_int, c_int) -> c_int;
    cuDeviceTotalMem_v2(*mut usize, c_int) -> c_int;
    cuDevicePrimaryCtxRetain(*mut Handle, c_int) -> c_int;
    cuDevicePrimaryCtxRelease_v2(c_int) -> c_int;
    cuCtxGetCurrent(*mut Handle) -> c_int;
    cuCtxPushCurrent_v2(Handle) -> c_int;
    cuCtxPopCurrent_v2(*mut Handle) -> c_int;
    cuMemGetInfo_v2(*mut usize, *mut usize) -> c_int;
    cuMemAllocManaged(*mut usize, usize, c_uint) -> c_int;
    cuMemFree_v2(usize) -> c_int;
    cuMemPrefetchAsync(usize, usize, c_int, Handle) -> c_int;
    cuMemRangeGetAttribute(*mut c_void, usize, c_int, usize, usize) -> c_int;
    cuPointerGetAttribute(*mut c_void, c_int, usize) -> c_int;
    cuStreamCreate(*mut Handle, c_uint) -> c_int;
    cuStreamDestroy_v2(Handle) -> c_int;
    cuStreamQuery(Handle) -> c_int;
    cuStreamSynchronize(Handle) -> c_int;
    cuStreamIsCapturing(Handle, *mut c_int) -> c_int;
    cuStreamWaitEvent(Handle, Handle, c_uint) -> c_int;
    cuLaunchHostFunc(Handle, HostFunction, *mut c_void) -> c_int;
    cuEventCreate(*mut Handle, c_uint) -> c_int;
    cuEventRecord(Handle, Handle) -> c_int;
    cuEventQuery(Handle) -> c_int;
    cuEventSynchronize(Handle) -> c_int;
    cuStreamGetCtx(Handle, *mut Handle) -> c_int;
    cuThreadExchangeStreamCaptureMode(*mut c_int) -> c_int;
    ? cuCtxGetId(Handle, *mut u64) -> c_int;
    ? cuStreamGetId(Handle, *mut u64) -> c_int;
    ? cuMemPrefetchAsync_v2(usize, usize, Location, c_uint, Handle) -> c_int;
    ? cuMemDiscardBatchAsync(*mut usize, *mut usize, usize, u64, Handle) -> c_int;
}

/// The open driver.
pub struct Driver {
    functions: Functions,
}

/// The properties of a GPU, as the driver reports them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    /// The ordinal among the GPUs that the process sees.
    pub ordinal: i32,
    handle: c_int,
    /// The driver's name for the GPU.
    pub name: String,
    /// The UUID as nvidia-smi writes it: `GPU-` and 32 hexadecimal digits.
    pub uuid: String,
    /// Bytes of its memory.
    pub total: usize,
    /// Whether the driver offers managed memory.
    pub managed: bool,
    /// Whether the CPU may use managed memory while kernels run.
    pub concurrent: bool,
    /// Whether kernels can read any memory of the process.
    pub pageable: bool,
    /// The memory node of the GPU's memory, if the kernel manages it as one.
    pub numa_node: Option<usize>,
}

impl Driver {
    /// Open the driver. It stays open, because it starts threads.
    pub fn open() -> Result<Self, Missing> {
        Functions::open(LIBRARY).map(|functions| Self { functions })
    }

    /// Initialize the driver, before any other call but [`version`](Self::version).
    pub fn initialize(&self) -> CuResult<()> {
        // SAFETY: 0 is the only valid argument.
        done(unsafe { (self.functions.cuInit)(0) })
    }

    /// The newest CUDA version that the driver supports: 1000 for each major version, 10 for each minor one.
    pub fn version(&self) -> CuResult<i32> {
        // SAFETY: `out` is writable.
        value(|out| unsafe { (self.functions.cuDriverGetVersion)(out) })
    }

    /// Whether the driver can discard a part of a block of managed memory.
    pub fn can_discard(&self) -> bool {
        self.functions.cuMemDiscardBatchAsync.is_some()
    }

    /// The GPUs that the process sees, by ordinal.
    pub fn gpus(&self) -> CuResult<Vec<Gpu>> {
        // SAFETY: `out` is writable.
        let count = value(|out| unsafe { (self.functions.cuDeviceGetCount)(out) })?;
        (0..count).map(|ordinal| self.describe(ordinal)).collect()
    }

    fn describe(&self, ordinal: i32) -> CuResult<Gpu> {
        // From enum CUdevice_attribute.
        const MANAGED_MEMORY: c_int = 83;
        const PAGEABLE_MEMORY_ACCESS: c_int = 88;
        const CONCURRENT_MANAGED_ACCESS: c_int = 89;
        const NUMA_CONFIG: c_int = 130;
        const NUMA_ID: c_int = 131;
        const IS_NUMA_NODE: c_int = 1;
        let all = &self.functions;
        // SAFETY: `out` is writable, and the ordinal is below the count.
        let handle = value(|out| unsafe { (all.cuDeviceGet)(out, ordinal) })?;
        let attribute = |what| {
            // SAFETY: `out` is writable. A driver that does not know the attribute fails, which counts as 0.
            value(|out| unsafe { (all.cuDeviceGetAttribute)(out, what, handle) }).unwrap_or(0)
        };
        // SAFETY: `out` has the 16 bytes of a CUuuid.
        let uuid = value(|out| unsafe { (all.cuDeviceGetUuid)(out, handle) })?;
        let numa_node = (attribute(NUMA_CONFIG) == IS_NUMA_NODE).then(|| attribute(NUMA_ID));
        Ok(Gpu {
            ordinal,
            handle,
            name: self.name(handle)?,
            uuid: uuid_text(&uuid),
            // SAFETY: `out` is writable.
            total: value(|out| unsafe { (all.cuDeviceTotalMem_v2)(out, handle) })?,
            managed: attribute(MANAGED_MEMORY) != 0,
            concurrent: attribute(CONCURRENT_MANAGED_ACCESS) != 0,
            pageable: attribute(PAGEABLE_MEMORY_ACCESS) != 0,
            numa_node: numa_node.and_then(|node| usize::try_from(node).ok()),
        })
    }

    fn name(&self, handle: c_int) -> CuResult<String> {
        let mut text = [0_u8; 256];
        // The last byte stays 0, whatever the driver writes.
        let most = text.len() as c_int - 1;
        // SAFETY: the driver writes at most `most` bytes, which the buffer has.
        done(unsafe { (self.functions.cuDeviceGetName)(text.as_mut_ptr().cast(), most, handle) })?;
        let text = CStr::from_bytes_until_nul(&text).unwrap_or_default().to_string_lossy();
        // Short enough for a message.
        Ok(text.chars().take(100).collect())
    }
}

#[cfg(test)]
impl Gpu {
    /// An invented GPU.
    pub fn for_tests(
        ordinal: i32,
        name: String,
        uuid: String,
        managed: bool,
        concurrent: bool,
    ) -> Self {
        let (total, pageable, numa_node) = (1 << 30, false, None);
        Self {
            ordinal,
            handle: ordinal,
            name,
            uuid,
            total,
            managed,
            concurrent,
            pageable,
            numa_node,
        }
    }
}

fn uuid_text(uuid: &[u8; 16]) -> String {
    let mut text = String::from("GPU");
    for (index, byte) in uuid.iter().enumerate() {
        if [0, 4, 6, 8, 10].contains(&index) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

fn done(code: c_int) -> CuResult<()> {
    if code == 0 { Ok(()) } else { Err(CuCode(code)) }
}

/// The value that a call writes through its pointer.
fn value<T: Copy + Default>(call: impl FnOnce(*mut T) -> c_int) -> CuResult<T> {
    let mut value = T::default();
    done(call(&raw mut value)).map(|()| value)
}

fn handle(call: impl FnOnce(*mut Handle) -> c_int) -> CuResult<Handle> {
    let mut handle = ptr::null_mut();
    done(call(&raw mut handle)).map(|()| handle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_are_written_as_the_tools_of_the_driver_do() {
        let bytes = [0x9f, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 0xff];
        assert_eq!(uuid_text(&bytes), "GPU-9f010203-0405-0607-0809-0a0b0c0d0eff");
    }
}
