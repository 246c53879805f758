//! Model check of the streams: their code is compiled with the locks, atomics and threads of
//! `shuttle` in place of the standard library's and run in many schedules. A lost wake-up shows up
//! as a deadlock.

#![allow(dead_code, reason = "the library uses what the model does not")]
#![allow(clippy::duplicate_mod, reason = "that is what a model of the same code is")]

#[path = "current_thread.rs"]
mod current_thread;
#[path = "event.rs"]
mod event;
#[path = "external.rs"]
mod external;
#[path = "pool.rs"]
mod pool;
#[path = "queue.rs"]
mod queue;
#[path = "spare.rs"]
mod spare;
#[path = "work.rs"]
mod work;

/// Replaces `sync.rs`.
mod sync {
    use std::sync::LazyLock;
    use std::time::{Duration, Instant};

    pub use shuttle::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
    pub use shuttle::sync::{Arc, Mutex, MutexGuard, PoisonError};
    pub use shuttle::{thread, thread_local};

    use crate::os::SysResult;

    /// Shuttle's condition variable has no timeout.
    #[derive(Default)]
    pub struct Condvar(Arc<shuttle::sync::Condvar>);

    impl Condvar {
        pub fn new() -> Self {
            Self::default()
        }
        pub fn notify_one(&self) {
            self.0.notify_one();
        }
        pub fn notify_all(&self) {
            self.0.notify_all();
        }
    }

    pub fn start_thread(work: impl FnOnce() + Send + 'static) -> SysResult<()> {
        thread::spawn(work);
        Ok(())
    }

    /// Each look at the clock advances it.
    pub fn now() -> Instant {
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        static LOOKS: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let looks = LOOKS.fetch_add(1, Ordering::Relaxed);
        *START + Duration::from_micros(60 * looks)
    }

    /// Waits with a timeout: a helper thread wakes the waiter, and others too, as a condition
    /// variable may.
    pub fn wait<'a, T>(
        condvar: &Condvar,
        guard: MutexGuard<'a, T>,
        due: Option<Instant>,
    ) -> MutexGuard<'a, T> {
        let wait = |guard| condvar.0.wait(guard).unwrap_or_else(PoisonError::into_inner);
        if due.is_none() {
            return wait(guard);
        }
        let woken = Arc::new(AtomicBool::new(false));
        let alarm = thread::spawn({
            let (woken, condvar) = (Arc::clone(&woken), Arc::clone(&condvar.0));
            move || {
                while !woken.load(Ordering::SeqCst) {
                    condvar.notify_all();
                    thread::yield_now();
                }
            }
        });
        let guard = wait(guard);
        woken.store(true, Ordering::SeqCst);
        drop(alarm);
        guard
    }
}

