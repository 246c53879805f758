//! The open models, by handle and by address. A forked child has its parent's.

use std::ffi::CStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::weights::{Copy, Options, Weights};
use crate::error::{Error, Result};
use crate::os::fork_lock::ForkLock;
use crate::os::process;
use crate::page::PageRange;

/// Models that may be open at a time.
const LIMIT: usize = 4096;

struct Open {
    handle: usize,
    weights: Arc<Weights>,
}

/// Each change is a single store, as the lock demands.
struct Table {
    slots: [Option<Arc<Open>>; LIMIT],
    /// Slots from here on were never used.
    used: usize,
}

static TABLE: ForkLock<Table> = ForkLock::new(Table { slots: [const { None }; LIMIT], used: 0 });

/// Number of open models, so that other memory costs the verbs nothing.
static OPEN: AtomicUsize = AtomicUsize::new(0);

/// Open a file; returns the handle, an odd number, which is never reused.
pub fn open(path: &CStr, options: &Options) -> Result<usize> {
    static NEXT: AtomicUsize = AtomicUsize::new(1);
    let weights = Arc::new(Weights::open(path, options)?);
    if options.copy != Copy::Own {
        static HANDLED: AtomicBool = AtomicBool::new(false);
        if !HANDLED.swap(true, Ordering::Relaxed) {
            process::at_fork_in_child(after_fork);
        }
    }
    let handle = NEXT.fetch_add(1, Ordering::Relaxed) << 1 | 1;
    let open = Arc::new(Open { handle, weights });
    let is_stored = TABLE.with(|table| {
        let free = table.slots.iter().position(Option::is_none)?;
        table.used = table.used.max(free + 1);
        table.slots[free] = Some(open);
        OPEN.fetch_add(1, Ordering::Release);
        Some(())
    });
    is_stored.map(|()| handle).ok_or(Error::TooManyModels { limit: LIMIT })
}

/// In a forked child: models with memory in common show their files.
extern "C" fn after_fork() {
    TABLE.with(|table| {
        for open in table.slots[..table.used].iter().flatten() {
            open.weights.after_fork();
        }
    });
}

/// The model with a handle.
pub fn find(handle: usize) -> Result<Arc<Weights>> {
    let found = TABLE.with(|table| {
        let open = table.slots[..table.used].iter().flatten().find(|open| open.handle == handle)?;
        Some(Arc::clone(&open.weights))
    });
    found.ok_or(Error::UnknownModel { handle })
}

/// Close a model: its addresses go back to the kernel, once nobody works on it.
pub fn close(handle: usize) -> Result<()> {
    // Dropped outside the lock.
    let closed = TABLE.with(|table| {
        let is_it =
            |slot: &&mut Option<Arc<Open>>| slot.as_ref().is_some_and(|open| open.handle == handle);
        let closed = table.slots[..table.used].iter_mut().find(is_it)?.take();
        OPEN.fetch_sub(1, Ordering::Relaxed);
        closed
    });
    closed.map(drop).ok_or(Error::UnknownModel { handle })
}

/// The models that a range touches, in ascending order of their addresses.
pub fn overlapping(range: PageRange) -> Vec<Arc<Weights>> {
    if OPEN.load(Ordering::Acquire) == 0 {
        return Vec::new();
    }
    let mut found: Vec<_> = TABLE.with(|table| {
        let models = table.slots[..table.used].iter().flatten().map(|open| &open.weights);
        models.filter(|model| !model.range().intersect(range).is_empty()).map(Arc::clone).collect()
    });
    found.sort_unstable_by_key(|model| model.range().start());
    found
}
