//! One stream: a bounded queue that at most one thread serves at a time.
//!
//! The pool serves libgmem's own streams. An external stream is served by the thread on which its
//! executor runs a ticket. Both kinds share this queue.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::current_thread::{self, Serving};
use super::external::External;
use super::pool::{Next, Pool, Served};
use super::spare::Spare;
use super::sync::{
    self, Arc, AtomicU64, AtomicUsize, Condvar, Mutex, MutexGuard, Ordering, PoisonError,
};
use super::work::{self, Done, Failure, Work};
use crate::error::{Error, Result};

/// Work that may wait on one stream. A call beyond it blocks until half of it is done.
const CAPACITY: u64 = 1 << 16;
/// Deferred work is flushed once this much has accumulated.
const HALF_FULL: usize = 1 << 15;
/// Capacity that the queue of an idle stream keeps.
const KEPT_CAPACITY: usize = 8;
/// Work taken in one batch where memory is too short to take all of it.
const SMALL_BATCH: usize = 64;

/// How long deferrable work waits for neighbours: at first, and at most. The delay doubles each
/// time that more work has arrived.
const FIRST_DELAY: Duration = Duration::from_micros(100);
const MAX_DELAY: Duration = Duration::from_millis(4);

/// No thread waits.
const NOBODY: u64 = u64::MAX;

pub(super) struct Stream {
    handle: usize,
    pool: Arc<Pool>,
    spare: Arc<Spare>,
    /// The executor that serves the stream; `None` for the pool.
    external: Option<External>,
    state: Mutex<State>,
    /// Pieces of work done since the beginning. Counted without the lock, which is for registering.
    completed: AtomicU64,
    /// The value of `completed` at which waiters are woken.
    wake_at: AtomicU64,
    /// Signalled when `completed` reaches `wake_at`.
    progress: Condvar,
    /// Id of the thread that serves the stream; 0 for none.
    server: AtomicUsize,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Work>,
    /// Empty queue left by a batch, kept for its capacity.
    spare: VecDeque<Work>,
    /// External streams only: whether the executor has reached the ticket of each entry of
    /// `waiting`.
    reached: VecDeque<bool>,
    /// Number of entries of `waiting` that wait for events.
    waits: usize,
    /// Pieces of work since the beginning. Those not completed are waiting or running.
    registered: u64,
    phase: Phase,
    /// Deferred work must be done now.
    flush: bool,
    /// The first failure since the last synchronize.
    failure: Option<Failure>,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing waits, or the executor has not reached what waits.
    #[default]
    Idle,
    /// All waiting work is deferrable.
    Deferred(Deferral),
    /// Queued in the pool, being served, or parked at an event point.
    Busy,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Deferral {
    due: Instant,
    step: Duration,
    since: Instant,
    /// Work registered when the delay was last set.
    registered: u64,
}

impl Deferral {
    fn new(registered: u64) -> Self {
        let now = sync::now();
        Self { due: now + FIRST_DELAY, step: FIRST_DELAY, since: now, registered }
    }

    /// A longer delay if more work has arrived, else `None`.
    fn extended(self, now: Instant, registered: u64) -> Option<Self> {
        let step = 2 * self.step;
        let due = now + step;
        let goes_on = registered > self.registered && due - self.since <= MAX_DELAY;
        goes_on.then_some(Self { due, step, registered, ..self })
    }
}

/// Outcome of registering work on an external stream.
enum Pushed {
    /// The work has this number.
    At(u64),
    /// There was no space for the work.
    Full(Work),
}

impl Stream {
    pub(super) fn new(
        handle: usize,
        pool: Arc<Pool>,
        spare: Arc<Spare>,
        external: Option<External>,
    ) -> Self {
        Self {
            handle,
            pool,
            spare,
            external,
            state: Mutex::default(),
            completed: AtomicU64::new(0),
            wake_at: AtomicU64::new(NOBODY),
            progress: Condvar::new(),
            server: AtomicUsize::new(0),
        }
    }

    pub(super) fn external(&self) -> Option<&External> {
        self.external.as_ref()
    }

