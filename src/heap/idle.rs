//! When idle memory goes back to the kernel.
//!
//! jemalloc keeps what is freed, and would give it back along a curve of its own. Here it never does so by itself
//! (`dirty_decay_ms:-1`): once a second [`pass`] takes everything idle from it. The program's threads do that while they
//! allocate and free. Once the heap has had large blocks, a thread of its own does it, so that a program at rest gives memory
//! back as well.
//!
//! Only one thread at a time purges jemalloc's arenas ([`purge_arenas`]). jemalloc returns immediately from a purge while
//! another one is under way, and memory on its way back then counts as neither idle nor free: an allocation at the hard
//! limit would fail for no good reason.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use super::control;
use crate::os::{errno, futex, process, set_errno, thread};

/// Time between two passes.
const INTERVAL: Duration = Duration::from_secs(1);

/// Bytes of large blocks handed out before the thread starts. A program that never has much memory is spared the thread.
const THREAD_THRESHOLD: usize = 64 << 20;

/// 1 if the program has freed blocks to jemalloc since the last pass, else 0. The thread sleeps on it.
static ACTIVE: AtomicU32 = AtomicU32::new(0);

/// When the last pass began, on the kernel's coarse clock, in milliseconds.
static LAST_PASS: AtomicU64 = AtomicU64::new(0);

/// The number of forks before the process that started the thread, plus 1.
static STARTED: AtomicU64 = AtomicU64::new(0);

/// Note that the program has freed a block to jemalloc, and do what is due.
#[inline]
pub fn note_free() {
    if ACTIVE.load(Ordering::Relaxed) == 0 && ACTIVE.swap(1, Ordering::Relaxed) == 0 {
        futex::wake(&ACTIVE);
    }
    if !is_started() {
        pass_if_due();
    }
}

/// Note that a large block of `size` bytes was asked for. Starts the thread when there were enough.
pub fn note_large(size: usize) {
    static TOTAL: AtomicUsize = AtomicUsize::new(0);
    // A size that cannot be served says nothing about what the program needs.
    if is_started() || size > isize::MAX as usize {
        return;
    }
    let total = TOTAL.fetch_add(size, Ordering::Relaxed).saturating_add(size);
    if total >= THREAD_THRESHOLD {
        start();
    }
}

fn is_started() -> bool {
    let started = STARTED.load(Ordering::Relaxed);
    started != 0 && started == process::forks() + 1
}

#[cold]
fn start() {
    let own = process::forks() + 1;
    if STARTED.swap(own, Ordering::Relaxed) == own {
        return;
    }
    let before = errno();
    hold_during_forks();
    // Without the thread, memory goes back while the program allocates and frees.
    if !thread::start(c"gmem-heap", work) {
        STARTED.store(0, Ordering::Relaxed);
    }
    set_errno(before);
}

extern "C" fn work() {
    loop {
        // Nothing is idle. A program at rest is not disturbed by a thread that wakes up for nothing.
        futex::wait(&ACTIVE, 0);
        while ACTIVE.swap(0, Ordering::Relaxed) != 0 {
            process::sleep(INTERVAL);
            pass();
        }
    }
}

fn pass_if_due() {
    let now = process::coarse_milliseconds();
    let last = LAST_PASS.load(Ordering::Relaxed);
    let is_due = now.saturating_sub(last) >= INTERVAL.as_millis() as u64;
    let next = || LAST_PASS.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed);
    // The first call only starts the clock.
    if is_due && next().is_ok() && last != 0 {
        pass();
    }
}

/// Give back what is idle.
fn pass() {
    let before = errno();
    purge_arenas();
    set_errno(before);
}

/// Have jemalloc give up all idle memory of all arenas. Returns when that has been done, by this thread or by another.
pub fn purge_arenas() {
    let Some(_purging) = PURGE.enter() else { return };
    // 4096 stands for all arenas (MALLCTL_ARENAS_ALL).
    control::command(c"arena.4096.purge");
}

/// Lets one thread at a time purge.
struct Purge {
    /// 0 while no thread purges, else the thread's id in the lower half and its process in the upper half: the number of
    /// forks before it, plus 1.
    holder: AtomicU64,
}

static PURGE: Purge = Purge { holder: AtomicU64::new(0) };

struct Purging<'a>(&'a Purge);

impl Purge {
    /// Times that a thread looks whether another one has finished. From the 16th on it sleeps in between.
    const PATIENCE: u32 = 10_000;

    /// Wait for the thread that purges. `None` if that is the calling thread, and after a second: a thread in `fork(3)`
    /// may hold this while it waits for a lock that the calling thread has.
    fn enter(&self) -> Option<Purging<'_>> {
        let forks = (process::forks() + 1) << 32;
        let own = forks | u64::from(process::thread_id().cast_unsigned());
        for attempt in 0..Self::PATIENCE {
            let holder = self.holder.load(Ordering::Relaxed);
            // The thread of a parent process does not exist in its forked child.
            let is_free = holder == 0 || holder >> 32 != forks >> 32;
            let exchange =
                || self.holder.compare_exchange(holder, own, Ordering::Acquire, Ordering::Relaxed);
            if is_free && exchange().is_ok() {
                return Some(Purging(self));
            }
            if holder == own {
                return None;
            }
            if attempt < 16 {
                process::yield_now();
            } else {
                // The holder may have a lower real-time priority.
                process::sleep(Duration::from_micros(100));
            }
        }
        None
    }
}

impl Drop for Purging<'_> {
    fn drop(&mut self) {
        self.0.holder.store(0, Ordering::Release);
    }
}

/// Keep `fork(3)` from happening in the middle of a purge: jemalloc would take the purge for unfinished in the child for
/// ever, and give nothing back there.
fn hold_during_forks() {
    static REGISTERED: AtomicBool = AtomicBool::new(false);
    /// Whether the forking thread has got hold. Only the holder writes it.
    static HELD: AtomicBool = AtomicBool::new(false);
    extern "C" fn before() {
        if let Some(purging) = PURGE.enter() {
            std::mem::forget(purging);
            HELD.store(true, Ordering::Relaxed);
        }
    }
    extern "C" fn after() {
        if HELD.swap(false, Ordering::Relaxed) {
            PURGE.holder.store(0, Ordering::Release);
        }
    }
    if !REGISTERED.swap(true, Ordering::Relaxed) {
        process::at_fork(before, after);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thread_purges_and_the_others_wait() {
        static PURGE: Purge = Purge { holder: AtomicU64::new(0) };
        static INSIDE: AtomicU32 = AtomicU32::new(0);
        let threads: Vec<_> = (0..4)
            .map(|_| {
                std::thread::spawn(|| {
                    for _ in 0..200 {
                        let entered = PURGE.enter();
                        assert!(entered.is_some() && PURGE.enter().is_none());
                        assert_eq!(INSIDE.fetch_add(1, Ordering::Relaxed), 0);
                        process::yield_now();
                        INSIDE.fetch_sub(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        for thread in threads {
            assert!(thread.join().is_ok());
        }
        // A holder in a process that is gone does not count.
        PURGE.holder.store(u64::MAX, Ordering::Relaxed);
        assert!(PURGE.enter().is_some());
    }
}
