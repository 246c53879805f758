//! *When* work happens: streams run the work registered on them in order.
//!
//! - [`queue`]: one stream: its waiting work, its first failure, its waiters
//! - [`event`]: points in streams that other streams and threads wait for
//! - [`pool`]: the few threads that serve libgmem's own streams
//! - [`external`]: streams that an executor outside libgmem serves
//! - [`spare`]: a large queue, passed from stream to stream
//! - [`work`]: the kinds of work, and how neighbouring ranges become one call
//! - [`current_thread`]: whether the calling thread serves streams
//! - [`table`]: objects by their handles
//! - [`sync`]: locks, atomics and threads; `model` replaces them to explore schedules
//!
//! A handle is an odd number, so no object has it as its address, and it is never reused. Handles are looked up, never
//! followed, so an unknown one is recognised and harmless.

mod current_thread;
mod event;
mod external;
mod pool;
mod queue;
mod spare;
mod sync;
mod table;
mod work;

#[cfg(test)]
mod model;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use crate::error::{Error, Result};
use crate::os::process::PerProcess;
use crate::reserve;

use event::{Event, EventPoint};
use external::{External, Ticket};
use pool::Pool;
use queue::Stream;
use spare::Spare;
use table::{Table, scatter};

pub use event::Note;
pub use external::Executor;
pub use work::{Call, RangeVerb, RangeWork, Target, Task, Work};

/// The streams and events of one process, and the threads that serve them.
struct Streams {
    streams: Table<usize, Arc<Stream>>,
    events: Table<usize, Arc<Event>>,
    /// External streams by the numbers in their tickets. They stay after they are destroyed until their work is done.
    external: Table<u32, Arc<Stream>>,
    /// Handles of the external streams made by [`external_handle`], by name.
    named: Table<(usize, usize), usize>,
    next_handle: AtomicUsize,
    next_number: AtomicU32,
    pool: Arc<Pool>,
    spare: Arc<Spare>,
}

/// Handles lie above this, because drivers use small numbers as names of streams.
const LOWEST_HANDLE: usize = 1 << 12;

static STREAMS: PerProcess<Streams> = PerProcess::new(|forks| Streams {
    streams: Table::default(),
    events: Table::default(),
    external: Table::default(),
    named: Table::default(),
    next_handle: AtomicUsize::new((first_number(forks) >> 2) as usize),
    next_number: AtomicU32::new((first_number(forks) >> 32) as u32),
    pool: Arc::new(Pool::new()),
    spare: Arc::default(),
});

/// Where handles begin. It differs for each process and for each copy of the library in a process, so that the
/// handles of one are unknown to the others.
fn first_number(forks: u64) -> u64 {
    let copy = (&raw const STREAMS).addr() as u64;
    scatter(copy ^ forks.rotate_left(32))
}

impl Streams {
    fn handle(&self) -> usize {
        let number = self.next_handle.fetch_add(1, Ordering::Relaxed);
        (number % (usize::MAX >> 2) + LOWEST_HANDLE) << 1 | 1
    }

    fn stream(&self, handle: usize, external: Option<External>) -> Arc<Stream> {
        let (pool, spare) = (Arc::clone(&self.pool), Arc::clone(&self.spare));
        Arc::new(Stream::new(handle, pool, spare, external))
    }
}

// ---- streams ------------------------------------------------------------------------------------

/// Make a stream. The first one also starts the first thread, so that a failure shows here.
pub fn create() -> Result<usize> {
    let streams = STREAMS.get();
    streams.pool.ensure_thread()?;
    let what = "another stream";
    streams.pool.reserve(streams.streams.len() + 1)?;
    check_memory_for::<Stream>(what)?;
    let handle = streams.handle();
    let stream = streams.stream(handle, None);
    streams.streams.insert(handle, stream, what)?;
    Ok(handle)
}

