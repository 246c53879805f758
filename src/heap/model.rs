//! Model check of the heap's lock-free parts: their code is compiled with the atomics and threads of `shuttle` in place of
//! the standard library's, and run in many schedules.

#![allow(dead_code, reason = "the library uses what the model does not")]
#![allow(clippy::duplicate_mod, reason = "that is what a model of the same code is")]

#[path = "heap_page.rs"]
mod heap_page;
#[path = "transfer_cache.rs"]
mod transfer_cache;

/// Replaces `sync.rs`.
mod sync {
    pub use shuttle::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
    pub use shuttle::thread::yield_now;

    pub fn run(test: impl Fn() + Send + Sync + 'static) {
        shuttle::check_random(test, 1);
    }
}

/// What both parts need of the page map.
mod page_map {
    pub use super::super::page_map::BASE_PAGE;
    pub use super::heap_page::TOTALS;
}

use std::collections::BTreeSet;
use std::ffi::c_void;
use std::ptr;

use shuttle::sync::{Arc, Mutex};
use shuttle::thread;

use self::heap_page::{HEAP_PAGE, HeapPage, TOTALS};
use self::sync::Ordering;
use super::{checked, size_class};
use crate::os::{advice, mapping};
use crate::page::PageRange;

/// Random schedules, and as many with few switches, which find what needs long runs.
const SCHEDULES: usize = 150;

fn check(model: impl Fn() + Send + Sync + Copy + 'static) {
    /// The models share the sums of all pages.
    static ONE_AT_A_TIME: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _alone = ONE_AT_A_TIME.lock();
    shuttle::check_random(model, SCHEDULES);
    shuttle::check_pct(model, SCHEDULES, 3);
}

/// A heap page with memory, adopted.
struct Page {
    page: HeapPage,
    start: usize,
}

impl Page {
    fn new() -> Arc<Self> {
        let memory = mapping::map_aligned(HEAP_PAGE, mapping::gmem_page());
        let start = memory.map_or(0, |memory| memory.as_ptr().expose_provenance());
        assert_ne!(start, 0);
        let page = HeapPage::new();
        page.adopt();
        Arc::new(Self { page, start })
    }

    /// The base pages `from..to`.
    fn part(&self, from: usize, to: usize) -> PageRange {
        let base = page_map::BASE_PAGE;
        PageRange::new(self.start + from * base, self.start + to * base)
    }

    /// Use some base pages as jemalloc does, and see that nobody takes them away.
    fn use_part(&self, from: usize, to: usize, zeros: bool) {
        let part = self.part(from, to);
        let (first, count) = (ptr::with_exposed_provenance_mut::<u8>(part.start()), part.len());
        self.page.enter(part);
        self.page.begin_use(part, zeros);
        // SAFETY: the part is mapped, and the page says that it is this thread's.
        unsafe {
            assert!(!zeros || (first.read() == 0 && first.add(count - 1).read() == 0));
            first.write_bytes(0x5a, count);
            thread::yield_now();
            assert!(
                first.read() == 0x5a && first.add(count - 1).read() == 0x5a,
                "dropped while in use"
            );
        }
        self.page.leave(part);
    }

    /// Whether the charge is what the page's use demands. Nobody uses the page meanwhile.
    fn is_charged_rightly(&self, others: usize) -> bool {
        let used =
            HEAP_PAGE - self.page.missing_charge(self.part(0, HEAP_PAGE / page_map::BASE_PAGE));
        TOTALS.charged.load(Ordering::SeqCst) == others + used
    }

    fn drop_if_kept(&self) {
        if self.page.begin_drop() {
            thread::yield_now();
            // SAFETY: nobody uses the page until the drop is over.
            let dropped =
                unsafe { advice::drop_private(self.part(0, HEAP_PAGE / page_map::BASE_PAGE)) };
            self.page.end_drop(dropped.is_ok());
        }
    }
}

/// Sums that all pages of a run have given back must be where they were.
fn totals() -> [usize; 4] {
    [&TOTALS.mapped, &TOTALS.charged, &TOTALS.kept, &TOTALS.dropping]
        .map(|sum| sum.load(Ordering::SeqCst))
}

