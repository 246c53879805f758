//! Bindings of Ascend's runtime, `libascendcl.so`, which is opened at run time: the functions that call a host function in
//! the order of a stream. Names, numbers and rules are those of CANN's documentation.
//!
//! A stream is a number here. The runtime follows it as a pointer, and offers no way to check it first. `libgmem.h` therefore
//! requires of the program that a stream which it passes to libgmem was created by the runtime and is not destroyed;
//! numbers that cannot be pointers to one are refused before they come here (`may_be`).

use std::ffi::{CStr, c_int, c_void};
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::codes::AclCode;
use crate::os::dynamic::Library;

/// The name of the library, which has no versions.
pub const LIBRARY: &CStr = c"libascendcl.so";

/// The type of a host function.
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

/// The two ways of launching a host function.
pub enum Runtime {
    /// By `aclrtLaunchHostFunc` (CANN 8.3 and newer); the runtime provides the threads.
    WithThreads(HostFunctions),
    /// By `aclrtLaunchCallback`; the program provides a thread for each stream.
    WithoutThreads(Callbacks),
}

impl Runtime {
    /// Look up the functions of an open library; fails with the name of the first that is missing.
    pub fn of(library: &Library) -> Result<Self, &'static str> {
        // SAFETY: the type is the one in CANN's documentation of the function.
        if let Some(launch) = unsafe { library.function(c"aclrtLaunchHostFunc") } {
            return Ok(Self::WithThreads(HostFunctions { launch }));
        }
        // SAFETY: the types are those in CANN's documentation of the functions.
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
        // SAFETY: the program guarantees that the stream is alive (see the module); the runtime hands the argument to the
        // function and does not follow it.
        done(unsafe { (self.launch)(pointer(stream), function, pointer(argument)) })
    }
}

/// `aclrtLaunchCallback`, and the functions with which a thread serves it.
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
    /// Have the thread that is subscribed to the stream call `function` in its order. Later work on the stream waits for the
    /// call (`ACL_CALLBACK_BLOCK`).
    pub fn launch(&self, stream: usize, function: HostFunction, argument: usize) -> AclResult {
        const BLOCK: c_int = 1;
        // SAFETY: the program guarantees that the stream is alive (see the module); the runtime hands the argument to the
        // function and does not follow it.
        done(unsafe { (self.launch)(function, pointer(argument), BLOCK, pointer(stream)) })
    }

    /// Subscribe a thread to a stream: it runs the functions that are launched on the stream.
    pub fn subscribe(&self, thread: Thread, stream: usize) -> AclResult {
        // SAFETY: the thread is one of libgmem, which runs until the process ends; the program guarantees that the stream is
        // alive (see the module).
        done(unsafe { (self.subscribe)(thread.0, pointer(stream)) })
    }

    /// Unsubscribe a thread from a stream.
    pub fn unsubscribe(&self, thread: Thread, stream: usize) -> AclResult {
        // SAFETY: the thread is one of libgmem, which runs until the process ends. The runtime returns an error for a stream
        // that the thread is not subscribed to.
        done(unsafe { (self.unsubscribe)(thread.0, pointer(stream)) })
    }

    /// Run the functions that were launched on the streams of the calling thread; wait at most `timeout` milliseconds for one.
    pub fn process(&self, timeout: i32) -> AclResult {
        // SAFETY: the argument is a number, and every function that was launched stays loaded (-z nodelete).
        done(unsafe { (self.process)(timeout) })
    }

    /// The current device and context of the calling thread.
    pub fn current_context(&self) -> Result<(i32, ContextOf), AclCode> {
        let (mut device, mut context) = (-1, ptr::null_mut());
        // SAFETY: both variables are writable.
        unsafe {
            done((self.device)(&raw mut device))?;
            done((self.context)(&raw mut context))?;
        }
        Ok((device, ContextOf(context.addr())))
    }

    /// Make a context, and with it its device, current in the calling thread.
    pub fn adopt(&self, context: ContextOf) -> AclResult {
        // SAFETY: the runtime itself gave the context; it returns an error for one that was destroyed.
        done(unsafe { (self.set_context)(pointer(context.0)) })
    }
}

/// A context of the runtime, as a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContextOf(usize);

/// A thread, by the number that the runtime knows it by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thread(u64);

impl Thread {
    /// The calling thread.
    pub fn current() -> Self {
        // SAFETY: pthread_self has no arguments and cannot fail.
        Self(unsafe { libc::pthread_self() } as u64)
    }
}

/// The function that all launches call, kept for a caller that gets only an argument.
pub struct Noted(AtomicUsize);

impl Noted {
    /// No function yet.
    #[allow(clippy::new_without_default, reason = "a static needs a const function")]
    pub const fn new() -> Self {
        Self(AtomicUsize::new(0))
    }

    /// Keep the function. Every call passes the same one.
    pub fn note(&self, function: HostFunction) {
        self.0.store((function as *const ()).expose_provenance(), Ordering::Release);
    }

    /// Call the function, if there is one.
    pub fn call(&self, argument: *mut c_void) {
        let noted = self.0.load(Ordering::Acquire);
        if noted != 0 {
            let function = ptr::with_exposed_provenance::<()>(noted);
            // SAFETY: `note` stored the address of a function of this type.
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
