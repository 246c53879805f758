//! Pipelines: bring the parts of models in the order of their use, and drop them, within a budget.
//!
//! All decisions are made when the program says what it wants and what it is done with, which may be long before its stream gets
//! there. They become work on a stream of the pipeline's own: a prefetch, or, behind the event of the last use, a release. So
//! the order is right on every kind of stream, and no thread has to watch.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::weights::Weights;
use crate::device;
use crate::error::{Error, Result};
use crate::os::mapping;
use crate::os::process::PerProcess;
use crate::page::PageRange;
use crate::prefetch;
use crate::stream::{self, Work};
use crate::stream_argument::{self, StreamArgument};

/// The order in which the parts are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// One after the other, once. A part is dropped when it was used.
    Sequence,
    /// One after the other, and again from the first.
    Cycle,
    /// Known late: the part that was used least recently is dropped.
    Any,
}

/// How a pipeline works.
#[derive(Clone, Copy)]
pub struct Options {
    /// Bytes in memory at a time, in whole GMEM pages.
    pub budget: usize,
    /// Parts to bring ahead of the one in use.
    pub look_ahead: usize,
    /// The order of use.
    pub order: Order,
    /// Where the parts are brought.
    pub hnid: i32,
    /// The stream that uses them; `None` if the calling threads do.
    pub stream: StreamArgument,
}

/// The counts of a pipeline.
#[derive(Debug, Clone, Copy, Default)]
pub struct Report {
    /// Calls of `want`.
    pub wants: usize,
    /// Calls of `want` whose part was not there yet, so that its user waited.
    pub waits: usize,
    /// How long they waited, in total.
    pub waited_ns: u64,
    /// Parts that were prefetched, and their bytes.
    pub prefetches: usize,
    /// Bytes of those parts.
    pub bytes: usize,
    /// Parts that were dropped.
    pub drops: usize,
    /// The most bytes in memory at a time, in whole GMEM pages.
    pub peak: usize,
}

/// A pipeline.
pub struct Pipeline {
    options: Options,
    device: usize,
    node: usize,
    /// The stream of prefetches and releases.
    own: usize,
    state: Mutex<State>,
    waiting: Arc<Mutex<Waiting>>,
}

/// How users of parts waited.
#[derive(Default)]
struct Waiting {
    waits: usize,
    nanoseconds: u64,
}

struct State {
    parts: Vec<Part>,
    /// Index of the part that is used next, where the order is known.
    next: usize,
    /// Bytes in memory, or on their way, in whole GMEM pages.
    held: usize,
    /// Counts uses.
    clock: u64,
    report: Report,
}

struct Part {
    range: PageRange,
    /// The GMEM pages that it touches.
    pages: PageRange,
    model: Arc<Weights>,
    /// The prefetch that brought it, if it is in memory or on its way.
    coming: Option<Arc<Mutex<Option<Result<()>>>>>,
    /// Wants without a done.
    users: usize,
    /// When it was last used or asked for, by the clock.
    last_use: u64,
    /// Passes when it is in memory.
    loaded: usize,
    /// Passes when its last use is over. Not recorded without a stream.
    used: usize,
}

impl Pipeline {
    /// A pipeline of ranges, each inside a model.
    pub fn new(ranges: &[PageRange], options: Options) -> Result<Self> {
        let device = options.stream.device()?;
        let node = device::by_index(device).node(options.hnid)?;
        let mut parts = Vec::new();
        if parts.try_reserve_exact(ranges.len()).is_err() {
            return Err(Error::OutOfMemory { what: "the parts of the pipeline" });
        }
        for (index, range) in ranges.iter().enumerate() {
            let in_batch = |error| Error::InBatch { index, error: Box::new(error) };
            let model = super::model_of(*range).map_err(in_batch)?;
            let pages = range.outward(mapping::gmem_page()).intersect(model.range());
            if pages.len() > options.budget {
                let (bytes, budget) = (pages.len(), options.budget);
                return Err(in_batch(Error::BeyondBudget { bytes, budget }));
            }
            parts.push(Part {
                range: *range,
                pages,
                model,
                coming: None,
                users: 0,
                last_use: 0,
                loaded: 0,
                used: 0,
            });
        }
        let own = stream::create()?;
        let state = State { parts, next: 0, held: 0, clock: 0, report: Report::default() };
        let waiting = Arc::default();
        let made = Self { options, device, node, own, state: Mutex::new(state), waiting };
        {
            let mut state = made.lock();
            for part in &mut state.parts {
                part.loaded = stream::create_event()?;
                part.used = stream::create_event()?;
            }
            made.look_ahead(&mut state)?;
        }
        Ok(made)
    }

