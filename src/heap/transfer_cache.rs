//! Batches of blocks on their way from threads that free more than they allocate to threads that allocate more than they
//! free. A batch bypasses jemalloc, which would take its blocks one by one.
//!
//! All shelves together hold at most an eighth of the memory in use, and [`MOST_BYTES`]; the shelf of a size class an eighth of that.
//! No thread waits at a shelf: one that finds another thread there goes to jemalloc.

use std::cell::UnsafeCell;
use std::ffi::c_void;
use std::ptr;

use super::checked::perturb;
use super::page_map::TOTALS;
use super::size_class::{BYTES, CLASSES};
use super::sync::{AtomicU64, AtomicUsize, Ordering};
use crate::os::process;

/// Most blocks in a batch.
pub const BATCH: usize = 64;
/// Most batches on a shelf.
const SHELF: usize = 64;
/// Bytes that all shelves together may hold, in a small and in a large heap.
const LEAST_BYTES: usize = 2 << 20;
const MOST_BYTES: usize = 8 << 20;

/// Batches of one class; the last one put is the first one taken.
struct Shelf {
    /// 0 while the shelf is free, else the number of forks before the process of the thread that holds it, plus 1.
    holder: AtomicU64,
    /// Changed last, so that a child forked meanwhile finds complete batches only.
    count: AtomicUsize,
    batches: UnsafeCell<[[*mut c_void; BATCH]; SHELF]>,
}
// SAFETY: only the thread that became the holder by an atomic exchange uses the batches.
unsafe impl Sync for Shelf {}

static SHELVES: [Shelf; CLASSES] = [const { Shelf::new() }; CLASSES];

/// Bytes on all shelves.
static TOTAL: AtomicUsize = AtomicUsize::new(0);

impl Shelf {
    const fn new() -> Self {
        Self {
            holder: AtomicU64::new(0),
            count: AtomicUsize::new(0),
            batches: UnsafeCell::new([[ptr::null_mut(); BATCH]; SHELF]),
        }
    }

    /// Become the holder, unless another thread is.
    fn enter(&self) -> Option<Entered<'_>> {
        let own = process::forks() + 1;
        let holder = self.holder.load(Ordering::Relaxed);
        // The thread of a parent process does not exist in its forked child.
        let is_free = holder != own
            && self
                .holder
                .compare_exchange(holder, own, Ordering::Acquire, Ordering::Relaxed)
                .is_ok();
        is_free.then(|| Entered(self))
    }
}

struct Entered<'a>(&'a Shelf);

impl Entered<'_> {
    fn count(&self) -> usize {
        self.0.count.load(Ordering::Relaxed)
    }

    fn set_count(&self, count: usize) {
        self.0.count.store(count, Ordering::Release);
    }

    /// The place of the batch with that index.
    fn slot(&self, index: usize) -> *mut *mut c_void {
        // SAFETY: the calling thread is the holder, and each index passed here is below SHELF.
        unsafe { (&raw mut (*self.0.batches.get())[index]).cast() }
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.0.holder.store(0, Ordering::Release);
    }
}

/// Leave a batch of `count` blocks: the same number for each batch of a class, at most [`BATCH`]. False if the shelf is full
/// or busy.
///
/// # Safety
/// `blocks` points to `count` free blocks of the class that nobody else has. If the call returns true the caller gives them
/// up.
pub unsafe fn put(class: usize, blocks: *const *mut c_void, count: usize) -> bool {
    let Some(shelf) = SHELVES[class].enter() else { return false };
    let (bytes, shelved) = (count * BYTES[class], shelf.count());
    let most = (TOTALS.in_use.load(Ordering::Relaxed) / 8).clamp(LEAST_BYTES, MOST_BYTES);
    if shelved == SHELF
        || (shelved + 1) * bytes > most / 8
        || TOTAL.load(Ordering::Relaxed) + bytes > most
    {
        return false;
    }
    TOTAL.fetch_add(bytes, Ordering::Relaxed);
    // SAFETY: the caller promises `count` readable pointers; the index is below SHELF and a batch has space for BATCH.
    unsafe { ptr::copy_nonoverlapping(blocks, shelf.slot(shelved), count) };
    perturb();
    shelf.set_count(shelved + 1);
    true
}

/// Take a batch of `count` blocks, the number that [`put`] gets for the class. False if there is none, or the shelf is busy.
///
/// # Safety
/// `blocks` has space for `count` pointers.
pub unsafe fn take(class: usize, blocks: *mut *mut c_void, count: usize) -> bool {
    let shelf = &SHELVES[class];
    if shelf.count.load(Ordering::Relaxed) == 0 {
        return false;
    }
    let Some(shelf) = shelf.enter() else { return false };
    let Some(last) = shelf.count().checked_sub(1) else { return false };
    // SAFETY: the caller promises space for `count` pointers, and put() left as many at that index.
    unsafe { ptr::copy_nonoverlapping(shelf.slot(last), blocks, count) };
    perturb();
    shelf.set_count(last);
    TOTAL.fetch_sub(count * BYTES[class], Ordering::Relaxed);
    true
}

/// Whether all shelves are empty.
pub fn is_empty() -> bool {
    TOTAL.load(Ordering::Relaxed) == 0
}

#[cfg(test)]
mod tests {
    use super::super::sync::run;
    use super::*;

    /// A class that no other test uses: threads cache none of its blocks.
    const UNUSED: usize = 0;

    #[test]
    fn what_is_put_is_taken_once_the_last_first() {
        run(|| {
            let batch = |from: usize| [from, from + 1].map(ptr::without_provenance_mut);
            let mut taken = [ptr::null_mut(); 2];
            // SAFETY: the pointers are numbers that nobody dereferences, and both arrays have two of them.
            unsafe {
                assert!(!take(UNUSED, taken.as_mut_ptr(), 2));
                for index in 0..SHELF {
                    assert!(put(UNUSED, batch(2 * index).as_ptr(), 2));
                }
                assert!(!put(UNUSED, batch(7).as_ptr(), 2));
                for index in (0..SHELF).rev() {
                    assert!(take(UNUSED, taken.as_mut_ptr(), 2));
                    assert_eq!(taken, batch(2 * index));
                }
                assert!(!take(UNUSED, taken.as_mut_ptr(), 2));
            }
        });
    }

    #[test]
    fn nobody_waits_but_for_a_process_that_is_gone() {
        static SHELF: Shelf = Shelf::new();
        run(|| {
            let shelf = &SHELF;
            let entered = shelf.enter();
            assert!(entered.is_some() && shelf.enter().is_none() && shelf.enter().is_none());
            drop(entered);
            shelf.holder.store(u64::MAX, Ordering::Relaxed);
            assert!(shelf.enter().is_some());
        });
    }
}
