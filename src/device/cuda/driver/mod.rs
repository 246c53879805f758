//! CUDA as far as libgmem calls it: the driver `libcuda.so.1`, opened at run time, and a few of its functions.
//! Names, numbers and rules are those of NVIDIA's `cuda.h`; a test compares them with it.

mod codes;

use std::cell::Cell;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::ptr::{self, NonNull};
use std::sync::{Arc, Mutex, PoisonError};

use crate::os::dynamic::{self, Missing, functions};
use crate::os::mapping::Region;
use crate::page::{PageRange, PageSize};
pub use codes::{CuCode, unavailable};

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

/// Where memory may be asked to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// The GPU of that ordinal.
    Gpu(i32),
    /// The memory of the machine, which has but one node.
    Processor,
    /// A memory node of the machine; any of them with a driver that knows no nodes.
    Node(usize),
}

/// A block of the driver's begins here, at or before the memory in it that is used.
#[derive(Debug, Clone, Copy)]
pub struct Allocation(usize);

/// A place in a stream, as the driver notes it.
#[derive(Debug)]
pub struct Event {
    event: Handle,
    /// The one that the stream is in.
    context: Handle,
}
// SAFETY: as for a context.
unsafe impl Send for Event {}
// SAFETY: as above.
unsafe impl Sync for Event {}

/// The primary context of a GPU, which the process's libraries share, with two streams that wait for the legacy one as
/// little as it does for them.
pub struct Context {
    driver: Arc<Driver>,
    gpu: c_int,
    context: Handle,
    /// For what the caller waits for, so nothing else is ever put there.
    stream: Handle,
    /// For what a stream of the program's waits for.
    helper: Handle,
    /// Those that nobody needs any more. They are not destroyed, since that may be found out where no call may be made.
    events: Mutex<Vec<Event>>,
}

// SAFETY: the driver's functions may be called from any thread.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

/// The calling thread has the context as its current one while this lives, and afterwards what it had before. Nor does
/// what it does meanwhile concern a stream that is being captured, which most calls would spoil.
struct Entered<'a> {
    functions: &'a Functions,
    capture_mode: c_int,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        // SAFETY: where the other mode goes; pops what was pushed.
        unsafe {
            (self.functions.cuThreadExchangeStreamCaptureMode)(&raw mut self.capture_mode);
            (self.functions.cuCtxPopCurrent_v2)(&mut { ptr::null_mut() });
        }
    }
}

impl Context {
    /// For a GPU that `driver` lists.
    pub fn new(driver: Arc<Driver>, gpu: &Gpu) -> CuResult<Self> {
        const NON_BLOCKING: c_uint = 1;
        let all = &driver.functions;
        // SAFETY: where the context goes, and the driver's number of the GPU.
        let context = handle(|out| unsafe { (all.cuDevicePrimaryCtxRetain)(out, gpu.handle) })?;
        let (stream, helper, events) = (ptr::null_mut(), ptr::null_mut(), Mutex::default());
        let mut made = Self { driver, gpu: gpu.handle, context, stream, helper, events };
        let stream = || {
            let entered = made.enter(context)?;
            // SAFETY: where the stream goes.
            handle(|out| unsafe { (entered.functions.cuStreamCreate)(out, NON_BLOCKING) })
        };
        (made.stream, made.helper) = (stream()?, stream()?);
        Ok(made)
    }

    /// The `CUcontext`.
    pub fn handle(&self) -> *mut c_void {
        self.context
    }

    /// The stream of its own, as a number.
    pub fn own_stream(&self) -> usize {
        self.stream.addr()
    }

    /// Another one.
    pub fn helper_stream(&self) -> usize {
        self.helper.addr()
    }

