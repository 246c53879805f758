//! What streams are synchronized with, in one place: their model (`model.rs`) puts other things here.

use std::time::{Duration, Instant};

pub use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
pub use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
pub use std::{thread, thread_local};

/// A point in time.
pub fn now() -> Instant {
    Instant::now()
}

/// Wait until notified, or until `due`.
pub fn wait<'a, T>(
    condvar: &Condvar,
    guard: MutexGuard<'a, T>,
    due: Option<Instant>,
) -> MutexGuard<'a, T> {
    match due {
        None => condvar.wait(guard).unwrap_or_else(PoisonError::into_inner),
        Some(due) => {
            let left = due.saturating_duration_since(now()).max(Duration::from_micros(1));
            condvar.wait_timeout(guard, left).unwrap_or_else(PoisonError::into_inner).0
        }
    }
}
