//! Streams of a device's driver, which programs hand over as they are, and what the driver calls in their order.

use std::cell::Cell;
use std::ffi::c_void;

use crate::device::Request;
use crate::error::Result;
use crate::page::PageRange;

/// Streams of a device's driver, which programs hand over as they are.
pub trait DriverStreams: Sync {
    /// Whether a number can be one: told without following it, so that one which is none may pass.
    fn may_be(&self, stream: usize) -> bool;

    /// A stream is going to be launched on, if streams can be used here at all, else why not. Each such call is
    /// followed by one of [`forget`](Self::forget), maybe after another one for the same stream.
    fn begin(&self, _stream: usize) -> Result<()> {
        Ok(())
    }

    /// Have the driver call `function` with `argument` once, in the stream's order, by a thread of its own.
    fn launch(&self, stream: usize, function: HostFunction, argument: usize) -> Result<()>;

    /// What was begun is over: nothing more comes, and all that was launched is done. Called from any thread, also from
    /// within the last function.
    fn forget(&self, _stream: usize) {}

    /// Register with the driver itself what of a prefetch is its to do; the rest, which is returned, is for a function.
    fn prefetch(&self, _stream: usize, request: &Request<'_>) -> Result<Registered> {
        Ok(Registered { with_driver: false, left: vec![request.asked] })
    }

    /// The same for an eager free.
    fn free_eager(&self, _stream: usize, pages: PageRange) -> Result<Vec<PageRange>> {
        Ok(vec![pages])
    }

    /// Wait for what was registered with the driver itself.
    fn synchronize(&self, _stream: usize) -> Result<()> {
        Ok(())
    }

    /// Whether that is done.
    fn is_idle(&self, _stream: usize) -> Result<bool> {
        Ok(true)
    }

    /// What tells a stream from all others, where its name is another stream's for another thread.
    fn identity(&self, stream: usize) -> Result<usize> {
        Ok(stream)
    }

    /// Note what is on a stream by now; `None` leaves waiting for that to functions.
    fn record_event(&self, _stream: usize) -> Result<Option<Box<dyn DriverEvent>>> {
        Ok(None)
    }
}

/// A place in a stream of a driver's, as the driver notes it.
pub trait DriverEvent: Send + Sync {
    /// Have the driver let another of its streams wait for it.
    fn make_wait(&self, stream: usize) -> Result<()>;

    /// Wait for it.
    fn wait(&self) -> Result<()>;

    /// Whether the stream has come to it.
    fn has_completed(&self) -> Result<bool>;
}

thread_local! {
    static IN_HOST_FUNCTION: Cell<bool> = const { Cell::new(false) };
}

/// Call what a driver's stream runs, by a thread of the driver's, from where many drivers forbid calls of their own.
pub fn in_host_function(call: impl FnOnce()) {
    let outer = IN_HOST_FUNCTION.replace(true);
    call();
    IN_HOST_FUNCTION.set(outer);
}

/// Whether the calling thread is there.
pub fn is_in_host_function() -> bool {
    IN_HOST_FUNCTION.get()
}

/// Who does what of a prefetch on a driver's stream.
pub struct Registered {
    /// Whether the driver does any of it.
    pub with_driver: bool,
    /// What a function is to do behind that.
    pub left: Vec<PageRange>,
}

/// What a driver calls.
pub type HostFunction = extern "C" fn(*mut c_void);
