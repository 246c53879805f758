//! Threads that help a call with its work, within a budget of the process.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::config::{self, Setting};
use crate::os::lazy::Lazy;
use crate::os::process::PerProcess;
use crate::os::{own_faults, own_thread};

/// Threads that work on one call at most: a few of them use up what the memory can take.
pub const MAX_THREADS: usize = 16;

/// `GMEM_PREFETCH_THREADS`.
pub static THREADS: Setting<usize> = Setting {
    name: c"GMEM_PREFETCH_THREADS",
    form: "a number of threads",
    default: "16",
    about: "The number of threads that all prefetches of the process together may start; the calling threads do not count.",
    parse: config::number,
};

fn max_helpers() -> usize {
    static READ: Lazy<usize> = Lazy::new(|| THREADS.get().unwrap_or(MAX_THREADS));
    *READ.get()
}

/// Do `work` on the calling thread, and meanwhile on up to `wanted` more. Its argument says whether it runs on the caller's
/// thread. If threads cannot be started, there are fewer.
pub fn work_with(wanted: usize, work: impl Fn(bool) + Sync) {
    let helpers = Helpers::claim(wanted);
    if helpers.count == 0 {
        return work(true);
    }
    let help = || own_faults::of_this_thread(|| work(false));
    own_thread::with_helpers(c"gmem-prefetch", helpers.count, &help, || work(true));
}

/// The number of threads of the process that help now.
static HELPING: PerProcess<AtomicUsize> = PerProcess::new(|_| AtomicUsize::new(0));

/// Permission to start `count` threads.
struct Helpers {
    count: usize,
}

impl Helpers {
    /// As many of `wanted` as the process's budget has left.
    fn claim(wanted: usize) -> Self {
        let budget = max_helpers();
        let mut count = 0;
        let _ = HELPING.get().fetch_update(Ordering::Relaxed, Ordering::Relaxed, |busy| {
            count = wanted.min(budget.saturating_sub(busy));
            Some(busy + count)
        });
        Self { count }
    }
}

impl Drop for Helpers {
    fn drop(&mut self) {
        HELPING.get().fetch_sub(self.count, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_of_threads_is_kept() {
        let most = max_helpers();
        let some = Helpers::claim(1);
        let rest = Helpers::claim(usize::MAX);
        assert!(some.count + rest.count <= most);
        drop((some, rest));
    }

    #[test]
    fn the_caller_works_once() {
        let (callers, others) = (AtomicUsize::new(0), AtomicUsize::new(0));
        work_with(3, |is_caller| {
            let counter = if is_caller { &callers } else { &others };
            counter.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(callers.into_inner(), 1);
        assert!(others.into_inner() <= 3);
    }
}
