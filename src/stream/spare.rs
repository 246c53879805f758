//! A large queue that an idle stream leaves for the next stream that needs one.

use std::collections::VecDeque;

use super::sync::{Mutex, MutexGuard, PoisonError};
use super::work::Work;

/// Largest queue kept, in pieces of work (about 640 KiB).
const MAX_KEPT: usize = 1 << 14;

/// At most one empty queue, kept for its capacity.
#[derive(Default)]
pub(super) struct Spare(Mutex<VecDeque<Work>>);

impl Spare {
    /// Take the queue that another stream left; without capacity if there is none.
    pub(super) fn take(&self) -> VecDeque<Work> {
        std::mem::take(&mut *self.lock())
    }

    /// Keep the queue of an idle stream if it is larger than the one kept already.
    pub(super) fn keep(&self, mut queue: VecDeque<Work>) {
        let mut kept = self.lock();
        if (kept.capacity() + 1..=MAX_KEPT).contains(&queue.capacity()) {
            std::mem::swap(&mut *kept, &mut queue);
        }
        drop(kept);
        drop(queue);
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Work>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
