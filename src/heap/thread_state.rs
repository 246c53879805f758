//! Space for a thread's part of the heap: jemalloc's thread-local state, and behind it the thread's cache. The thread-local
//! variable itself is one pointer (`cpp/jemalloc/jemalloc/internal/tsd_tls.h`). A thread claims the block that it points to
//! on its first allocation; when the thread has gone another one may claim the block.
//!
//! No lock and no allocation: this runs inside the first `malloc` of a thread, also after `fork`.

use std::cell::UnsafeCell;
use std::ffi::c_void;
use std::mem::offset_of;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicI32, AtomicPtr, Ordering, fence};

use super::checked::{assert_heap, perturb};
use super::constants::STATE_BYTES;
use super::thread_cache::{self, ThreadCache};
use super::{pages, profile};
use crate::os::{mapping, process};

/// Blocks in a slab.
const SLAB_BLOCKS: usize = 16;

/// The space of one thread.
#[repr(C)]
struct Block {
    /// Thread id of the owner, 0 for none yet.
    thread: AtomicI32,
    /// Process id of the owner: in a forked child the ids of the parent's threads mean nothing.
    process: AtomicI32,
    state: State,
    cache: UnsafeCell<ThreadCache>,
}

// cpp/thread_cache.hpp finds the cache behind the state.
const _: () = assert!(offset_of!(Block, cache) - offset_of!(Block, state) == STATE_BYTES);

/// Aligned to a cache line, so that threads do not share one.
#[repr(align(64))]
struct State(UnsafeCell<[u8; STATE_BYTES]>);

#[repr(C)]
struct Slab {
    blocks: [Block; SLAB_BLOCKS],
    next: AtomicPtr<Slab>,
}

// SAFETY: only the thread that owns a block uses its `state` and `cache`, and a thread becomes the owner by an atomic
// exchange.
unsafe impl Sync for Slab {}

impl Block {
    const fn free() -> Self {
        Self {
            thread: AtomicI32::new(0),
            process: AtomicI32::new(0),
            state: State(UnsafeCell::new([0; STATE_BYTES])),
            cache: UnsafeCell::new(ThreadCache::EMPTY),
        }
    }

    /// Become the owner of a block that never had one, or whose owner has gone.
    fn take(&self, thread: i32, process: i32, is_over: IsOver) -> Option<NonNull<c_void>> {
        let owner = self.thread.load(Ordering::Acquire);
        let state = self.state.0.get().cast::<c_void>();
        let abandoned = || {
            let has_gone = self.process.load(Ordering::Relaxed) == process
                // SAFETY: `is_over` may be called with any block given out here, and one with an owner was. It reads one
                // atomic variable.
                && unsafe { is_over(state) }
                && process::thread_has_gone(process, owner);
            // The owner's last writes happened before the kernel reported its end.
            fence(Ordering::Acquire);
            has_gone
        };
        if owner != 0 && !abandoned() {
            return None;
        }
        self.thread.compare_exchange(owner, thread, Ordering::AcqRel, Ordering::Relaxed).ok()?;
        perturb();
        self.process.store(process, Ordering::Relaxed);
        // SAFETY: the exchange made this thread the only one to use the block.
        unsafe { thread_cache::reset(self.cache.get()) };
        NonNull::new(state)
    }
}

type IsOver = unsafe extern "C" fn(*const c_void) -> bool;

/// The first threads of a process need no mapping.
static FIRST: Slab =
    Slab { blocks: [const { Block::free() }; SLAB_BLOCKS], next: AtomicPtr::new(ptr::null_mut()) };

/// Give the calling thread a block that holds `initial`.
///
/// # Safety
/// `initial` is readable for `size` bytes, and `is_over` may be called with any block given out here.
#[unsafe(no_mangle)]
unsafe extern "C" fn gmem_thread_state_claim(
    initial: *const c_void,
    size: usize,
    is_over: IsOver,
) -> *mut c_void {
    // The first thread's first allocation comes here before jemalloc has read its settings.
    pages::keep_quiet();
    profile::choose_settings(&super::_rjem_malloc_conf);
    assert_heap(size <= STATE_BYTES, c"jemalloc's thread state is too large");
    let block = claim(is_over);
    // SAFETY: the caller promises that `initial` has `size` bytes. The block is this thread's alone and has STATE_BYTES,
    // which tsd_tls.h asserts to be enough for a tsd_t when jemalloc is compiled.
    unsafe { ptr::copy_nonoverlapping(initial.cast::<u8>(), block.as_ptr().cast(), size) };
    block.as_ptr()
}

fn claim(is_over: IsOver) -> NonNull<c_void> {
    let (thread, process) = (process::thread_id(), process::process_id());
    loop {
        let mut slab = &FIRST;
        loop {
            if let Some(state) =
                slab.blocks.iter().find_map(|block| block.take(thread, process, is_over))
            {
                return state;
            }
            // SAFETY: the pointer is null or a slab, and slabs are never unmapped.
            match unsafe { slab.next.load(Ordering::Acquire).as_ref() } {
                Some(next) => slab = next,
                None => break,
            }
        }
        match mapping::map_aligned(size_of::<Slab>(), mapping::base_page()) {
            Ok(fresh) => append(slab, fresh.cast()),
            // jemalloc cannot do without a state: wait for another thread to end. A thread that has just got its stack
            // hardly ever comes here.
            Err(_) => process::yield_now(),
        }
    }
}

/// Append `fresh` to the list. It is all zeros, so its blocks are free.
fn append(mut last: &Slab, fresh: NonNull<Slab>) {
    while let Err(next) = last.next.compare_exchange(
        ptr::null_mut(),
        fresh.as_ptr(),
        Ordering::AcqRel,
        Ordering::Acquire,
    ) {
        // SAFETY: a failed exchange found a slab, and slabs are never unmapped.
        last = unsafe { &*next };
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::HashSet;
    use std::sync::{Arc, Barrier};

    use super::*;

    unsafe extern "C" fn over(_: *const c_void) -> bool {
        true
    }

    fn claim_here() -> usize {
        let initial = [7_u8; 100];
        // SAFETY: `initial` has 100 bytes, and `over` takes anything.
        let block = unsafe { gmem_thread_state_claim(initial.as_ptr().cast(), 100, over) };
        // SAFETY: the block is this thread's and begins with a copy of `initial`.
        assert_eq!(unsafe { block.cast::<u8>().add(99).read() }, 7);
        block.addr()
    }

    #[test]
    fn living_threads_have_blocks_of_their_own_and_dead_ones_leave_theirs() {
        const THREADS: usize = 100;
        let all_claimed = Arc::new(Barrier::new(THREADS));
        let round = || -> HashSet<usize> {
            let threads: Vec<_> = (0..THREADS)
                .map(|_| {
                    let all_claimed = Arc::clone(&all_claimed);
                    std::thread::spawn(move || {
                        let block = claim_here();
                        all_claimed.wait();
                        block
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        };
        let first = round();
        assert_eq!(first.len(), THREADS);
        assert!(first.iter().all(|block| block % 64 == 0));
        let second = round();
        assert_eq!(second.len(), THREADS);
        // join() may return a moment before the kernel has let the thread go; most blocks are free by then.
        assert!(first.intersection(&second).count() > THREADS / 2);
    }
}
