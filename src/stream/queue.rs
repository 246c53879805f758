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
    /// First failure since the last synchronize.
    failure: Option<Error>,
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

    pub(super) fn is_idle(&self) -> bool {
        let state = self.lock();
        state.completed == state.registered
    }

    pub(super) fn synchronize(&self) -> Result<()> {
        if SERVING.get() == self.handle {
            return Err(Error::SelfSynchronize { handle: self.handle });
        }
        let mut state = self.lock();
        let target = state.registered;
        if state.completed < target {
            if on_a_stream() {
                // This thread cannot serve while it waits: another one takes its place.
                let _place = self.pool.step_aside();
                state = self.wait_until(state, |state| state.completed >= target);
            } else {
                state = self.wait_until(state, |state| state.completed >= target);
            }
        }
        state.failure.take().map_or(Ok(()), Err)
    }

    /// Run one batch. Returns whether more has come meanwhile; the caller then serves again.
    pub(super) fn serve(&self) -> bool {
        let batch = std::mem::take(&mut self.lock().waiting);
        let served = batch.len() as u64;
        let outer = SERVING.replace(self.handle);
        let outcome = work::run_all(batch);
        SERVING.set(outer);
        self.pool.free_again();

        let mut state = self.lock();
        state.completed += served;
        if let Err(failure) = outcome {
            state.failure.get_or_insert(failure);
        }
        if state.waiters > 0 {
            self.progress.notify_all();
        }
        state.scheduled = !state.waiting.is_empty();
        state.scheduled
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
