//! The `void *stream` of a call: NULL, a handle of libgmem, or a stream of the current device's driver.
//!
//! It is classified once, where the call comes in, by its number alone: handles of libgmem are odd; a driver's stream is
//! an address, or one of the few small numbers that the driver names.
//!
//! A driver's stream has two orders that agree: the driver's, in which its commands run, and that of libgmem's external
//! stream for it, whose tickets are host functions among those commands.

use std::ffi::c_void;
use std::sync::Arc;

use crate::device::{self, DriverEvent, DriverStreams, Registered, Request};
use crate::error::{Error, Result};
use crate::page::PageRange;
use crate::stream::{self, Executor, Note, Work};

/// A stream as a caller passes it.
#[derive(Clone, Copy)]
pub enum StreamArgument {
    /// NULL: the call is done on return.
    None,
    /// A handle of libgmem, known or not.
    Own(usize),
    /// A stream of the current device's driver.
    Driver(DriverStream),
}

impl StreamArgument {
    /// Tell which kind of stream `stream` is.
    pub fn classify(stream: usize) -> Result<Self> {
        match stream {
            0 => Ok(Self::None),
            handle if stream::is_handle(handle) => Ok(Self::Own(handle)),
            stream => DriverStream::of_current_device(stream).map(Self::Driver),
        }
    }

    /// Index of the device that a call on this stream uses: the driver's, else the current one.
    pub fn device(self) -> Result<usize> {
        match self {
            Self::Driver(driver) => Ok(driver.device),
            Self::None | Self::Own(_) => device::current_index(),
        }
    }

    /// Register work. NULL is no stream here.
    pub fn enqueue(self, work: Work) -> Result<()> {
        stream::enqueue(self.handle()?, work)
    }

    /// Wait for the work registered so far, and return its first failure.
    pub fn synchronize(self) -> Result<()> {
        let handle = self.handle()?;
        if let Self::Driver(driver) = self {
            // The driver first: once its context is lost it runs no functions any more, and says so here.
            stream::while_stepped_aside(|| driver.streams.synchronize(driver.stream))?;
        }
        stream::synchronize(handle)
    }

    /// Whether all work is done.
    pub fn is_idle(self) -> Result<bool> {
        let handle = self.handle()?;
        let driver_is_idle = match self {
            Self::Driver(driver) => driver.streams.is_idle(driver.stream)?,
            Self::None | Self::Own(_) => true,
        };
        Ok(driver_is_idle && stream::is_idle(handle)?)
    }

    /// Destroy a stream of libgmem. A driver's stream stays; libgmem only forgets it. Registered work still runs.
    pub fn destroy(self) -> Result<()> {
        match self {
            Self::Driver(driver) => stream::destroy_external(driver.name()?),
            Self::None | Self::Own(_) => stream::destroy(self.handle()?),
        }
    }

    /// Let the event mean this point of the stream. A driver records one of its own events too.
    pub fn record(self, event: usize) -> Result<()> {
        stream::record(event, self.handle()?, || match self {
            Self::Driver(driver) => driver.note(),
            Self::None | Self::Own(_) => Ok(None),
        })
    }

    /// Let the work registered on the stream from now on wait for the event. Between two streams of a driver, the driver
    /// does that: it may have a single thread for host functions, so one of them must not wait for another.
    pub fn wait_event(self, event: usize) -> Result<()> {
        let handle = self.handle()?;
        if let Self::Driver(driver) = self
            && let Some(note) = stream::pending_note(event)?
            && let Some(recorded) = note.downcast_ref::<Recorded>()
            && recorded.device == driver.device
        {
            return recorded.event.make_wait(driver.stream);
        }
        stream::wait_event(handle, event)
    }

    /// The handle of the stream, which libgmem makes when it first sees a driver's stream.
    fn handle(self) -> Result<usize> {
        match self {
            Self::None => Err(Error::UnknownStream { handle: 0 }),
            Self::Own(handle) => Ok(handle),
            Self::Driver(driver) => driver.handle(),
        }
    }
}

// ---- a driver's stream ------------------------------------------------------------------------------

/// A stream of a device's driver.
#[derive(Clone, Copy)]
pub struct DriverStream {
    /// Index of the device.
    device: usize,
    streams: &'static dyn DriverStreams,
    /// The driver's name of the stream.
    stream: usize,
}

impl DriverStream {
    fn of_current_device(stream: usize) -> Result<Self> {
        let unknown = Error::UnknownStream { handle: stream };
        let device = device::current_index()?;
        let streams = device::by_index(device).driver_streams().ok_or_else(|| unknown.clone())?;
        if streams.may_be(stream) { Ok(Self { device, streams, stream }) } else { Err(unknown) }
    }

    /// Register the driver's part of a prefetch, and return the rest.
    pub fn prefetch(self, request: &Request<'_>) -> Result<Registered> {
        self.streams.prefetch(self.stream, request)
    }

    /// Register the driver's part of an eager free, and return the rest.
    pub fn free_eager(self, pages: PageRange) -> Result<Vec<PageRange>> {
        self.streams.free_eager(self.stream, pages)
    }

    /// Register work that runs in a host function of the driver.
    pub fn enqueue(self, work: Work) -> Result<()> {
        stream::enqueue(self.handle()?, work)
    }

    fn handle(self) -> Result<usize> {
        let Self { streams, stream, .. } = self;
        stream::external_handle(self.name()?, || {
            streams.begin(stream)?;
            Ok(Box::new(HostFunctions { streams, stream }))
        })
    }

    /// Tells the stream from all others of all devices.
    fn name(self) -> Result<(usize, usize)> {
        Ok((self.device, self.streams.identity(self.stream)?))
    }

    fn note(self) -> Result<Option<Note>> {
        let event = self.streams.record_event(self.stream)?;
        Ok(event.map(|event| Arc::new(Recorded { device: self.device, event }) as Note))
    }
}

impl std::fmt::Display for DriverStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#x}", self.stream)
    }
}

/// The executor of an external stream that stands for a driver's stream.
struct HostFunctions {
    streams: &'static dyn DriverStreams,
    stream: usize,
}

impl Executor for HostFunctions {
    fn launch(&self, ticket: usize) -> Result<()> {
        self.streams.launch(self.stream, reached, ticket)
    }
}

impl Drop for HostFunctions {
    fn drop(&mut self) {
        self.streams.forget(self.stream);
    }
}

/// The host function that the driver calls.
extern "C" fn reached(ticket: *mut c_void) {
    // A panic in the work is caught below and fails the work; the driver has no way to report any other.
    let _ = crate::guard::catch(|| {
        device::in_host_function(|| stream::reached(ticket.addr()));
        Ok(())
    });
}

// ---- events -----------------------------------------------------------------------------------------

/// A driver's event, kept with the event point that it was recorded for.
struct Recorded {
    device: usize,
    event: Box<dyn DriverEvent>,
}

/// Whether the event has passed. Fails if the driver says that it never will.
pub fn has_passed(event: usize) -> Result<bool> {
    if let Some(note) = stream::pending_note(event)?
        && let Some(recorded) = note.downcast_ref::<Recorded>()
    {
        recorded.event.has_completed()?;
    }
    stream::has_passed(event)
}

/// Wait until the event has passed.
pub fn synchronize_event(event: usize) -> Result<()> {
    if let Some(note) = stream::pending_note(event)?
        && let Some(recorded) = note.downcast_ref::<Recorded>()
    {
        stream::while_stepped_aside(|| recorded.event.wait())?;
    }
    stream::synchronize_event(event)
}