/// Make a stream that an executor serves.
pub fn wrap(executor: Box<dyn Executor>) -> Result<usize> {
    let streams = STREAMS.get();
    let what = "another stream";
    check_memory_for::<Stream>(what)?;
    let handle = streams.handle();
    let number = loop {
        let number = streams.next_number.fetch_add(1, Ordering::Relaxed);
        // Not 0, which would make a ticket NULL, nor the number of a stream from four billion streams ago.
        if number != 0 && streams.external.get(number).is_none() {
            break number;
        }
    };
    let external = External::new(executor, number);
    let stream = streams.stream(handle, Some(external));
    streams.external.insert(number, Arc::clone(&stream), what)?;
    streams.streams.insert(handle, stream, what).inspect_err(|_| {
        streams.external.remove(number);
    })?;
    Ok(handle)
}

/// Whether a number can be a handle. Addresses and small numbers cannot.
pub const fn is_handle(number: usize) -> bool {
    number & 1 == 1 && number > LOWEST_HANDLE
}

/// The handle of the external stream called `name`, which is made on first use.
pub fn external_handle(
    name: (usize, usize),
    executor: impl FnOnce() -> Result<Box<dyn Executor>>,
) -> Result<usize> {
    let streams = STREAMS.get();
    if let Some(handle) = streams.named.get(name) {
        return Ok(handle);
    }
    let what = "another stream";
    check_memory_for::<[usize; 8]>(what)?;
    let fresh = wrap(executor()?)?;
    // Another thread may have made one meanwhile.
    let kept = streams.named.get_or_insert(name, fresh, what);
    if kept != Ok(fresh) {
        destroy(fresh)?;
    }
    kept
}

/// Destroy the external stream called `name`, if there is one.
pub fn destroy_external(name: (usize, usize)) -> Result<()> {
    STREAMS.get().named.remove(name).map_or(Ok(()), destroy)
}

/// Destroy a stream. Work on it still runs.
pub fn destroy(handle: usize) -> Result<()> {
    let streams = STREAMS.get();
    let stream = streams.streams.remove(handle).ok_or(Error::UnknownStream { handle })?;
    if let Some(external) = stream.external() {
        external.close();
        streams.remove_when_idle(&stream, external);
    }
    Ok(())
}

/// Register work on a stream.
pub fn enqueue(handle: usize, work: Work) -> Result<()> {
    find(handle)?.enqueue(work)
}

/// Whether all work is done.
pub fn is_idle(handle: usize) -> Result<bool> {
    Ok(find(handle)?.is_idle())
}

/// Wait for the work registered so far, and return its first failure.
pub fn synchronize(handle: usize) -> Result<()> {
    find(handle)?.synchronize()
}

/// Call a function that waits for something outside libgmem. If the calling thread belongs to the pool, another one
/// serves streams meanwhile.
pub fn while_stepped_aside<T>(call: impl FnOnce() -> Result<T>) -> Result<T> {
    let in_pool = current_thread::is_in_pool();
    let aside = if in_pool { Some(STREAMS.get().pool.step_aside()?) } else { None };
    let outcome = call();
    drop(aside);
    outcome
}

fn find(handle: usize) -> Result<Arc<Stream>> {
    STREAMS.get().streams.get(handle).ok_or(Error::UnknownStream { handle })
}

// ---- called by executors --------------------------------------------------------------------------

/// An executor has reached a ticket.
pub fn reached(ticket: usize) {
    STREAMS.get().reach(ticket, None);
}

/// An executor will never reach a ticket: the work is not done, and its stream fails.
pub fn dropped(ticket: usize) {
    STREAMS.get().reach(ticket, Some(Work::GivenUp));
}

impl Streams {
    fn reach(&self, ticket: usize, left: Option<Work>) {
        let ticket = Ticket::unpack(ticket);
        let Some(stream) = self.external.get(ticket.stream) else { return };
        stream.reach(ticket.work, left);
        if let Some(external) = stream.external()
            && external.is_closed()
        {
            self.remove_when_idle(&stream, external);
        }
    }