#[test]
fn pages_are_dropped_when_nobody_uses_them_and_the_sums_are_right() {
    check(|| {
        let before = totals();
        let page = Page::new();
        let threads = [(0, 3), (3, 70)].map(|(from, to)| {
            let page = Arc::clone(&page);
            thread::spawn(move || {
                page.use_part(from, to, false);
                page.use_part(from, to, true);
            })
        });
        let dropper = Arc::clone(&page);
        let dropper = thread::spawn(move || {
            dropper.drop_if_kept();
            dropper.drop_if_kept();
        });
        for thread in threads.into_iter().chain([dropper]) {
            assert!(thread.join().is_ok());
        }
        assert!(page.is_charged_rightly(before[1]));
        page.drop_if_kept();
        assert_eq!(totals()[1..], before[1..], "charged, kept, dropping");
        page.page.abandon();
        assert_eq!(totals(), before);
        // SAFETY: mapped above, and nobody uses it any more.
        let unmapped = ptr::NonNull::new(ptr::with_exposed_provenance_mut(page.start))
            .map(|start| unsafe { mapping::unmap(start, HEAP_PAGE) });
        assert!(matches!(unmapped, Some(Ok(()))));
    });
}

#[test]
fn unused_parts_are_reclaimed_beside_others_in_use() {
    check(|| {
        let before = totals();
        let page = Page::new();
        page.use_part(0, 100, false);
        let user = Arc::clone(&page);
        let user = thread::spawn(move || {
            user.use_part(10, 12, false);
            user.use_part(12, 13, true);
        });
        let other = Arc::clone(&page);
        let other = thread::spawn(move || other.use_part(200, 201, true));
        page.page.reclaim(page.start);
        assert!(user.join().is_ok() && other.join().is_ok());
        assert!(page.is_charged_rightly(before[1]));
        page.drop_if_kept();
        assert_eq!(totals()[1..], before[1..], "charged, kept, dropping");
        page.page.abandon();
        // SAFETY: mapped above, and nobody uses it any more.
        let unmapped = ptr::NonNull::new(ptr::with_exposed_provenance_mut(page.start))
            .map(|start| unsafe { mapping::unmap(start, HEAP_PAGE) });
        assert!(matches!(unmapped, Some(Ok(()))));
    });
}

#[test]
fn each_batch_goes_to_one_thread() {
    /// A class with blocks of 16 bytes. The model never touches them.
    const CLASS: usize = 1;
    const COUNT: usize = 64;
    check(|| {
        let taken = Arc::new(Mutex::new(BTreeSet::new()));
        let threads = [1_usize, 2, 3].map(|number| {
            let taken = Arc::clone(&taken);
            thread::spawn(move || {
                let mut batch = [ptr::null_mut::<c_void>(); transfer_cache::BATCH];
                for round in 1..=2 {
                    let first = (number * 10 + round) * COUNT;
                    for (index, block) in batch.iter_mut().enumerate() {
                        *block = ptr::without_provenance_mut(first + index);
                    }
                    // SAFETY: the pointers are numbers that nobody dereferences.
                    let left = unsafe { transfer_cache::put(CLASS, batch.as_ptr(), COUNT) };
                    thread::yield_now();
                    // SAFETY: the array has space for COUNT pointers.
                    let got = unsafe { transfer_cache::take(CLASS, batch.as_mut_ptr(), COUNT) };
                    let mut taken = taken.lock().unwrap_or_else(|error| error.into_inner());
                    if !left {
                        assert!(taken.insert(first));
                    }
                    if got {
                        let first = batch[0].addr();
                        assert!(
                            batch
                                .iter()
                                .enumerate()
                                .all(|(index, block)| block.addr() == first + index)
                        );
                        assert!(taken.insert(first), "two threads have the batch");
                    }
                }
            })
        });
        for thread in threads {
            assert!(thread.join().is_ok());
        }
        let mut batch = [ptr::null_mut::<c_void>(); transfer_cache::BATCH];
        let mut taken = taken.lock().unwrap_or_else(|error| error.into_inner());
        // SAFETY: the array has space for COUNT pointers.
        while unsafe { transfer_cache::take(CLASS, batch.as_mut_ptr(), COUNT) } {
            assert!(taken.insert(batch[0].addr()));
        }
        assert_eq!(taken.len(), 6, "a batch was lost");
        assert!(transfer_cache::is_empty());
    });
}
