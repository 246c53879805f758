//! The C functions of `libgmem.h`; its comments are their documentation.
//!
//! Each takes the arguments apart, calls one verb inside the guard, and gives a number back.

mod growing;
mod prefetch;
mod residency;
mod text;
mod topology;

use std::ffi::{CStr, c_char, c_int, c_longlong, c_ulong, c_void};
use std::ptr;

use crate::error::{Error, Result};
use crate::guard::guard;
use crate::os::{faults, mapping};
use crate::{device, free_eager, heap, last_error, native_stream, stream};
use growing::{Grows, Out};

// ---- ranges -----------------------------------------------------------------------------------

#[unsafe(no_mangle)]
extern "C" fn gmemFreeEager(addr: c_ulong, size: usize, stream: *mut c_void) -> c_int {
    guard(|| free_eager::free_eager(addr as usize, size, stream.addr()).map(|()| 0))
}

#[unsafe(no_mangle)]
extern "C" fn gmemPrefetch(addr: c_ulong, size: usize, hnid: c_int, stream: *mut c_void) -> c_int {
    guard(|| crate::prefetch::prefetch(addr as usize, size, hnid, stream.addr()).map(|()| 0))
}

#[unsafe(no_mangle)]
extern "C" fn gmemGetNumaId() -> c_int {
    guard(|| device::current()?.numa_id())
}

#[unsafe(no_mangle)]
extern "C" fn gmemGetPageSize() -> usize {
    mapping::gmem_page().bytes()
}

// ---- page faults ------------------------------------------------------------------------------

/// # Safety
/// `scope` is NULL or points to one that may be written.
#[unsafe(no_mangle)]
unsafe extern "C" fn gmemFaultScopeBegin(scope: *mut faults::Counter, whose: c_int) -> c_int {
    guard(|| {
        if scope.is_null() {
            return Err(Error::Null {
                argument: "scope",
                wanted: "the address of a gmemFaultScope_t",
            });
        }
        let whose = match whose {
            0 => faults::Whose::Thread,
            1 => faults::Whose::Process,
            _ => return Err(Error::FaultScope { whose }),
        };
        let counter =
            faults::Counter::open(whose).map_err(|errno| Error::FaultsNotCounted { errno })?;
        // SAFETY: not NULL, so the caller's promise holds.
        unsafe { scope.write(counter) };
        Ok(0)
    })
}

/// # Safety
/// `scope` is NULL or points to one that gmemFaultScopeBegin() filled.
#[unsafe(no_mangle)]
unsafe extern "C" fn gmemFaultScopeCount(scope: *const faults::Counter) -> c_longlong {
    let mut count = 0;
    let failed = guard(|| {
        // SAFETY: the caller's promise.
        let Some(counter) = (unsafe { scope.as_ref() }) else {
            return Err(Error::Null {
                argument: "scope",
                wanted: "the address of a gmemFaultScope_t",
            });
        };
        count = counter.read().map_err(|errno| Error::FaultsNotCounted { errno })?;
        Ok(0)
    });
    if failed == 0 { c_longlong::try_from(count).unwrap_or(c_longlong::MAX) } else { failed.into() }
}

/// # Safety
/// As above.
#[unsafe(no_mangle)]
unsafe extern "C" fn gmemFaultScopeEnd(scope: *mut faults::Counter) {
    guard(|| {
        // SAFETY: the caller's promise.
        if let Some(counter) = unsafe { scope.as_mut() } {
            counter.close();
        }
        Ok(0)
    });
}

// ---- errors, version, device ------------------------------------------------------------------

#[unsafe(no_mangle)]
extern "C" fn gmemLastError() -> *const c_char {
    last_error::last_message_ptr()
}

#[unsafe(no_mangle)]
extern "C" fn gmemVersion() -> *const c_char {
    const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
    VERSION.as_ptr().cast()
}

/// # Safety
/// `name` is NULL or NUL-terminated.
#[unsafe(no_mangle)]
unsafe extern "C" fn gmemSetDevice(name: *const c_char) -> c_int {
    guard(|| {
        if name.is_null() {
            return Err(Error::Null {
                argument: "name",
                wanted: "the name of a device, e.g. \"host\"",
            });
        }
        // SAFETY: not NULL, so the caller's promise holds.
        let name = unsafe { CStr::from_ptr(name) };
        device::set_current(&name.to_string_lossy())?;
        heap::device_blocks::device_changed();
        Ok(0)
    })
}

#[unsafe(no_mangle)]
extern "C" fn gmemGetDevice() -> *const c_char {
    let mut name = ptr::null();
    guard(|| {
        name = device::current()?.c_name().as_ptr();
        Ok(0)
    });
    name
}

#[unsafe(no_mangle)]
extern "C" fn gmemGetDeviceContext() -> *mut c_void {
    let mut context = ptr::null_mut();
    guard(|| {
        context = device::current()?.context()?;
        Ok(0)
    });
    context
}

// ---- streams ----------------------------------------------------------------------------------

