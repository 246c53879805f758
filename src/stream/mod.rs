//! *When* it happens: streams run what is registered on them one after the other.
//!
//! - [`queue`]: one stream: its waiting work, its first failure, who waits for it
//! - [`event`]: places in streams that other streams and threads wait for
//! - [`pool`]: the few threads that serve libgmem's own streams
//! - [`foreign`]: streams that an executor of somebody else's serves
//! - [`work`]: what can wait on a stream, and how neighbouring ranges become one call
//! - [`caller`]: what the calling thread is to all of them
//! - [`sync`]: what they are synchronized with; `model` runs them with something else in its place
//!
//! A handle is a number that no object has as its address (it is odd) and that is never given twice,
//! so an unknown one is told apart without being followed.

mod caller;
mod event;
mod foreign;
mod pool;
mod queue;
mod sync;
mod work;

#[cfg(test)]
mod model;

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::error::{Error, Result};
use crate::os::process::PerProcess;
use crate::reserve;

use event::{Event, Point};
use foreign::Foreign;
use pool::Pool;
use queue::Stream;

pub use event::Note;
pub use foreign::Executor;
pub use work::{Call, RangeVerb, RangeWork, Target, Task, Work};

/// All streams and events of one process, and the threads that serve them.
struct Streams {
    streams: Table<usize, Arc<Stream>>,
    events: Table<usize, Arc<Event>>,
    /// By the numbers in their places: foreign streams with work left stay here when they are destroyed.
    foreign: Table<u32, Arc<Stream>>,
    /// Handles of streams that were wrapped when they were first seen, by whatever names them.
    wrapped: Table<(usize, usize), usize>,
    next_handle: AtomicUsize,
    next_number: AtomicU32,
    pool: Arc<Pool>,
}

/// Drivers give some of their streams small numbers for names.
const LOWEST_HANDLE: usize = 1 << 12;

static STREAMS: PerProcess<Streams> = PerProcess::new(|forks| Streams {
    streams: Table::default(),
    events: Table::default(),
    foreign: Table::default(),
    wrapped: Table::default(),
    next_handle: AtomicUsize::new((beginning(forks) >> 2) as usize),
    next_number: AtomicU32::new((beginning(forks) >> 32) as u32),
    pool: Arc::new(Pool::new()),
});

/// Where handles begin: elsewhere in each process and in each copy of the library that a process has
/// loaded, so that the handles of one stay unknown to the other.
fn beginning(forks: u64) -> u64 {
    let copy = (&raw const STREAMS).addr() as u64;
    scatter(copy ^ forks.rotate_left(32))
}

