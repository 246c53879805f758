//! One stream: a bounded queue that at most one thread serves at a time.
//!
//! Who serves it: the pool, or, where the stream is a foreign one, whichever thread its executor has run a
//! place of it. What they have in common, and what waits, is here.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::caller::{self, Serving};
use super::foreign::Foreign;
use super::pool::Pool;
use super::sync::{
    self, Arc, AtomicU64, AtomicUsize, Condvar, Mutex, MutexGuard, Ordering, PoisonError,
};
use super::work::{self, Done, Failure, Work};
use crate::error::{Error, Result};

/// Work that may wait on one stream; a call beyond it waits until half of it is done.
const CAPACITY: u64 = 1 << 16;
/// So much of it is not kept waiting for more.
const FILLING: usize = 1 << 15;
/// Room for waiting work that an idle stream keeps.
const KEPT: usize = 8;
/// Work taken at once where there is no memory to take all of it.
const FEW: usize = 64;

/// How long patient work waits for more of its kind: at first, and in all. Each time that more has come it
/// waits twice as long again.
const FIRST_WAIT: Duration = Duration::from_micros(100);
const LONGEST_WAIT: Duration = Duration::from_millis(4);

/// Nobody waits.
const NOBODY: u64 = u64::MAX;

pub(super) struct Stream {
    handle: usize,
    pool: Arc<Pool>,
    /// The executor that runs it, if that is not the pool.
    foreign: Option<Foreign>,
    state: Mutex<State>,
    /// Pieces of work done since the beginning. Counted without the lock, which belongs to those who register.
    completed: AtomicU64,
    /// Someone wants to hear when so many are.
    wake_at: AtomicU64,
    /// Signalled then.
    progress: Condvar,
    /// Which thread serves it, 0 for none.
    server: AtomicUsize,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Work>,
    /// Room that a batch has left behind.
    spare: VecDeque<Work>,
    /// Of a foreign stream: whether the executor has come to the place of each of `waiting`.
    reached: VecDeque<bool>,
    /// Of `waiting`: how many wait for events.
    waits: usize,
    /// Pieces of work since the beginning. What is not completed is waiting or running.
    registered: u64,
    phase: Phase,
    /// Something that waits, or someone, is in a hurry.
    hurry: bool,
    /// The first failure since the last synchronize.
    failure: Option<Failure>,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing waits, or nothing that its turn has come for.
    #[default]
    Idle,
    /// All that waits is patient.
    Lingering(Patience),
    /// With the pool, being served, or held by an event.
    Busy,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Patience {
    due: Instant,
    step: Duration,
    since: Instant,
    /// What was registered by then.
    registered: u64,
}

impl Patience {
    fn new(registered: u64) -> Self {
        let now = sync::now();
        Self { due: now + FIRST_WAIT, step: FIRST_WAIT, since: now, registered }
    }

    /// For longer, if more has come.
    fn extended(self, now: Instant, registered: u64) -> Option<Self> {
        let step = 2 * self.step;
        let due = now + step;
        let goes_on = registered > self.registered && due - self.since <= LONGEST_WAIT;
        goes_on.then_some(Self { due, step, registered, ..self })
    }
}

/// What became of work for a foreign stream.
pub(super) enum Pushed {
    /// It has this number.
    At(u64),
    /// There was no room for it.
    Full(Work),
}

/// What becomes of a stream that was served.
pub(super) enum Next {
    /// More has come: serve it again.
    Again,
    /// What has come is patient.
    Linger,
    /// Nothing, until someone says so.
    Rest,
}

impl Stream {
    pub(super) fn new(handle: usize, pool: Arc<Pool>, foreign: Option<Foreign>) -> Self {
        Self {
            handle,
            pool,
            foreign,
            state: Mutex::default(),
            completed: AtomicU64::new(0),
            wake_at: AtomicU64::new(NOBODY),
            progress: Condvar::new(),
            server: AtomicUsize::new(0),
        }
    }

    pub(super) fn handle(&self) -> usize {
        self.handle
    }

    pub(super) fn foreign(&self) -> Option<&Foreign> {
        self.foreign.as_ref()
    }

    // ---- those who register, and wait -------------------------------------------------------

    pub(super) fn enqueue(self: Arc<Self>, work: Work) -> Result<()> {
        match &self.foreign {
            Some(foreign) => foreign.enqueue(&self, work),
            None => self.enqueue_own(work),
        }
    }