    // ---- registering and waiting -----------------------------------------------------------

    pub(super) fn enqueue(self: Arc<Self>, work: Work) -> Result<()> {
        match &self.external {
            Some(external) => self.enqueue_external(external, work),
            None => self.enqueue_own(work),
        }
    }

    fn enqueue_own(self: Arc<Self>, work: Work) -> Result<()> {
        let deferrable = work.is_deferrable();
        let mut state = self.with_space()?;
        self.push(&mut state, work)?;
        state.flush |= !deferrable || state.waiting.len() >= HALF_FULL;
        let before = state.phase;
        state.phase = match before {
            Phase::Idle if !state.flush => Phase::Deferred(Deferral::new(state.registered)),
            Phase::Deferred(_) if !state.flush => before,
            _ => Phase::Busy,
        };
        let after = state.phase;
        drop(state);
        if before != after {
            let pool = Arc::clone(&self.pool);
            match before {
                Phase::Deferred(_) => pool.flush(self),
                _ if after == Phase::Busy => pool.submit(self),
                _ => pool.defer(self),
            }
        }
        Ok(())
    }

    /// Lock the state once there is space in the queue.
    fn with_space(&self) -> Result<MutexGuard<'_, State>> {
        let mut state = self.lock();
        while state.registered - self.completed.load(Ordering::Acquire) > CAPACITY {
            if current_thread::is_serving() {
                // Waiting here could mean waiting for the calling thread itself.
                return Err(Error::StreamFull { handle: self.handle, limit: CAPACITY });
            }
            let enough = state.registered - CAPACITY / 2;
            state = self.wait_for(state, enough);
        }
        Ok(state)
    }

    fn push(&self, state: &mut State, work: Work) -> Result<()> {
        let queue = &mut state.waiting;
        if queue.len() == queue.capacity() && (1..=KEPT_CAPACITY).contains(&queue.len()) {
            // Use the queue that another stream left instead of growing in steps.
            let mut larger = self.spare.take();
            if larger.capacity() > queue.len() {
                larger.append(queue);
                *queue = larger;
            }
        }
        if state.waiting.try_reserve(1).is_err() {
            return Err(Error::OutOfMemory { what: "a place in the stream's queue" });
        }
        state.waits += usize::from(matches!(work, Work::Wait(_)));
        state.waiting.push_back(work);
        state.registered += 1;
        Ok(())
    }

    pub(super) fn is_idle(self: &Arc<Self>) -> bool {
        let idle = {
            let state = self.lock();
            state.registered == self.completed.load(Ordering::Acquire)
        };
        if !idle {
            // The caller wants the work done.
            self.flush();
        }
        idle
    }

    pub(super) fn synchronize(self: &Arc<Self>) -> Result<()> {
        if self.is_served_by_caller() {
            return Err(Error::SelfSynchronize { what: "stream", handle: self.handle });
        }
        let target = self.lock().registered;
        let done = self.completed.load(Ordering::Acquire) >= target;
        if !done {
            self.flush();
        }
        // A thread of the pool cannot serve while it waits.
        let aside = if current_thread::is_in_pool() && !done {
            Some(self.pool.step_aside()?)
        } else {
            None
        };
        let mut state = self.wait_for(self.lock(), target);
        // Failures of work registered after this call belong to a later synchronize.
        let failure = state.failure.take_if(|failure| failure.index < target);
        drop(state);
        drop(aside);
        match failure {
            None => Ok(()),
            Some(failure) => Err(Error::InStream {
                handle: self.handle,
                number: failure.index + 1,
                what: failure.what,
                error: Box::new(failure.error),
            }),
        }
    }

