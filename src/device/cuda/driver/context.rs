//! The context in which libgmem makes its calls of the driver.

use std::ffi::{c_int, c_uint, c_void};
use std::ptr::{self, NonNull};
use std::sync::{Arc, Mutex, PoisonError};

use super::{
    CuCode, CuResult, Driver, Functions, Gpu, Handle, HostFunction, Location, done, handle, value,
};
use crate::os::mapping::Region;
use crate::page::{PageRange, PageSize};

/// The destination of a prefetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// The GPU with this ordinal.
    Gpu(i32),
    /// The memory of a machine that has one node.
    Processor,
    /// A memory node of the machine. A driver that knows no nodes takes it for any of them.
    Node(usize),
}

/// A block that the driver allocated, by its first byte; the memory that is used may begin later. Only [`Context::free`]
/// consumes it, so a block is freed once.
#[derive(Debug, PartialEq, Eq)]
pub struct Allocation(usize);

/// An event of the driver, which marks a point in a stream.
#[derive(Debug)]
pub struct Event {
    event: Handle,
    /// Of that stream. The event ends with it.
    owner: Owner,
}
// SAFETY: the handles are numbers to this process, and the driver takes them from any thread.
unsafe impl Send for Event {}
// SAFETY: the driver synchronizes calls that several threads make for one event.
unsafe impl Sync for Event {}

/// A context of the program, or the primary one. A later context may have the address of one that was destroyed, but never its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Owner {
    context: Handle,
    /// `None` if the driver is older than CUDA 12.0.
    id: Option<u64>,
}

/// The primary context of a GPU, which all libraries of the process share, and two streams in it that do not synchronize
/// with the legacy stream.
pub struct Context {
    driver: Arc<Driver>,
    gpu: c_int,
    context: Handle,
    /// Carries work that the caller waits for, and nothing else.
    stream: Handle,
    /// Carries work that a stream of the program waits for.
    helper: Handle,
    /// Events for reuse. They are not destroyed, because an event may be dropped where calls of the driver are forbidden.
    events: Mutex<Vec<Event>>,
}

// SAFETY: the driver's functions may be called from any thread, with handles made by another.
unsafe impl Send for Context {}
// SAFETY: the driver's functions may be called by several threads at the same time, and the list of events has a lock.
unsafe impl Sync for Context {}

/// While this lives, the calling thread has the context as its current one, and its calls do not disturb a stream that is
/// being captured. Dropping it restores what the thread had before.
struct Entered<'a> {
    functions: &'a Functions,
    capture_mode: c_int,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        // SAFETY: the mode and the popped context are written to variables of this frame; `enter` pushed the context.
        unsafe {
            (self.functions.cuThreadExchangeStreamCaptureMode)(&raw mut self.capture_mode);
            (self.functions.cuCtxPopCurrent_v2)(&mut { ptr::null_mut() });
        }
    }
}

impl Context {
    /// Open a GPU that `driver` listed.
    pub fn new(driver: Arc<Driver>, gpu: &Gpu) -> CuResult<Self> {
        const NON_BLOCKING: c_uint = 1;
        let all = &driver.functions;
        // SAFETY: `out` is writable, and the handle is one that the driver gave for a GPU.
        let context = handle(|out| unsafe { (all.cuDevicePrimaryCtxRetain)(out, gpu.handle) })?;
        let (stream, helper, events) = (ptr::null_mut(), ptr::null_mut(), Mutex::default());
        let mut made = Self { driver, gpu: gpu.handle, context, stream, helper, events };
        let stream = || {
            let entered = made.enter(context)?;
            // SAFETY: `out` is writable, and the context in which the stream is created is current.
            handle(|out| unsafe { (entered.functions.cuStreamCreate)(out, NON_BLOCKING) })
        };
        (made.stream, made.helper) = (stream()?, stream()?);
        Ok(made)
    }

    /// The `CUcontext`.
    pub fn handle(&self) -> *mut c_void {
        self.context
    }

    /// The stream that carries libgmem's own work, as a number.
    pub fn own_stream(&self) -> usize {
        self.stream.addr()
    }