    /// The caller, or the work registered on the stream from now on, uses a part. Without a stream, it is in memory on return.
    pub fn want(&self, index: usize) -> Result<()> {
        let (coming, loaded) = {
            let mut state = self.lock();
            state.check(index)?;
            state.report.wants += 1;
            state.touch(index);
            if self.options.order != Order::Any {
                state.next = index + 1;
            }
            if !self.bring(&mut state, index, usize::MAX)? {
                return Err(self.no_room(&state, index));
            }
            // Now no other part takes its room.
            state.parts[index].users += 1;
            if let Err(failure) = self.look_ahead(&mut state) {
                state.parts[index].users -= 1;
                return Err(failure);
            }
            let part = &state.parts[index];
            (part.coming.clone().unwrap_or_default(), part.loaded)
        };
        let outcome = match self.options.stream {
            StreamArgument::None => self.wait_for(loaded).and_then(|()| result_of(&coming)),
            stream => self.let_wait(stream, coming, loaded),
        };
        if outcome.is_err() {
            self.lock().parts[index].users -= 1;
        }
        outcome
    }

    /// A part will be wanted soon: bring it, if there is room beside what is in use.
    pub fn soon(&self, index: usize) -> Result<()> {
        let mut state = self.lock();
        state.check(index)?;
        state.touch(index);
        self.bring(&mut state, index, usize::MAX).map(drop)
    }

    /// The caller, or the work registered on the stream so far, has used a part.
    pub fn done(&self, index: usize) -> Result<()> {
        let mut state = self.lock();
        state.check(index)?;
        let part = &state.parts[index];
        if part.users == 0 {
            return Err(Error::NotWanted { index });
        }
        if !matches!(self.options.stream, StreamArgument::None) {
            self.options.stream.record(part.used)?;
        }
        state.parts[index].users -= 1;
        if self.options.order == Order::Sequence && state.parts[index].users == 0 {
            self.drop_part(&mut state, index)?;
        }
        self.look_ahead(&mut state)
    }

    /// The counts so far.
    pub fn report(&self) -> Report {
        let report = self.lock().report;
        let waiting = lock(&self.waiting);
        Report { waits: waiting.waits, waited_ns: waiting.nanoseconds, ..report }
    }

    /// Drop what nobody uses, and end. Without a stream, the memory is back with the kernel on return.
    pub fn end(&self) -> Result<()> {
        let outcome = {
            let mut state = self.lock();
            (0..state.parts.len()).try_for_each(|index| {
                if state.parts[index].users == 0 {
                    self.drop_part(&mut state, index)
                } else {
                    Ok(())
                }
            })
        };
        if matches!(self.options.stream, StreamArgument::None) {
            outcome.and(stream::synchronize(self.own))
        } else {
            outcome
        }
    }

    // ---- decisions ------------------------------------------------------------------------------------

    /// Bring the parts that come next, as far as there is room.
    fn look_ahead(&self, state: &mut State) -> Result<()> {
        let count = state.parts.len();
        for ahead in 0..self.options.look_ahead {
            let index = match self.options.order {
                Order::Sequence => state.next + ahead,
                Order::Cycle => (state.next + ahead) % count.max(1),
                Order::Any => return Ok(()),
            };
            if index >= count || !self.bring(state, index, ahead)? {
                break;
            }
        }
        Ok(())
    }

