//! The context in which libgmem makes its calls of the driver.

use std::ffi::{c_int, c_uint, c_void};
use std::ptr::{self, NonNull};
use std::sync::{Arc, Mutex, PoisonError};

use super::{
    CuCode, CuResult, Driver, Functions, Gpu, Handle, HostFunction, Location, done, handle, value,
};
use crate::os::mapping::Region;
use crate::page::{PageRange, PageSize};

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