    fn enter(&self, context: Handle) -> CuResult<Entered<'_>> {
        const RELAXED: c_int = 2;
        let functions = &self.driver.functions;
        // SAFETY: a context that is alive, as this one's is.
        done(unsafe { (functions.cuCtxPushCurrent_v2)(context) })?;
        let mut entered = Entered { functions, capture_mode: RELAXED };
        // SAFETY: where the thread's own mode goes. A failure leaves both as they are.
        unsafe { (functions.cuThreadExchangeStreamCaptureMode)(&raw mut entered.capture_mode) };
        Ok(entered)
    }

    /// The same for calls on a stream of the program's: names of streams mean those of the program's context, if the
    /// thread has one.
    fn enter_unless_inside(&self) -> CuResult<Option<Entered<'_>>> {
        // SAFETY: where the context goes.
        let current = handle(|out| unsafe { (self.driver.functions.cuCtxGetCurrent)(out) })?;
        if current.is_null() { self.enter(self.context).map(Some) } else { Ok(None) }
    }

    /// Bytes of the GPU's memory that nobody has.
    pub fn free_bytes(&self) -> CuResult<usize> {
        let entered = self.enter(self.context)?;
        let mut total = 0;
        // SAFETY: where the two numbers go.
        value(|free| unsafe { (entered.functions.cuMemGetInfo_v2)(free, &raw mut total) })
    }

    /// Managed memory on a multiple of `page`, with anything in it; and what it is given back by.
    pub fn allocate(&self, length: usize, page: PageSize) -> CuResult<(Region, Allocation)> {
        const ATTACH_GLOBAL: c_uint = 1;
        let entered = self.enter(self.context)?;
        let give = |bytes: usize| {
            // SAFETY: where the address goes.
            value(|out| unsafe { (entered.functions.cuMemAllocManaged)(out, bytes, ATTACH_GLOBAL) })
        };
        let mut given = give(length)?;
        // It mostly lies on a GMEM page, though no document says so.
        if given != page.floor(given) {
            self.free(Allocation(given));
            given = give(length + page.bytes())?;
        }
        let start = page.ceil(given).map(ptr::with_exposed_provenance_mut);
        let start = start.and_then(NonNull::new).ok_or(CuCode::OUT_OF_MEMORY)?;
        // SAFETY: given just now, with a page more than `length` where it is not aligned, which is room to align in.
        Ok((unsafe { Region::new(start, length) }, Allocation(given)))
    }

    /// Give it back, when nobody uses the memory any more.
    pub fn free(&self, given: Allocation) {
        if let Ok(entered) = self.enter(self.context) {
            // SAFETY: what the driver gave, once.
            unsafe { (entered.functions.cuMemFree_v2)(given.0) };
        }
    }

    /// The managed block that an address lies in, of whomever in the process.
    pub fn managed_block(&self, address: usize) -> Option<PageRange> {
        const IS_MANAGED: c_int = 8;
        const RANGE_START: c_int = 11;
        const RANGE_SIZE: c_int = 12;
        let entered = self.enter(self.context).ok()?;
        let ask = |what| {
            // SAFETY: room for a number of 64 bits, and none of these is longer.
            value::<usize>(|out| unsafe {
                (entered.functions.cuPointerGetAttribute)(out.cast(), what, address)
            })
        };
        let is_managed = ask(IS_MANAGED).ok()? & 0xFF != 0;
        let (start, size) = (ask(RANGE_START).ok()?, ask(RANGE_SIZE).ok()?);
        is_managed.then(|| PageRange::new(start, start.saturating_add(size)))
    }

    /// Whether all of a range was last asked to go to the GPU of that ordinal; not whether it is there.
    pub fn was_sent_to(&self, ordinal: i32, range: PageRange) -> bool {
        const LAST_PREFETCH_LOCATION: c_int = 4;
        let Ok(entered) = self.enter(self.context) else { return false };
        // SAFETY: where the number goes, which has 4 bytes.
        let last = value::<c_int>(|out| unsafe {
            let ask = entered.functions.cuMemRangeGetAttribute;
            ask(out.cast(), size_of::<c_int>(), LAST_PREFETCH_LOCATION, range.start(), range.len())
        });
        last == Ok(ordinal)
    }

    /// Have a range moved, behind what is on the stream.
    pub fn prefetch(&self, stream: usize, range: PageRange, to: Destination) -> CuResult<()> {
        // From enum CUmemLocationType; CU_DEVICE_CPU.
        const DEVICE: c_int = 1;
        const HOST: c_int = 2;
        const HOST_NUMA: c_int = 3;
        const PROCESSOR: c_int = -1;
        let _entered = self.enter_for(stream)?;
        let all = &self.driver.functions;
        let (start, length, stream) = (range.start(), range.len(), as_handle(stream));
        let (kind, id) = match to {
            Destination::Gpu(ordinal) => (DEVICE, ordinal),
            Destination::Processor => (HOST, 0),
            Destination::Node(node) => (HOST_NUMA, c_int::try_from(node).unwrap_or(0)),
        };
        // SAFETY: the driver refuses addresses that are not its own; the bytes stay what they are.
        done(unsafe {
            match all.cuMemPrefetchAsync_v2 {
                Some(prefetch) => prefetch(start, length, Location { kind, id }, 0, stream),
                None => {
                    let to = if kind == DEVICE { id } else { PROCESSOR };
                    (all.cuMemPrefetchAsync)(start, length, to, stream)
                }
            }
        })
    }

    /// Have ranges of managed memory given back, behind what is on the stream, which is not the legacy one.
    ///
    /// What is in them afterwards is anything: they are the caller's.
    pub fn discard(&self, stream: usize, ranges: &[PageRange]) -> CuResult<()> {
        let _entered = self.enter_for(stream)?;
        let Some(discard) = self.driver.functions.cuMemDiscardBatchAsync else {
            return Err(CuCode::NOT_SUPPORTED);
        };
        let mut starts: Vec<_> = ranges.iter().map(|range| range.start()).collect();
        let mut sizes: Vec<_> = ranges.iter().map(|range| range.len()).collect();
        let (starts, sizes) = (starts.as_mut_ptr(), sizes.as_mut_ptr());
        // SAFETY: as many addresses as sizes, which the driver copies; what becomes of the ranges is the caller's wish.
        done(unsafe { discard(starts, sizes, ranges.len(), 0, as_handle(stream)) })
    }

    /// Have a function called, behind what is on the stream.
    pub fn launch(&self, stream: usize, function: HostFunction, argument: usize) -> CuResult<()> {
        let _entered = self.enter_for(stream)?;
        let argument = ptr::without_provenance_mut(argument);
        let launch = self.driver.functions.cuLaunchHostFunc;
        // SAFETY: the function takes any argument.
        done(unsafe { launch(as_handle(stream), function, argument) })
    }

    /// Note what is on a stream by now.
    pub fn record_event(&self, stream: usize) -> CuResult<Event> {
        let _entered = self.enter_for(stream)?;
        let all = &self.driver.functions;
        // SAFETY: where the context goes.
        let context = handle(|out| unsafe { (all.cuStreamGetCtx)(as_handle(stream), out) })?;
        let event = self.event_in(context)?;
        // SAFETY: an event and a stream of one context.
        match done(unsafe { (all.cuEventRecord)(event.event, as_handle(stream)) }) {
            Ok(()) => Ok(event),
            Err(code) => {
                self.give_back(event);
                Err(code)
            }
        }
    }

    fn event_in(&self, context: Handle) -> CuResult<Event> {
        const DISABLE_TIMING: c_uint = 2;
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(index) = events.iter().position(|event| event.context == context) {
            return Ok(events.swap_remove(index));
        }
        drop(events);
        let entered = self.enter(context)?;
        // SAFETY: where the event goes.
        let event =
            handle(|out| unsafe { (entered.functions.cuEventCreate)(out, DISABLE_TIMING) })?;
        Ok(Event { event, context })
    }

    /// Nobody asks for it any more. No call of the driver's.
    pub fn give_back(&self, event: Event) {
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        // Without memory for a list it is lost.
        if events.try_reserve(1).is_ok() {
            events.push(event);
        }
    }

    /// What comes onto a stream from now on waits for the place.
    pub fn make_wait(&self, stream: usize, event: &Event) -> CuResult<()> {
        let _entered = self.enter_for(stream)?;
        let wait = self.driver.functions.cuStreamWaitEvent;
        // SAFETY: a stream, or what the driver refuses, and an event that is recorded.
        done(unsafe { wait(as_handle(stream), event.event, 0) })
    }

    /// Wait for the place.
    pub fn wait(&self, event: &Event) -> CuResult<()> {
        let entered = self.enter(event.context)?;
        // SAFETY: an event that is recorded.
        done(unsafe { (entered.functions.cuEventSynchronize)(event.event) })
    }

    /// Whether the stream has come to the place.
    pub fn has_completed(&self, event: &Event) -> CuResult<bool> {
        let entered = self.enter(event.context)?;
        // SAFETY: as above.
        match done(unsafe { (entered.functions.cuEventQuery)(event.event) }) {
            Err(CuCode::NOT_READY) => Ok(false),
            other => other.map(|()| true),
        }
    }

    /// A number that no other stream of the process has or had; `None` before CUDA 12.0.
    pub fn id(&self, stream: usize) -> CuResult<Option<u64>> {
        let Some(ask) = self.driver.functions.cuStreamGetId else { return Ok(None) };
        let _entered = self.enter_for(stream)?;
        // SAFETY: where the number goes.
        value(|out| unsafe { ask(as_handle(stream), out) }).map(Some)
    }

    /// Wait for all that is on the stream.
    pub fn synchronize(&self, stream: usize) -> CuResult<()> {
        let _entered = self.enter_for(stream)?;
        // SAFETY: a stream, or what the driver refuses.
        done(unsafe { (self.driver.functions.cuStreamSynchronize)(as_handle(stream)) })
    }

    /// Whether all that is on the stream is done.
    pub fn is_idle(&self, stream: usize) -> CuResult<bool> {
        let _entered = self.enter_for(stream)?;
        // SAFETY: as above.
        match done(unsafe { (self.driver.functions.cuStreamQuery)(as_handle(stream)) }) {
            Err(CuCode::NOT_READY) => Ok(false),
            other => other.map(|()| true),
        }
    }

    /// Whether what is registered on the stream now becomes part of a graph instead of being done.
    pub fn is_capturing(&self, stream: usize) -> CuResult<bool> {
        let _entered = self.enter_for(stream)?;
        let ask = self.driver.functions.cuStreamIsCapturing;
        // SAFETY: as above, and where the answer goes.
        value(|out| unsafe { ask(as_handle(stream), out) }).map(|status: c_int| status != 0)
    }

    fn enter_for(&self, stream: usize) -> CuResult<Option<Entered<'_>>> {
        if stream == self.own_stream() || stream == self.helper_stream() {
            self.enter(self.context).map(Some)
        } else {
            self.enter_unless_inside()
        }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        if let Ok(entered) = self.enter(self.context) {
            for stream in [self.stream, self.helper] {
                if !stream.is_null() {
                    // SAFETY: this value's own.
                    unsafe { (entered.functions.cuStreamDestroy_v2)(stream) };
                }
            }
        }
        // SAFETY: retained once.
        unsafe { (self.driver.functions.cuDevicePrimaryCtxRelease_v2)(self.gpu) };
    }
}

