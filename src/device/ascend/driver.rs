//! Ascend's runtime as far as libgmem calls it: `libascendcl.so`, opened at run time, and what it has for calling a
//! function in a stream's order. Names, numbers and rules are those of CANN's documentation.
//!
//! A stream is passed on as a number. That it is one of the runtime's, and alive, is for those to see to who hand it to
//! libgmem (`libgmem.h`).

use std::ffi::{CStr, c_int, c_void};
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::codes::AclCode;
use crate::os::dynamic::Library;

/// The library's own name, of which there are no versions.
pub const LIBRARY: &CStr = c"libascendcl.so";

/// What the runtime calls.
pub type HostFunction = extern "C" fn(*mut c_void);

/// Result of a call.
pub type AclResult = std::result::Result<(), AclCode>;

type Stream = *mut c_void;
type Context = *mut c_void;
type LaunchHostFunc = unsafe extern "C" fn(Stream, HostFunction, *mut c_void) -> c_int;
type LaunchCallback = unsafe extern "C" fn(HostFunction, *mut c_void, c_int, Stream) -> c_int;
type Subscribe = unsafe extern "C" fn(u64, Stream) -> c_int;
type ProcessReport = unsafe extern "C" fn(i32) -> c_int;
type GetDevice = unsafe extern "C" fn(*mut i32) -> c_int;
type GetContext = unsafe extern "C" fn(*mut Context) -> c_int;
type SetContext = unsafe extern "C" fn(Context) -> c_int;

/// How a function is launched.
pub enum Runtime {
    /// By `aclrtLaunchHostFunc`, for which the runtime has threads of its own (from CANN 8.3 on).
    WithThreads(HostFunctions),
    /// By `aclrtLaunchCallback`, for which each stream needs a thread of the program's.
    WithoutThreads(Callbacks),
}

impl Runtime {
    /// Of an open library; the name of the function that it lacks, if it does.
    pub fn of(library: &Library) -> Result<Self, &'static str> {
        // SAFETY: the type is the one that the documentation gives this function.
        if let Some(launch) = unsafe { library.function(c"aclrtLaunchHostFunc") } {
            return Ok(Self::WithThreads(HostFunctions { launch }));
        }
        // SAFETY: the types are those that the documentation gives these functions.
        let callbacks = unsafe {
            Callbacks {
                launch: library.function(c"aclrtLaunchCallback").ok_or("aclrtLaunchCallback")?,
                subscribe: library
                    .function(c"aclrtSubscribeReport")
                    .ok_or("aclrtSubscribeReport")?,
                unsubscribe: library
                    .function(c"aclrtUnSubscribeReport")
                    .ok_or("aclrtUnSubscribeReport")?,
                process: library.function(c"aclrtProcessReport").ok_or("aclrtProcessReport")?,
                device: library.function(c"aclrtGetDevice").ok_or("aclrtGetDevice")?,
                context: library
                    .function(c"aclrtGetCurrentContext")
                    .ok_or("aclrtGetCurrentContext")?,
                set_context: library
                    .function(c"aclrtSetCurrentContext")
                    .ok_or("aclrtSetCurrentContext")?,
            }
        };
        Ok(Self::WithoutThreads(callbacks))
    }
}

/// `aclrtLaunchHostFunc`.
pub struct HostFunctions {
    launch: LaunchHostFunc,
}

impl HostFunctions {
    /// Have the stream call `function` in its order.
    pub fn launch(&self, stream: usize, function: HostFunction, argument: usize) -> AclResult {
        // SAFETY: a stream of the runtime's; the argument is a number to it.
        done(unsafe { (self.launch)(pointer(stream), function, pointer(argument)) })
    }
}

/// `aclrtLaunchCallback`, and what it takes to serve it.
pub struct Callbacks {
    launch: LaunchCallback,
    subscribe: Subscribe,
    unsubscribe: Subscribe,
    process: ProcessReport,
    device: GetDevice,
    context: GetContext,
    set_context: SetContext,
}

impl Callbacks {
    /// Have the stream call `function` in its order, by the thread that is subscribed to it; what is behind waits for
    /// that (`ACL_CALLBACK_BLOCK`).
    pub fn launch(&self, stream: usize, function: HostFunction, argument: usize) -> AclResult {
        const BLOCK: c_int = 1;
        // SAFETY: a stream of the runtime's; the argument is a number to it.
        done(unsafe { (self.launch)(function, pointer(argument), BLOCK, pointer(stream)) })
    }

    /// Have a thread run what is launched on a stream.
    pub fn subscribe(&self, thread: Thread, stream: usize) -> AclResult {
        // SAFETY: a living thread and a stream of the runtime's.
        done(unsafe { (self.subscribe)(thread.0, pointer(stream)) })
    }

    /// And no more.
    pub fn unsubscribe(&self, thread: Thread, stream: usize) -> AclResult {
        // SAFETY: as above.
        done(unsafe { (self.unsubscribe)(thread.0, pointer(stream)) })
    }

    /// Run what has been launched on the streams that the calling thread is subscribed to, or wait for it for so many
    /// milliseconds.
    pub fn process(&self, timeout: i32) -> AclResult {
        // SAFETY: a number alone; what is run is what was launched.
        done(unsafe { (self.process)(timeout) })
    }

    /// The device and the context that the calling thread has chosen.
    pub fn place(&self) -> Result<(i32, ContextOf), AclCode> {
        let (mut device, mut context) = (-1, ptr::null_mut());
        // SAFETY: both may be written.
        unsafe {
            done((self.device)(&raw mut device))?;
            done((self.context)(&raw mut context))?;
        }
        Ok((device, ContextOf(context.addr())))
    }

    /// Choose a context for the calling thread, which goes with its device.
    pub fn adopt(&self, context: ContextOf) -> AclResult {
        // SAFETY: a context of the runtime's; of one that is gone it says so.
        done(unsafe { (self.set_context)(pointer(context.0)) })
    }
}

/// A context of the runtime's, as a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContextOf(usize);

/// A thread as the runtime knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thread(u64);

impl Thread {
    /// The calling one.
    pub fn current() -> Self {
        // SAFETY: no arguments, and it cannot fail.
        Self(unsafe { libc::pthread_self() } as u64)
    }
}

/// A function that is called later on, by whom only an argument can be told.
pub struct Noted(AtomicUsize);

impl Noted {
    /// None yet.
    #[allow(clippy::new_without_default, reason = "a static needs a const function")]
    pub const fn new() -> Self {
        Self(AtomicUsize::new(0))
    }

    /// Note it; all that are noted are the same one.
    pub fn note(&self, function: HostFunction) {
        self.0.store((function as *const ()).expose_provenance(), Ordering::Release);
    }

    /// Call it, if there is one.
    pub fn call(&self, argument: *mut c_void) {
        let noted = self.0.load(Ordering::Acquire);
        if noted != 0 {
            let function = ptr::with_exposed_provenance::<()>(noted);
            // SAFETY: `note` made the number of a function of this type.
            unsafe { std::mem::transmute::<*const (), HostFunction>(function)(argument) };
        }
    }
}

fn pointer(number: usize) -> *mut c_void {
    ptr::with_exposed_provenance_mut(number)
}

fn done(code: c_int) -> AclResult {
    if code == 0 { Ok(()) } else { Err(AclCode(code)) }
}
