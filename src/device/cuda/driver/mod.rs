//! CUDA as far as libgmem calls it: the driver `libcuda.so.1`, opened at run time, and a few of its functions.
//! Names, numbers and rules are those of NVIDIA's `cuda.h`; a test compares them with it.

mod backtrace;
mod codes;
mod context;

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::ptr;

use crate::os::dynamic::{Missing, functions};
pub use backtrace::is_called_by_the_driver;
pub use codes::{CuCode, unavailable};
pub use context::{Allocation, Context, Destination, Event};

/// The driver's name, as its binary interface has it.
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

// Addresses of devices (CUdeviceptr) are 64 bits wide, as those of the process are. Names without `_ptsz` mean the legacy
// stream by NULL, which is never passed.
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
    ? cuStreamGetId(Handle, *mut u64) -> c_int;
    ? cuMemPrefetchAsync_v2(usize, usize, Location, c_uint, Handle) -> c_int;
    ? cuMemDiscardBatchAsync(*mut usize, *mut usize, usize, u64, Handle) -> c_int;
}

/// The driver.
pub struct Driver {
    functions: Functions,
}

/// A GPU as its driver describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    /// Its number among those that the process sees.
    pub ordinal: i32,
    handle: c_int,
    /// The driver's name for it.
    pub name: String,
    /// As nvidia-smi writes it: `GPU-` and 32 digits.
    pub uuid: String,
    /// Bytes of its memory.
    pub total: usize,
    /// Whether the driver gives managed memory.
    pub managed: bool,
    /// Whether the processor may use managed memory while kernels run.
    pub concurrent: bool,
    /// Whether kernels read any memory of the process.
    pub pageable: bool,
    /// The memory node of the machine that its memory is, where it is one.
    pub numa_node: Option<usize>,
}

impl Driver {
    /// Open it. It stays open: it leaves threads behind.
    pub fn open() -> Result<Self, Missing> {
        Functions::open(LIBRARY).map(|functions| Self { functions })
    }

    /// Before anything else.
    pub fn initialize(&self) -> CuResult<()> {
        // SAFETY: the one argument has to be 0.
        done(unsafe { (self.functions.cuInit)(0) })
    }

    /// The newest CUDA that it can do: 1000 for each major version, 10 for each minor one.
    pub fn version(&self) -> CuResult<i32> {
        // SAFETY: where the number goes.
        value(|out| unsafe { (self.functions.cuDriverGetVersion)(out) })
    }

    /// Whether it can give a part of a block of managed memory back.
    pub fn can_discard(&self) -> bool {
        self.functions.cuMemDiscardBatchAsync.is_some()
    }

    /// The GPUs that the process sees, in its order.
    pub fn gpus(&self) -> CuResult<Vec<Gpu>> {
        // SAFETY: where the number goes.
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
        // SAFETY: where the handle goes, and an ordinal below the count.
        let handle = value(|out| unsafe { (all.cuDeviceGet)(out, ordinal) })?;
        let attribute = |what| {
            // SAFETY: where the number goes. 0 where the driver does not know what is asked for.
            value(|out| unsafe { (all.cuDeviceGetAttribute)(out, what, handle) }).unwrap_or(0)
        };
        // SAFETY: 16 bytes, which is what a CUuuid is.
        let uuid = value(|out| unsafe { (all.cuDeviceGetUuid)(out, handle) })?;
        let numa_node = (attribute(NUMA_CONFIG) == IS_NUMA_NODE).then(|| attribute(NUMA_ID));
        Ok(Gpu {
            ordinal,
            handle,
            name: self.name(handle)?,
            uuid: uuid_text(&uuid),
            // SAFETY: where the number goes.
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
        let room = text.len() as c_int - 1;
        // SAFETY: at most so many bytes are written.
        done(unsafe { (self.functions.cuDeviceGetName)(text.as_mut_ptr().cast(), room, handle) })?;
        let text = CStr::from_bytes_until_nul(&text).unwrap_or_default().to_string_lossy();
        // Enough to know it by, and to fit into a message.
        Ok(text.chars().take(100).collect())
    }
}

#[cfg(test)]
impl Gpu {
    /// One that nobody has.
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

/// What a call writes where it is told.
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