    fn enqueue_own(self: Arc<Self>, work: Work) -> Result<()> {
        let patient = work.is_patient();
        let mut state = self.with_room()?;
        self.push(&mut state, work)?;
        state.hurry |= !patient || state.waiting.len() >= FILLING;
        let before = state.phase;
        state.phase = match before {
            Phase::Idle if !state.hurry => Phase::Lingering(Patience::new(state.registered)),
            Phase::Lingering(_) if !state.hurry => before,
            _ => Phase::Busy,
        };
        let after = state.phase;
        drop(state);
        if before != after {
            let pool = Arc::clone(&self.pool);
            match before {
                Phase::Lingering(_) => pool.hurry(self),
                _ if after == Phase::Busy => pool.submit(self),
                _ => pool.linger(self),
            }
        }
        Ok(())
    }

    /// Wait until there is room for one more piece of work.
    pub(super) fn wait_for_room(&self) -> Result<()> {
        self.with_room().map(drop)
    }

    /// The state, when there is.
    fn with_room(&self) -> Result<MutexGuard<'_, State>> {
        let mut state = self.lock();
        while state.registered - self.completed.load(Ordering::Acquire) > CAPACITY {
            if caller::is_serving() {
                // Waiting here could be waiting for this very thread.
                return Err(Error::StreamFull { handle: self.handle, limit: CAPACITY });
            }
            let enough = state.registered - CAPACITY / 2;
            state = self.wait_for(state, enough);
        }
        Ok(state)
    }

    fn push(&self, state: &mut State, work: Work) -> Result<()> {
        let queue = &mut state.waiting;
        if queue.len() == queue.capacity() && (1..=KEPT).contains(&queue.len()) {
            // Room that another has left, instead of growing in steps.
            let mut room = self.pool.take_room();
            if room.capacity() > queue.len() {
                room.append(queue);
                *queue = room;
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
            // Whoever asks wants it done.
            self.hurry();
        }
        idle
    }

    pub(super) fn is_served_by_caller(&self) -> bool {
        self.server.load(Ordering::Relaxed) == caller::id()
    }

    pub(super) fn synchronize(self: &Arc<Self>) -> Result<()> {
        if self.is_served_by_caller() {
            return Err(Error::SelfSynchronize { what: "stream", handle: self.handle });
        }
        let target = self.lock().registered;
        let done = self.completed.load(Ordering::Acquire) >= target;
        if !done {
            self.hurry();
        }
        // A thread of the pool cannot serve while it waits.
        let aside =
            if caller::is_in_pool() && !done { Some(self.pool.step_aside()?) } else { None };
        let mut state = self.wait_for(self.lock(), target);
        // What was registered after this call is a later one's business, its failure too.
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

    /// Wait until so much is completed.
    fn wait_for<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        target: u64,
    ) -> MutexGuard<'a, State> {
        loop {
            // In this order, because `complete` does the two the other way round.
            self.wake_at.fetch_min(target, Ordering::SeqCst);
            if self.completed.load(Ordering::SeqCst) >= target {
                return state;
            }
            state = sync::wait(&self.progress, state, None);
        }
    }

    /// Patient work waits no longer.
    fn hurry(self: &Arc<Self>) {
        let lingered = {
            let mut state = self.lock();
            state.hurry = true;
            let lingers = matches!(state.phase, Phase::Lingering(_));
            if lingers {
                state.phase = Phase::Busy;
            }
            lingers
        };
        if lingered {
            self.pool.hurry(Arc::clone(self));
        }
    }

    /// An event that held it has come.
    pub(super) fn go_on(self: Arc<Self>) {
        let pool = Arc::clone(&self.pool);
        pool.submit(self);
    }

    /// Whether anyone waits.
    #[cfg(test)]
    pub(super) fn is_waited_for(&self) -> bool {
        self.wake_at.load(Ordering::SeqCst) != NOBODY
    }

    // ---- those who serve --------------------------------------------------------------------

    /// While it lingers: until when.
    pub(super) fn due(&self) -> Option<Instant> {
        match self.lock().phase {
            Phase::Lingering(patience) => Some(patience.due),
            _ => None,
        }
    }

    /// It is due: whether it is to be served now. If more has come, it waits longer.
    pub(super) fn has_lingered(&self, now: Instant) -> bool {
        let mut state = self.lock();
        let Phase::Lingering(patience) = state.phase else { return false };
        match patience.extended(now, state.registered) {
            Some(longer) => {
                state.phase = Phase::Lingering(longer);
                false
            }
            None => {
                state.phase = Phase::Busy;
                true
            }
        }
    }

