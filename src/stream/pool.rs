//! The threads that serve streams. There are none before the first stream, then one per stream with
//! work, of which at most [`MAX_THREADS`] run at a time. They live until the process ends.

use std::collections::VecDeque;
use std::time::Instant;

use super::current_thread;
use super::sync::{self, Arc, Condvar, Mutex, MutexGuard, PoisonError};
use crate::error::{Error, Result};
use crate::os::own_faults;
use crate::reserve;

/// Threads that serve at the same time. Threads that wait for another stream do not count.
const MAX_THREADS: usize = 4;
/// More than the objects take that live as long as a thread.
const THREAD_BYTES: usize = 4096;

/// A stream, as the pool and event points see it.
pub(super) trait Served: Send + Sync {
    /// Run one batch on the calling thread of the pool.
    fn serve(self: Arc<Self>) -> Next;

    /// When the stream is due, if it is deferred.
    fn due(&self) -> Option<Instant>;

    /// Called when the stream is due: whether to serve it now. If more work has arrived, it is deferred again.
    fn end_deferral(&self, now: Instant) -> bool;

    /// Whether the calling thread serves the stream.
    fn is_served_by_caller(&self) -> bool;

    /// Serve the stream again: the event point where it was parked has passed.
    fn resume(self: Arc<Self>);
}

/// How the pool goes on with a stream that it has served.
pub(super) enum Next {
    /// Serve it again: more work has arrived.
    Again,
    /// Defer it: only deferrable work has arrived.
    Defer,
    /// Leave it until it is submitted again.
    Rest,
}

#[derive(Default)]
pub(super) struct Pool {
    state: Mutex<State>,
    /// Signalled when a stream becomes ready, and when a stream is deferred and no thread would
    /// wake in time for it.
    ready: Condvar,
}

#[derive(Default)]
struct State {
    /// Streams with work, in the order in which they got it.
    ready: VecDeque<Arc<dyn Served>>,
    /// Streams whose work is deferred, each with the time when it is due.
    deferred: Vec<(Instant, Arc<dyn Served>)>,
    /// Threads that look for work or run some.
    active: usize,
    /// Active threads that run work.
    busy: usize,
    /// Active threads that sleep until there is work.
    sleeping: usize,
    /// When the first sleeping thread wakes by itself.
    alarm: Option<Instant>,
    /// Makes threads leave once they find nothing to do.
    #[cfg(test)]
    closed: bool,
}

impl Pool {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// Start the first thread.
    pub(super) fn ensure_thread(self: &Arc<Self>) -> Result<()> {
        let mut state = self.lock();
        if state.active == 0 { self.start(&mut state) } else { Ok(()) }
    }

    /// Make room for this number of streams, so that serving one of them needs no memory.
    pub(super) fn reserve(&self, streams: usize) -> Result<()> {
        let State { ready, deferred, .. } = &mut *self.lock();
        ready
            .try_reserve(streams.saturating_sub(ready.len()))
            .and_then(|()| deferred.try_reserve(streams.saturating_sub(deferred.len())))
            .map_err(|_| Error::OutOfMemory { what: "another stream" })
    }

    /// Have a stream with work served.
    pub(super) fn submit(self: &Arc<Self>, stream: Arc<dyn Served>) {
        let mut state = self.lock();
        state.ready.push_back(stream);
        self.assign_thread(state);
    }

    /// Have a stream served when it is due.
    pub(super) fn defer(self: &Arc<Self>, stream: Arc<dyn Served>) {
        let mut state = self.lock();
        let Some(due) = state.defer(stream) else { return };
        if state.active == state.busy && state.active < MAX_THREADS {
            let _ = self.start(&mut state);
        } else if state.sleeping > 0 && state.alarm.is_none_or(|alarm| due < alarm) {
            drop(state);
            self.ready.notify_one();
        }
    }

    /// Have a deferred stream, or one that is about to be deferred, served immediately.
    pub(super) fn flush(self: &Arc<Self>, stream: Arc<dyn Served>) {
        let mut state = self.lock();
        state.deferred.retain(|(_, other)| !Arc::ptr_eq(other, &stream));
        state.ready.push_back(stream);
        self.assign_thread(state);
    }

    /// Let another thread run in place of the calling one, which is about to wait, until the result
    /// is dropped. Refused where no thread would be left to do the work that is waited for.
    pub(super) fn step_aside(self: &Arc<Self>) -> Result<SteppedAside> {
        let mut state = self.lock();
        state.active -= 1;
        state.busy -= 1;
        if state.active == state.busy
            && state.active < MAX_THREADS
            && let Err(failure) = self.start(&mut state)
            && state.active == 0
        {
            state.active += 1;
            state.busy += 1;
            return Err(failure);
        }
        Ok(SteppedAside { pool: Arc::clone(self) })
    }