    /// The stream that carries work for a stream of the program, as a number.
    pub fn helper_stream(&self) -> usize {
        self.helper.addr()
    }

    fn enter(&self, context: Handle) -> CuResult<Entered<'_>> {
        const RELAXED: c_int = 2;
        let functions = &self.driver.functions;
        // SAFETY: the context is either this value's own, which is retained until the value is dropped, or the one that the
        // driver named for a live stream of the program; the driver refuses a context that was destroyed since.
        done(unsafe { (functions.cuCtxPushCurrent_v2)(context) })?;
        let mut entered = Entered { functions, capture_mode: RELAXED };
        // SAFETY: the mode is a variable of this frame. A failure changes neither it nor the thread's mode.
        unsafe { (functions.cuThreadExchangeStreamCaptureMode)(&raw mut entered.capture_mode) };
        Ok(entered)
    }

    /// Enter the context, unless the thread has one already: the names of the program's streams refer to its own context.
    fn enter_unless_inside(&self) -> CuResult<Option<Entered<'_>>> {
        // SAFETY: `out` is writable.
        let current = handle(|out| unsafe { (self.driver.functions.cuCtxGetCurrent)(out) })?;
        if current.is_null() { self.enter(self.context).map(Some) } else { Ok(None) }
    }

    /// Bytes of the GPU's memory that are free.
    pub fn free_bytes(&self) -> CuResult<usize> {
        let entered = self.enter(self.context)?;
        let mut total = 0;
        // SAFETY: both numbers are writable.
        value(|free| unsafe { (entered.functions.cuMemGetInfo_v2)(free, &raw mut total) })
    }

    /// Allocate managed memory, aligned to `page`, with arbitrary contents.
    pub fn allocate(&self, length: usize, page: PageSize) -> CuResult<(Region, Allocation)> {
        const ATTACH_GLOBAL: c_uint = 1;
        let entered = self.enter(self.context)?;
        let give = |bytes: usize| {
            // SAFETY: `out` is writable.
            value(|out| unsafe { (entered.functions.cuMemAllocManaged)(out, bytes, ATTACH_GLOBAL) })
        };
        let mut given = give(length)?;
        // The driver usually aligns to GMEM pages, though its documentation does not promise it.
        if given != page.floor(given) {
            self.free(Allocation(given));
            given = give(length + page.bytes())?;
        }
        let start = page.ceil(given).map(ptr::with_exposed_provenance_mut);
        let start = start.and_then(NonNull::new).ok_or(CuCode::OUT_OF_MEMORY)?;
        // SAFETY: the driver has just allocated the block, for this caller alone. Where it is not aligned it has a page more
        // than `length`, so the aligned bytes lie inside it.
        Ok((unsafe { Region::new(start, length) }, Allocation(given)))
    }

    /// Free a block whose memory is not used any more.
    pub fn free(&self, given: Allocation) {
        if let Ok(entered) = self.enter(self.context) {
            // SAFETY: the driver allocated the block, and the value that stands for it ends here.
            unsafe { (entered.functions.cuMemFree_v2)(given.0) };
        }
    }

    /// The managed block that contains an address, whichever part of the process allocated it.
    pub fn managed_block(&self, address: usize) -> Option<PageRange> {
        const IS_MANAGED: c_int = 8;
        const RANGE_START: c_int = 11;
        const RANGE_SIZE: c_int = 12;
        let entered = self.enter(self.context).ok()?;
        let ask = |what| {
            // SAFETY: `out` has room for 64 bits, and none of these attributes is longer.
            value::<usize>(|out| unsafe {
                (entered.functions.cuPointerGetAttribute)(out.cast(), what, address)
            })
        };
        let is_managed = ask(IS_MANAGED).ok()? & 0xFF != 0;
        let (start, size) = (ask(RANGE_START).ok()?, ask(RANGE_SIZE).ok()?);
        is_managed.then(|| PageRange::new(start, start.saturating_add(size)))
    }

    /// Whether the last prefetch of every part of the range went to the GPU with this ordinal. The memory may be elsewhere by
    /// now.
    pub fn was_sent_to(&self, ordinal: i32, range: PageRange) -> bool {
        const LAST_PREFETCH_LOCATION: c_int = 4;
        let Ok(entered) = self.enter(self.context) else { return false };
        // SAFETY: the number has the 4 bytes that are passed as its size.
        let last = value::<c_int>(|out| unsafe {
            let ask = entered.functions.cuMemRangeGetAttribute;
            ask(out.cast(), size_of::<c_int>(), LAST_PREFETCH_LOCATION, range.start(), range.len())
        });
        last == Ok(ordinal)
    }

    /// Enqueue a prefetch of a range on a stream.
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
        // SAFETY: the driver refuses addresses that it does not manage, and a prefetch does not change the bytes.
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

    /// Enqueue on a stream, not the legacy one, that the contents of ranges of managed memory are discarded. The caller owns
    /// the ranges and has no use for their contents, which are arbitrary afterwards.
    pub fn discard(&self, stream: usize, ranges: &[PageRange]) -> CuResult<()> {
        let _entered = self.enter_for(stream)?;
        let Some(discard) = self.driver.functions.cuMemDiscardBatchAsync else {
            return Err(CuCode::NOT_SUPPORTED);
        };
        let mut starts: Vec<_> = ranges.iter().map(|range| range.start()).collect();
        let mut sizes: Vec<_> = ranges.iter().map(|range| range.len()).collect();
        let (starts, sizes) = (starts.as_mut_ptr(), sizes.as_mut_ptr());
        // SAFETY: the lists have the same length, and the driver copies them. The owner of the ranges has given up their
        // contents by gmemFreeEager().
        done(unsafe { discard(starts, sizes, ranges.len(), 0, as_handle(stream)) })
    }

    /// Enqueue a call of `function` on a stream.
    pub fn launch(&self, stream: usize, function: HostFunction, argument: usize) -> CuResult<()> {
        let _entered = self.enter_for(stream)?;
        let argument = ptr::without_provenance_mut(argument);
        let launch = self.driver.functions.cuLaunchHostFunc;
        // SAFETY: the function stays loaded (-z nodelete), and its argument is a number to the driver.
        done(unsafe { launch(as_handle(stream), function, argument) })
    }

    /// Record an event: the point behind all work that is on the stream now.
    pub fn record_event(&self, stream: usize) -> CuResult<Event> {
        let _entered = self.enter_for(stream)?;
        let all = &self.driver.functions;
        // SAFETY: `out` is writable; the driver refuses a stream that it does not know.
        let context = handle(|out| unsafe { (all.cuStreamGetCtx)(as_handle(stream), out) })?;
        let event = self.event_in(self.owner(context)?)?;
        // SAFETY: the event was created in the context of the stream.
        match done(unsafe { (all.cuEventRecord)(event.event, as_handle(stream)) }) {
            Ok(()) => Ok(event),
            Err(code) => {
                self.give_back(event);
                Err(code)
            }
        }
    }

    fn event_in(&self, owner: Owner) -> CuResult<Event> {
        const DISABLE_TIMING: c_uint = 2;
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        // The context that had the address before was destroyed, and its events with it.
        events.retain(|event| event.owner.context != owner.context || event.owner == owner);
        if let Some(index) = events.iter().position(|event| event.owner == owner) {
            return Ok(events.swap_remove(index));
        }
        drop(events);
        let entered = self.enter(owner.context)?;
        // SAFETY: `out` is writable, and the context in which the event is created is current.
        let event =
            handle(|out| unsafe { (entered.functions.cuEventCreate)(out, DISABLE_TIMING) })?;
        Ok(Event { event, owner })
    }

    fn owner(&self, context: Handle) -> CuResult<Owner> {
        let Some(ask) = self.driver.functions.cuCtxGetId else {
            return Ok(Owner { context, id: None });
        };
        // SAFETY: `out` is writable; the driver refuses a context that was destroyed.
        value(|out| unsafe { ask(context, out) }).map(|id| Owner { context, id: Some(id) })
    }

    /// Fails if the event has ended with its context. A driver without ids cannot tell, so there docs/devices/cuda.md forbids the
    /// program to destroy contexts.
    fn check_owner(&self, event: &Event) -> CuResult<()> {
        let is_same = self.owner(event.owner.context)? == event.owner;
        if is_same { Ok(()) } else { Err(CuCode::CONTEXT_IS_DESTROYED) }
    }

    /// Keep an event for reuse. This makes no call of the driver.
    pub fn give_back(&self, event: Event) {
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        // Without memory for the list the event leaks.
        if events.try_reserve(1).is_ok() {
            events.push(event);
        }
    }

    /// Make work that is put on a stream from now on wait for the event.
    pub fn make_wait(&self, stream: usize, event: &Event) -> CuResult<()> {
        self.check_owner(event)?;
        let _entered = self.enter_for(stream)?;
        let wait = self.driver.functions.cuStreamWaitEvent;
        // SAFETY: the event was recorded, and its context is alive (`check_owner`); the driver refuses a stream that it does not
        // know.
        done(unsafe { wait(as_handle(stream), event.event, 0) })
    }

    /// Wait for the event.
    pub fn wait(&self, event: &Event) -> CuResult<()> {
        self.check_owner(event)?;
        let entered = self.enter(event.owner.context)?;
        // SAFETY: the event was recorded, and its context, with which it would end, is alive (`check_owner`). A program must not destroy
        // a context while another thread uses it.
        done(unsafe { (entered.functions.cuEventSynchronize)(event.event) })
    }

    /// Whether the stream has reached the event.
    pub fn has_completed(&self, event: &Event) -> CuResult<bool> {
        self.check_owner(event)?;
        let entered = self.enter(event.owner.context)?;
        // SAFETY: the event was recorded, and its context, with which it would end, is alive (`check_owner`). A program must not destroy
        // a context while another thread uses it.
        match done(unsafe { (entered.functions.cuEventQuery)(event.event) }) {
            Err(CuCode::NOT_READY) => Ok(false),
            other => other.map(|()| true),
        }
    }

    /// A number that no other stream of the process has or had; `None` if the driver is older than CUDA 12.0.
    pub fn id(&self, stream: usize) -> CuResult<Option<u64>> {
        let Some(ask) = self.driver.functions.cuStreamGetId else { return Ok(None) };
        let _entered = self.enter_for(stream)?;
        // SAFETY: `out` is writable; the driver refuses a stream that it does not know.
        value(|out| unsafe { ask(as_handle(stream), out) }).map(Some)
    }

    /// Wait for all work on the stream.
    pub fn synchronize(&self, stream: usize) -> CuResult<()> {
        let _entered = self.enter_for(stream)?;
        // SAFETY: the driver refuses a stream that it does not know.
        done(unsafe { (self.driver.functions.cuStreamSynchronize)(as_handle(stream)) })
    }

    /// Whether all work on the stream is done.
    pub fn is_idle(&self, stream: usize) -> CuResult<bool> {
        let _entered = self.enter_for(stream)?;
        // SAFETY: the driver refuses a stream that it does not know.
        match done(unsafe { (self.driver.functions.cuStreamQuery)(as_handle(stream)) }) {
            Err(CuCode::NOT_READY) => Ok(false),
            other => other.map(|()| true),
        }
    }

    /// Whether the stream is being captured: work put on it becomes part of a graph instead of being done.
    pub fn is_capturing(&self, stream: usize) -> CuResult<bool> {
        let _entered = self.enter_for(stream)?;
        let ask = self.driver.functions.cuStreamIsCapturing;
        // SAFETY: `out` is writable; the driver refuses a stream that it does not know.
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
                    // SAFETY: `new` created the stream, and this value, which ends here, is its only owner.
                    unsafe { (entered.functions.cuStreamDestroy_v2)(stream) };
                }
            }
        }
        // SAFETY: `new` retained the context once, and this value ends here.
        unsafe { (self.driver.functions.cuDevicePrimaryCtxRelease_v2)(self.gpu) };
    }
}

fn as_handle(stream: usize) -> Handle {
    ptr::with_exposed_provenance_mut(stream)
}
