//! Streams and events.

use std::ffi::{c_int, c_void};
use std::ptr;

use crate::error::{Error, Result};
use crate::guard::{IntResult, guard};
use crate::reserve;
use crate::stream::{self, Work};
use crate::stream_argument::{self, StreamArgument};

// ---- streams ------------------------------------------------------------------------------------

/// # Safety
/// `out` is NULL or points to a handle that may be written.
#[unsafe(no_mangle)]
unsafe extern "C" fn gmemStreamCreate(out: *mut *mut c_void) -> IntResult {
    guard(|| {
        let out = Out::new(out, "stream", "the address of a gmemStream_t")?;
        // SAFETY: `out` is not NULL, so the caller lets a handle be written there.
        unsafe { out.write(stream::create()?) };
        Ok(0)
    })
}

/// `gmemHostFn` of `libgmem.h`.
type HostFn = unsafe extern "C" fn(*mut c_void);

/// # Safety
/// `function` is NULL, or it may be called with `argument` once, on any thread.
#[unsafe(no_mangle)]
unsafe extern "C" fn gmemStreamLaunch(
    stream: *mut c_void,
    function: Option<HostFn>,
    argument: *mut c_void,
) -> IntResult {
    guard(|| {
        let function = function.ok_or(Error::Null { argument: "fn", wanted: "a function" })?;
        // As two numbers, so that registering it allocates nothing.
        let with = [(function as *const ()).expose_provenance(), argument.expose_provenance()];
        let call = stream::Call { run: call_host_function, with };
        StreamArgument::classify(stream.addr())?.enqueue(Work::Call(call)).map(|()| 0)
    })
}

fn call_host_function([function, argument]: [usize; 2]) -> Result<()> {
    let function = ptr::with_exposed_provenance::<()>(function);
    // SAFETY: gmemStreamLaunch made the first number from a HostFn and the second from its argument, and a stream runs
    // each call once. The caller of gmemStreamLaunch lets the function be called with the argument on any thread.
    unsafe {
        let function = std::mem::transmute::<*const (), HostFn>(function);
        function(ptr::with_exposed_provenance_mut(argument));
    }
    Ok(())
}

#[unsafe(no_mangle)]
extern "C" fn gmemStreamQuery(stream: *mut c_void) -> IntResult {
    guard(|| is_done(StreamArgument::classify(stream.addr())?.is_idle()?))
}

#[unsafe(no_mangle)]
extern "C" fn gmemStreamSynchronize(stream: *mut c_void) -> IntResult {
    guard(|| StreamArgument::classify(stream.addr())?.synchronize().map(|()| 0))
}

#[unsafe(no_mangle)]
extern "C" fn gmemStreamDestroy(stream: *mut c_void) -> IntResult {
    guard(|| StreamArgument::classify(stream.addr())?.destroy().map(|()| 0))
}

// ---- external streams -----------------------------------------------------------------------------

/// `gmemLaunchFn` of `libgmem.h`.
type LaunchFn = unsafe extern "C" fn(*mut c_void, HostFn, *mut c_void) -> c_int;

/// An executor in C.
struct Executor {
    launch: LaunchFn,
    native: *mut c_void,
}
// SAFETY: `native` is only passed to `launch`, and libgmem.h requires that `launch` may be called with it from any thread.
unsafe impl Send for Executor {}
// SAFETY: the only use of a shared Executor is `launch`, and the stream's gate lets one thread at a time call it; it need
// not be safe to call concurrently.
unsafe impl Sync for Executor {}

impl stream::Executor for Executor {
    fn launch(&self, ticket: usize) -> Result<()> {
        let ticket = ptr::without_provenance_mut(ticket);
        // SAFETY: the caller of gmemStreamWrap lets `launch` be called with `native` from any thread, one at a time.
        // `reached` may be called with any number, so the executor cannot misuse it.
        match unsafe { (self.launch)(self.native, reached, ticket) } {
            0 => Ok(()),
            code => Err(Error::LaunchRefused { code }),
        }
    }
}

/// The function that executors run.
unsafe extern "C" fn reached(ticket: *mut c_void) {
    guard(|| {
        stream::reached(ticket.addr());
        Ok(0)
    });
}

/// # Safety
/// `launch` is NULL, or it may be called with `native` from any thread. `out` is NULL or points to a handle that may be
/// written.
#[unsafe(no_mangle)]
unsafe extern "C" fn gmemStreamWrap(
    launch: Option<LaunchFn>,
    native: *mut c_void,
    out: *mut *mut c_void,
) -> IntResult {
    guard(|| {
        let launch = launch.ok_or(Error::Null { argument: "launch", wanted: "a gmemLaunchFn" })?;
        let out = Out::new(out, "stream", "the address of a gmemStream_t")?;
        reserve::ask(size_of::<Executor>(), "another stream")?;
        let handle = stream::wrap(Box::new(Executor { launch, native }))?;
        // SAFETY: `out` is not NULL, so the caller lets a handle be written there.
        unsafe { out.write(handle) };
        Ok(0)
    })
}

#[unsafe(no_mangle)]
extern "C" fn gmemLaunchDropped(ticket: *mut c_void) {
    guard(|| {
        stream::dropped(ticket.addr());
        Ok(0)
    });
}

// ---- events ---------------------------------------------------------------------------------------

/// # Safety
/// `out` is NULL or points to a handle that may be written.
#[unsafe(no_mangle)]
unsafe extern "C" fn gmemEventCreate(out: *mut *mut c_void) -> IntResult {
    guard(|| {
        let out = Out::new(out, "event", "the address of a gmemEvent_t")?;
        // SAFETY: `out` is not NULL, so the caller lets a handle be written there.
        unsafe { out.write(stream::create_event()?) };
        Ok(0)
    })
}

#[unsafe(no_mangle)]
extern "C" fn gmemEventRecord(event: *mut c_void, stream: *mut c_void) -> IntResult {
    guard(|| StreamArgument::classify(stream.addr())?.record(event.addr()).map(|()| 0))
}

#[unsafe(no_mangle)]
extern "C" fn gmemStreamWaitEvent(stream: *mut c_void, event: *mut c_void) -> IntResult {
    guard(|| StreamArgument::classify(stream.addr())?.wait_event(event.addr()).map(|()| 0))
}

#[unsafe(no_mangle)]
extern "C" fn gmemEventQuery(event: *mut c_void) -> IntResult {
    guard(|| is_done(stream_argument::has_passed(event.addr())?))
}

#[unsafe(no_mangle)]
extern "C" fn gmemEventSynchronize(event: *mut c_void) -> IntResult {
    guard(|| stream_argument::synchronize_event(event.addr()).map(|()| 0))
}

#[unsafe(no_mangle)]
extern "C" fn gmemEventDestroy(event: *mut c_void) -> IntResult {
    guard(|| stream::destroy_event(event.addr()).map(|()| 0))
}

// ---- shared ---------------------------------------------------------------------------------------

/// Where a caller wants a new handle. Not NULL.
struct Out(*mut *mut c_void);

impl Out {
    fn new(out: *mut *mut c_void, argument: &'static str, wanted: &'static str) -> Result<Self> {
        if out.is_null() { Err(Error::Null { argument, wanted }) } else { Ok(Self(out)) }
    }

    /// # Safety
    /// A pointer may be written there.
    unsafe fn write(self, handle: usize) {
        // SAFETY: our caller says that a pointer may be written there.
        unsafe { self.0.write(ptr::without_provenance_mut(handle)) };
    }
}

/// The result of a query.
fn is_done(done: bool) -> Result<c_int> {
    Ok(if done { 0 } else { -libc::EBUSY })
}