    /// Give ready streams a thread: a free one, or a new one.
    fn assign_thread(self: &Arc<Self>, mut state: MutexGuard<'_, State>) {
        if state.ready.len() > state.active - state.busy && state.active < MAX_THREADS {
            // If no thread can be started, the existing ones serve the stream later.
            let _ = self.start(&mut state);
        } else if state.sleeping > 0 {
            drop(state);
            self.ready.notify_one();
        }
    }

    /// Mark the calling thread as free. This comes before its waiters are woken, so that their next
    /// piece of work finds a free thread. Otherwise a new one would be started on a thread of the
    /// program, which costs that thread page faults.
    pub(super) fn mark_free(&self) {
        self.lock().busy -= 1;
    }

    fn start(self: &Arc<Self>, state: &mut State) -> Result<()> {
        reserve::ask(THREAD_BYTES, "a thread to serve streams")?;
        let pool = Arc::clone(self);
        sync::start_thread(move || pool.work()).map_err(|errno| Error::NoThread { errno })?;
        state.active += 1;
        Ok(())
    }

    /// The main loop of a thread.
    fn work(self: &Arc<Self>) {
        // Starting is no fault of the program's.
        own_faults::of_this_thread(current_thread::enter_pool);
        let mut state = self.lock();
        loop {
            state.release_due();
            let Some(stream) = state.ready.pop_front() else {
                if state.may_leave() {
                    state.active -= 1;
                    self.hand_over_clock(&mut state);
                    return;
                }
                state = self.sleep(state);
                continue;
            };
            state.busy += 1;
            self.hand_over_clock(&mut state);
            drop(state);
            let next = Arc::clone(&stream).serve();
            state = self.lock();
            match next {
                // At the end, so that one busy stream does not starve the others.
                Next::Again => state.ready.push_back(stream),
                Next::Defer => {
                    state.defer(stream);
                }
                Next::Rest => {}
            }
        }
    }

    fn sleep<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let first = state.deferred.iter().map(|(due, _)| *due).min();
        let alarm = first.filter(|due| state.alarm.is_none_or(|alarm| *due < alarm));
        if alarm.is_some() {
            state.alarm = alarm;
        }
        state.sleeping += 1;
        state = sync::wait(&self.ready, state, alarm);
        state.sleeping -= 1;
        if alarm.is_some() && state.alarm == alarm {
            state.alarm = None;
        }
        state
    }

    /// Wake another thread if need be: the calling thread will not watch the clock for a while, nor
    /// serve what has just become due.
    fn hand_over_clock(self: &Arc<Self>, state: &mut State) {
        let watched = state.deferred.is_empty() || state.alarm.is_some();
        if watched && state.ready.is_empty() {
            return;
        }
        if state.sleeping > 0 {
            self.ready.notify_one();
        } else if state.active == state.busy && state.active < MAX_THREADS {
            let _ = self.start(state);
        }
    }

    /// Have the threads leave when all work is done.
    #[cfg(test)]
    #[allow(dead_code, reason = "the model's pools end; the process's never does")]
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.ready.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Add a deferred stream. `None` if it is no longer deferred, or listed already.
    fn defer(&mut self, stream: Arc<dyn Served>) -> Option<Instant> {
        let due = stream.due()?;
        if self.deferred.iter().any(|(_, other)| Arc::ptr_eq(other, &stream)) {
            return None;
        }
        self.deferred.push((due, stream));
        Some(due)
    }

    /// Move streams that are due, and for which nothing more has arrived, to the ready ones.
    fn release_due(&mut self) {
        if self.deferred.is_empty() {
            return;
        }
        let now = sync::now();
        let Self { ready, deferred, .. } = self;
        deferred.retain_mut(|(due, stream)| {
            if *due > now {
                return true;
            }
            if stream.end_deferral(now) {
                ready.push_back(Arc::clone(stream));
            }
            match stream.due() {
                Some(later) => {
                    *due = later;
                    true
                }
                None => false,
            }
        });
    }

    /// Whether an idle thread is surplus, because threads that had stepped aside are back.
    fn may_leave(&self) -> bool {
        #[cfg(test)]
        if self.closed && self.deferred.is_empty() {
            return true;
        }
        self.active > MAX_THREADS
    }
}

pub(super) struct SteppedAside {
    pool: Arc<Pool>,
}

impl Drop for SteppedAside {
    fn drop(&mut self) {
        let mut state = self.pool.lock();
        state.active += 1;
        state.busy += 1;
    }
}