    /// Run one batch, on a thread of the pool.
    pub(super) fn serve(self: &Arc<Self>) -> Next {
        let mut batch = VecDeque::new();
        let last = {
            let _serving = Serving::note(&self.server);
            {
                let mut state = self.lock();
                std::mem::swap(&mut state.spare, &mut batch);
                self.take(&mut state, &mut batch);
            }
            // All but the last piece of work is reported from here, so that nobody waits for what was
            // registered after they asked.
            work::run_all(&mut batch, |done| self.complete(done))
        };
        self.pool.free_again();
        self.complete(last);

        let mut state = self.lock();
        let Some(first) = state.waiting.front() else {
            state.phase = Phase::Idle;
            // An idle stream keeps a little room, so that one piece of work at a time asks for none.
            let spare = std::mem::take(&mut state.waiting);
            for room in [batch, spare] {
                if (1..=KEPT).contains(&room.capacity()) {
                    state.waiting = room;
                } else {
                    self.pool.leave_room(room);
                }
            }
            return Next::Rest;
        };
        if let Some(point) = first.held_by().map(Arc::clone) {
            drop(state);
            return if point.hold(self) { Next::Rest } else { Next::Again };
        }
        state.spare = batch;
        if state.hurry || state.waiting.len() >= FILLING {
            return Next::Again;
        }
        state.phase = Phase::Lingering(Patience::new(state.registered));
        Next::Linger
    }

    /// Serve a foreign stream as far as its executor has come, on a thread of the executor's.
    pub(super) fn serve_reached(self: &Arc<Self>) {
        let mut batch = VecDeque::new();
        loop {
            let held_by = {
                let mut state = self.lock();
                if state.reached.front() != Some(&true) {
                    state.phase = Phase::Idle;
                    return;
                }
                self.take(&mut state, &mut batch);
                let first = state.waiting.front().filter(|_| batch.is_empty());
                first.and_then(Work::held_by).map(Arc::clone)
            };
            let _serving = Serving::note(&self.server);
            if let Some(point) = held_by {
                // Here, because what is the executor's own behind this place is to wait, too.
                if let Err(error) = point.wait(&self.pool) {
                    self.pass_by_front(error);
                }
                continue;
            }
            let last = work::run_all(&mut batch, |done| self.complete(done));
            self.complete(last);
        }
    }

    /// The work at the front cannot be waited for.
    fn pass_by_front(&self, error: Error) {
        let mut state = self.lock();
        state.waiting.pop_front();
        state.reached.pop_front();
        state.waits -= 1;
        drop(state);
        let failure = Failure { index: 0, what: "waiting for an event".into(), error };
        self.complete(Done { count: 1, failure: Some(failure), point: None });
    }

    /// Take what may be done now.
    fn take(&self, state: &mut State, batch: &mut VecDeque<Work>) {
        state.hurry = false;
        if self.foreign.is_none() && state.waits == 0 {
            std::mem::swap(&mut state.waiting, batch);
            return;
        }
        let own = self.foreign.is_none();
        let reached = state.reached.iter().copied().chain(std::iter::repeat(own));
        let ready = |(work, reached): &(&Work, bool)| *reached && work.held_by().is_none();
        let mut count = state.waiting.iter().zip(reached).take_while(ready).count();
        if batch.try_reserve(count).is_err() {
            count = count.min(FEW);
        }
        batch.extend(state.waiting.drain(..count));
        state.reached.drain(..count.min(state.reached.len()));
        state.waits -= batch.iter().filter(|work| matches!(work, Work::Wait(_))).count();
        // What is left is looked at again when it is taken.
        state.hurry = !state.waiting.is_empty();
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

    // ---- foreign streams --------------------------------------------------------------------

    /// Register work for which the executor gets a place.
    pub(super) fn push_place(&self, work: Work) -> Result<Pushed> {
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

    /// The executor has come to the place whose number ends in `number`, or will not come there: then `left` is
    /// what is left of the work. Does what can be done now, unless another thread is at it.
    pub(super) fn reach(self: &Arc<Self>, number: u32, left: Option<Work>) {
        let mut guard = self.lock();
        let state = &mut *guard;
        let first = state.registered - state.waiting.len() as u64;
        let index = number.wrapping_sub(first as u32) as usize;
        match state.reached.get_mut(index) {
            Some(reached) if !*reached => *reached = true,
            // An executor that calls twice.
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
        // The user's own, so not under the lock.
        drop(unwanted);
        if serves {
            self.serve_reached();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code of the user's runs under the lock, so a poisoned one is still consistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
