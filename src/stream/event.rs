//! Events: places in streams that others can wait for.

use std::any::Any;

use super::caller;
use super::pool::Pool;
use super::queue::Stream;
use super::sync::{self, Arc, AtomicBool, Condvar, Mutex, MutexGuard, Ordering, PoisonError};
use crate::error::{Error, Result};

/// What a place in a stream is to someone else.
pub type Note = std::sync::Arc<dyn Any + Send + Sync>;

/// One recording of an event: a place in a stream, which its work passes once.
pub struct Point {
    event: usize,
    passed: AtomicBool,
    state: Mutex<State>,
    /// Signalled once, when it is passed.
    progress: Condvar,
}

#[derive(Default)]
struct State {
    /// The stream it lies in, until it is passed.
    on: Option<Arc<Stream>>,
    /// Whatever whoever recorded it wants to find again.
    note: Option<Note>,
    /// Streams of libgmem's own that have come to wait for it.
    held: Vec<Arc<Stream>>,
    /// How many were told to; there is room for as many.
    expected: usize,
    /// Threads that wait.
    waiters: usize,
}

impl Point {
    /// A place in the stream `on`, recorded for the event with the handle `event`.
    pub(super) fn new(event: usize, on: Arc<Stream>) -> Self {
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

    /// Keep something with it.
    pub(super) fn note(&self, note: Note) {
        self.lock().note = Some(note);
    }

    /// What is kept with it.
    pub(super) fn noted(&self) -> Option<Note> {
        self.lock().note.clone()
    }

    /// The stream's work has come here: whoever waits goes on.
    pub(super) fn pass(&self) {
        let (held, on) = {
            let mut state = self.lock();
            self.passed.store(true, Ordering::Release);
            if state.waiters > 0 {
                self.progress.notify_all();
            }
            (std::mem::take(&mut state.held), state.on.take())
        };
        drop(on);
        held.into_iter().for_each(Stream::go_on);
    }

    /// A stream is told to wait: makes the room for it, so that waiting itself cannot fail.
    pub(super) fn expect_one(&self) -> Result<()> {
        let mut state = self.lock();
        state.expected += 1;
        let room = state.expected;
        match state.held.try_reserve(room) {
            Ok(()) => Ok(()),
            Err(_) => Err(Error::OutOfMemory { what: "a stream that waits for an event" }),
        }
    }

    /// Keep a stream that has come to wait until the point is passed; false if it is already.
    pub(super) fn hold(&self, stream: &Arc<Stream>) -> bool {
        let mut state = self.lock();
        if self.is_passed() {
            return false;
        }
        state.held.push(Arc::clone(stream));
        true
    }

    /// Have the calling thread wait.
    pub(super) fn wait(&self, pool: &Arc<Pool>) -> Result<()> {
        if self.is_passed() {
            return Ok(());
        }
        if self.lock().on.as_ref().is_some_and(|stream| stream.is_served_by_caller()) {
            return Err(Error::SelfSynchronize { what: "event", handle: self.event });
        }
        // A thread that serves streams cannot serve while it waits.
        let aside = if caller::is_in_pool() { Some(pool.step_aside()?) } else { None };
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

/// What a handle of an event stands for: its latest recording.
#[derive(Default)]
pub(super) struct Event {
    latest: Mutex<Option<Arc<Point>>>,
}

impl Event {
    /// What there is to wait for, if anything still is.
    pub(super) fn pending(&self) -> Option<Arc<Point>> {
        self.lock().as_ref().filter(|point| !point.is_passed()).map(Arc::clone)
    }

    /// Record it with `register`, which puts the point into its stream; if that fails, the event stands
    /// for what it stood for.
    pub(super) fn record(
        &self,
        point: Point,
        register: impl FnOnce(Arc<Point>) -> Result<()>,
    ) -> Result<()> {
        let point = Arc::new(point);
        register(Arc::clone(&point))?;
        *self.lock() = Some(point);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<Point>>> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
