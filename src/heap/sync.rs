//! Atomics and waiting of the heap's lock-free parts in one place, which their model (`model.rs`) replaces.

pub use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

pub use crate::os::process::yield_now;

/// Run a test of what uses these.
#[cfg(test)]
pub fn run(test: impl Fn() + Send + Sync + 'static) {
    test();
}
