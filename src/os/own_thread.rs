//! The library's own threads, on stacks of its own.
//!
//! `std::thread` ends the process when the C library has no memory for a thread. The C library, which keeps the stacks of ended
//! threads for the next ones, ends the process when a sandbox refuses to unmap one. Here both are errors or harmless.

use std::ffi::{CStr, c_void};
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::lazy::Lazy;
use super::mapping::{self, Mapping};
use super::process::{self, PerProcess};
use super::thread::without_cancellation;
use super::{SysResult, advice};
use crate::error::Errno;
use crate::page::PageRange;
use crate::reserve;

/// Stacks that are kept for the next threads.
const KEPT_STACKS: usize = 16;

/// Start a thread that nobody waits for.
pub fn start(name: &'static CStr, work: Box<dyn FnOnce() + Send>) -> SysResult<()> {
    let mut threads = threads();
    threads.collect_ended();
    threads.unwatched.try_reserve(1).map_err(|_| Errno(libc::ENOMEM))?;
    let argument = Box::into_raw(Box::new(Detached { name, work }));
    // SAFETY: the argument is a Detached, which the thread takes back into a Box.
    let started = unsafe { threads.start(run_detached, argument.cast()) };
    let thread = started.inspect_err(|_| {
        // SAFETY: made above by Box::into_raw, and no thread was started that would take it.
        drop(unsafe { Box::from_raw(argument) });
    })?;
    threads.unwatched.push(thread);
    Ok(())
}

/// Call `own` while up to `count` other threads call `help`, and return when all of them are done. Where threads cannot be started,
/// there are fewer.
pub fn with_helpers(
    name: &'static CStr,
    count: usize,
    help: &(dyn Fn() + Sync),
    own: impl FnOnce(),
) {
    let helper = Helper { name, help };
    let mut team = Team(Vec::new());
    if team.0.try_reserve_exact(count).is_ok() {
        let mut threads = threads();
        threads.collect_ended();
        for _ in 0..count {
            // SAFETY: the argument is a Helper. It and what it refers to outlive the team, which waits for the thread when it is
            // dropped.
            let started =
                unsafe { threads.start(run_helper, (&raw const helper).cast_mut().cast()) };
            let Ok(thread) = started else { break };
            team.0.push(thread);
        }
    }
    own();
}

struct Detached {
    name: &'static CStr,
    work: Box<dyn FnOnce() + Send>,
}

extern "C" fn run_detached(argument: *mut c_void) -> *mut c_void {
    // SAFETY: `start` made the argument by Box::into_raw, for this thread alone.
    let Detached { name, work } = *unsafe { Box::from_raw(argument.cast::<Detached>()) };
    run(name, work);
    ptr::null_mut()
}

struct Helper<'a> {
    name: &'static CStr,
    help: &'a (dyn Fn() + Sync),
}

extern "C" fn run_helper(argument: *mut c_void) -> *mut c_void {
    // SAFETY: `with_helpers` passes a Helper, and keeps it until this thread has ended.
    let Helper { name, help } = unsafe { &*argument.cast::<Helper<'_>>() };
    run(name, help);
    ptr::null_mut()
}

fn run(name: &CStr, work: impl FnOnce()) {
    // SAFETY: the name is NUL-terminated. A failure leaves the thread with the name of the one that started it.
    unsafe { libc::pthread_setname_np(libc::pthread_self(), name.as_ptr()) };
    // The heap sets up a thread's part at the thread's first allocation: do that now, while there is memory.
    let _ = reserve::ask(size_of::<usize>(), "a thread");
    // As with std::thread, a panic ends the thread and nothing else.
    let _ = catch_unwind(AssertUnwindSafe(work));
}

/// Threads that are waited for on drop.
struct Team(Vec<Thread>);

impl Drop for Team {
    fn drop(&mut self) {
        for thread in self.0.drain(..) {
            let stack = thread.join();
            threads().keep(stack);
        }
    }
}

/// Runs at the end of the process: ThreadSanitizer takes threads that are neither joined nor detached for leaks.
extern "C" fn detach_all() {
    if let Some(Ok(mut threads)) = THREADS.made().map(Mutex::try_lock) {
        threads.collect_ended();
        for thread in threads.unwatched.drain(..) {
            thread.detach();
        }
    }
}

#[used]
#[unsafe(link_section = ".fini_array")]
static AT_EXIT: extern "C" fn() = detach_all;

// ---- threads and their stacks -------------------------------------------------------------------

/// The threads of one process.
#[derive(Default)]
struct Threads {
    /// Stacks of threads that have ended.
    stacks: Vec<Stack>,
    /// Threads that nobody waits for. Their stacks are free once they have ended.
    unwatched: Vec<Thread>,
}

static THREADS: PerProcess<Mutex<Threads>> = PerProcess::new(|_| Mutex::default());

fn threads() -> MutexGuard<'static, Threads> {
    THREADS.get().lock().unwrap_or_else(PoisonError::into_inner)
}

impl Threads {
    /// Start a thread, with all signals blocked.
    ///
    /// # Safety
    /// `entry` may be called with `argument` on another thread.
    unsafe fn start(&mut self, entry: Entry, argument: *mut c_void) -> SysResult<Thread> {
        let stack = match self.stacks.pop() {
            Some(kept) => kept,
            None => Stack::map()?,
        };
        // SAFETY: the caller lets `entry` be called with `argument` on another thread.
        unsafe { Thread::start(stack, entry, argument) }.map_err(|(errno, stack)| {
            self.keep(stack);
            errno
        })
    }

    fn collect_ended(&mut self) {
        let mut at = 0;
        while let Some(thread) = self.unwatched.get(at) {
            if thread.has_ended() {
                let Thread { stack, .. } = self.unwatched.swap_remove(at);
                self.keep(stack);
            } else {
                at += 1;
            }
        }
    }