#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Mutex as StdMutex;

    use super::event::{Event, EventPoint};
    use super::external::{Executor, External, Ticket};
    use super::pool::Pool;
    use super::queue::Stream;
    use super::sync::{Arc, AtomicUsize, Condvar, Mutex, Ordering, PoisonError, thread, wait};
    use super::work::{RangeVerb, RangeWork, Work};
    use crate::error::{Error, Result};
    use crate::page::PageRange;

    const SCHEDULES: usize = 200;

    /// The operations, in the order in which they ran.
    type Log = Arc<StdMutex<Vec<usize>>>;

    fn push(log: &Log, what: usize) -> Work {
        let log = Arc::clone(log);
        Work::Task(Box::new(move || {
            log.lock().unwrap().push(what);
            Ok(())
        }))
    }

    fn stream(pool: &Arc<Pool>) -> Arc<Stream> {
        Arc::new(Stream::new(1, Arc::clone(pool), Arc::default(), None))
    }

    fn enqueue(stream: &Arc<Stream>, work: Work) {
        Arc::clone(stream).enqueue(work).unwrap();
    }

    /// Run `body` with a pool in many random schedules.
    fn explore_fairly(body: fn(&Arc<Pool>)) {
        shuttle::check_random(move || with_pool(body), SCHEDULES);
    }

    /// Run `body` in random schedules, and in schedules with few switches at decisive places. A
    /// thread that polls would never end in some of the latter.
    fn explore(body: fn(&Arc<Pool>)) {
        explore_fairly(body);
        shuttle::check_pct(move || with_pool(body), SCHEDULES, 3);
    }

    fn with_pool(body: fn(&Arc<Pool>)) {
        let pool = Arc::new(Pool::new());
        body(&pool);
        pool.close();
    }

    #[test]
    fn two_producers_lose_nothing_and_keep_their_order() {
        explore(|pool| {
            let (stream, log) = (stream(pool), Log::default());
            let producers: Vec<_> = [0, 10]
                .map(|first| {
                    let (stream, log) = (Arc::clone(&stream), Arc::clone(&log));
                    thread::spawn(move || {
                        (first..first + 3).for_each(|i| enqueue(&stream, push(&log, i)));
                        stream.synchronize().unwrap();
                        assert!(log.lock().unwrap().contains(&(first + 2)));
                    })
                })
                .into();
            producers.into_iter().for_each(|producer| producer.join().unwrap());
            let log = log.lock().unwrap();
            let of = |low| log.iter().copied().filter(|i| i / 10 == low).collect::<Vec<_>>();
            assert_eq!((of(0), of(1)), (vec![0, 1, 2], vec![10, 11, 12]));
        });
    }

    static CALLS: StdMutex<Vec<PageRange>> = StdMutex::new(Vec::new());
    static DEFERRABLE: RangeVerb = RangeVerb {
        name: "deferrable",
        deferrable: true,
        apply: |range, _| {
            CALLS.lock().unwrap_or_else(PoisonError::into_inner).push(range);
            Ok(())
        },
    };

    fn deferrable(index: usize) -> Work {
        let range = PageRange::new(index * 10, index * 10 + 10);
        Work::Range(RangeWork { verb: &DEFERRABLE, range, target: [0; 2] })
    }

    /// All checks of deferrable work are in one test, because its verb writes to a static.
    #[test]
    fn patient_work_is_always_done() {
        // First nobody waits, then a thread does, then other work comes behind. Two streams share
        // the clock.
        explore_fairly(|pool| {
            CALLS.lock().unwrap().clear();
            let (one, other, log) = (stream(pool), stream(pool), Log::default());
            let second = thread::spawn({
                let other = Arc::clone(&other);
                move || (10..12).for_each(|i| enqueue(&other, deferrable(i)))
            });
            enqueue(&one, deferrable(0));
            enqueue(&one, deferrable(1));
            while CALLS.lock().unwrap().iter().map(|range| range.len()).sum::<usize>() < 40 {
                thread::yield_now();
            }
            second.join().unwrap();
            enqueue(&one, deferrable(2));
            let behind = thread::spawn({
                let (one, log) = (Arc::clone(&one), Arc::clone(&log));
                move || enqueue(&one, push(&log, 1))
            });
            one.synchronize().unwrap();
            assert!(CALLS.lock().unwrap().iter().any(|range| range.end() == 30));
            behind.join().unwrap();
            one.synchronize().unwrap();
            assert_eq!(*log.lock().unwrap(), [1]);
        });
    }

    static NOTED: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    static NOTE: RangeVerb = RangeVerb {
        name: "note",
        deferrable: true,
        apply: |_, _| {
            NOTED.fetch_add(1, Ordering::SeqCst);
            Ok(())
        },
    };

    fn until_noted() -> Result<()> {
        while NOTED.load(Ordering::SeqCst) == 0 {
            thread::yield_now();
        }
        Ok(())
    }

    /// Only the clock ends the delay here. First with a thread that sleeps already, then with one
    /// that is woken from watching the clock for work that lasts until the deferrable work is done.
    #[test]
    fn patient_work_is_not_left_behind() {
        explore_fairly(|pool| {
            let (deferrable, other) = (stream(pool), stream(pool));
            enqueue(&other, Work::Task(Box::new(|| Ok(()))));
            other.synchronize().unwrap();
            for waits in [false, true] {
                NOTED.store(0, Ordering::SeqCst);
                let range = PageRange::new(0, 10);
                enqueue(&deferrable, Work::Range(RangeWork { verb: &NOTE, range, target: [0; 2] }));
                if waits {
                    enqueue(&other, Work::Task(Box::new(until_noted)));
                    other.synchronize().unwrap();
                }
                until_noted().unwrap();
            }
        });
    }

    fn record(event: &Event, on: &Arc<Stream>) {
        let point = EventPoint::new(1, on.clone());
        event.record(point, |point| Arc::clone(on).enqueue(Work::Record(point))).unwrap();
    }

    fn wait_event(stream: &Arc<Stream>, event: &Event) {
        if let Some(point) = event.pending() {
            point.reserve_waiter().unwrap();
            enqueue(stream, Work::Wait(point));
        }
    }

    #[test]
    fn streams_wait_for_events_and_hold_no_thread() {
        explore(|pool| {
            // Six streams wait and only four threads serve. The stream waited for comes last.
            let (first, log, event) = (stream(pool), Log::default(), Arc::new(Event::default()));
            let gate = Arc::new(Event::default());
            let opener = stream(pool);
            enqueue(&opener, push(&log, 0));
            record(&gate, &opener);
            wait_event(&first, &gate);
            enqueue(&first, push(&log, 1));
            record(&event, &first);
            let waiting: Vec<_> = (0..6).map(|_| stream(pool)).collect();
            for stream in &waiting {
                wait_event(stream, &event);
                enqueue(stream, push(&log, 2));
            }
            let pool = Arc::clone(pool);
            let waiter = thread::spawn(move || {
                event.pending().map_or(Ok(()), |point| point.wait(&pool)).unwrap();
            });
            waiter.join().unwrap();
            assert_eq!(log.lock().unwrap()[..2], [0, 1]);
            waiting.iter().for_each(|stream| stream.synchronize().unwrap());
            assert_eq!(*log.lock().unwrap(), [0, 1, 2, 2, 2, 2, 2, 2]);
        });
    }

    #[test]
    fn a_task_that_waits_for_other_streams_lets_another_thread_serve() {
        explore(|pool| {
            let (last, log) = (stream(pool), Log::default());
            let waiting: Vec<_> = (0..5).map(|_| stream(pool)).collect();
            for stream in &waiting {
                let last = Arc::clone(&last);
                enqueue(stream, Work::Task(Box::new(move || last.synchronize())));
            }
            enqueue(&last, push(&log, 1));
            waiting.iter().for_each(|stream| stream.synchronize().unwrap());
            last.synchronize().unwrap();
        });
    }

    /// An executor with two threads, which reverse the order of its work.
    #[derive(Default)]
    struct Hands {
        tickets: Mutex<(Vec<usize>, bool)>,
        more: Condvar,
        launched: AtomicUsize,
    }

    impl Executor for Arc<Hands> {
        fn launch(&self, ticket: usize) -> Result<()> {
            if self.launched.fetch_add(1, Ordering::SeqCst) == 1 {
                return Err(Error::LaunchRefused { code: 7 });
            }
            self.tickets.lock().unwrap().0.push(ticket);
            self.more.notify_one();
            Ok(())
        }
    }

    impl Hands {
        fn run(&self, stream: &Arc<Stream>) {
            loop {
                let mut tickets = self.tickets.lock().unwrap();
                while tickets.0.is_empty() && !tickets.1 {
                    tickets = wait(&self.more, tickets, None);
                }
                let Some(ticket) = tickets.0.pop() else { return };
                drop(tickets);
                stream.reach(Ticket::unpack(ticket).work, None);
            }
        }
    }

    #[test]
    fn an_executor_may_run_places_in_any_order_and_refuse_some() {
        explore(|pool| {
            let (hands, log) = (Arc::new(Hands::default()), Log::default());
            let external = External::new(Box::new(Arc::clone(&hands)), 3);
            let stream = Arc::new(Stream::new(1, Arc::clone(pool), Arc::default(), Some(external)));
            let threads: Vec<_> = (0..2)
                .map(|_| {
                    let (hands, stream) = (Arc::clone(&hands), Arc::clone(&stream));
                    thread::spawn(move || hands.run(&stream))
                })
                .collect();
            let results: Vec<Result<()>> =
                (0..4).map(|i| Arc::clone(&stream).enqueue(push(&log, i))).collect();
            let event = Event::default();
            record(&event, &stream);
            event.pending().map_or(Ok(()), |point| point.wait(pool)).unwrap();
            stream.synchronize().unwrap();
            assert!(matches!(results[1], Err(Error::LaunchRefused { code: 7, .. })));
            assert_eq!(*log.lock().unwrap(), [0, 2, 3]);
            hands.tickets.lock().unwrap().1 = true;
            hands.more.notify_all();
            threads.into_iter().for_each(|thread| thread.join().unwrap());
        });
    }
}
