// SPDX-License-Identifier: Apache-2.0
//! [`Stream`]: work that is done in order, one piece after the other.

use std::any::Any;
use std::ffi::{c_int, c_void};
use std::panic::{self, AssertUnwindSafe};
use std::ptr;
use std::sync::{Arc, Mutex, PoisonError};

use crate::range::address_and_size;
use crate::{Error, Event, Result, ffi};

/// The payload of the first panic in a function that the stream ran.
type Panic = Arc<Mutex<Option<Box<dyn Any + Send>>>>;

/// A stream of libgmem. Calls return when their work is registered; it is done in the order of the calls.
///
/// Dropping a stream waits for its work.
#[derive(Debug)]
pub struct Stream {
    pub(crate) handle: ffi::gmemStream_t,
    panic: Panic,
}

// SAFETY: the handle is a number that the library looks up; its functions may be called from any thread.
unsafe impl Send for Stream {}
// SAFETY: the library locks what the handle stands for, so threads may share it.
unsafe impl Sync for Stream {}

impl Stream {
    /// Makes a stream.
    pub fn new() -> Result<Stream> {
        let mut handle = ptr::null_mut();
        // SAFETY: the handle may be written.
        Error::check(unsafe { ffi::gmemStreamCreate(&raw mut handle) })?;
        Ok(Stream { handle, panic: Panic::default() })
    }

    /// Registers a prefetch of a slice to the memory node `hnid`. See [`prefetch`](crate::prefetch).
    ///
    /// The slice need not live until it is done: a prefetch changes no content, whatever lies at its addresses then.
    pub fn prefetch<T>(&self, what: &[T], hnid: c_int) -> Result<()> {
        let (address, size) = address_and_size(what);
        // SAFETY: a prefetch moves and populates pages and leaves their content alone. A hole is an error of the stream.
        Error::check(unsafe { ffi::gmemPrefetch(address, size, hnid, self.handle.cast()) })
            .map(drop)
    }

    /// Registers an eager free of a range. See [`free_eager`](crate::free_eager).
    ///
    /// # Safety
    ///
    /// Until the work is done, nothing may depend on the content of the range. After that its content in whole GMEM
    /// pages is undetermined until it is written.
    pub unsafe fn free_eager<T>(&self, what: *mut [T]) -> Result<()> {
        let (address, size) = address_and_size(what);
        // SAFETY: the caller promises that nobody needs the content of the range; nothing else is touched.
        Error::check(unsafe { ffi::gmemFreeEager(address, size, self.handle.cast()) }).map(drop)
    }

    /// Registers a function. A panic in it comes out of [`synchronize`](Stream::synchronize).
    pub fn launch<F: FnOnce() + Send + 'static>(&self, work: F) -> Result<()> {
        let job = Box::into_raw(Box::new(Job { work, panic: Arc::clone(&self.panic) }));
        // SAFETY: run::<F> takes a Job<F>, once, and a stream calls it once.
        let returned = unsafe { ffi::gmemStreamLaunch(self.handle, Some(run::<F>), job.cast()) };
        Error::check(returned).map(drop).inspect_err(|_| {
            // SAFETY: after an error nothing is registered, so the job is still this function's.
            drop(unsafe { Box::from_raw(job) });
        })
    }

    /// Has the work that is registered from now on wait for the event.
    pub fn wait(&self, event: &Event) -> Result<()> {
        // SAFETY: both handles are looked up, never followed.
        Error::check(unsafe { ffi::gmemStreamWaitEvent(self.handle, event.handle) }).map(drop)
    }

    /// Whether all work is done.
    pub fn is_done(&self) -> Result<bool> {
        // SAFETY: the handle is looked up, never followed.
        Error::check_query(unsafe { ffi::gmemStreamQuery(self.handle) })
    }

    /// Waits for all work that was registered before, and returns the first failure since the last call.
    ///
    /// # Panics
    ///
    /// Where a launched function panicked, with the same payload.
    pub fn synchronize(&self) -> Result<()> {
        // SAFETY: the handle is looked up, never followed.
        let done = Error::check(unsafe { ffi::gmemStreamSynchronize(self.handle) }).map(drop);
        let panicked = self.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(payload) = panicked {
            panic::resume_unwind(payload);
        }
        done
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // SAFETY: the handle is looked up, never followed. A failure that nobody asked for is dropped with the stream.
        unsafe {
            ffi::gmemStreamSynchronize(self.handle);
            ffi::gmemStreamDestroy(self.handle);
        }
    }
}

/// A launched function, and where its panic goes.
struct Job<F> {
    work: F,
    panic: Panic,
}

/// Runs a `Job<F>` and frees it.
///
/// # Safety
///
/// `job` came from `Box::into_raw` of a `Box<Job<F>>`, and nobody uses it after this call.
unsafe extern "C" fn run<F: FnOnce()>(job: *mut c_void) {
    // SAFETY: the caller promises that it is a boxed Job<F> and gives it up.
    let Job { work, panic } = *unsafe { Box::from_raw(job.cast::<Job<F>>()) };
    // Nothing of the function is used after a panic but the payload.
    if let Err(payload) = panic::catch_unwind(AssertUnwindSafe(work)) {
        panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(payload);
    }
}
