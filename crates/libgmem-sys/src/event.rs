// SPDX-License-Identifier: Apache-2.0
//! [`Event`]: a point in a stream.

use std::ptr;

use crate::{Error, Result, Stream, ffi};

/// A point in a stream for which other streams and threads can wait.
///
/// It may be recorded again; a call means the latest recording. An event that was never recorded has passed.
#[derive(Debug)]
pub struct Event {
    pub(crate) handle: ffi::gmemEvent_t,
}

// SAFETY: the handle is a number that the library looks up; its functions may be called from any thread.
unsafe impl Send for Event {}
// SAFETY: the library locks what the handle stands for, so threads may share it.
unsafe impl Sync for Event {}

impl Event {
    /// Makes an event.
    pub fn new() -> Result<Event> {
        let mut handle = ptr::null_mut();
        // SAFETY: the handle may be written.
        Error::check(unsafe { ffi::gmemEventCreate(&raw mut handle) })?;
        Ok(Event { handle })
    }

    /// Puts the event behind the work that is on the stream now.
    pub fn record(&self, stream: &Stream) -> Result<()> {
        // SAFETY: both handles are looked up, never followed.
        Error::check(unsafe { ffi::gmemEventRecord(self.handle, stream.handle) }).map(drop)
    }

    /// Whether the work ahead of the event is done.
    pub fn has_passed(&self) -> Result<bool> {
        // SAFETY: the handle is looked up, never followed.
        Error::check_query(unsafe { ffi::gmemEventQuery(self.handle) })
    }

    /// Waits until the work ahead of the event is done.
    pub fn synchronize(&self) -> Result<()> {
        // SAFETY: the handle is looked up, never followed.
        Error::check(unsafe { ffi::gmemEventSynchronize(self.handle) }).map(drop)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: the handle is looked up, never followed. Streams that wait for the event go on waiting.
        unsafe { ffi::gmemEventDestroy(self.handle) };
    }
}
