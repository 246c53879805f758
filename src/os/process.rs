//! Processes and threads: fork, signals, scheduling.

use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};
use std::time::Duration;

use super::{cgroup, check, errno, file, mapping, set_errno, syscall};

/// A value of which each process has its own. A forked child starts with a fresh one: the threads of the parent do not exist
/// there, and locks may be held for ever. The child leaves the parent's value alone, except for what `inherit` does.
pub struct PerProcess<T: 'static> {
    current: AtomicPtr<Instance<T>>,
    make: fn(forks: u64) -> T,
    inherit: fn(parents: &T),
}

struct Instance<T> {
    forks: u64,
    value: T,
}

impl<T: Send + Sync> PerProcess<T> {
    /// `make` is called on first use in each process, with the number of forks before it.
    pub const fn new(make: fn(forks: u64) -> T) -> Self {
        Self::with_inheritance(make, |_| ())
    }

    /// [`PerProcess::new`] with a function that a child calls once, with its parent's value, when it has made its own.
    pub const fn with_inheritance(make: fn(forks: u64) -> T, inherit: fn(parents: &T)) -> Self {
        Self { current: AtomicPtr::new(ptr::null_mut()), make, inherit }
    }

    /// The value of this process, unless none is made yet.
    pub fn made(&'static self) -> Option<&'static T> {
        // SAFETY: a stored instance is never freed.
        let current = unsafe { self.current.load(Ordering::Acquire).as_ref() }?;
        (current.forks == forks()).then_some(&current.value)
    }

    /// The value of this process.
    pub fn get(&'static self) -> &'static T {
        let forks = forks();
        let mut current = self.current.load(Ordering::Acquire);
        loop {
            // SAFETY: a stored instance is never freed.
            if let Some(instance) = unsafe { current.as_ref() }
                && instance.forks == forks
            {
                return &instance.value;
            }
            let made = Box::into_raw(Box::new(Instance { forks, value: (self.make)(forks) }));
            match self.current.compare_exchange(current, made, Ordering::AcqRel, Ordering::Acquire)
            {
                Ok(parents) => {
                    // SAFETY: a stored instance is never freed. This one is of another process, so only the thread that
                    // replaced it gets here.
                    if let Some(parents) = unsafe { parents.as_ref() } {
                        (self.inherit)(&parents.value);
                    }
                    // SAFETY: stored just now, and a stored instance is never freed.
                    return unsafe { &(*made).value };
                }
                Err(other) => {
                    // SAFETY: made above; no other thread has seen it, because the exchange failed.
                    drop(unsafe { Box::from_raw(made) });
                    current = other;
                }
            }
        }
    }
}

/// The number of forks between the process that called this first and this one. Some numbers may be skipped; no process has
/// the number of its parent or of one before that.
///
/// The number lies in a page that the kernel clears in each child with memory of its own (`MADV_WIPEONFORK`). So children of
/// `_Fork(3)` and of a raw `clone(2)`, which run no handlers, are recognized, and a child of `vfork(2)` counts as its parent,
/// whose memory it uses. Where the kernel refuses such a page, only `fork(3)` is recognized, by a handler.
pub fn forks() -> u64 {
    /// The last number given out, in memory that a child inherits.
    static LAST: AtomicU64 = AtomicU64::new(0);

    let own = own_number();
    match own.load(Ordering::Acquire) {
        0 => {
            // Of several threads that get here one stores its number; the numbers of the others are skipped.
            let next = LAST.fetch_add(1, Ordering::AcqRel) + 1;
            own.compare_exchange(0, next, Ordering::AcqRel, Ordering::Acquire).err().unwrap_or(next)
        }
        known => known,
    }
    .wrapping_sub(1)
}

/// Where the number of this process is, plus one; 0 in a child that has none yet.
fn own_number() -> &'static AtomicU64 {
    static NUMBER: AtomicPtr<AtomicU64> = AtomicPtr::new(ptr::null_mut());

    let mut number = NUMBER.load(Ordering::Acquire);
    if number.is_null() {
        let before = errno();
        let made = match mapping::map_wiped_on_fork() {
            Ok(page) => page.as_ptr().cast(),
            Err(_) => ptr::from_ref(number_cleared_by_handler()).cast_mut(),
        };
        number = match NUMBER.compare_exchange(
            ptr::null_mut(),
            made,
            Ordering::AcqRel,
            Ordering::Acquire,
        ) {
            Ok(_) => made,
            // A page that lost the race stays mapped: it is one page, once.
            Err(others) => others,
        };
        set_errno(before);
    }
    // SAFETY: the number is a static or at the start of a page, which is aligned, begins as zeros and is never unmapped.
    unsafe { &*number }
}

/// The number of this process where the kernel does not clear it.
fn number_cleared_by_handler() -> &'static AtomicU64 {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    static REGISTERED: AtomicBool = AtomicBool::new(false);
    extern "C" fn clear() {
        NUMBER.store(0, Ordering::Release);
    }
    if !REGISTERED.swap(true, Ordering::Relaxed) {
        // SAFETY: the handler stays loaded (-z nodelete) and only stores to an atomic. It fails only without memory; then a
        // child keeps streams without threads, and its calls wait.
        unsafe { libc::pthread_atfork(None, None, Some(clear)) };
    }
    &NUMBER
}

/// Have a function called when the process ends by `exit(3)`, before those that are registered already. False if there is no
/// memory for that.
pub fn at_exit(function: extern "C" fn()) -> bool {
    // SAFETY: the function stays loaded (-z nodelete).
    unsafe { libc::atexit(function) == 0 }
}