/// Fibonacci hashing spreads what differs over the upper bits.
fn scatter(value: u64) -> u64 {
    value.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl Streams {
    fn handle(&self) -> usize {
        let number = self.next_handle.fetch_add(1, Ordering::Relaxed);
        (number % (usize::MAX >> 2) + LOWEST_HANDLE) << 1 | 1
    }
}

// ---- streams ------------------------------------------------------------------------------------

/// Make a stream; the first one also starts the first thread, so that a failure shows here.
pub fn create() -> Result<usize> {
    let streams = STREAMS.get();
    streams.pool.ensure_thread()?;
    let what = "another stream";
    streams.pool.expect(streams.streams.len() + 1)?;
    ask_for::<Stream>(what)?;
    let handle = streams.handle();
    let stream = Arc::new(Stream::new(handle, Arc::clone(&streams.pool), None));
    streams.streams.insert(handle, stream, what)?;
    Ok(handle)
}

/// Make a stream that an executor serves.
pub fn wrap(executor: Box<dyn Executor>) -> Result<usize> {
    let streams = STREAMS.get();
    let what = "another stream";
    ask_for::<Stream>(what)?;
    let handle = streams.handle();
    let number = loop {
        let number = streams.next_number.fetch_add(1, Ordering::Relaxed);
        // 0 would make a place of NULL; and after four billion streams an old one may still be there.
        if number != 0 && streams.foreign.get(number).is_none() {
            break number;
        }
    };
    let foreign = Foreign::new(executor, number);
    let stream = Arc::new(Stream::new(handle, Arc::clone(&streams.pool), Some(foreign)));
    streams.foreign.insert(number, Arc::clone(&stream), what)?;
    streams.streams.insert(handle, stream, what).inspect_err(|_| {
        streams.foreign.remove(number);
    })?;
    Ok(handle)
}

/// Whether a number can be a handle; an address or a small number cannot.
pub const fn is_handle(number: usize) -> bool {
    number & 1 == 1 && number > LOWEST_HANDLE
}

/// The handle of an executor's stream that `name` stands for, made when it is first asked for.
pub fn wrapped(
    name: (usize, usize),
    executor: impl FnOnce() -> Result<Box<dyn Executor>>,
) -> Result<usize> {
    let streams = STREAMS.get();
    if let Some(handle) = streams.wrapped.get(name) {
        return Ok(handle);
    }
    let what = "another stream";
    ask_for::<[usize; 8]>(what)?;
    let fresh = wrap(executor()?)?;
    // Another thread's may have come in between.
    let kept = streams.wrapped.get_or_insert(name, fresh, what);
    if kept != Ok(fresh) {
        destroy(fresh)?;
    }
    kept
}

/// Forget that; if it is not known there is nothing to forget.
pub fn unwrap(name: (usize, usize)) -> Result<()> {
    STREAMS.get().wrapped.remove(name).map_or(Ok(()), destroy)
}

/// Forget a stream. Work on it still runs.
pub fn destroy(handle: usize) -> Result<()> {
    let streams = STREAMS.get();
    let stream = streams.streams.remove(handle).ok_or(Error::UnknownStream { handle })?;
    if let Some(foreign) = stream.foreign() {
        foreign.close();
        streams.forget_when_done(&stream, foreign);
    }
    Ok(())
}

/// Register a function.
pub fn launch(handle: usize, task: Task) -> Result<()> {
    find(handle)?.enqueue(Work::Task(task))
}

/// Register a function that needs no memory.
pub fn call(handle: usize, call: Call) -> Result<()> {
    find(handle)?.enqueue(Work::Call(call))
}

/// Do `work` now where `handle` is 0, else register it on that stream.
pub fn in_order(handle: usize, work: RangeWork) -> Result<()> {
    if handle == 0 { work.run() } else { find(handle)?.enqueue(Work::Range(work)) }
}

/// Whether all work is done.
pub fn is_idle(handle: usize) -> Result<bool> {
    Ok(find(handle)?.is_idle())
}

/// Wait for the work registered so far; its first failure comes out.
pub fn synchronize(handle: usize) -> Result<()> {
    find(handle)?.synchronize()
}

/// Call something that waits for what is none of libgmem's. Where the calling thread serves streams, another does so
/// meanwhile.
pub fn aside<T>(call: impl FnOnce() -> Result<T>) -> Result<T> {
    let aside = if caller::is_in_pool() { Some(STREAMS.get().pool.step_aside()?) } else { None };
    let outcome = call();
    drop(aside);
    outcome
}

fn find(handle: usize) -> Result<Arc<Stream>> {
    STREAMS.get().streams.get(handle).ok_or(Error::UnknownStream { handle })
}

// ---- what executors call --------------------------------------------------------------------------

/// An executor has come to a place that it was given.
pub fn reached(place: usize) {
    STREAMS.get().reach(place, None);
}

/// An executor will not come to a place that it was given: the work is not done, which is its stream's failure.
pub fn given_up(place: usize) {
    STREAMS.get().reach(place, Some(Work::GivenUp));
}

impl Streams {
    fn reach(&self, place: usize, left: Option<Work>) {
        let (number, work) = foreign::parts(place);
        let Some(stream) = self.foreign.get(number) else { return };
        stream.reach(work, left);
        if let Some(foreign) = stream.foreign()
            && foreign.is_closed()
        {
            self.forget_when_done(&stream, foreign);
        }
    }

    fn forget_when_done(&self, stream: &Arc<Stream>, foreign: &Foreign) {
        if stream.is_idle() {
            self.foreign.remove(foreign.number());
        }
    }
}

// ---- events ---------------------------------------------------------------------------------------

/// Make an event, which has passed as long as it is not recorded.
pub fn create_event() -> Result<usize> {
    let streams = STREAMS.get();
    let what = "another event";
    ask_for::<Event>(what)?;
    let handle = streams.handle();
    streams.events.insert(handle, Arc::default(), what)?;
    Ok(handle)
}

/// Forget an event. Who waits for it still does.
pub fn destroy_event(handle: usize) -> Result<()> {
    STREAMS.get().events.remove(handle).map(drop).ok_or(Error::UnknownEvent { handle })
}

/// The event now stands for this place in the stream. What `note` gives, once the place is there, is kept with it.
pub fn record(
    event: usize,
    stream: usize,
    note: impl FnOnce() -> Result<Option<Note>>,
) -> Result<()> {
    let (found, stream) = (find_event(event)?, find(stream)?);
    ask_for::<Point>("the event's place in the stream")?;
    let point = Point::new(event, Arc::clone(&stream));
    found.record(point, |point| {
        stream.enqueue(Work::Record(Arc::clone(&point)))?;
        if let Some(note) = note()? {
            point.note(note);
        }
        Ok(())
    })
}

/// What is registered on the stream from now on waits for the place that the event stands for.
pub fn wait_event(stream: usize, event: usize) -> Result<()> {
    let (stream, event) = (find(stream)?, find_event(event)?);
    let Some(point) = event.pending() else { return Ok(()) };
    point.expect_one()?;
    stream.enqueue(Work::Wait(point))
}

/// What was noted when the event was recorded, until its place is passed.
pub fn pending_note(event: usize) -> Result<Option<Note>> {
    Ok(find_event(event)?.pending().and_then(|point| point.noted()))
}

/// Whether the stream has passed the place.
pub fn has_passed(event: usize) -> Result<bool> {
    Ok(find_event(event)?.pending().is_none())
}

/// Wait until it has.
pub fn synchronize_event(event: usize) -> Result<()> {
    let pending = find_event(event)?.pending();
    pending.map_or(Ok(()), |point| point.wait(&STREAMS.get().pool))
}

fn find_event(handle: usize) -> Result<Arc<Event>> {
    STREAMS.get().events.get(handle).ok_or(Error::UnknownEvent { handle })
}

/// Whether there is memory for one more, which stays. What Arc adds are its two counters.
fn ask_for<T>(what: &'static str) -> Result<()> {
    reserve::ask(size_of::<T>() + 2 * size_of::<usize>(), what)
}

// ---- tables ---------------------------------------------------------------------------------------

/// What numbers stand for.
struct Table<K, V>(RwLock<HashMap<K, V, BuildHasherDefault<Scatter>>>);

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self(RwLock::default())
    }
}

