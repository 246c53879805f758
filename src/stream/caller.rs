//! What the calling thread is to streams.

use std::cell::Cell;

use super::sync::{AtomicUsize, Ordering, thread_local};

struct Caller {
    in_pool: Cell<bool>,
    /// How many streams it serves at the moment, one from within the work of another.
    serving: Cell<u32>,
}

thread_local! {
    static CALLER: Caller = const { Caller { in_pool: Cell::new(false), serving: Cell::new(0) } };
}

/// A number that no other living thread has, and never 0.
pub(super) fn id() -> usize {
    CALLER.with(|caller| std::ptr::from_ref(caller).addr())
}

/// Whether it is one of the pool's.
pub(super) fn is_in_pool() -> bool {
    CALLER.with(|caller| caller.in_pool.get())
}

/// It is, from now on.
pub(super) fn joins_pool() {
    CALLER.with(|caller| caller.in_pool.set(true));
}

/// Whether it runs work of some stream.
pub(super) fn is_serving() -> bool {
    CALLER.with(|caller| caller.serving.get() > 0)
}

/// Notes in `holder` that the calling thread has something, until this is dropped.
pub(super) struct Holds<'a>(&'a AtomicUsize);

impl<'a> Holds<'a> {
    pub(super) fn note(holder: &'a AtomicUsize) -> Self {
        holder.store(id(), Ordering::Relaxed);
        Self(holder)
    }
}

impl Drop for Holds<'_> {
    fn drop(&mut self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

/// The calling thread serves a stream, until this is dropped.
pub(super) struct Serving<'a> {
    _server: Holds<'a>,
}

impl<'a> Serving<'a> {
    pub(super) fn note(server: &'a AtomicUsize) -> Self {
        CALLER.with(|caller| caller.serving.set(caller.serving.get() + 1));
        Self { _server: Holds::note(server) }
    }
}

impl Drop for Serving<'_> {
    fn drop(&mut self) {
        CALLER.with(|caller| caller.serving.set(caller.serving.get() - 1));
    }
}
