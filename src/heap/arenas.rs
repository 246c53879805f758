//! How many arenas jemalloc has, and which of them serves a block.
//!
//! Blocks that threads cache come from few arenas, on most machines from one: memory that one thread frees serves all others, and
//! the caches make visits rare. Each larger block ([`LARGE`](super::LARGE) excepted) is a visit under the arena's lock, so up to
//! [`MOST`] threads have arenas of their own for these.

use std::cell::Cell;
use std::ffi::c_int;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use tikv_jemalloc_sys as je;

use super::control;
use super::size_class::MAX_CACHED;
use crate::os::{errno, machine, set_errno};

/// Most arenas for blocks of a kind.
pub const MOST: usize = 4;

/// Processors that share an arena for cached blocks.
const PROCESSORS_PER_ARENA: usize = 8;

/// Processors of the thread that allocated first. Later changes of the process's processors change nothing.
fn processors() -> usize {
    static KNOWN: AtomicUsize = AtomicUsize::new(0);
    match KNOWN.load(Ordering::Relaxed) {
        0 => {
            let counted = machine::usable_cpus();
            match KNOWN.compare_exchange(0, counted, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => counted,
                Err(others) => others,
            }
        }
        known => known,
    }
}

/// Arenas for cached blocks: jemalloc's automatic ones.
pub fn automatic() -> usize {
    (processors() / PROCESSORS_PER_ARENA).clamp(1, MOST)
}

/// The processors that jemalloc is told of: two for each arena that it is to have, because it spins at a lock only if it knows of
/// several.
pub fn processors_for_jemalloc() -> usize {
    2 * automatic()
}

/// Arenas for medium blocks, made when they are first needed: 0, or the number of the arena plus 1. The first is an
/// automatic one.
static MEDIUM: [AtomicU32; MOST] = [const { AtomicU32::new(0) }; MOST];

/// While an arena is made, and if that failed: the automatic ones serve.
const NONE: u32 = u32::MAX;

thread_local! {
    /// The thread's index in [`MEDIUM`], plus 1; 0 before its first medium block.
    static INDEX: Cell<usize> = const { Cell::new(0) };
}

/// jemalloc's flags for a block of `size` bytes, less than [`LARGE`](super::LARGE).
pub fn flags(size: usize) -> c_int {
    if size <= MAX_CACHED || automatic() == MOST {
        return 0;
    }
    match index() {
        0 => 0,
        index => match arena(&MEDIUM[index]) {
            NONE => 0,
            number => je::MALLOCX_ARENA(number as usize) | je::MALLOCX_TCACHE_NONE,
        },
    }
}

/// The calling thread's index. Threads take turns.
fn index() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    if INDEX.get() == 0 {
        let turn = NEXT.fetch_add(1, Ordering::Relaxed);
        INDEX.set(1 + turn % processors().clamp(1, MOST));
    }
    INDEX.get() - 1
}

/// The number of an arena, which is made if it is not there yet.
fn arena(slot: &AtomicU32) -> u32 {
    match slot.compare_exchange(0, NONE, Ordering::Acquire, Ordering::Acquire) {
        Err(NONE) => NONE,
        Err(there) => there - 1,
        Ok(_) => {
            let before = errno();
            let made = control::number::<u32>(c"arenas.create", None);
            set_errno(before);
            if let Some(number) = made {
                slot.store(number + 1, Ordering::Release);
            }
            made.unwrap_or(NONE)
        }
    }
}