impl<K: std::hash::Hash + Eq, V: Clone> Table<K, V> {
    fn get(&self, key: K) -> Option<V> {
        self.read().get(&key).cloned()
    }

    fn insert(&self, key: K, value: V, what: &'static str) -> Result<()> {
        let mut map = self.write();
        if map.try_reserve(1).is_err() {
            return Err(Error::OutOfMemory { what });
        }
        map.insert(key, value);
        Ok(())
    }

    /// What is there already, else `value`.
    fn get_or_insert(&self, key: K, value: V, what: &'static str) -> Result<V> {
        let mut map = self.write();
        if map.try_reserve(1).is_err() {
            return Err(Error::OutOfMemory { what });
        }
        Ok(map.entry(key).or_insert(value).clone())
    }

    fn len(&self) -> usize {
        self.read().len()
    }

    /// The value is dropped by the caller, without the lock.
    fn remove(&self, key: K) -> Option<V> {
        self.write().remove(&key)
    }

    fn read(&self) -> RwLockReadGuard<'_, HashMap<K, V, BuildHasherDefault<Scatter>>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<K, V, BuildHasherDefault<Scatter>>> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A hash for numbers of the library's own, which nobody chooses to collide.
#[derive(Default)]
struct Scatter(u64);

impl Hasher for Scatter {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }
    fn write_u32(&mut self, value: u32) {
        self.write_u64(u64::from(value));
    }
    fn write_usize(&mut self, value: usize) {
        self.write_u64(value as u64);
    }
    fn write_u64(&mut self, value: u64) {
        let scattered = scatter(self.0 ^ value);
        // The table looks at the lower bits, too.
        self.0 = scattered ^ scattered >> 32;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Mutex;
    use std::sync::mpsc;

    use super::*;
    use crate::page::PageRange;

    /// Have the stream wait, and return when it does; it goes on when the result is sent to.
    fn stop_at_gate(stream: usize) -> mpsc::Sender<()> {
        let (open, gate) = mpsc::channel();
        let (tell, waiting) = mpsc::channel();
        let wait = move || {
            tell.send(()).unwrap();
            gate.recv().map_err(|_| unreachable!())
        };
        launch(stream, Box::new(wait)).unwrap();
        waiting.recv().unwrap();
        open
    }

    #[test]
    fn work_runs_in_order_on_many_streams_at_once() {
        let logs: Vec<Arc<Mutex<Vec<usize>>>> = (0..50).map(|_| Arc::default()).collect();
        let handles: Vec<usize> = logs.iter().map(|_| create().unwrap()).collect();
        for step in 0..200 {
            for (log, handle) in logs.iter().zip(&handles) {
                let log = Arc::clone(log);
                let task = Box::new(move || {
                    log.lock().unwrap().push(step);
                    Ok(())
                });
                launch(*handle, task).unwrap();
            }
        }
        for (log, handle) in logs.iter().zip(handles) {
            synchronize(handle).unwrap();
            assert!(is_idle(handle).unwrap());
            assert_eq!(*log.lock().unwrap(), (0..200).collect::<Vec<_>>());
            destroy(handle).unwrap();
        }
    }

    #[test]
    fn handles_are_no_addresses_and_no_small_numbers() {
        let stream = create().unwrap();
        assert!(is_handle(stream));
        assert!(![0, 1, 2, 3, 0x7f00_0000_1000, LOWEST_HANDLE].into_iter().any(is_handle));
        destroy(stream).unwrap();
    }

    #[test]
    fn the_first_failure_surfaces_once_and_the_stream_goes_on() {
        let stream = create().unwrap();
        let fail = |text: &str| -> Task {
            let message = text.to_owned();
            Box::new(move || Err(Error::TaskFailed { message }))
        };
        launch(stream, fail("first")).unwrap();
        launch(stream, fail("second")).unwrap();
        assert!(synchronize(stream).unwrap_err().to_string().contains("first"));
        launch(stream, Box::new(|| Ok(()))).unwrap();
        synchronize(stream).unwrap();
        destroy(stream).unwrap();
    }

    #[test]
    #[allow(clippy::panic)]
    fn a_panicking_task_fails_only_itself() {
        let stream = create().unwrap();
        launch(stream, Box::new(|| panic!("boom"))).unwrap();
        assert!(synchronize(stream).unwrap_err().to_string().contains("boom"));
        launch(stream, Box::new(|| Ok(()))).unwrap();
        synchronize(stream).unwrap();
        destroy(stream).unwrap();
    }

    #[test]
    fn a_destroyed_stream_finishes_its_work_and_is_unknown() {
        let stream = create().unwrap();
        let (sender, receiver) = mpsc::channel();
        launch(stream, Box::new(move || sender.send(()).map_err(|_| unreachable!()))).unwrap();
        destroy(stream).unwrap();
        receiver.recv().unwrap();
        assert_eq!(destroy(stream), Err(Error::UnknownStream { handle: stream }));
        assert!(launch(stream, Box::new(|| Ok(()))).is_err());
    }

    #[test]
    fn waiting_for_oneself_is_refused() {
        let stream = create().unwrap();
        let (sender, receiver) = mpsc::channel();
        let task = Box::new(move || sender.send(synchronize(stream)).map_err(|_| unreachable!()));
        launch(stream, task).unwrap();
        assert!(matches!(receiver.recv().unwrap(), Err(Error::SelfSynchronize { .. })));
        destroy(stream).unwrap();
    }

    #[test]
    fn tasks_that_wait_for_other_streams_do_not_starve_them() {
        let waiting: Vec<usize> = (0..40).map(|_| create().unwrap()).collect();
        let last = create().unwrap();
        let (sender, receiver) = mpsc::channel();
        for stream in &waiting {
            let sender = sender.clone();
            launch(
                *stream,
                Box::new(move || {
                    synchronize(last)?;
                    sender.send(()).map_err(|_| unreachable!())
                }),
            )
            .unwrap();
        }
        launch(last, Box::new(|| Ok(()))).unwrap();
        for _ in &waiting {
            receiver.recv_timeout(std::time::Duration::from_secs(60)).unwrap();
        }
    }

    #[test]
    fn synchronize_waits_for_what_was_registered_before_it_only() {
        let stream = create().unwrap();
        let open = stop_at_gate(stream);
        let waiter = std::thread::spawn(move || synchronize(stream));
        // Wait until it is known to wait, then register work that only ends after it has returned.
        while !find(stream).unwrap().is_waited_for() {
            std::thread::yield_now();
        }
        let (end, later) = mpsc::channel::<()>();
        let message = "later".to_owned();
        launch(stream, Box::new(move || later.recv().map_err(|_| Error::TaskFailed { message })))
            .unwrap();
        open.send(()).unwrap();
        assert_eq!(waiter.join().unwrap(), Ok(()));
        drop(end);
        assert!(synchronize(stream).is_err());
        destroy(stream).unwrap();
    }

    #[test]
    fn an_idle_thread_that_leaves_does_not_take_a_wake_up_along() {
        for _ in 0..20 {
            let (a, b, c) = (create().unwrap(), create().unwrap(), create().unwrap());
            launch(b, Box::new(|| Ok(()))).unwrap();
            let (sender, receiver) = mpsc::channel();
            launch(
                a,
                Box::new(move || {
                    // Steps aside for a fifth thread; what is launched next needs it.
                    synchronize(b)?;
                    let done = sender.clone();
                    launch(c, Box::new(move || done.send(()).map_err(|_| unreachable!())))?;
                    std::thread::sleep(std::time::Duration::from_millis(1));
                    Ok(())
                }),
            )
            .unwrap();
            receiver.recv_timeout(std::time::Duration::from_secs(30)).unwrap();
            for stream in [a, b, c] {
                synchronize(stream).unwrap();
                destroy(stream).unwrap();
            }
        }
    }

    #[test]
    fn waiting_neighbours_become_one_call() {
        static CALLS: Mutex<Vec<PageRange>> = Mutex::new(Vec::new());
        static RECORD: RangeVerb = RangeVerb {
            name: "record",
            patient: false,
            apply: |range, _| {
                CALLS.lock().unwrap_or_else(PoisonError::into_inner).push(range);
                Ok(())
            },
        };
        let stream = create().unwrap();
        let open = stop_at_gate(stream);
        for i in 0..100 {
            let range = PageRange::new(i * 10, (i + 1) * 10);
            in_order(stream, RangeWork { verb: &RECORD, range, target: Target::default() })
                .unwrap();
        }
        let apart = PageRange::new(5000, 5010);
        in_order(stream, RangeWork { verb: &RECORD, range: apart, target: Target::default() })
            .unwrap();
        open.send(()).unwrap();
        synchronize(stream).unwrap();
        assert_eq!(*CALLS.lock().unwrap(), [PageRange::new(0, 1000), apart]);
        destroy(stream).unwrap();
    }
}
