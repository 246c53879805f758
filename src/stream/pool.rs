//! The threads that serve streams: none before the first stream, then as many as have work, at most
//! [`MAX_THREADS`] that can run at once. They live until the process ends.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use super::queue::Stream;
use crate::error::{Errno, Error, Result};
use crate::os::process;

/// Threads that serve at once; those that wait for another stream do not count.
const MAX_THREADS: usize = 4;

#[derive(Default)]
pub(super) struct Pool {
    state: Mutex<State>,
    /// Signalled when a stream becomes ready.
    ready: Condvar,
}

#[derive(Default)]
struct State {
    /// Streams with work, in the order in which they got it.
    ready: VecDeque<Arc<Stream>>,
    /// Threads that look for work or do it.
    able: usize,
    /// Of those, the ones that do.
    busy: usize,
}

impl Pool {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// Start the first thread.
    pub(super) fn ensure_thread(self: &Arc<Self>) -> Result<()> {
        let mut state = self.lock();
        if state.able == 0 { self.start(&mut state) } else { Ok(()) }
    }

    /// Have a stream with work served.
    pub(super) fn submit(self: &Arc<Self>, stream: Arc<Stream>) {
        let mut state = self.lock();
        state.ready.push_back(stream);
        self.find_hands(state);
    }

    /// The calling thread of this pool is about to wait: until the result is dropped, another runs in
    /// its place. Refused where that would leave no thread at all to do what is waited for.
    pub(super) fn step_aside(self: &Arc<Self>) -> Result<SteppedAside> {
        let mut state = self.lock();
        state.able -= 1;
        state.busy -= 1;
        if state.able == state.busy
            && state.able < MAX_THREADS
            && let Err(failure) = self.start(&mut state)
            && state.able == 0
        {
            state.able += 1;
            state.busy += 1;
            return Err(failure);
        }
        Ok(SteppedAside { pool: Arc::clone(self) })
    }

    /// See to it that what is ready finds a thread: one that is free, or a new one.
    fn find_hands(self: &Arc<Self>, mut state: MutexGuard<'_, State>) {
        if state.ready.len() > state.able - state.busy && state.able < MAX_THREADS {
            // If none can be started, the threads there are will come to it.
            let _ = self.start(&mut state);
        } else {
            drop(state);
            self.ready.notify_one();
        }
    }

    /// The calling thread has done its stream's work. It says so before whoever waits for that work
    /// hears of it: the next piece then finds a free thread, and none is started on a thread of the
    /// program's, where it would cost page faults.
    pub(super) fn free_again(&self) {
        self.lock().busy -= 1;
    }

    fn start(self: &Arc<Self>, state: &mut State) -> Result<()> {
        let pool = Arc::clone(self);
        let spawned = process::with_signals_blocked(|| {
            thread::Builder::new().name("gmem-stream".into()).spawn(move || pool.work())
        });
        match spawned {
            Ok(_) => {
                state.able += 1;
                Ok(())
            }
            Err(failure) => Err(Error::NoThread {
                errno: Errno(failure.raw_os_error().unwrap_or(libc::EAGAIN)),
            }),
        }
    }

    /// A thread's life.
    fn work(&self) {
        let mut state = self.lock();
        loop {
            let Some(stream) = state.ready.pop_front() else {
                if state.able > MAX_THREADS {
                    // Those that had stepped aside are back.
                    state.able -= 1;
                    return;
                }
                state = self.ready.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            state.busy += 1;
            drop(state);
            let more = stream.serve();
            state = self.lock();
            if more {
                // Behind the others: one busy stream does not keep the rest waiting.
                state.ready.push_back(stream);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) struct SteppedAside {
    pool: Arc<Pool>,
}

impl Drop for SteppedAside {
    fn drop(&mut self) {
        let mut state = self.pool.lock();
        state.able += 1;
        state.busy += 1;
    }
}