/// Have functions called around `fork(3)`: `before` in the forking thread, `after` in the parent and in the child. Without
/// memory for that, nothing is called.
pub fn at_fork(before: extern "C" fn(), after: extern "C" fn()) {
    // SAFETY: the functions stay loaded (-z nodelete).
    unsafe { libc::pthread_atfork(Some(before), Some(after), Some(after)) };
}

/// Have a function called in the children of `fork(3)`. Without memory for that, it is not called.
pub fn at_fork_in_child(function: extern "C" fn()) {
    // SAFETY: the function stays loaded (-z nodelete).
    unsafe { libc::pthread_atfork(None, None, Some(function)) };
}

/// A number for the calling process, which no other process of the PID namespace has had before: its id and the time of its start.
/// Does not allocate.
pub fn identity() -> u64 {
    start_of(c"/proc/self/stat").map_or(0, |start| identity_of(process_id(), start))
}

/// Whether the process with an [`identity`] has not ended. It counts as running where the system does not say.
pub fn is_running(identity: u64) -> bool {
    let id = identity >> 32;
    let Ok(path) = std::ffi::CString::new(format!("/proc/{id}/stat")) else { return true };
    match start_of(&path) {
        Some(start) => identity_of(id as i32, start) == identity,
        None => file::exists(&path),
    }
}

fn identity_of(process: i32, start: u64) -> u64 {
    u64::from(process.cast_unsigned()) << 32 | start & u64::from(u32::MAX)
}

/// When a process started, in ticks since the machine did; 0 if it has ended and its parent does not know yet.
fn start_of(stat: &std::ffi::CStr) -> Option<u64> {
    let mut buffer = [0; 1024];
    let text = file::read_start(stat, &mut buffer).ok()?;
    // `4711 (a name) S 1 ...`: the name may hold anything.
    let behind_name = text.iter().rposition(|byte| *byte == b')')? + 1;
    let fields = std::str::from_utf8(&text[behind_name..]).ok()?;
    let mut fields = fields.split_ascii_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return Some(0);
    }
    fields.nth(18)?.parse().ok()
}

/// Milliseconds on a clock that never goes back, a few milliseconds late, and cheap to read.
pub fn coarse_milliseconds() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the time may be written. Linux has this clock since 2.6.32, so the call does not fail.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut time) };
    time.tv_sec.cast_unsigned() * 1000 + time.tv_nsec.cast_unsigned() / 1_000_000
}

/// Processor time that the calling thread has used.
pub fn thread_time() -> Duration {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the structure may be written, and zeros are a value of it.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr());
        usage.assume_init()
    };
    let duration = |time: libc::timeval| {
        Duration::new(time.tv_sec.cast_unsigned(), time.tv_usec.cast_unsigned() as u32 * 1000)
    };
    duration(usage.ru_utime) + duration(usage.ru_stime)
}

/// The number of processors that the calling thread may use: those of its affinity mask, but no more than the share of
/// time that its control group gets, rounded up.
pub fn processors() -> usize {
    let mut mask = [0_u64; 128];
    // SAFETY: the mask is writable for its size. 0 is the calling thread. The kernel returns the bytes that it wrote.
    let written = unsafe {
        libc::syscall(libc::SYS_sched_getaffinity, 0, size_of_val(&mask), mask.as_mut_ptr())
    };
    let allowed: usize = mask.iter().map(|word| word.count_ones() as usize).sum();
    let allowed = if written > 0 { allowed } else { 1 };
    allowed.min(cgroup::processors().unwrap_or(usize::MAX)).max(1)
}

/// Sleep for about that long, without a cancellation point.
pub fn sleep(time: Duration) {
    syscall::sleep(time);
}

/// The kernel's id of the calling thread.
pub fn thread_id() -> i32 {
    // SAFETY: gettid has no arguments and cannot fail. A thread id is a pid_t.
    unsafe { libc::syscall(libc::SYS_gettid) as libc::pid_t }
}

/// The id of the calling process.
pub fn process_id() -> i32 {
    // SAFETY: getpid has no arguments and cannot fail.
    unsafe { libc::getpid() }
}

/// Whether a thread of a process has ended. Leaves errno unchanged.
pub fn thread_has_gone(process: i32, thread: i32) -> bool {
    let before = errno();
    // SAFETY: signal 0 only checks whether the thread exists.
    let result = unsafe { libc::syscall(libc::SYS_tgkill, process, thread, 0) };
    let gone = result != 0 && errno().0 == libc::ESRCH;
    set_errno(before);
    gone
}

/// Let other threads run.
pub fn yield_now() {
    // SAFETY: sched_yield has no arguments.
    unsafe { libc::sched_yield() };
}

/// Block all signals in the calling thread.
pub fn block_all_signals() {
    let mut all = std::mem::MaybeUninit::uninit();
    // SAFETY: sigfillset initialises the set before it is read.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), std::ptr::null_mut());
    }
}

/// Block all signals while `start` runs, so that a thread which it starts has them blocked from its first instruction on.
pub fn with_signals_blocked<T>(start: impl FnOnce() -> T) -> T {
    let mut before = std::mem::MaybeUninit::uninit();
    // SAFETY: a NULL set changes nothing and only reads the mask into `before`.
    let known = check(unsafe {
        libc::pthread_sigmask(libc::SIG_SETMASK, std::ptr::null(), before.as_mut_ptr())
    });
    block_all_signals();
    let value = start();
    if known.is_ok() {
        // SAFETY: `before` was filled by the call above.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), std::ptr::null_mut());
        }
    }
    value
}