    /// Have a part brought, unless it is in memory or on its way. `ahead` is how many others are used before; parts that are
    /// used before it are not dropped for it. False if there is no room.
    fn bring(&self, state: &mut State, index: usize, ahead: usize) -> Result<bool> {
        if let Some(coming) = &state.parts[index].coming {
            if !matches!(&*lock(coming), Some(Err(_))) {
                return Ok(true);
            }
            // It failed. It is dropped, and tried again.
            self.drop_part(state, index)?;
        }
        let bytes = state.parts[index].pages.len();
        while state.held + bytes > self.options.budget {
            let Some(victim) = self.victim(state, index, ahead) else { return Ok(false) };
            self.drop_part(state, victim)?;
        }
        let part = &mut state.parts[index];
        let coming = Arc::new(Mutex::new(None));
        let (range, model) = (part.range, Arc::clone(&part.model));
        let (device, node, slot) = (self.device, self.node, Arc::clone(&coming));
        stream::enqueue(
            self.own,
            Work::Task(Box::new(move || {
                let outcome = prefetch::prefetch_now(range, device, node);
                *lock(&slot) = Some(outcome);
                // The addresses stay mapped as long as there is work on them.
                drop(model);
                Ok(())
            })),
        )?;
        part.coming = Some(coming);
        stream::record(part.loaded, self.own, || Ok(None))?;
        state.held += bytes;
        state.report.peak = state.report.peak.max(state.held);
        state.report.prefetches += 1;
        state.report.bytes += range.len();
        Ok(true)
    }

    /// The part to drop for another: nobody uses it, and it is used last, or was used least recently if the order is not known.
    fn victim(&self, state: &State, for_index: usize, ahead: usize) -> Option<usize> {
        let count = state.parts.len();
        let until_use = |index: usize| match self.options.order {
            Order::Sequence if index < state.next => usize::MAX,
            Order::Sequence => index - state.next,
            Order::Cycle => (index + count - state.next % count) % count,
            Order::Any => usize::MAX - usize::try_from(state.parts[index].last_use).unwrap_or(0),
        };
        let is_idle = |index: &usize| {
            let part = &state.parts[*index];
            part.coming.is_some() && part.users == 0 && *index != for_index
        };
        let victim = (0..count).filter(is_idle).max_by_key(|index| until_use(*index))?;
        // A part that is wanted now needs its room in any case.
        (ahead == usize::MAX || until_use(victim) > ahead).then_some(victim)
    }

    /// Drop a part, once its last use is over. Pages that other parts in memory touch stay.
    fn drop_part(&self, state: &mut State, index: usize) -> Result<()> {
        if state.parts[index].coming.is_none() {
            return Ok(());
        }
        if !matches!(self.options.stream, StreamArgument::None) {
            stream::wait_event(self.own, state.parts[index].used)?;
        }
        state.parts[index].coming = None;
        let own = &state.parts[index];
        let mut pieces = vec![own.pages];
        for other in state.parts.iter().filter(|other| other.coming.is_some()) {
            pieces = pieces.into_iter().flat_map(|piece| without(piece, other.pages)).collect();
        }
        let (model, bytes) = (Arc::clone(&own.model), own.pages.len());
        state.held -= bytes;
        state.report.drops += 1;
        stream::enqueue(
            self.own,
            Work::Task(Box::new(move || pieces.iter().try_for_each(|piece| model.release(*piece)))),
        )
    }

    fn no_room(&self, state: &State, index: usize) -> Error {
        let (bytes, budget) = (state.parts[index].pages.len(), self.options.budget);
        Error::NoRoom { index, bytes, held: state.held, budget }
    }

    // ---- waiting --------------------------------------------------------------------------------------

    fn wait_for(&self, loaded: usize) -> Result<()> {
        if stream::has_passed(loaded)? {
            return Ok(());
        }
        let begun = Instant::now();
        let outcome = stream_argument::synchronize_event(loaded);
        lock(&self.waiting).add(begun);
        outcome
    }

