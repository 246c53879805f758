//! State of the calling thread: its id, whether it belongs to the pool, and whether it serves a stream.

use std::cell::Cell;

use super::sync::{AtomicUsize, Ordering, thread_local};

struct CurrentThread {
    in_pool: Cell<bool>,
    /// Number of streams that the thread serves now; more than 1 if work of one serves another.
    serving: Cell<u32>,
}

thread_local! {
    static CURRENT: CurrentThread =
        const { CurrentThread { in_pool: Cell::new(false), serving: Cell::new(0) } };
}

/// A number that no other living thread has. Never 0.
pub(super) fn id() -> usize {
    CURRENT.with(|thread| std::ptr::from_ref(thread).addr())
}

/// Whether the thread belongs to the pool.
pub(super) fn is_in_pool() -> bool {
    CURRENT.with(|thread| thread.in_pool.get())
}

/// Mark the thread as one of the pool.
pub(super) fn enter_pool() {
    CURRENT.with(|thread| thread.in_pool.set(true));
}

/// Whether the thread runs work of a stream.
pub(super) fn is_serving() -> bool {
    CURRENT.with(|thread| thread.serving.get() > 0)
}

/// Keeps the calling thread's id in an atomic until it is dropped.
pub(super) struct ThreadNote<'a>(&'a AtomicUsize);

impl<'a> ThreadNote<'a> {
    pub(super) fn note(holder: &'a AtomicUsize) -> Self {
        holder.store(id(), Ordering::Relaxed);
        Self(holder)
    }
}

impl Drop for ThreadNote<'_> {
    fn drop(&mut self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

/// Marks the calling thread as the server of a stream until it is dropped.
pub(super) struct Serving<'a> {
    _server: ThreadNote<'a>,
}

impl<'a> Serving<'a> {
    pub(super) fn note(server: &'a AtomicUsize) -> Self {
        CURRENT.with(|thread| thread.serving.set(thread.serving.get() + 1));
        Self { _server: ThreadNote::note(server) }
    }
}

impl Drop for Serving<'_> {
    fn drop(&mut self) {
        CURRENT.with(|thread| thread.serving.set(thread.serving.get() - 1));
    }
}
