//! Streams of others: an executor runs the work, libgmem keeps it.
//!
//! Each piece of work has a *place* in the executor's order: a number that the executor is given in the way
//! of an argument. When it comes there, what waits in the stream is done as far as places have been reached.
//! So an executor that runs several at once does not turn the order round, and only what it has reached is
//! joined: between two places may lie work of its own. A place is looked up, never followed, so one that comes
//! late, twice, or after the stream has gone does nothing.

use super::caller::{self, Holds};
use super::queue::{Pushed, Stream};
use super::sync::{Arc, AtomicBool, AtomicUsize, Mutex, MutexGuard, Ordering, PoisonError};
use super::work::Work;
use crate::error::{Error, Result};

/// Something that runs functions in order and is not libgmem's.
pub trait Executor: Send + Sync {
    /// Have it call [`reached`](super::reached) with `place` once, in its order, or, where it gives that up,
    /// [`given_up`](super::given_up). It must not wait for the call. After a failure neither happens.
    fn launch(&self, place: usize) -> Result<()>;
}

/// What a stream has that an executor serves.
pub(super) struct Foreign {
    executor: Box<dyn Executor>,
    /// The upper half of each of its places.
    number: u32,
    /// Held while the executor is given a place, so that places and work have one order.
    door: Mutex<()>,
    /// Which thread holds it.
    holder: AtomicUsize,
    closed: AtomicBool,
}

impl Foreign {
    pub(super) fn new(executor: Box<dyn Executor>, number: u32) -> Self {
        Self {
            executor,
            number,
            door: Mutex::new(()),
            holder: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
        }
    }

    pub(super) fn number(&self) -> u32 {
        self.number
    }

    pub(super) fn enqueue(&self, stream: &Arc<Stream>, work: Work) -> Result<()> {
        let mut work = work;
        let (number, _door) = loop {
            let door = self.enter();
            if self.closed.load(Ordering::Acquire) {
                return Err(Error::UnknownStream { handle: stream.handle() });
            }
            match stream.push_place(work)? {
                Pushed::At(number) => break (number as u32, door),
                Pushed::Full(back) => work = back,
            }
            // Whoever makes room may be waiting for the door.
            drop(door);
            stream.wait_for_room()?;
        };
        let place = u64::from(self.number) << 32 | u64::from(number);
        self.executor.launch(place as usize).inspect_err(|_| {
            stream.reach(number, Some(Work::Refused));
        })
    }

    /// Nothing is registered from now on.
    pub(super) fn close(&self) {
        let _door = self.enter();
        self.closed.store(true, Ordering::Release);
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Shuts the door behind the calling thread. An executor that runs things at once comes back to here from
    /// within, and finds it open.
    fn enter(&self) -> Option<Entered<'_>> {
        if self.holder.load(Ordering::Relaxed) == caller::id() {
            return None;
        }
        let door = self.door.lock().unwrap_or_else(PoisonError::into_inner);
        Some(Entered { _holds: Holds::note(&self.holder), _door: door })
    }
}

/// In this order: the note goes before the lock does.
struct Entered<'a> {
    _holds: Holds<'a>,
    _door: MutexGuard<'a, ()>,
}

/// The two halves of a place: which stream, and which of its pieces of work.
pub(super) fn parts(place: usize) -> (u32, u32) {
    let place = place as u64;
    ((place >> 32) as u32, place as u32)
}
