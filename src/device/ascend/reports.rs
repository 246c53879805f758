//! Threads for runtimes that have none of their own for `aclrtLaunchCallback`.
//!
//! The runtime runs what is launched on a stream in whichever thread was subscribed to it. Where a framework has
//! subscribed one, that is left alone. Else libgmem's does it: one for all streams of a device of the runtime's, because
//! it allows no more, started with the first of them. It sleeps as long as it is subscribed to none.
//!
//! What runs there must not call the runtime, so whatever it has to hear is said by the thread between two of its calls.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::refused;
use crate::device::HostFunction;
use crate::error::{AclCode, Errno, Error, Result};
use crate::os::ascend::{AclResult, Callbacks, ContextOf, Noted, Thread};
use crate::os::process::{self, PerProcess};
use crate::reserve;

/// How long the thread waits inside the runtime, in milliseconds: what it is told takes as long at most.
const TURN: i32 = 100;
/// How long others wait for it to come back from there.
const PATIENCE: Duration = Duration::from_millis(2 * TURN as u64);
/// A call that fails at once is not made again at once.
const PAUSE: Duration = Duration::from_millis(1);

static REPORTERS: PerProcess<Mutex<Vec<Arc<Reporter>>>> =
    PerProcess::new(|_| Mutex::new(Vec::new()));

/// What is launched, the same for all.
static FUNCTION: Noted = Noted::new();

/// Have a stream call `function` in its order.
pub fn launch(
    runtime: &'static Callbacks,
    stream: usize,
    function: HostFunction,
    argument: usize,
) -> Result<()> {
    FUNCTION.note(function);
    let launch = || runtime.launch(stream, entered, argument);
    let outcome = match launch() {
        Err(AclCode::NO_THREAD_IS_SUBSCRIBED) => {
            subscribe(runtime, stream)?;
            launch()
        }
        outcome => outcome,
    };
    outcome.map_err(|code| refused("aclrtLaunchCallback", stream, code))
}

/// What the runtime calls, on libgmem's thread or on a framework's.
extern "C" fn entered(argument: *mut c_void) {
    let here = Thread::current();
    if let Some(reporter) = find(|state| state.thread == Some(here)) {
        reporter.lock().is_running = true;
    }
    FUNCTION.call(argument);
}

/// A stream is going to be launched on.
pub fn begin(stream: usize) -> Result<()> {
    let mut users = users();
    if users.try_reserve(1).is_err() {
        return Err(Error::OutOfMemory { what: "another stream" });
    }
    *users.entry(stream).or_insert(0) += 1;
    Ok(())
}

/// Whoever began is done with it. Where that was the last one, the stream is served no more.
pub fn forget(runtime: &'static Callbacks, stream: usize) {
    let is_last = {
        let mut users = users();
        let count = users.entry(stream).or_insert(1);
        *count -= 1;
        *count == 0 && users.remove(&stream).is_some()
    };
    if is_last && let Some(reporter) = find(|state| state.streams.contains(&stream)) {
        reporter.leave(runtime, stream);
    }
}

/// How many use each stream: one that was given up with work left may have come back meanwhile.
fn users() -> MutexGuard<'static, HashMap<usize, usize>> {
    static USERS: PerProcess<Mutex<HashMap<usize, usize>>> = PerProcess::new(|_| Mutex::default());
    USERS.get().lock().unwrap_or_else(PoisonError::into_inner)
}

fn subscribe(runtime: &'static Callbacks, stream: usize) -> Result<()> {
    let (device, context) =
        runtime.place().map_err(|code| refused("aclrtGetCurrentContext", stream, code))?;
    let reporter = of_device(runtime, device)?;
    reporter.serve(runtime, stream, context)
}

fn find(is_it: impl Fn(&State) -> bool) -> Option<Arc<Reporter>> {
    let reporters = REPORTERS.get().lock().unwrap_or_else(PoisonError::into_inner);
    reporters.iter().find(|reporter| is_it(&reporter.lock())).cloned()
}

fn of_device(runtime: &'static Callbacks, device: i32) -> Result<Arc<Reporter>> {
    let mut reporters = REPORTERS.get().lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(reporter) = reporters.iter().find(|reporter| reporter.device == device) {
        return Ok(Arc::clone(reporter));
    }
    let what = "a thread that serves the stream";
    reserve::ask(size_of::<Reporter>(), what)?;
    if reporters.try_reserve(1).is_err() || (reporters.is_empty() && !process::at_exit(retire)) {
        return Err(Error::OutOfMemory { what });
    }
    let reporter = Arc::new(Reporter { device, ..Reporter::default() });
    reporter.start(runtime)?;
    reporters.push(Arc::clone(&reporter));
    Ok(reporter)
}

/// When the process ends, the runtime takes itself apart: by then no thread of ours shall be in there.
extern "C" fn retire() {
    // A panic has nowhere to go.
    let _ = crate::guard::catch(|| {
        let reporters = REPORTERS.get().lock().unwrap_or_else(PoisonError::into_inner).clone();
        reporters.iter().for_each(|reporter| reporter.retire());
        Ok(())
    });
}

/// One thread.
#[derive(Default)]
struct Reporter {
    /// The device whose streams it serves, by the runtime's number.
    device: i32,
    state: Mutex<State>,
    /// Signalled with each change of the state.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Known as soon as it runs.
    thread: Option<Thread>,
    /// The context to work in from now on.
    context: Option<ContextOf>,
    /// The last one, and how that went.
    adopted: Option<(ContextOf, AclResult)>,
    /// Those it is subscribed to.
    streams: Vec<usize>,
    /// Of those that are no more: the ones that the runtime has yet to be told of. There is room for all.
    leaving: Vec<usize>,
    /// Inside the runtime.
    is_away: bool,
    /// And a function was called there, of which the runtime has yet to learn that it has returned.
    is_running: bool,
    is_retired: bool,
}

