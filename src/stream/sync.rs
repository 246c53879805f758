//! Clock, locks, atomics and threads of the streams in one place, which their model (`model.rs`)
//! replaces.

use std::time::{Duration, Instant};

use crate::os::{SysResult, own_thread};

pub use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
pub use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
pub use std::thread_local;

/// The current time.
pub fn now() -> Instant {
    Instant::now()
}

/// Start a thread of the pool.
pub fn start_thread(work: impl FnOnce() + Send + 'static) -> SysResult<()> {
    own_thread::start(c"gmem-stream", Box::new(work))
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