/// # Safety
/// `out` is NULL or points to a handle that may be written.
#[unsafe(no_mangle)]
unsafe extern "C" fn gmemStreamCreate(out: *mut *mut c_void) -> c_int {
    guard(|| {
        if out.is_null() {
            return Err(Error::Null {
                argument: "stream",
                wanted: "the address of a gmemStream_t",
            });
        }
        let handle = stream::create()?;
        // SAFETY: not NULL, so the caller's promise holds.
        unsafe { out.write(ptr::without_provenance_mut(handle)) };
        Ok(0)
    })
}

/// The handle of libgmem's that a stream has.
fn resolve(stream: *mut c_void) -> Result<usize> {
    native_stream::resolve(stream.addr())
}

/// `gmemHostFn` of `libgmem.h`.
type HostFn = unsafe extern "C" fn(*mut c_void);

/// # Safety
/// `function` is NULL or may be called once with `argument` on any thread.
#[unsafe(no_mangle)]
unsafe extern "C" fn gmemStreamLaunch(
    handle: *mut c_void,
    function: Option<HostFn>,
    argument: *mut c_void,
) -> c_int {
    guard(|| {
        let function = function.ok_or(Error::Null { argument: "fn", wanted: "a function" })?;
        // As two numbers, so that registering it takes no memory.
        let with = [(function as *const ()).expose_provenance(), argument.expose_provenance()];
        stream::call(resolve(handle)?, stream::Call { run: call_host_function, with }).map(|()| 0)
    })
}

fn call_host_function([function, argument]: [usize; 2]) -> Result<()> {
    let function = ptr::with_exposed_provenance::<()>(function);
    // SAFETY: gmemStreamLaunch made the number of a HostFn, whose caller answers for it and for the argument.
    unsafe {
        let function = std::mem::transmute::<*const (), HostFn>(function);
        function(ptr::with_exposed_provenance_mut(argument));
    }
    Ok(())
}

/// `gmemLaunchFn` of `libgmem.h`.
type LaunchFn = unsafe extern "C" fn(*mut c_void, HostFn, *mut c_void) -> c_int;

/// An executor as C describes it.
struct Executor {
    launch: LaunchFn,
    native: *mut c_void,
}
// SAFETY: whoever wraps it says that its launch function may be called from any thread, one at a time.
unsafe impl Send for Executor {}
// SAFETY: as above.
unsafe impl Sync for Executor {}

impl stream::Executor for Executor {
    fn launch(&self, place: usize) -> Result<()> {
        let place = ptr::without_provenance_mut(place);
        // SAFETY: the caller of gmemStreamWrap answers for both.
        match unsafe { (self.launch)(self.native, reached, place) } {
            0 => Ok(()),
            code => Err(Error::LaunchRefused { code }),
        }
    }
}

/// What executors call.
unsafe extern "C" fn reached(place: *mut c_void) {
    guard(|| {
        stream::reached(place.addr());
        Ok(0)
    });
}

/// # Safety
/// `launch` is NULL or may be called with `native` from any thread; `out` is NULL or may be written.
#[unsafe(no_mangle)]
unsafe extern "C" fn gmemStreamWrap(
    launch: Option<LaunchFn>,
    native: *mut c_void,
    out: *mut *mut c_void,
) -> c_int {
    guard(|| {
        let launch = launch.ok_or(Error::Null { argument: "launch", wanted: "a gmemLaunchFn" })?;
        if out.is_null() {
            return Err(Error::Null {
                argument: "stream",
                wanted: "the address of a gmemStream_t",
            });
        }
        crate::reserve::ask(size_of::<Executor>(), "another stream")?;
        let handle = stream::wrap(Box::new(Executor { launch, native }))?;
        // SAFETY: not NULL, so the caller's promise holds.
        unsafe { out.write(ptr::without_provenance_mut(handle)) };
        Ok(0)
    })
}

#[unsafe(no_mangle)]
extern "C" fn gmemLaunchDropped(place: *mut c_void) {
    guard(|| {
        stream::given_up(place.addr());
        Ok(0)
    });
}

#[unsafe(no_mangle)]
extern "C" fn gmemStreamQuery(handle: *mut c_void) -> c_int {
    guard(|| Ok(if native_stream::is_idle(handle.addr())? { 0 } else { -libc::EBUSY }))
}

#[unsafe(no_mangle)]
extern "C" fn gmemStreamSynchronize(handle: *mut c_void) -> c_int {
    guard(|| native_stream::synchronize(handle.addr()).map(|()| 0))
}

#[unsafe(no_mangle)]
extern "C" fn gmemStreamDestroy(handle: *mut c_void) -> c_int {
    guard(|| native_stream::forget(handle.addr()).map(|()| 0))
}

// ---- events -----------------------------------------------------------------------------------

/// # Safety
/// `out` is NULL or points to a handle that may be written.
#[unsafe(no_mangle)]
unsafe extern "C" fn gmemEventCreate(out: *mut *mut c_void) -> c_int {
    guard(|| {
        if out.is_null() {
            return Err(Error::Null { argument: "event", wanted: "the address of a gmemEvent_t" });
        }
        let handle = stream::create_event()?;
        // SAFETY: not NULL, so the caller's promise holds.
        unsafe { out.write(ptr::without_provenance_mut(handle)) };
        Ok(0)
    })
}

