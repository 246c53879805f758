//! Streams as callers hand them over: NULL, a handle of libgmem's, or a stream of the current device's driver.
//!
//! They are told apart by their numbers alone: a handle of libgmem's is odd, and what a driver calls a stream is an
//! address, or one of the few small numbers that it names.

use std::ffi::c_void;

use crate::device::{self, NativeStreams};
use crate::error::{Error, Result};
use crate::stream::{self, Executor};

/// The handle of libgmem's that a `void *stream` stands for; 0 for NULL. A stream of the driver's gets one when it is
/// first seen, which it keeps until [`forget`] is told of it.
pub fn resolve(stream: usize) -> Result<usize> {
    if stream == 0 || stream::is_handle(stream) {
        return Ok(stream);
    }
    let (device, streams) = driver_of(stream)?;
    stream::wrapped((device, stream), || {
        streams.begin(stream)?;
        Ok(Box::new(Native { streams, stream }))
    })
}

/// The driver's stream that a `void *stream` is, and whose it is; `None` for libgmem's own.
pub fn native(stream: usize) -> Result<Option<&'static dyn NativeStreams>> {
    if stream == 0 || stream::is_handle(stream) {
        return Ok(None);
    }
    driver_of(stream).map(|(_, streams)| Some(streams))
}

/// Forget a stream, as far as it is libgmem's: a driver's is untouched. Work on it still runs.
pub fn forget(stream: usize) -> Result<()> {
    if stream == 0 || stream::is_handle(stream) {
        return stream::destroy(stream);
    }
    let (device, _) = driver_of(stream)?;
    stream::unwrap((device, stream))
}

fn driver_of(stream: usize) -> Result<(usize, &'static dyn NativeStreams)> {
    let unknown = Error::UnknownStream { handle: stream };
    let device = device::current_index()?;
    let streams = device::by_index(device).native_streams().ok_or_else(|| unknown.clone())?;
    if streams.may_be(stream) { Ok((device, streams)) } else { Err(unknown) }
}

/// One of them.
struct Native {
    streams: &'static dyn NativeStreams,
    stream: usize,
}

impl Executor for Native {
    fn launch(&self, place: usize) -> Result<()> {
        self.streams.launch(self.stream, reached, place)
    }
}

impl Drop for Native {
    fn drop(&mut self) {
        self.streams.forget(self.stream);
    }
}

/// What the driver calls.
extern "C" fn reached(place: *mut c_void) {
    // Nobody is there to be told of a panic, of which a stream makes a failure of its work.
    let _ = crate::guard::catch(|| {
        stream::reached(place.addr());
        Ok(())
    });
}