impl Reporter {
    fn start(self: &Arc<Self>, runtime: &'static Callbacks) -> Result<()> {
        let reporter = Arc::clone(self);
        let thread = std::thread::Builder::new().name("gmem-report".into());
        process::with_signals_blocked(|| thread.spawn(move || reporter.work(runtime)))
            .map(drop)
            .map_err(|failure| Error::NoThread {
                errno: Errno(failure.raw_os_error().unwrap_or(libc::EAGAIN)),
            })
    }

    /// A thread's life.
    fn work(&self, runtime: &Callbacks) {
        let mut state = self.lock();
        state.thread = Some(Thread::current());
        while !state.is_retired {
            if let Some(context) = state.context.take() {
                let adopted;
                (state, adopted) = self.away(state, || runtime.adopt(context));
                state.adopted = Some((context, adopted));
                self.changed.notify_all();
            } else if state.streams.is_empty() && state.leaving.is_empty() {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            } else {
                state = self.turn(runtime, state);
            }
        }
    }

    /// Run what there is, and tell the runtime what could not be told meanwhile.
    fn turn<'a>(
        &'a self,
        runtime: &Callbacks,
        state: MutexGuard<'a, State>,
    ) -> MutexGuard<'a, State> {
        let begun = Instant::now();
        let (mut state, outcome) = self.away(state, || runtime.process(TURN));
        while let Some(stream) = state.leaving.pop() {
            state = self.away(state, || self.end(runtime, Thread::current(), stream)).0;
        }
        if outcome.is_err() && begun.elapsed() < PAUSE {
            let paused = self.changed.wait_timeout(state, PAUSE);
            state = paused.unwrap_or_else(PoisonError::into_inner).0;
        }
        state
    }

    /// One call of the runtime's, without the lock.
    fn away<'a, R>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        call: impl FnOnce() -> R,
    ) -> (MutexGuard<'a, State>, R) {
        state.is_away = true;
        drop(state);
        let result = call();
        let mut state = self.lock();
        (state.is_away, state.is_running) = (false, false);
        self.changed.notify_all();
        (state, result)
    }

    // ---- what other threads do ------------------------------------------------------------------

    /// Serve a stream that was made in `context`.
    fn serve(&self, runtime: &Callbacks, stream: usize, context: ContextOf) -> Result<()> {
        let thread = self.thread_in(stream, context)?;
        let mut state = self.lock();
        let count = state.streams.len() + 1;
        if state.streams.try_reserve(1).is_err() || state.leaving.try_reserve(count).is_err() {
            return Err(Error::OutOfMemory { what: "a stream that a thread of libgmem's serves" });
        }
        drop(state);
        match runtime.subscribe(thread, stream) {
            // Somebody else's, or another thread of the program came here first.
            Err(AclCode::STREAM_HAS_A_THREAD) => return Ok(()),
            outcome => outcome.map_err(|code| refused("aclrtSubscribeReport", stream, code))?,
        }
        let mut state = self.lock();
        // An earlier one of that address may have gone without a word.
        if !state.streams.contains(&stream) {
            state.streams.push(stream);
        }
        self.changed.notify_all();
        Ok(())
    }

    /// The thread, in a context of its device's. It needs one before it is subscribed for the first time.
    fn thread_in(&self, stream: usize, context: ContextOf) -> Result<Thread> {
        let mut state = self.lock();
        let is_elsewhere =
            |adopted: Option<(ContextOf, AclResult)>| adopted != Some((context, Ok(())));
        if is_elsewhere(state.adopted) {
            state.context = Some(context);
            self.changed.notify_all();
        }
        loop {
            match (state.thread, state.adopted) {
                _ if state.is_retired => {
                    return Err(Error::NoAscend {
                        why: "the process is about to end".into(),
                        remedy: "Synchronize streams, and give them up, before exit()",
                    });
                }
                (Some(thread), Some((_, Ok(())))) => return Ok(thread),
                (Some(_), Some((_, Err(code)))) if state.context.is_none() && !state.is_away => {
                    return Err(refused("aclrtSetCurrentContext", stream, code));
                }
                _ => state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// Serve a stream no more. The runtime is told by the calling thread, because the stream may be destroyed next,
    /// unless the other one is in the middle of a function or is the caller itself.
    fn leave(&self, runtime: &Callbacks, stream: usize) {
        let mut state = self.lock();
        let Some(thread) = state.thread else { return };
        if thread != Thread::current() {
            // That the function has returned, the runtime learns a moment after whoever waits for its work.
            let waited = self.changed.wait_timeout_while(state, PATIENCE, |state| state.is_running);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        if !state.is_running {
            drop(state);
            self.end(runtime, thread, stream);
        } else if !state.leaving.contains(&stream) {
            state.leaving.push(stream);
        }
    }

    /// Tell the runtime, unless somebody has begun anew. Whoever does so now waits, and then finds the stream without a
    /// thread.
    fn end(&self, runtime: &Callbacks, thread: Thread, stream: usize) {
        let users = users();
        if users.contains_key(&stream) {
            return;
        }
        self.lock().streams.retain(|served| *served != stream);
        // It fails where the stream is gone, and then there is nothing to do.
        let _ = runtime.unsubscribe(thread, stream);
    }

    fn retire(&self) {
        let mut state = self.lock();
        state.is_retired = true;
        self.changed.notify_all();
        if state.thread != Some(Thread::current()) {
            let _ = self.changed.wait_timeout_while(state, PATIENCE, |state| state.is_away);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code of the user's runs under the lock, so a poisoned one is still consistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
