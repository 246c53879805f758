//! Streams as callers hand them over: NULL, a handle of libgmem's, or a stream of the current device's driver.
//!
//! They are told apart by their numbers alone: a handle of libgmem's is odd, and what a driver calls a stream is an
//! address, or one of the few small numbers that it names.
//!
//! A stream of the driver's has two orders that agree: the driver's own, in which its commands stand, and that of
//! libgmem's handle for it, whose places are functions among those commands.

use std::ffi::c_void;
use std::sync::Arc;

use crate::device::{self, DriverEvent, DriverStreams};
use crate::error::{Error, Result};
use crate::stream::{self, Executor, Note};

/// The handle of libgmem's that a `void *stream` stands for; 0 for NULL. A stream of the driver's gets one when it is
/// first seen, which it keeps until [`forget`] is told of it.
pub fn resolve(stream: usize) -> Result<usize> {
    if stream == 0 || stream::is_handle(stream) {
        return Ok(stream);
    }
    let (device, streams) = driver_of(stream)?;
    stream::wrapped((device, streams.identity(stream)?), || {
        streams.begin(stream)?;
        Ok(Box::new(Native { streams, stream }))
    })
}

/// The driver's stream that a `void *stream` is, and whose it is; `None` for libgmem's own.
pub fn native(stream: usize) -> Result<Option<&'static dyn DriverStreams>> {
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
    let (device, streams) = driver_of(stream)?;
    stream::unwrap((device, streams.identity(stream)?))
}

/// Wait for the work registered so far; its first failure comes out.
pub fn synchronize(stream: usize) -> Result<()> {
    let handle = resolve(stream)?;
    if let Some(streams) = native(stream)? {
        // First, since a driver whose context is lost runs no functions any more, and says so.
        stream::aside(|| streams.synchronize(stream))?;
    }
    stream::synchronize(handle)
}

/// Whether all work is done.
pub fn is_idle(stream: usize) -> Result<bool> {
    let handle = resolve(stream)?;
    let drivers_is_done = match native(stream)? {
        Some(streams) => streams.is_idle(stream)?,
        None => true,
    };
    Ok(drivers_is_done && stream::is_idle(handle)?)
}

fn driver_of(stream: usize) -> Result<(usize, &'static dyn DriverStreams)> {
    let unknown = Error::UnknownStream { handle: stream };
    let device = device::current_index()?;
    let streams = device::by_index(device).driver_streams().ok_or_else(|| unknown.clone())?;
    if streams.may_be(stream) { Ok((device, streams)) } else { Err(unknown) }
}

// ---- events ---------------------------------------------------------------------------------------

/// What a driver knows of the place that an event stands for.
struct Marked {
    device: usize,
    mark: Box<dyn DriverEvent>,
}

/// The event now stands for this place in the stream; in a driver's, the driver notes it, too.
pub fn record(event: usize, stream: usize) -> Result<()> {
    stream::record(event, resolve(stream)?, || {
        if stream::is_handle(stream) {
            return Ok(None);
        }
        let (device, streams) = driver_of(stream)?;
        let mark = streams.record_event(stream)?;
        Ok(mark.map(|mark| Arc::new(Marked { device, mark }) as Note))
    })
}

/// What is registered on the stream from now on waits for the place that the event stands for. Between two streams of a
/// driver's the driver sees to that: a function of the driver's must not wait for another, as it may have one thread for
/// all of them.
pub fn wait_event(stream: usize, event: usize) -> Result<()> {
    let handle = resolve(stream)?;
    if stream != handle
        && let Some(note) = stream::pending_note(event)?
        && let Some(marked) = note.downcast_ref::<Marked>()
        && marked.device == driver_of(stream)?.0
    {
        return marked.mark.make_wait(stream);
    }
    stream::wait_event(handle, event)
}

/// Whether the stream has passed the place. A driver that never will says so.
pub fn has_passed(event: usize) -> Result<bool> {
    if let Some(note) = stream::pending_note(event)?
        && let Some(marked) = note.downcast_ref::<Marked>()
    {
        marked.mark.has_completed()?;
    }
    stream::has_passed(event)
}

/// Wait until it has.
pub fn synchronize_event(event: usize) -> Result<()> {
    if let Some(note) = stream::pending_note(event)?
        && let Some(marked) = note.downcast_ref::<Marked>()
    {
        stream::aside(|| marked.mark.wait())?;
    }
    stream::synchronize_event(event)
}

// ---- the executor -----------------------------------------------------------------------------------

/// One of them.
struct Native {
    streams: &'static dyn DriverStreams,
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
        device::in_host_function(|| stream::reached(place.addr()));
        Ok(())
    });
}
