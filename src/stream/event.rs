//! Events: points in streams that other streams and threads can wait for.

use std::any::Any;

use super::current_thread;
use super::pool::{Pool, Served};
use super::sync::{self, Arc, AtomicBool, Condvar, Mutex, MutexGuard, Ordering, PoisonError};
use crate::error::{Error, Result};

/// Data that the recorder of an event keeps with an event point.
pub type Note = std::sync::Arc<dyn Any + Send + Sync>;

/// One recording of an event: a point in a stream, which the stream passes once.
pub struct EventPoint {
    event: usize,
    passed: AtomicBool,
    state: Mutex<State>,
    /// Signalled once, when the point has passed.
    progress: Condvar,
}

#[derive(Default)]
struct State {
    /// The stream that the point is in, until it has passed.
    on: Option<Arc<dyn Served>>,
    /// Kept for the recorder.
    note: Option<Note>,
    /// libgmem's own streams that wait here.
    parked: Vec<Arc<dyn Served>>,
    /// Streams that will wait; `parked` has the capacity for them.
    expected: usize,
    /// Threads that wait here.
    waiters: usize,
}

impl EventPoint {
    /// A point in the stream `on` for the event with the handle `event`.
    pub(super) fn new(event: usize, on: Arc<dyn Served>) -> Self {
        let state = State { on: Some(on), ..State::default() };
        Self {
            event,
            passed: AtomicBool::new(false),
            state: Mutex::new(state),
            progress: Condvar::new(),
        }
    }

    pub(super) fn is_passed(&self) -> bool {
        self.passed.load(Ordering::Acquire)
    }

    /// Keep the recorder's data.
    pub(super) fn note(&self, note: Note) {
        self.lock().note = Some(note);
    }

    /// The recorder's data.
    pub(super) fn noted(&self) -> Option<Note> {
        self.lock().note.clone()
    }

    /// The stream has reached the point: resume its waiters.
    pub(super) fn pass(&self) {
        let (parked, on) = {
            let mut state = self.lock();
            self.passed.store(true, Ordering::Release);
            if state.waiters > 0 {
                self.progress.notify_all();
            }
            (std::mem::take(&mut state.parked), state.on.take())
        };
        drop(on);
        parked.into_iter().for_each(Served::resume);
    }

    /// Reserve capacity for one more stream that will wait, so that waiting itself cannot fail.
    pub(super) fn reserve_waiter(&self) -> Result<()> {
        let mut state = self.lock();
        state.expected += 1;
        let expected = state.expected;
        match state.parked.try_reserve(expected) {
            Ok(()) => Ok(()),
            Err(_) => Err(Error::OutOfMemory { what: "a stream that waits for an event" }),
        }
    }

    /// Keep a stream until the point has passed. False if it has passed already.
    pub(super) fn park(&self, stream: Arc<dyn Served>) -> bool {
        let mut state = self.lock();
        if self.is_passed() {
            return false;
        }
        state.parked.push(stream);
        true
    }

    /// Let the calling thread wait until the point has passed.
    pub(super) fn wait(&self, pool: &Arc<Pool>) -> Result<()> {
        if self.is_passed() {
            return Ok(());
        }
        if self.lock().on.as_ref().is_some_and(|stream| stream.is_served_by_caller()) {
            return Err(Error::SelfSynchronize { what: "event", handle: self.event });
        }
        // A thread of the pool cannot serve while it waits.
        let aside = if current_thread::is_in_pool() { Some(pool.step_aside()?) } else { None };
        let mut state = self.lock();
        state.waiters += 1;
        while !self.is_passed() {
            state = sync::wait(&self.progress, state, None);
        }
        state.waiters -= 1;
        drop(state);
        drop(aside);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The object behind an event's handle: its latest recording.
#[derive(Default)]
pub(super) struct Event {
    latest: Mutex<Option<Arc<EventPoint>>>,
}

impl Event {
    /// The latest point, unless it has passed.
    pub(super) fn pending(&self) -> Option<Arc<EventPoint>> {
        self.lock().as_ref().filter(|point| !point.is_passed()).map(Arc::clone)
    }

    /// Record the event; `register` puts the point into its stream. If that fails, the event keeps its point.
    pub(super) fn record(
        &self,
        point: EventPoint,
        register: impl FnOnce(Arc<EventPoint>) -> Result<()>,
    ) -> Result<()> {
        let point = Arc::new(point);
        register(Arc::clone(&point))?;
        *self.lock() = Some(point);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<EventPoint>>> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