    fn remove_when_idle(&self, stream: &Arc<Stream>, external: &External) {
        if stream.is_idle() {
            self.external.remove(external.number());
        }
    }
}

// ---- events ---------------------------------------------------------------------------------------

/// Make an event. Until it is recorded, it counts as passed.
pub fn create_event() -> Result<usize> {
    let streams = STREAMS.get();
    let what = "another event";
    check_memory_for::<Event>(what)?;
    let handle = streams.handle();
    streams.events.insert(handle, Arc::default(), what)?;
    Ok(handle)
}

/// Destroy an event. Its waiters keep waiting.
pub fn destroy_event(handle: usize) -> Result<()> {
    STREAMS.get().events.remove(handle).map(drop).ok_or(Error::UnknownEvent { handle })
}

/// Record an event: from now on it means this point of the stream. `note` is called once the point is registered; its
/// result is kept with the point.
pub fn record(
    event: usize,
    stream: usize,
    note: impl FnOnce() -> Result<Option<Note>>,
) -> Result<()> {
    let (found, stream) = (find_event(event)?, find(stream)?);
    check_memory_for::<EventPoint>("the event's point in the stream")?;
    let point = EventPoint::new(event, stream.clone());
    found.record(point, |point| {
        stream.enqueue(Work::Record(Arc::clone(&point)))?;
        if let Some(note) = note()? {
            point.note(note);
        }
        Ok(())
    })
}

/// Let the work registered on the stream from now on wait for the event.
pub fn wait_event(stream: usize, event: usize) -> Result<()> {
    let (stream, event) = (find(stream)?, find_event(event)?);
    let Some(point) = event.pending() else { return Ok(()) };
    point.reserve_waiter()?;
    stream.enqueue(Work::Wait(point))
}

/// The note kept with an event, until the event has passed.
pub fn pending_note(event: usize) -> Result<Option<Note>> {
    Ok(find_event(event)?.pending().and_then(|point| point.noted()))
}

/// Whether the event has passed.
pub fn has_passed(event: usize) -> Result<bool> {
    Ok(find_event(event)?.pending().is_none())
}

/// Wait until the event has passed.
pub fn synchronize_event(event: usize) -> Result<()> {
    let pending = find_event(event)?.pending();
    pending.map_or(Ok(()), |point| point.wait(&STREAMS.get().pool))
}

fn find_event(handle: usize) -> Result<Arc<Event>> {
    STREAMS.get().events.get(handle).ok_or(Error::UnknownEvent { handle })
}

/// Fail unless there is memory for one more lasting object. `Arc` adds two counters to it.
fn check_memory_for<T>(what: &'static str) -> Result<()> {
    reserve::ask(size_of::<T>() + 2 * size_of::<usize>(), what)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::mpsc;
    use std::sync::{Mutex, PoisonError};

    use super::*;
    use crate::page::PageRange;

    fn launch(stream: usize, task: Task) -> Result<()> {
        enqueue(stream, Work::Task(task))
    }

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
            deferrable: false,
            apply: |range, _| {
                CALLS.lock().unwrap_or_else(PoisonError::into_inner).push(range);
                Ok(())
            },
        };
        let stream = create().unwrap();
        let register = |range| {
            enqueue(stream, Work::Range(RangeWork { verb: &RECORD, range, target: [0; 2] }))
        };
        let open = stop_at_gate(stream);
        for i in 0..100 {
            let range = PageRange::new(i * 10, (i + 1) * 10);
            register(range).unwrap();
        }
        let apart = PageRange::new(5000, 5010);
        register(apart).unwrap();
        open.send(()).unwrap();
        synchronize(stream).unwrap();
        assert_eq!(*CALLS.lock().unwrap(), [PageRange::new(0, 1000), apart]);
        destroy(stream).unwrap();
    }
}