fn as_handle(stream: usize) -> Handle {
    ptr::with_exposed_provenance_mut(stream)
}

/// Whether one of the driver's functions, or a thread of its own, is what led to here: it must not be called then, since
/// it may hold its locks, and calls of its own from a host function are forbidden.
pub fn is_called_by_the_driver() -> bool {
    let found = Cell::new(false);
    // SAFETY: the visitor stays within the call and does not unwind.
    unsafe { _Unwind_Backtrace(look_at_frame, ptr::from_ref(&found).cast_mut().cast()) };
    found.get()
}

enum UnwindContext {}

unsafe extern "C" {
    // From the unwinder, which Rust's standard library has with it.
    fn _Unwind_Backtrace(
        visit: extern "C" fn(*mut UnwindContext, *mut c_void) -> c_int,
        argument: *mut c_void,
    ) -> c_int;
    fn _Unwind_GetIP(context: *mut UnwindContext) -> usize;
}

extern "C" fn look_at_frame(context: *mut UnwindContext, found: *mut c_void) -> c_int {
    const GO_ON: c_int = 0;
    const STOP: c_int = 4;
    // SAFETY: a frame that the unwinder has come to.
    let at = unsafe { _Unwind_GetIP(context) };
    if !dynamic::object_name(at, is_the_drivers) {
        return GO_ON;
    }
    // SAFETY: what is_called_by_the_driver passed.
    unsafe { &*found.cast::<Cell<bool>>() }.set(true);
    STOP
}

/// `libcuda.so.1`, and what it loads: `libnvidia-ptxjitcompiler.so.1` and its like.
fn is_the_drivers(path: &[u8]) -> bool {
    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
    name.starts_with(b"libcuda.so") || name.starts_with(b"libnvidia-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_are_written_as_the_tools_of_the_driver_do() {
        let bytes = [0x9f, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 0xff];
        assert_eq!(uuid_text(&bytes), "GPU-9f010203-0405-0607-0809-0a0b0c0d0eff");
    }

    #[test]
    fn the_drivers_libraries_are_known_by_name() {
        assert!(is_the_drivers(b"/usr/lib/x86_64-linux-gnu/libcuda.so.580.95.05"));
        assert!(is_the_drivers(b"libnvidia-ptxjitcompiler.so.1"));
        assert!(!is_the_drivers(b"/usr/lib/libcudart.so.13") && !is_the_drivers(b""));
        assert!(!is_called_by_the_driver());
    }
}
