//! A lock that a fork never leaves held.

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicU64, Ordering};

use super::process;

/// A value that one thread uses at a time. A forked child ignores a holder of its parent's, which does not exist there: so each
/// single store to the value has to leave it in a state that can be used. For a few instructions only: waiters spin.
pub struct ForkLock<T> {
    /// The number of the holder's process plus 1; 0 if nobody holds it.
    holder: AtomicU64,
    value: UnsafeCell<T>,
}
// SAFETY: `with` lets one thread of a process use the value at a time, and processes have values of their own.
unsafe impl<T: Send> Sync for ForkLock<T> {}

impl<T> ForkLock<T> {
    /// Nobody holds it.
    pub const fn new(value: T) -> Self {
        Self { holder: AtomicU64::new(0), value: UnsafeCell::new(value) }
    }

    /// Use the value. `act` must neither panic nor take the lock again.
    pub fn with<R>(&self, act: impl FnOnce(&mut T) -> R) -> R {
        let own = process::forks() + 1;
        loop {
            let holder = self.holder.load(Ordering::Relaxed);
            if holder != own
                && self
                    .holder
                    .compare_exchange_weak(holder, own, Ordering::Acquire, Ordering::Relaxed)
                    .is_ok()
            {
                break;
            }
            process::yield_now();
        }
        // SAFETY: this thread holds the lock, and no other thread of the process does: each waits until `holder` is another
        // number than its process's.
        let result = act(unsafe { &mut *self.value.get() });
        self.holder.store(0, Ordering::Release);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thread_at_a_time() {
        static SUM: ForkLock<usize> = ForkLock::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..1000).for_each(|_| SUM.with(|sum| *sum += 1)));
            }
        });
        assert_eq!(SUM.with(|sum| *sum), 4000);
    }

    #[test]
    fn a_holder_of_another_process_is_ignored() {
        let lock = ForkLock::new(7);
        lock.holder.store(process::forks() + 2, Ordering::Relaxed);
        assert_eq!(lock.with(|value| *value), 7);
    }
}
