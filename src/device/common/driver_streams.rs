//! Streams of a device's driver, which programs pass to libgmem directly, and the host functions that the driver calls in
//! their order.

use std::cell::Cell;
use std::ffi::c_void;

use crate::device::Request;
use crate::error::Result;
use crate::page::PageRange;

/// The streams of a device's driver.
pub trait DriverStreams: Sync {
    /// Whether a number may be a stream. The number is not followed as a pointer, so some that are not streams pass.
    fn may_be(&self, stream: usize) -> bool;

    /// Prepare a stream for launches; fails if streams cannot be used. Each call is matched by a call of
    /// [`forget`](Self::forget); calls for one stream may overlap.
    fn begin(&self, _stream: usize) -> Result<()> {
        Ok(())
    }

    /// Have the driver call `function` with `argument` once, in the stream's order, in a thread of the driver.
    fn launch(&self, stream: usize, function: HostFunction, argument: usize) -> Result<()>;

    /// End what [`begin`](Self::begin) began: all launched functions are done and no more follow. Any thread may call it, also
    /// from within the last function.
    fn forget(&self, _stream: usize) {}

    /// Enqueue the part of a prefetch that the driver does itself, and return the part that is left to a host function.
    fn prefetch(&self, _stream: usize, request: &Request<'_>) -> Result<Registered> {
        Ok(Registered { with_driver: false, left: vec![request.asked] })
    }

    /// Enqueue the part of an eager free that the driver does itself, and return the part that is left to a host function.
    fn free_eager(&self, _stream: usize, pages: PageRange) -> Result<Vec<PageRange>> {
        Ok(vec![pages])
    }

    /// Wait for work that the driver does itself.
    fn synchronize(&self, _stream: usize) -> Result<()> {
        Ok(())
    }

    /// Whether the driver's own work is done.
    fn is_idle(&self, _stream: usize) -> Result<bool> {
        Ok(true)
    }

    /// A number that identifies the stream in all threads. The per-thread stream has one name, and is another stream in each
    /// thread.
    fn identity(&self, stream: usize) -> Result<usize> {
        Ok(stream)
    }

    /// Record an event behind the work that is on the stream now; `None` if the driver has no events for that, so that host
    /// functions must do the waiting.
    fn record_event(&self, _stream: usize) -> Result<Option<Box<dyn DriverEvent>>> {
        Ok(None)
    }
}

/// An event of the driver, which marks a point in a stream.
pub trait DriverEvent: Send + Sync {
    /// Make another stream of the driver wait for the event.
    fn make_wait(&self, stream: usize) -> Result<()>;

    /// Wait for the event.
    fn wait(&self) -> Result<()>;

    /// Whether the stream has reached the event.
    fn has_completed(&self) -> Result<bool>;
}

thread_local! {
    static IN_HOST_FUNCTION: Cell<bool> = const { Cell::new(false) };
}

/// Run `call` as a host function of a driver: in a thread of the driver, in which many drivers forbid calls to themselves.
pub fn in_host_function(call: impl FnOnce()) {
    let outer = IN_HOST_FUNCTION.replace(true);
    call();
    IN_HOST_FUNCTION.set(outer);
}

/// Whether the calling thread is inside a host function of a driver.
pub fn is_in_host_function() -> bool {
    IN_HOST_FUNCTION.get()
}

/// How a prefetch on a driver's stream is divided.
pub struct Registered {
    /// Whether the driver does a part of it.
    pub with_driver: bool,
    /// The ranges that a host function is to prefetch after it.
    pub left: Vec<PageRange>,
}

/// The type of a host function.
pub type HostFunction = extern "C" fn(*mut c_void);
