//! Report threads for runtimes that only have `aclrtLaunchCallback`.
//!
//! The runtime runs a function that is launched on a stream in the thread that is subscribed to the stream. If a framework has
//! subscribed a thread, libgmem leaves that alone. Otherwise libgmem subscribes its own: one thread for all streams of a
//! device, because the runtime allows no more. It starts with the first stream, and sleeps while it has none.
//!
//! A function that runs there must not call the runtime. The thread makes such calls between two functions.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::ffi::c_void;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::codes::{AclCode, unavailable};
use super::driver::{AclResult, Callbacks, ContextOf, Noted, Thread};
use crate::device::HostFunction;
use crate::error::{Error, Result};
use crate::os::own_thread;
use crate::os::process::{self, PerProcess};
use crate::reserve;

/// How long the thread waits inside the runtime, in milliseconds. Requests of other threads wait as long at most.
const TURN: i32 = 100;
/// How long other threads wait for the thread to leave the runtime.
const PATIENCE: Duration = Duration::from_millis(2 * TURN as u64);
/// The pause after a call that failed immediately.
const PAUSE: Duration = Duration::from_millis(1);

static REPORTERS: PerProcess<Mutex<Vec<Arc<Reporter>>>> =
    PerProcess::new(|_| Mutex::new(Vec::new()));

/// The function of all launches.
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
        Err(AclCode::STREAM_NO_CB_REG) => {
            subscribe(runtime, stream)?;
            launch()
        }
        outcome => outcome,
    };
    outcome.map_err(|code| code.error("aclrtLaunchCallback", stream))
}

/// The function that the runtime calls, in the thread of libgmem or of a framework.
extern "C" fn entered(argument: *mut c_void) {
    let here = Thread::current();
    if let Some(reporter) = find(|state| state.thread == Some(here)) {
        reporter.lock().is_running = true;
    }
    FUNCTION.call(argument);
}

/// Count a user of a stream, before the first launch.
pub fn begin(stream: usize) -> Result<()> {
    let mut users = users();
    if users.try_reserve(1).is_err() {
        return Err(Error::OutOfMemory { what: "another stream" });
    }
    *users.entry(stream).or_insert(0) += 1;
    Ok(())
}

/// A user of a stream is done with it. After the last one the thread serves the stream no more.
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

/// A map without random keys, which would be thread-local variables (cpp/thread_cache.hpp).
type Users = HashMap<usize, usize, BuildHasherDefault<DefaultHasher>>;

/// The number of users of each stream. A stream that was given up with work left may be in use again.
fn users() -> MutexGuard<'static, Users> {
    static USERS: PerProcess<Mutex<Users>> = PerProcess::new(|_| Mutex::default());
    USERS.get().lock().unwrap_or_else(PoisonError::into_inner)
}

fn subscribe(runtime: &'static Callbacks, stream: usize) -> Result<()> {
    let (device, context) =
        runtime.current_context().map_err(|code| code.error("aclrtGetCurrentContext", stream))?;
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

/// At exit the runtime shuts down; no thread of libgmem may be inside it then.
extern "C" fn retire() {
    // Nobody could receive a panic.
    let _ = crate::guard::catch(|| {
        let reporters = REPORTERS.get().lock().unwrap_or_else(PoisonError::into_inner).clone();
        reporters.iter().for_each(|reporter| reporter.retire());
        Ok(())
    });
}

/// A report thread.
#[derive(Default)]
struct Reporter {
    /// The device whose streams it serves.
    device: i32,
    state: Mutex<State>,
    /// Signalled at each change of the state.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// The thread, once it runs.
    thread: Option<Thread>,
    /// A context that the thread is to make current.
    context: Option<ContextOf>,
    /// The last context that the thread made current, and the result.
    adopted: Option<(ContextOf, AclResult)>,
    /// The streams that it is subscribed to.
    streams: Vec<usize>,
    /// Streams that the thread has yet to unsubscribe from. The list has capacity for all streams.
    leaving: Vec<usize>,
    /// The thread is inside the runtime.
    is_away: bool,
    /// The runtime has called a function in the thread and has not seen it return.
    is_running: bool,
    is_retired: bool,
}

impl Reporter {
    fn start(self: &Arc<Self>, runtime: &'static Callbacks) -> Result<()> {
        let reporter = Arc::clone(self);
        own_thread::start(c"gmem-report", Box::new(move || reporter.work(runtime)))
            .map_err(|errno| Error::NoThread { errno })
    }

    /// The main function of the thread.
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

    /// Run pending functions, then unsubscribe from streams that are leaving.
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

    /// Make one call of the runtime, without the lock.
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

    // ---- called by other threads ------------------------------------------------------------------

    /// Serve a stream that was created in `context`.
    fn serve(&self, runtime: &Callbacks, stream: usize, context: ContextOf) -> Result<()> {
        let thread = self.thread_in(stream, context)?;
        let mut state = self.lock();
        let count = state.streams.len() + 1;
        if state.streams.try_reserve(1).is_err() || state.leaving.try_reserve(count).is_err() {
            return Err(Error::OutOfMemory { what: "a stream that a thread of libgmem's serves" });
        }
        drop(state);
        match runtime.subscribe(thread, stream) {
            // A thread of the framework serves it, or another thread of the program came here first.
            Err(AclCode::STREAM_SUBSCRIBE) => return Ok(()),
            outcome => outcome.map_err(|code| code.error("aclrtSubscribeReport", stream))?,
        }
        let mut state = self.lock();
        // An earlier stream with this address may have been destroyed without notice.
        if !state.streams.contains(&stream) {
            state.streams.push(stream);
        }
        self.changed.notify_all();
        Ok(())
    }

    /// The thread, with a context of its device. It needs one before its first subscription.
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
                    return Err(unavailable(
                        "the process is about to end",
                        "Synchronize streams, and give them up, before exit()",
                    ));
                }
                (Some(thread), Some((_, Ok(())))) => return Ok(thread),
                (Some(_), Some((_, Err(code)))) if state.context.is_none() && !state.is_away => {
                    return Err(code.error("aclrtSetCurrentContext", stream));
                }
                _ => state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// Stop serving a stream. The calling thread unsubscribes, because the stream may be destroyed next; if the report thread is
    /// inside a function, or is the caller, it unsubscribes itself later.
    fn leave(&self, runtime: &Callbacks, stream: usize) {
        let mut state = self.lock();
        let Some(thread) = state.thread else { return };
        if thread != Thread::current() {
            // A waiter learns that the work is done a moment before the runtime sees the function return.
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

    /// Unsubscribe, unless the stream has a new user. A user that comes now waits for the lock and then finds the stream
    /// without a thread.
    fn end(&self, runtime: &Callbacks, thread: Thread, stream: usize) {
        let users = users();
        if users.contains_key(&stream) {
            return;
        }
        self.lock().streams.retain(|served| *served != stream);
        // The call fails if the stream was destroyed; then nothing is left to do.
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
        // No user code runs under the lock, so the state is consistent even if the lock is poisoned.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
