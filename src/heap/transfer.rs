//! Blocks on their way from threads that free more than they allocate to threads that allocate more than they free, in
//! batches and past jemalloc, which would take them one by one.
//!
//! A shelf for each size class, with at most [`MOST_BYTES`] on it and [`MOST_BYTES_IN_ALL`] on all of them. Nobody waits
//! at a shelf: who finds another thread there goes to jemalloc.

use std::cell::UnsafeCell;
use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::size_class::{BYTES, CLASSES};
use crate::os::process;

/// Blocks in a batch, at most.
pub const BATCH: usize = 64;
/// Batches on a shelf.
const SHELF: usize = 64;
const MOST_BYTES: usize = 1 << 20;
const MOST_BYTES_IN_ALL: usize = 8 << 20;

/// Batches of one class, the last one first.
struct Shelf {
    /// 0, or one more than the forks that lay behind the process when a thread came.
    holder: AtomicU64,
    /// Changed last, so that a child forked meanwhile finds nothing half done.
    count: AtomicUsize,
    batches: UnsafeCell<[[*mut c_void; BATCH]; SHELF]>,
}
// SAFETY: only its holder looks at the batches.
unsafe impl Sync for Shelf {}

static SHELVES: [Shelf; CLASSES] = [const { Shelf::new() }; CLASSES];

/// Bytes on all of them.
static TOTAL: AtomicUsize = AtomicUsize::new(0);

impl Shelf {
    const fn new() -> Self {
        Self {
            holder: AtomicU64::new(0),
            count: AtomicUsize::new(0),
            batches: UnsafeCell::new([[ptr::null_mut(); BATCH]; SHELF]),
        }
    }

    /// Come to it, if nobody is there.
    fn enter(&self) -> Option<Entered<'_>> {
        let own = process::forks() + 1;
        let holder = self.holder.load(Ordering::Relaxed);
        // A holder of the parent's is not in the child.
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

    /// Room for a batch, or one that is there.
    fn slot(&self, index: usize) -> *mut *mut c_void {
        // SAFETY: only the holder is here, and all indices are of batches that there is room for.
        unsafe { (&raw mut (*self.0.batches.get())[index]).cast() }
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.0.holder.store(0, Ordering::Release);
    }
}

/// Leave `count` blocks, always as many for a class and at most [`BATCH`]. False if there is no room for them.
///
/// # Safety
/// `blocks` may be read, and they are live blocks of the class that nobody else knows; afterwards the caller does not.
pub unsafe fn put(class: usize, blocks: *const *mut c_void, count: usize) -> bool {
    let Some(shelf) = SHELVES[class].enter() else { return false };
    let (bytes, shelved) = (count * BYTES[class], shelf.count());
    if shelved == SHELF
        || (shelved + 1) * bytes > MOST_BYTES
        || TOTAL.load(Ordering::Relaxed) + bytes > MOST_BYTES_IN_ALL
    {
        return false;
    }
    TOTAL.fetch_add(bytes, Ordering::Relaxed);
    // SAFETY: the caller's promise, and there is room.
    unsafe { ptr::copy_nonoverlapping(blocks, shelf.slot(shelved), count) };
    shelf.set_count(shelved + 1);
    true
}

/// Take a batch of `count` blocks, as many as [`put`] is given for the class. False if there is none.
///
/// # Safety
/// `blocks` may be written.
pub unsafe fn take(class: usize, blocks: *mut *mut c_void, count: usize) -> bool {
    let shelf = &SHELVES[class];
    if shelf.count.load(Ordering::Relaxed) == 0 {
        return false;
    }
    let Some(shelf) = shelf.enter() else { return false };
    let Some(last) = shelf.count().checked_sub(1) else { return false };
    // SAFETY: the caller's promise; the batch was put there.
    unsafe { ptr::copy_nonoverlapping(shelf.slot(last), blocks, count) };
    shelf.set_count(last);
    TOTAL.fetch_sub(count * BYTES[class], Ordering::Relaxed);
    true
}

/// Whether there is anything.
pub fn is_empty() -> bool {
    TOTAL.load(Ordering::Relaxed) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a class that no other test puts anything into: threads keep none.
    const UNUSED: usize = 0;

    #[test]
    fn what_is_put_is_taken_once_the_last_first() {
        let batch = |from: usize| [from, from + 1].map(ptr::without_provenance_mut);
        let mut taken = [ptr::null_mut(); 2];
        // SAFETY: only numbers, which nobody follows.
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
    }

    #[test]
    fn nobody_waits_but_for_a_process_that_is_gone() {
        static SHELF: Shelf = Shelf::new();
        let shelf = &SHELF;
        let entered = shelf.enter();
        assert!(entered.is_some() && shelf.enter().is_none() && shelf.enter().is_none());
        drop(entered);
        shelf.holder.store(u64::MAX, Ordering::Relaxed);
        assert!(shelf.enter().is_some());
    }
}
