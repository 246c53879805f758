//! The threads that serve streams: none before the first stream, then as many as have work, at most
//! [`MAX_THREADS`] that can run at once. They live until the process ends.

use std::collections::VecDeque;
use std::time::Instant;

use super::caller;
use super::queue::{Next, Stream};
use super::sync::{self, Arc, Condvar, Mutex, MutexGuard, PoisonError, thread};
use super::work::Work;
use crate::error::{Errno, Error, Result};
use crate::os::process;

/// Threads that serve at once; those that wait for another stream do not count.
const MAX_THREADS: usize = 4;
/// Pieces of work that room is kept for, some 640 KiB.
const MOST_ROOM: usize = 1 << 14;

#[derive(Default)]
pub(super) struct Pool {
    state: Mutex<State>,
    /// Signalled when a stream becomes ready, and when one begins to linger that nobody would wake for.
    ready: Condvar,
    /// Room for work that a stream has left when it became idle: the next one that needs much takes it.
    room: Mutex<VecDeque<Work>>,
}

#[derive(Default)]
struct State {
    /// Streams with work, in the order in which they got it.
    ready: VecDeque<Arc<Stream>>,
    /// Streams with work that may wait for more, until when.
    lingering: Vec<(Instant, Arc<Stream>)>,
    /// Threads that look for work or do it.
    able: usize,
    /// Of those, the ones that do.
    busy: usize,
    /// And the ones that wait for some.
    asleep: usize,
    /// When the first of these wakes by itself.
    alarm: Option<Instant>,
    /// Threads that find nothing to do leave.
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
        if state.able == 0 { self.start(&mut state) } else { Ok(()) }
    }

    /// Make room to have so many streams served, so that having one served needs no memory.
    pub(super) fn expect(&self, streams: usize) -> Result<()> {
        let State { ready, lingering, .. } = &mut *self.lock();
        ready
            .try_reserve(streams.saturating_sub(ready.len()))
            .and_then(|()| lingering.try_reserve(streams.saturating_sub(lingering.len())))
            .map_err(|_| Error::OutOfMemory { what: "another stream" })
    }

    /// Have a stream with work served.
    pub(super) fn submit(self: &Arc<Self>, stream: Arc<Stream>) {
        let mut state = self.lock();
        state.ready.push_back(stream);
        self.find_hands(state);
    }

    /// Have a stream served when it is due.
    pub(super) fn linger(self: &Arc<Self>, stream: Arc<Stream>) {
        let mut state = self.lock();
        let Some(due) = state.linger(stream) else { return };
        if state.able == state.busy && state.able < MAX_THREADS {
            let _ = self.start(&mut state);
        } else if state.asleep > 0 && state.alarm.is_none_or(|alarm| due < alarm) {
            drop(state);
            self.ready.notify_one();
        }
    }

    /// A stream that lingered, or is about to, is due at once.
    pub(super) fn hurry(self: &Arc<Self>, stream: Arc<Stream>) {
        let mut state = self.lock();
        state.lingering.retain(|(_, other)| !Arc::ptr_eq(other, &stream));
        state.ready.push_back(stream);
        self.find_hands(state);
    }

    /// Room that a stream has left, if any has.
    pub(super) fn take_room(&self) -> VecDeque<Work> {
        std::mem::take(&mut *self.room.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Keep the room of a stream that is idle, if it is more than what there is.
    pub(super) fn leave_room(&self, mut room: VecDeque<Work>) {
        let mut kept = self.room.lock().unwrap_or_else(PoisonError::into_inner);
        if (kept.capacity() + 1..=MOST_ROOM).contains(&room.capacity()) {
            std::mem::swap(&mut *kept, &mut room);
        }
        drop(kept);
        drop(room);
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
        } else if state.asleep > 0 {
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
    fn work(self: &Arc<Self>) {
        caller::joins_pool();
        let mut state = self.lock();
        loop {
            state.end_lingering();
            let Some(stream) = state.ready.pop_front() else {
                if state.may_leave() {
                    state.able -= 1;
                    self.leave_watch(&mut state);
                    return;
                }
                state = self.sleep(state);
                continue;
            };
            state.busy += 1;
            self.leave_watch(&mut state);
            drop(state);
            let next = stream.serve();
            state = self.lock();
            match next {
                // Behind the others: one busy stream does not keep the rest waiting.
                Next::Again => state.ready.push_back(stream),
                Next::Linger => {
                    state.linger(stream);
                }
                Next::Rest => {}
            }
        }
    }

    fn sleep<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let first = state.lingering.iter().map(|(due, _)| *due).min();
        let alarm = first.filter(|due| state.alarm.is_none_or(|alarm| *due < alarm));
        if alarm.is_some() {
            state.alarm = alarm;
        }
        state.asleep += 1;
        state = sync::wait(&self.ready, state, alarm);
        state.asleep -= 1;
        if alarm.is_some() && state.alarm == alarm {
            state.alarm = None;
        }
        state
    }

    /// The calling thread will look neither at the clock for a while, if any stream lingers, nor at what has just
    /// become due: another has to.
    fn leave_watch(self: &Arc<Self>, state: &mut State) {
        let watched = state.lingering.is_empty() || state.alarm.is_some();
        if watched && state.ready.is_empty() {
            return;
        }
        if state.asleep > 0 {
            self.ready.notify_one();
        } else if state.able == state.busy && state.able < MAX_THREADS {
            let _ = self.start(state);
        }
    }

    /// Have the threads leave when all is done.
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
    /// Note a stream that lingers; `None` if it does so no more, or is noted.
    fn linger(&mut self, stream: Arc<Stream>) -> Option<Instant> {
        let due = stream.due()?;
        if self.lingering.iter().any(|(_, other)| Arc::ptr_eq(other, &stream)) {
            return None;
        }
        self.lingering.push((due, stream));
        Some(due)
    }

    /// What is due and has nothing more to wait for becomes ready.
    fn end_lingering(&mut self) {
        if self.lingering.is_empty() {
            return;
        }
        let now = sync::now();
        let Self { ready, lingering, .. } = self;
        lingering.retain_mut(|(due, stream)| {
            if *due > now {
                return true;
            }
            if stream.has_lingered(now) {
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

    /// Whether a thread with nothing to do is one too many: those that had stepped aside are back.
    fn may_leave(&self) -> bool {
        #[cfg(test)]
        if self.closed && self.lingering.is_empty() {
            return true;
        }
        self.able > MAX_THREADS
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
