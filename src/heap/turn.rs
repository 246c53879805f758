//! A lock for what hardly ever happens twice at a time. It survives `fork(2)`, and a thread waits for it one second at most.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::os::process;

/// Lets one thread at a time do something.
pub struct Turn {
    /// 0 while it is nobody's turn, else the thread's id in the lower half and its process in the upper half: the number of
    /// forks before it, plus 1.
    holder: AtomicU64,
}

/// The calling thread's turn.
pub struct Taken<'a>(&'a Turn);

impl Turn {
    /// Nobody's turn.
    pub const fn new() -> Self {
        Self { holder: AtomicU64::new(0) }
    }

    /// Times that a thread looks whether another one has finished. From the 16th on it sleeps in between.
    const PATIENCE: u32 = 10_000;

    /// Wait for the turn of another thread to end. `None` if it is the calling thread's turn already, and after a second: a
    /// thread in `fork(3)` may have its turn while it waits for a lock that the calling thread holds.
    pub fn take(&self) -> Option<Taken<'_>> {
        self.begin().then(|| Taken(self))
    }

    /// [`take`](Self::take) for a turn that [`end`](Self::end) ends. False where that gives `None`.
    pub fn begin(&self) -> bool {
        let forks = (process::forks() + 1) << 32;
        let own = forks | u64::from(process::thread_id().cast_unsigned());
        for attempt in 0..Self::PATIENCE {
            let holder = self.holder.load(Ordering::Relaxed);
            // The thread of a parent process does not exist in its forked child.
            let is_free = holder == 0 || holder >> 32 != forks >> 32;
            let exchange =
                || self.holder.compare_exchange(holder, own, Ordering::Acquire, Ordering::Relaxed);
            if is_free && exchange().is_ok() {
                return true;
            }
            if holder == own {
                return false;
            }
            if attempt < 16 {
                process::yield_now();
            } else {
                // The holder may have a lower real-time priority.
                process::sleep(Duration::from_micros(100));
            }
        }
        false
    }

    /// End a turn that [`begin`](Self::begin) began.
    pub fn end(&self) {
        self.holder.store(0, Ordering::Release);
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    #[test]
    fn one_thread_has_its_turn_and_the_others_wait() {
        static TURN: Turn = Turn::new();
        static INSIDE: AtomicU32 = AtomicU32::new(0);
        let threads: Vec<_> = (0..4)
            .map(|_| {
                std::thread::spawn(|| {
                    for _ in 0..200 {
                        let entered = TURN.take();
                        assert!(entered.is_some() && TURN.take().is_none());
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
        TURN.holder.store(u64::MAX, Ordering::Relaxed);
        assert!(TURN.take().is_some());
    }
}