    fn keep(&mut self, stack: Stack) {
        if self.stacks.len() < KEPT_STACKS && self.stacks.try_reserve(1).is_ok() {
            self.stacks.push(stack);
        }
    }
}

type Entry = extern "C" fn(*mut c_void) -> *mut c_void;

/// A thread that was started and not joined.
struct Thread {
    id: libc::pthread_t,
    stack: Stack,
}

unsafe extern "C" {
    /// pthread.h; the libc crate has no declaration for all C libraries.
    fn pthread_tryjoin_np(thread: libc::pthread_t, value: *mut *mut c_void) -> libc::c_int;
}

impl Thread {
    /// # Safety
    /// `entry` may be called with `argument` on another thread.
    unsafe fn start(
        stack: Stack,
        entry: Entry,
        argument: *mut c_void,
    ) -> Result<Self, (Errno, Stack)> {
        let mut attributes = std::mem::MaybeUninit::uninit();
        let mut id = 0;
        let usable = stack.usable();
        let start = ptr::with_exposed_provenance_mut(usable.start());
        // SAFETY: the attributes are initialised before they are used and destroyed once. The stack belongs to this thread alone
        // until it is joined. The caller lets `entry` be called with `argument`.
        let failed = process::with_signals_blocked(|| unsafe {
            libc::pthread_attr_init(attributes.as_mut_ptr());
            libc::pthread_attr_setstack(attributes.as_mut_ptr(), start, usable.len());
            let failed = libc::pthread_create(&raw mut id, attributes.as_ptr(), entry, argument);
            libc::pthread_attr_destroy(attributes.as_mut_ptr());
            failed
        });
        if failed == 0 { Ok(Self { id, stack }) } else { Err((Errno(failed), stack)) }
    }

    /// Wait until the thread has ended. Returns its stack.
    fn join(self) -> Stack {
        // SAFETY: the thread was started joinable and is joined once, because `self` ends here. pthread_join(3) is a cancellation
        // point.
        without_cancellation(|| unsafe { libc::pthread_join(self.id, ptr::null_mut()) });
        self.stack
    }

    /// Leave the thread and its stack alone for good.
    fn detach(self) {
        let left = ManuallyDrop::new(self);
        // SAFETY: the thread was started joinable, and nobody joins it, because `self` ends here.
        unsafe { libc::pthread_detach(left.id) };
    }

    /// Whether the thread has ended. Then it is joined, and only the stack is left.
    fn has_ended(&self) -> bool {
        // SAFETY: the thread was started joinable. Callers drop the value once this has returned true, so it is joined once.
        unsafe { pthread_tryjoin_np(self.id, ptr::null_mut()) == 0 }
    }
}

/// Memory for the stack of a thread, with a page below it that must not be touched.
struct Stack(Mapping);

impl Stack {
    fn map() -> SysResult<Self> {
        let base = mapping::base_page();
        let mapping = Mapping::new(base.bytes() + stack_bytes(), base)?;
        let range = mapping.range();
        let guard = ptr::with_exposed_provenance_mut(range.start());
        // SAFETY: the page is the first of the mapping, which nobody uses yet. Without the guard an overflow would not be noticed;
        // that is no reason to do without the thread.
        let _ = unsafe { libc::mprotect(guard, base.bytes(), libc::PROT_NONE) };
        // A thread of the library touches a few base pages of its stack.
        advice::small_pages(range);
        Ok(Self(mapping))
    }

    /// The addresses without the guard.
    fn usable(&self) -> PageRange {
        let range = self.0.range();
        PageRange::new(range.start() + mapping::base_page().bytes(), range.end())
    }
}

/// As much as `std::thread` has, and the static thread-local storage of the program, which lies on the stack as well.
fn stack_bytes() -> usize {
    static BYTES: Lazy<usize> = Lazy::new(|| {
        const STACK: usize = 2 << 20;
        type Minimum = unsafe extern "C" fn(*const libc::pthread_attr_t) -> libc::size_t;
        let mut attributes = std::mem::MaybeUninit::uninit();
        // SAFETY: the attributes are initialised before they are used and destroyed once. glibc's function of that name has this
        // type; std calls it in the same way.
        let least = unsafe {
            let function = libc::dlsym(libc::RTLD_DEFAULT, c"__pthread_get_minstack".as_ptr());
            libc::pthread_attr_init(attributes.as_mut_ptr());
            let least = match function.is_null() {
                true => 0,
                false => std::mem::transmute::<*mut c_void, Minimum>(function)(attributes.as_ptr()),
            };
            libc::pthread_attr_destroy(attributes.as_mut_ptr());
            least
        };
        mapping::base_page().ceil(STACK + least).unwrap_or(STACK)
    });
    *BYTES.get()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn helpers_are_done_when_the_call_returns() {
        let calls = AtomicUsize::new(0);
        for _ in 0..20 {
            let help = || {
                calls.fetch_add(1, Ordering::Relaxed);
            };
            with_helpers(c"test", 3, &help, help);
        }
        assert_eq!(calls.load(Ordering::Relaxed), 80);
    }

    #[test]
    fn a_panic_ends_the_thread_alone() {
        with_helpers(c"test", 1, &|| std::panic::resume_unwind(Box::new(1)), || ());
    }

    #[test]
    fn stacks_of_ended_threads_are_used_again() {
        let (sender, receiver) = mpsc::channel();
        for _ in 0..100 {
            let sender = sender.clone();
            start(c"test", Box::new(move || sender.send(()).unwrap())).unwrap();
            receiver.recv().unwrap();
        }
        let threads = threads();
        // Other tests start threads, too.
        assert!(threads.unwatched.len() + threads.stacks.len() < 60);
    }
}
