//! One stream: a bounded queue that at most one thread serves at a time.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::pool::Pool;
use super::work::{self, Work};
use crate::error::{Error, Result};

/// Work that may wait on one stream; a call beyond it waits for room.
const CAPACITY: usize = 1 << 16;

thread_local! {
    /// Handle of the stream that this thread is serving, 0 for none.
    static SERVING: Cell<usize> = const { Cell::new(0) };
}

/// Whether the calling thread runs work of some stream.
fn on_a_stream() -> bool {
    SERVING.get() != 0
}

pub(super) struct Stream {
    handle: usize,
    pool: Arc<Pool>,
    state: Mutex<State>,
    /// Signalled after each batch while someone waits.
    progress: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Work>,
    /// Registered and completed since the beginning: the difference is waiting or running.
    registered: u64,
    completed: u64,
    /// With the pool, or being served.
    scheduled: bool,
    /// First failure since the last synchronize, and how much was completed before it.
    failure: Option<(u64, Error)>,
    waiters: usize,
}

impl Stream {
    pub(super) fn new(handle: usize, pool: Arc<Pool>) -> Self {
        Self { handle, pool, state: Mutex::default(), progress: Condvar::new() }
    }

    pub(super) fn enqueue(self: Arc<Self>, work: Work) -> Result<()> {
        let mut state = self.lock();
        if state.waiting.len() >= CAPACITY {
            if on_a_stream() {
                // Waiting here could be waiting for this very thread.
                return Err(Error::StreamFull { handle: self.handle, limit: CAPACITY });
            }
            state = self.wait_until(state, |state| state.waiting.len() < CAPACITY);
        }
        if state.waiting.try_reserve(1).is_err() {
            return Err(Error::OutOfMemory { what: "a place in the stream's queue" });
        }
        state.waiting.push_back(work);
        state.registered += 1;
        let idle = !std::mem::replace(&mut state.scheduled, true);
        drop(state);
        if idle {
            let pool = Arc::clone(&self.pool);
            pool.submit(self);
        }
        Ok(())
    }

    /// How many calls wait on it.
    #[cfg(test)]
    pub(super) fn waiters(&self) -> usize {
        self.lock().waiters
    }

    pub(super) fn is_idle(&self) -> bool {
        let state = self.lock();
        state.completed == state.registered
    }

    pub(super) fn synchronize(&self) -> Result<()> {
        if SERVING.get() == self.handle {
            return Err(Error::SelfSynchronize { handle: self.handle });
        }
        let (target, done) = {
            let state = self.lock();
            (state.registered, state.completed == state.registered)
        };
        // A thread that serves streams cannot serve while it waits.
        let place = if on_a_stream() && !done { Some(self.pool.step_aside()?) } else { None };
        let mut state = self.wait_until(self.lock(), |state| state.completed >= target);
        // What was registered after this call is a later one's business, its failure too.
        let failure = match state.failure {
            Some((at, _)) if at < target => state.failure.take(),
            _ => None,
        };
        drop(state);
        drop(place);
        failure.map_or(Ok(()), |(_, failure)| Err(failure))
    }

    /// Run one batch. Returns whether more has come meanwhile; the caller then serves again.
    pub(super) fn serve(&self) -> bool {
        let mut batch = std::mem::take(&mut self.lock().waiting);
        let outer = SERVING.replace(self.handle);
        // All but the last piece of work is reported from here, so that nobody waits for what was
        // registered after they asked.
        let last = work::run_all(&mut batch, |count, outcome| {
            self.complete(&mut self.lock(), count, outcome);
        });
        SERVING.set(outer);
        self.pool.free_again();

        let mut state = self.lock();
        if state.waiting.capacity() == 0 {
            state.waiting = batch;
        }
        self.complete(&mut state, last.0, last.1);
        state.scheduled = !state.waiting.is_empty();
        state.scheduled
    }

    fn complete(&self, state: &mut State, count: usize, outcome: Result<()>) {
        if let Err(failure) = outcome {
            let at = state.completed;
            state.failure.get_or_insert((at, failure));
        }
        state.completed += count as u64;
        if state.waiters > 0 {
            self.progress.notify_all();
        }
    }

    fn wait_until<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        done: impl Fn(&State) -> bool,
    ) -> MutexGuard<'a, State> {
        state.waiters += 1;
        while !done(&state) {
            state = self.progress.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.waiters -= 1;
        state
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code of the user's runs under the lock, so a poisoned one is still consistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
