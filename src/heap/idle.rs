//! When idle memory goes back to the kernel.
//!
//! What is freed is idle in two places: jemalloc has it at hand for the next allocation and would give it up along a curve of
//! its own, but is told not to (`dirty_decay_ms`); and heap pages that jemalloc has given up are kept
//! ([`super::heap_page`]). Once a second [`pass`] moves memory on: it takes all that jemalloc has idle, and has kept pages
//! dropped that the heap will hardly need again. What it may need is what it needed during the last half minute
//! (`GMEM_HEAP_KEEP`): the most that was in use then stays resident. So a program that works in bursts finds its memory where
//! it left it, and one that rests gives it up. All kept pages go if memory is short ([`is_short`]).
//!
//! The program's threads do this while they allocate and free. Once the heap has had large blocks a thread of its own does it,
//! also while the program rests.
//!
//! Only one thread at a time purges jemalloc's arenas ([`purge_arenas`]). jemalloc returns immediately from a purge while
//! another one is under way, and memory on its way back then counts as neither idle nor free: an allocation at the hard
//! limit would fail for no good reason.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use super::page_map::{self, TOTALS};
use super::turn::Turn;
use super::{control, limits};
use crate::os::{cgroup, errno, futex, memory, process, set_errno, thread};

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

/// The most that was [`occupied`] since the last pass, in bytes.
static PEAK: AtomicUsize = AtomicUsize::new(0);

/// Parts of the time for which memory is kept. The oldest part is forgotten as a whole.
const PARTS: usize = 8;

/// The most that was [`occupied`] in each part of that time, in bytes. Written by the thread that makes the pass.
static PEAKS: [AtomicUsize; PARTS] = [const { AtomicUsize::new(0) }; PARTS];

/// The most of all parts.
static PEAK_OF_LATE: AtomicUsize = AtomicUsize::new(0);

static PASSES: AtomicUsize = AtomicUsize::new(0);

/// Seconds for which memory is kept.
static KEEP: AtomicUsize = AtomicUsize::new(0);

/// Set the seconds for which memory is kept.
pub fn set_keep(seconds: usize) {
    KEEP.store(seconds, Ordering::Relaxed);
}

/// Note that more memory has come into use. A heap that uses other pages than those that it kept does not grow for that.
pub fn note_use() {
    let occupied = occupied();
    if occupied > PEAK.load(Ordering::Relaxed) {
        PEAK.fetch_max(occupied, Ordering::Relaxed);
    }
    if TOTALS.kept.load(Ordering::Relaxed) > 0 {
        let needed = PEAK_OF_LATE.load(Ordering::Relaxed).max(PEAK.load(Ordering::Relaxed));
        drop_beyond(needed + needed / 16);
    }
}

fn drop_beyond(bytes: usize) {
    page_map::drop_kept(TOTALS.charged.load(Ordering::Relaxed).saturating_sub(bytes));
}

/// Bytes that may be resident of heap pages in use. A huge page counts in full, even if only a part of it is in use.
fn occupied() -> usize {
    let charged = TOTALS.charged.load(Ordering::Relaxed);
    charged.saturating_sub(TOTALS.kept.load(Ordering::Relaxed))
}

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
        while ACTIVE.swap(0, Ordering::Relaxed) != 0 || TOTALS.kept.load(Ordering::Relaxed) > 0 {
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

/// Take what jemalloc has idle, and drop what is not worth keeping.
fn pass() {
    let before = errno();
    note_peak();
    purge_arenas();
    if TOTALS.kept.load(Ordering::Relaxed) > 0 {
        let charged = TOTALS.charged.load(Ordering::Relaxed);
        drop_beyond(if is_short(charged) { 0 } else { PEAK_OF_LATE.load(Ordering::Relaxed) });
    }
    set_errno(before);
}

/// Number of passes so far: a clock for what is to happen once a second.
pub fn passes() -> usize {
    PASSES.load(Ordering::Relaxed)
}

/// Bring [`PEAK_OF_LATE`] up to date; called once in each pass.
fn note_peak() {
    let passes = PASSES.fetch_add(1, Ordering::Relaxed);
    let occupied = occupied();
    let latest = PEAK.swap(occupied, Ordering::Relaxed).max(occupied);
    let keep = KEEP.load(Ordering::Relaxed);
    if keep == 0 {
        return;
    }
    let length = keep.div_ceil(PARTS);
    let part = &PEAKS[passes / length % PARTS];
    if passes.is_multiple_of(length) {
        part.store(latest, Ordering::Relaxed);
    } else {
        part.fetch_max(latest, Ordering::Relaxed);
    }
    let most = PEAKS.iter().map(|peak| peak.load(Ordering::Relaxed)).max();
    PEAK_OF_LATE.store(most.unwrap_or(latest), Ordering::Relaxed);
}

/// Whether others need the memory that the heap keeps: the heap is above its soft limit, a control group is near its limit, or
/// tasks have waited for memory since the last pass.
fn is_short(charged: usize) -> bool {
    let (soft, _) = limits::get();
    soft != limits::NONE && charged > soft || is_group_nearly_full() || has_stalled()
}

/// Whether the process's control group, or one above it, can take less than an eighth of its limit.
fn is_group_nearly_full() -> bool {
    let limit = cgroup::memory_limit();
    limit.is_some_and(|limit| cgroup::available_memory().is_some_and(|left| left < limit / 8))
}

/// Whether tasks on this machine have waited for memory for more than a twentieth of the time since the last call.
fn has_stalled() -> bool {
    static STALLED: AtomicU64 = AtomicU64::new(u64::MAX);
    static LOOKED: AtomicU64 = AtomicU64::new(0);
    let Some(stalled) = memory::stalled() else { return false };
    let now = process::coarse_milliseconds();
    let time = now.saturating_sub(LOOKED.swap(now, Ordering::Relaxed));
    stalled.saturating_sub(STALLED.swap(stalled, Ordering::Relaxed)) > time * 1000 / 20
}

/// Have jemalloc give up all idle memory of all arenas. Returns when that has been done, by this thread or by another.
pub fn purge_arenas() {
    let Some(_turn) = PURGE.take() else { return };
    // 4096 stands for all arenas (MALLCTL_ARENAS_ALL).
    control::command(c"arena.4096.purge");
}

static PURGE: Turn = Turn::new();

/// Keep `fork(3)` from happening in the middle of a purge: jemalloc would take the purge for unfinished in the child for
/// ever, and give nothing back there.
fn hold_during_forks() {
    static REGISTERED: AtomicBool = AtomicBool::new(false);
    /// Whether the forking thread has got hold. Only that thread writes it.
    static HELD: AtomicBool = AtomicBool::new(false);
    extern "C" fn before() {
        if PURGE.begin() {
            HELD.store(true, Ordering::Relaxed);
        }
    }
    extern "C" fn after() {
        if HELD.swap(false, Ordering::Relaxed) {
            PURGE.end();
        }
    }
    if !REGISTERED.swap(true, Ordering::Relaxed) {
        process::at_fork(before, after);
    }
}
