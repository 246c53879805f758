//! External streams: an executor outside libgmem runs the work, libgmem keeps it.
//!
//! Each piece of work has a *ticket*: a number that the executor gets as the argument of its function. When the
//! executor reaches it, the stream does the waiting work up to the last ticket reached in order. An executor
//! that runs several functions concurrently therefore cannot reorder the work. Ranges are joined only up to the
//! last ticket reached, because work of the executor's own may lie between two tickets. A ticket is looked up,
//! never followed as a pointer: one that comes late, twice, or after the stream has gone does nothing.

use super::current_thread::{self, ThreadNote};
use super::sync::{AtomicBool, AtomicUsize, Mutex, MutexGuard, Ordering, PoisonError};
use crate::error::Result;

/// Runs functions in order, outside libgmem.
pub trait Executor: Send + Sync {
    /// Have the executor call [`reached`](super::reached) with `ticket` once, in its order, or
    /// [`dropped`](super::dropped) if it gives the work up. It must not wait for the call. After a failure it
    /// calls neither.
    fn launch(&self, ticket: usize) -> Result<()>;
}

/// A piece of work of an external stream, packed into one number for the executor.
#[derive(Clone, Copy)]
pub(super) struct Ticket {
    /// Number of the stream.
    pub stream: u32,
    /// Lower half of the number of the work on that stream.
    pub work: u32,
}

impl Ticket {
    pub(super) fn unpack(ticket: usize) -> Self {
        let ticket = ticket as u64;
        Self { stream: (ticket >> 32) as u32, work: ticket as u32 }
    }

    fn pack(self) -> usize {
        (u64::from(self.stream) << 32 | u64::from(self.work)) as usize
    }
}

/// The part of a stream that only external streams have.
pub(super) struct External {
    executor: Box<dyn Executor>,
    /// Number of the stream in its tickets.
    number: u32,
    /// Held while the executor is given a ticket, so that tickets and work have the same order.
    gate: Mutex<()>,
    /// Id of the thread that holds `gate`.
    holder: AtomicUsize,
    closed: AtomicBool,
}

impl External {
    pub(super) fn new(executor: Box<dyn Executor>, number: u32) -> Self {
        Self {
            executor,
            number,
            gate: Mutex::new(()),
            holder: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
        }
    }

    pub(super) fn number(&self) -> u32 {
        self.number
    }

    /// Give the executor a ticket for the work with this number.
    pub(super) fn launch(&self, work: u32) -> Result<()> {
        self.executor.launch(Ticket { stream: self.number, work }.pack())
    }

    /// Refuse work from now on.
    pub(super) fn close(&self) {
        let _gate = self.enter();
        self.closed.store(true, Ordering::Release);
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Lock the gate. `None` if the calling thread holds it: an executor that runs functions immediately comes
    /// back here from within `launch`.
    pub(super) fn enter(&self) -> Option<Entered<'_>> {
        if self.holder.load(Ordering::Relaxed) == current_thread::id() {
            return None;
        }
        let gate = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
        Some(Entered { _note: ThreadNote::note(&self.holder), _gate: gate })
    }
}

/// Fields drop in this order: the thread's id goes before the lock does.
pub(super) struct Entered<'a> {
    _note: ThreadNote<'a>,
    _gate: MutexGuard<'a, ()>,
}
