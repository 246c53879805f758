//! *When* it happens: streams run what is registered on them one after the other.
//!
//! - [`queue`]: one stream: its waiting work, its first failure, who waits for it
//! - [`pool`]: the few threads that serve all streams
//! - [`work`]: what can wait on a stream, and how neighbouring ranges become one call
//!
//! A handle is a number that no object has as its address (it is odd) and that is never given twice,
//! so an unknown one is told apart without being followed.

mod pool;
mod queue;
mod work;

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use crate::error::{Error, Result};
use crate::heap::reserve;
use crate::os::process::PerProcess;

use pool::Pool;
use queue::Stream;
pub use work::{RangeVerb, RangeWork, Task, Work};

/// All streams of one process, and the threads that serve them.
struct Streams {
    by_handle: RwLock<HashMap<usize, Arc<Stream>>>,
    next: AtomicUsize,
    pool: Arc<Pool>,
}

static STREAMS: PerProcess<Streams> = PerProcess::new(|forks| Streams {
    by_handle: RwLock::default(),
    next: AtomicUsize::new(first_handle(forks)),
    pool: Arc::new(Pool::new()),
});

/// Where handles begin: elsewhere in each process and in each copy of the library that a process has
/// loaded, so that the handles of one stay unknown to the other.
fn first_handle(forks: u64) -> usize {
    let copy = (&raw const STREAMS).addr() as u64;
    // Fibonacci hashing spreads what differs over all bits.
    ((copy ^ forks.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 2) as usize
}

/// Make a stream; the first one also starts the first thread, so that a failure shows here.
pub fn create() -> Result<usize> {
    let streams = STREAMS.get();
    streams.pool.ensure_thread()?;
    // What Arc adds are its two counters.
    reserve::ask(size_of::<Stream>() + 2 * size_of::<usize>(), "another stream")?;
    let handle = (streams.next.fetch_add(1, Ordering::Relaxed) + 1) << 1 | 1;
    let stream = Arc::new(Stream::new(handle, Arc::clone(&streams.pool)));
    let mut by_handle = streams.by_handle.write().unwrap_or_else(PoisonError::into_inner);
    if by_handle.try_reserve(1).is_err() {
        return Err(Error::OutOfMemory { what: "another stream" });
    }
    by_handle.insert(handle, stream);
    Ok(handle)
}

/// Forget a stream. Work on it still runs.
pub fn destroy(handle: usize) -> Result<()> {
    let mut by_handle = STREAMS.get().by_handle.write().unwrap_or_else(PoisonError::into_inner);
    by_handle.remove(&handle).map(drop).ok_or(Error::UnknownStream { handle })
}

/// Register a function.
pub fn launch(handle: usize, task: Task) -> Result<()> {
    find(handle)?.enqueue(Work::Task(task))
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

fn find(handle: usize) -> Result<Arc<Stream>> {
    let by_handle = STREAMS.get().by_handle.read().unwrap_or_else(PoisonError::into_inner);
    by_handle.get(&handle).map(Arc::clone).ok_or(Error::UnknownStream { handle })
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
        while find(stream).unwrap().waiters() == 0 {
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
            apply: |range, _| {
                CALLS.lock().unwrap_or_else(PoisonError::into_inner).push(range);
                Ok(())
            },
        };
        let stream = create().unwrap();
        let open = stop_at_gate(stream);
        for i in 0..100 {
            let range = PageRange::new(i * 10, (i + 1) * 10);
            in_order(stream, RangeWork { verb: &RECORD, range, node: 0 }).unwrap();
        }
        let apart = PageRange::new(5000, 5010);
        in_order(stream, RangeWork { verb: &RECORD, range: apart, node: 0 }).unwrap();
        open.send(()).unwrap();
        synchronize(stream).unwrap();
        assert_eq!(*CALLS.lock().unwrap(), [PageRange::new(0, 1000), apart]);
        destroy(stream).unwrap();
    }
}