#[unsafe(no_mangle)]
extern "C" fn gmemEventRecord(event: *mut c_void, stream: *mut c_void) -> c_int {
    guard(|| native_stream::record(event.addr(), stream.addr()).map(|()| 0))
}

#[unsafe(no_mangle)]
extern "C" fn gmemStreamWaitEvent(stream: *mut c_void, event: *mut c_void) -> c_int {
    guard(|| native_stream::wait_event(stream.addr(), event.addr()).map(|()| 0))
}

#[unsafe(no_mangle)]
extern "C" fn gmemEventQuery(event: *mut c_void) -> c_int {
    guard(|| Ok(if native_stream::has_passed(event.addr())? { 0 } else { -libc::EBUSY }))
}

#[unsafe(no_mangle)]
extern "C" fn gmemEventSynchronize(event: *mut c_void) -> c_int {
    guard(|| native_stream::synchronize_event(event.addr()).map(|()| 0))
}

#[unsafe(no_mangle)]
extern "C" fn gmemEventDestroy(event: *mut c_void) -> c_int {
    guard(|| stream::destroy_event(event.addr()).map(|()| 0))
}

// ---- the heap ---------------------------------------------------------------------------------

// SAFETY: it is repr(C), all its fields are numbers, and the first is its size.
unsafe impl Grows for heap::stats::Counters {}

/// # Safety
/// `out` is NULL or points to a structure of which as many bytes may be written as its `size` says.
#[unsafe(no_mangle)]
unsafe extern "C" fn gmemHeapStats(out: *mut heap::stats::Counters) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise.
        let out = unsafe { Out::new(out, "stats->size") }?
            .ok_or(Error::Null { argument: "stats", wanted: "a gmemHeapStats_t" })?;
        out.write(&heap::stats::read().counters);
        Ok(0)
    })
}

/// # Safety
/// `buffer` may be written for `size` bytes, or `size` is 0.
#[unsafe(no_mangle)]
unsafe extern "C" fn gmemHeapStatsJson(buffer: *mut c_char, size: usize) -> c_int {
    // SAFETY: the caller's promise.
    guard(|| unsafe { text::give(buffer, size, || Ok(heap::stats::read().to_json())) })
}

#[unsafe(no_mangle)]
extern "C" fn gmemHeapSetLimits(soft: usize, hard: usize) -> c_int {
    guard(|| {
        if soft > hard && hard != heap::limits::NONE {
            return Err(Error::Limits { soft, hard });
        }
        heap::limits::set(soft, hard);
        Ok(0)
    })
}

// What cpp/heap.cpp makes the names of C of. Not exported. No guard: the allocation path neither panics nor
// touches a thread-local of Rust's.

#[unsafe(no_mangle)]
extern "C" fn gmem_heap_calloc(count: usize, size: usize) -> *mut c_void {
    heap::calloc(count, size)
}

/// # Safety
/// As `realloc(3)`.
#[unsafe(no_mangle)]
unsafe extern "C" fn gmem_heap_realloc(ptr: *mut c_void, size: usize) -> *mut c_void {
    // SAFETY: the caller's promise.
    unsafe { heap::realloc(ptr, size) }
}

/// # Safety
/// As `posix_memalign(3)`: `out` may be written.
#[unsafe(no_mangle)]
unsafe extern "C" fn gmem_heap_posix_memalign(
    out: *mut *mut c_void,
    alignment: usize,
    size: usize,
) -> c_int {
    match heap::posix_memalign(alignment, size) {
        Ok(block) => {
            // SAFETY: the caller's promise.
            unsafe { out.write(block) };
            0
        }
        Err(errno) => errno.0,
    }
}

#[unsafe(no_mangle)]
extern "C" fn gmem_heap_aligned_alloc(alignment: usize, size: usize) -> *mut c_void {
    heap::aligned_alloc(alignment, size)
}

#[unsafe(no_mangle)]
extern "C" fn gmem_heap_device_alloc(alignment: usize, size: usize) -> *mut c_void {
    heap::device_alloc(alignment, size)
}

#[unsafe(no_mangle)]
extern "C" fn gmem_heap_memalign(alignment: usize, size: usize) -> *mut c_void {
    heap::memalign(alignment, size)
}

#[unsafe(no_mangle)]
extern "C" fn gmem_heap_valloc(size: usize) -> *mut c_void {
    heap::valloc(size)
}

#[unsafe(no_mangle)]
extern "C" fn gmem_heap_pvalloc(size: usize) -> *mut c_void {
    heap::pvalloc(size)
}

/// # Safety
/// `ptr` is NULL or a live block.
#[unsafe(no_mangle)]
unsafe extern "C" fn gmem_heap_usable_size(ptr: *mut c_void) -> usize {
    // SAFETY: the caller's promise.
    unsafe { heap::usable_size(ptr) }
}

/// # Safety
/// `cache` is NULL or the calling thread's.
#[unsafe(no_mangle)]
unsafe extern "C" fn gmem_heap_trim(cache: *mut heap::ThreadCache) -> usize {
    // SAFETY: the caller's promise.
    unsafe { heap::trim(cache) }
}