    /// Let the stream wait for a part, and fail there if it did not come.
    fn let_wait(
        &self,
        stream: StreamArgument,
        coming: Arc<Mutex<Option<Result<()>>>>,
        loaded: usize,
    ) -> Result<()> {
        let (begun, waiting) = (Arc::new(Mutex::new(None)), Arc::clone(&self.waiting));
        let (at, before) = (Arc::clone(&begun), Arc::clone(&coming));
        let note_begin = move || {
            if lock(&before).is_none() {
                *lock(&at) = Some(Instant::now());
            }
            Ok(())
        };
        let check = move || {
            if let Some(begun) = *lock(&begun) {
                lock(&waiting).add(begun);
            }
            result_of(&coming)
        };
        stream.enqueue(Work::Task(Box::new(note_begin)))?;
        stream.wait_event(loaded)?;
        stream.enqueue(Work::Task(Box::new(check)))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        // Of a stream and events that are gone nothing is left to do.
        let _ = stream::destroy(self.own);
        for part in &self.lock().parts {
            let _ = stream::destroy_event(part.loaded);
            let _ = stream::destroy_event(part.used);
        }
    }
}

impl State {
    fn check(&self, index: usize) -> Result<()> {
        let count = self.parts.len();
        if index < count { Ok(()) } else { Err(Error::NotAPart { index, count }) }
    }

    fn touch(&mut self, index: usize) {
        self.clock += 1;
        self.parts[index].last_use = self.clock;
    }
}

impl Waiting {
    fn add(&mut self, begun: Instant) {
        self.waits += 1;
        self.nanoseconds += u64::try_from(begun.elapsed().as_nanos()).unwrap_or(0);
    }
}

/// The outcome of a prefetch that has ended.
fn result_of(coming: &Mutex<Option<Result<()>>>) -> Result<()> {
    lock(coming).clone().unwrap_or(Err(Error::GivenUp))
}

/// The parts of `range` before and behind `other`.
fn without(range: PageRange, other: PageRange) -> impl Iterator<Item = PageRange> {
    let before = range.intersect(PageRange::new(0, other.start()));
    let behind = range.intersect(PageRange::new(other.end(), usize::MAX));
    [before, behind].into_iter().filter(|part| !part.is_empty())
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

// ---- handles ----------------------------------------------------------------------------------------

/// The pipelines of a process. A child has none of its parent's, because it has none of its streams.
static PIPELINES: PerProcess<Mutex<Pipelines>> = PerProcess::new(|_| Mutex::default());

/// A map without random keys, which would be thread-local variables (cpp/thread_cache.hpp).
type Pipelines = HashMap<usize, Arc<Pipeline>, BuildHasherDefault<DefaultHasher>>;

/// Make a pipeline; returns its handle, an odd number, which is never reused.
pub fn create(ranges: &[PageRange], options: Options) -> Result<usize> {
    static NEXT: AtomicUsize = AtomicUsize::new(1);
    let pipeline = Arc::new(Pipeline::new(ranges, options)?);
    let handle = NEXT.fetch_add(1, Ordering::Relaxed) << 1 | 1;
    let mut all = lock(PIPELINES.get());
    all.try_reserve(1).map_err(|_| Error::OutOfMemory { what: "another pipeline" })?;
    all.insert(handle, pipeline);
    Ok(handle)
}

/// The pipeline with a handle.
pub fn find(handle: usize) -> Result<Arc<Pipeline>> {
    lock(PIPELINES.get()).get(&handle).cloned().ok_or(Error::UnknownPipeline { handle })
}

/// End a pipeline.
pub fn destroy(handle: usize) -> Result<()> {
    let pipeline = lock(PIPELINES.get()).remove(&handle);
    pipeline.ok_or(Error::UnknownPipeline { handle })?.end()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_without_another() {
        let range = PageRange::new;
        let rest = |other| without(range(10, 20), other).collect::<Vec<_>>();
        assert_eq!(rest(range(0, 5)), [range(10, 20)]);
        assert_eq!(rest(range(12, 15)), [range(10, 12), range(15, 20)]);
        assert_eq!(rest(range(5, 15)), [range(15, 20)]);
        assert_eq!(rest(range(10, 20)), []);
    }
}