    /// Wait until `target` pieces of work are completed.
    fn wait_for<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        target: u64,
    ) -> MutexGuard<'a, State> {
        loop {
            // Store before load: `complete` does the two in reverse order, so no wake-up is lost.
            self.wake_at.fetch_min(target, Ordering::SeqCst);
            if self.completed.load(Ordering::SeqCst) >= target {
                return state;
            }
            state = sync::wait(&self.progress, state, None);
        }
    }

    /// Have deferred work done now.
    fn flush(self: &Arc<Self>) {
        let was_deferred = {
            let mut state = self.lock();
            state.flush = true;
            let is_deferred = matches!(state.phase, Phase::Deferred(_));
            if is_deferred {
                state.phase = Phase::Busy;
            }
            is_deferred
        };
        if was_deferred {
            self.pool.flush(self.clone());
        }
    }

    /// Whether any thread waits.
    #[cfg(test)]
    pub(super) fn is_waited_for(&self) -> bool {
        self.wake_at.load(Ordering::SeqCst) != NOBODY
    }

    // ---- serving ---------------------------------------------------------------------------

    /// Serve an external stream up to the last ticket reached, on a thread of its executor.
    pub(super) fn serve_reached(self: &Arc<Self>) {
        let mut batch = VecDeque::new();
        loop {
            let blocked_on = {
                let mut state = self.lock();
                if state.reached.front() != Some(&true) {
                    state.phase = Phase::Idle;
                    return;
                }
                self.take(&mut state, &mut batch);
                let first = state.waiting.front().filter(|_| batch.is_empty());
                first.and_then(Work::blocked_on).map(Arc::clone)
            };
            let _serving = Serving::note(&self.server);
            if let Some(point) = blocked_on {
                // Block the executor's thread, because the executor's own work behind this ticket
                // must wait too.
                if let Err(error) = point.wait(&self.pool) {
                    self.skip_front(error);
                }
                continue;
            }
            let last = work::run_all(&mut batch, |done| self.complete(done));
            self.complete(last);
        }
    }

    /// Drop the wait at the front, which cannot be done, and record why.
    fn skip_front(&self, error: Error) {
        let mut state = self.lock();
        state.waiting.pop_front();
        state.reached.pop_front();
        state.waits -= 1;
        drop(state);
        let failure = Failure { index: 0, what: "waiting for an event".into(), error };
        self.complete(Done { count: 1, failure: Some(failure), point: None });
    }

    /// Move the work that can be done now into `batch`.
    fn take(&self, state: &mut State, batch: &mut VecDeque<Work>) {
        state.flush = false;
        if self.external.is_none() && state.waits == 0 {
            std::mem::swap(&mut state.waiting, batch);
            return;
        }
        let own = self.external.is_none();
        let reached = state.reached.iter().copied().chain(std::iter::repeat(own));
        let ready = |(work, reached): &(&Work, bool)| *reached && work.blocked_on().is_none();
        let mut count = state.waiting.iter().zip(reached).take_while(ready).count();
        if batch.try_reserve(count).is_err() {
            count = count.min(SMALL_BATCH);
        }
        batch.extend(state.waiting.drain(..count));
        state.reached.drain(..count.min(state.reached.len()));
        state.waits -= batch.iter().filter(|work| matches!(work, Work::Wait(_))).count();
        // The next call looks again at the work left here.
        state.flush = !state.waiting.is_empty();
    }

    fn complete(&self, done: Done) {
        if let Some(failure) = done.failure {
            self.fail(failure);
        }
        if let Some(point) = done.point {
            point.pass();
        }
        let count = done.count as u64;
        let completed = self.completed.fetch_add(count, Ordering::SeqCst) + count;
        if completed >= self.wake_at.load(Ordering::SeqCst) {
            let state = self.lock();
            self.wake_at.store(NOBODY, Ordering::SeqCst);
            self.progress.notify_all();
            drop(state);
        }
    }

    fn fail(&self, failure: Failure) {
        let index = failure.index + self.completed.load(Ordering::Relaxed);
        self.lock().failure.get_or_insert(Failure { index, ..failure });
    }

    // ---- external streams ------------------------------------------------------------------

    fn enqueue_external(self: &Arc<Self>, external: &External, work: Work) -> Result<()> {
        let mut work = work;
        let (number, _gate) = loop {
            let gate = external.enter();
            if external.is_closed() {
                return Err(Error::UnknownStream { handle: self.handle });
            }
            match self.push_ticket(work)? {
                Pushed::At(number) => break (number as u32, gate),
                Pushed::Full(back) => work = back,
            }
            // The thread that makes space may be waiting for the gate.
            drop(gate);
            drop(self.with_space()?);
        };
        external.launch(number).inspect_err(|_| self.reach(number, Some(Work::Refused)))
    }

    /// Register work that gets a ticket.
    fn push_ticket(&self, work: Work) -> Result<Pushed> {
        let mut state = self.lock();
        if state.registered - self.completed.load(Ordering::Acquire) > CAPACITY {
            return Ok(Pushed::Full(work));
        }
        if state.reached.try_reserve(1).is_err() {
            return Err(Error::OutOfMemory { what: "a place in the stream's queue" });
        }
        self.push(&mut state, work)?;
        state.reached.push_back(false);
        Ok(Pushed::At(state.registered - 1))
    }

    /// Record that the executor has reached the ticket ending in `number`, or never will: then
    /// `left` replaces the work. Runs what has become ready, unless another thread does.
    pub(super) fn reach(self: &Arc<Self>, number: u32, left: Option<Work>) {
        let mut guard = self.lock();
        let state = &mut *guard;
        let first = state.registered - state.waiting.len() as u64;
        let index = number.wrapping_sub(first as u32) as usize;
        match state.reached.get_mut(index) {
            Some(reached) if !*reached => *reached = true,
            // The executor called twice.
            _ => return,
        }
        let unwanted = left.zip(state.waiting.get_mut(index)).and_then(|(left, work)| {
            state.waits -= usize::from(matches!(work, Work::Wait(_)));
            work.give_up(left)
        });
        let serves = index == 0 && state.phase == Phase::Idle;
        if serves {
            state.phase = Phase::Busy;
        }
        drop(guard);
        // Dropped after unlocking, because this may run code of the program.
        drop(unwanted);
        if serves {
            self.serve_reached();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code of the program runs under the lock, so a poisoned state is still consistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Served for Stream {
    fn is_served_by_caller(&self) -> bool {
        self.server.load(Ordering::Relaxed) == current_thread::id()
    }

    fn due(&self) -> Option<Instant> {
        match self.lock().phase {
            Phase::Deferred(deferral) => Some(deferral.due),
            _ => None,
        }
    }

    fn end_deferral(&self, now: Instant) -> bool {
        let mut state = self.lock();
        let Phase::Deferred(deferral) = state.phase else { return false };
        match deferral.extended(now, state.registered) {
            Some(longer) => {
                state.phase = Phase::Deferred(longer);
                false
            }
            None => {
                state.phase = Phase::Busy;
                true
            }
        }
    }

    fn serve(self: Arc<Self>) -> Next {
        let mut batch = VecDeque::new();
        let last = {
            let _serving = Serving::note(&self.server);
            {
                let mut state = self.lock();
                std::mem::swap(&mut state.spare, &mut batch);
                self.take(&mut state, &mut batch);
            }
            // Each piece of work but the last is reported as it is done, so that nobody waits for
            // work registered after theirs.
            work::run_all(&mut batch, |done| self.complete(done))
        };
        self.pool.mark_free();
        self.complete(last);

        let mut state = self.lock();
        let Some(first) = state.waiting.front() else {
            state.phase = Phase::Idle;
            // An idle stream keeps a small queue, so that one piece of work at a time allocates
            // nothing.
            let spare = std::mem::take(&mut state.waiting);
            for queue in [batch, spare] {
                if (1..=KEPT_CAPACITY).contains(&queue.capacity()) {
                    state.waiting = queue;
                } else {
                    self.spare.keep(queue);
                }
            }
            return Next::Rest;
        };
        if let Some(point) = first.blocked_on().map(Arc::clone) {
            drop(state);
            return if point.park(self) { Next::Rest } else { Next::Again };
        }
        state.spare = batch;
        if state.flush || state.waiting.len() >= HALF_FULL {
            return Next::Again;
        }
        state.phase = Phase::Deferred(Deferral::new(state.registered));
        Next::Defer
    }

    fn resume(self: Arc<Self>) {
        let pool = Arc::clone(&self.pool);
        pool.submit(self);
    }
}
