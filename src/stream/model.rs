//! The streams under every order of steps that a scheduler comes up with: their code as it is, with the locks, atomics
//! and threads of `shuttle` in place of the standard library's. A wake-up that is lost is found as a deadlock.

#![allow(dead_code, reason = "the library uses what the model does not")]
#![allow(clippy::duplicate_mod, reason = "that is what a model of the same code is")]

#[path = "caller.rs"]
mod caller;
#[path = "event.rs"]
mod event;
#[path = "foreign.rs"]
mod foreign;
#[path = "pool.rs"]
mod pool;
#[path = "queue.rs"]
mod queue;
#[path = "work.rs"]
mod work;

/// What `sync.rs` is to the library.
mod sync {
    use std::sync::LazyLock;
    use std::time::{Duration, Instant};

    pub use shuttle::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
    pub use shuttle::sync::{Arc, Mutex, MutexGuard, PoisonError};
    pub use shuttle::{thread, thread_local};

    /// Shuttle's has no wait that ends by itself.
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

    /// Time passes when it is looked at.
    pub fn now() -> Instant {
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        static LOOKS: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let looks = LOOKS.fetch_add(1, Ordering::Relaxed);
        *START + Duration::from_micros(60 * looks)
    }

    /// With an end to it: a thread beside wakes the waiter, and others too, as a condition variable may.
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

    use super::event::{Event, Point};
    use super::foreign::{self, Executor, Foreign};
    use super::pool::Pool;
    use super::queue::Stream;
    use super::sync::{Arc, AtomicUsize, Condvar, Mutex, Ordering, PoisonError, thread, wait};
    use super::work::{RangeVerb, RangeWork, Target, Work};
    use crate::error::{Error, Result};
    use crate::page::PageRange;

    const SCHEDULES: usize = 200;

    /// What was done, in order.
    type Log = Arc<StdMutex<Vec<usize>>>;

    fn push(log: &Log, what: usize) -> Work {
        let log = Arc::clone(log);
        Work::Task(Box::new(move || {
            log.lock().unwrap().push(what);
            Ok(())
        }))
    }

    fn stream(pool: &Arc<Pool>) -> Arc<Stream> {
        Arc::new(Stream::new(1, Arc::clone(pool), None))
    }

    fn enqueue(stream: &Arc<Stream>, work: Work) {
        Arc::clone(stream).enqueue(work).unwrap();
    }

    /// Run `body` with a pool in many random schedules.
    fn explore_fairly(body: fn(&Arc<Pool>)) {
        shuttle::check_random(move || with_pool(body), SCHEDULES);
    }

    /// And in as many with few switches, at telling places; a thread that looks again and again would go on for ever in
    /// some of those.
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
    static PATIENT: RangeVerb = RangeVerb {
        name: "patient",
        patient: true,
        apply: |range, _| {
            CALLS.lock().unwrap_or_else(PoisonError::into_inner).push(range);
            Ok(())
        },
    };

    fn patient(index: usize) -> Work {
        let range = PageRange::new(index * 10, index * 10 + 10);
        Work::Range(RangeWork { verb: &PATIENT, range, target: Target::default() })
    }

    /// All that touches what is patient, in one test, because of the static that its verb writes to.
    #[test]
    fn patient_work_is_always_done() {
        // Nobody waits; then somebody does; then something else comes behind it; on two streams, to share the clock.
        explore_fairly(|pool| {
            CALLS.lock().unwrap().clear();
            let (one, other, log) = (stream(pool), stream(pool), Log::default());
            let second = thread::spawn({
                let other = Arc::clone(&other);
                move || (10..12).for_each(|i| enqueue(&other, patient(i)))
            });
            enqueue(&one, patient(0));
            enqueue(&one, patient(1));
            while CALLS.lock().unwrap().iter().map(|range| range.len()).sum::<usize>() < 40 {
                thread::yield_now();
            }
            second.join().unwrap();
            enqueue(&one, patient(2));
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
        patient: true,
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

    /// Nobody but the clock sees to it: with a thread that sleeps already, and with one that is woken from watching the
    /// clock for something else, which lasts until the patient work is done.
    #[test]
    fn patient_work_is_not_left_behind() {
        explore_fairly(|pool| {
            let (patient, other) = (stream(pool), stream(pool));
            enqueue(&other, Work::Task(Box::new(|| Ok(()))));
            other.synchronize().unwrap();
            for waits in [false, true] {
                NOTED.store(0, Ordering::SeqCst);
                let range = PageRange::new(0, 10);
                enqueue(
                    &patient,
                    Work::Range(RangeWork { verb: &NOTE, range, target: Target::default() }),
                );
                if waits {
                    enqueue(&other, Work::Task(Box::new(until_noted)));
                    other.synchronize().unwrap();
                }
                until_noted().unwrap();
            }
        });
    }

    fn record(event: &Event, on: &Arc<Stream>) {
        let point = Point::new(1, Arc::clone(on));
        event.record(point, |point| Arc::clone(on).enqueue(Work::Record(point))).unwrap();
    }

    fn wait_event(stream: &Arc<Stream>, event: &Event) {
        if let Some(point) = event.pending() {
            point.expect_one().unwrap();
            enqueue(stream, Work::Wait(point));
        }
    }

    #[test]
    fn streams_wait_for_events_and_hold_no_thread() {
        explore(|pool| {
            // Six wait, and only four threads serve: the one they wait for comes last.
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

    /// An executor of two threads, which turn the order of what they run round.
    #[derive(Default)]
    struct Hands {
        places: Mutex<(Vec<usize>, bool)>,
        more: Condvar,
        launched: AtomicUsize,
    }

    impl Executor for Arc<Hands> {
        fn launch(&self, place: usize) -> Result<()> {
            if self.launched.fetch_add(1, Ordering::SeqCst) == 1 {
                return Err(Error::LaunchRefused { code: 7 });
            }
            self.places.lock().unwrap().0.push(place);
            self.more.notify_one();
            Ok(())
        }
    }

    impl Hands {
        fn run(&self, stream: &Arc<Stream>) {
            loop {
                let mut places = self.places.lock().unwrap();
                while places.0.is_empty() && !places.1 {
                    places = wait(&self.more, places, None);
                }
                let Some(place) = places.0.pop() else { return };
                drop(places);
                stream.reach(foreign::parts(place).1, None);
            }
        }
    }

    #[test]
    fn an_executor_may_run_places_in_any_order_and_refuse_some() {
        explore(|pool| {
            let (hands, log) = (Arc::new(Hands::default()), Log::default());
            let foreign = Foreign::new(Box::new(Arc::clone(&hands)), 3);
            let stream = Arc::new(Stream::new(1, Arc::clone(pool), Some(foreign)));
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
            hands.places.lock().unwrap().1 = true;
            hands.more.notify_all();
            threads.into_iter().for_each(|thread| thread.join().unwrap());
        });
    }
}
