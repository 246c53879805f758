//! The heap's own data at a hard limit.
//!
//! jemalloc takes 2 MiB for each arena's data and fills them in steps that it does not announce, so they are charged in full.
//! A heap with a small limit would lose 6 to 14 MiB by that, of which hardly anything is in memory. So at the limit the kernel
//! is asked, and what jemalloc has not touched yet is left out of the comparison.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::limits;
use super::page_map::{BASE_PAGE, HEAP_PAGE};
use crate::os::{advice, direct_io, mapping};
use crate::page::PageRange;

/// The kernel is asked again after this many bytes: jemalloc's data for them are no more than a thirtieth of that.
const ASKED_AFTER: usize = 1 << 20;

/// The largest block that jemalloc takes for its data at a time in a heap with a small limit.
const LARGEST_BLOCK: usize = 4 * HEAP_PAGE;

/// The heap pages with data of jemalloc's; 0 for none. More than these, in a larger heap, do not matter.
static PAGES: [AtomicUsize; 8] = [const { AtomicUsize::new(0) }; 8];

/// Bytes of them that were not in memory when the kernel was last asked.
static UNTOUCHED: AtomicUsize = AtomicUsize::new(0);

/// Bytes that came into use at the limit since then.
static BYTES_SINCE: AtomicUsize = AtomicUsize::new(0);

/// Note that jemalloc has taken a block for its data, of which nothing is in memory yet.
pub fn note(start: usize, length: usize) {
    if length > LARGEST_BLOCK {
        return;
    }
    if limits::is_hard() {
        // The first touch of a huge page would bring all of it.
        advice::small_pages(PageRange::new(start, start + length));
    }
    for page in (start..start + length).step_by(HEAP_PAGE) {
        let is_noted = |slot: &AtomicUsize| {
            slot.compare_exchange(0, page, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        };
        PAGES.iter().find(|slot| is_noted(slot));
    }
}

/// Whether the charges may exceed the limit by `excess`, because that much of the heap's own data is not in memory. `bytes`
/// are about to come into use.
pub fn make_up_for(excess: usize, bytes: usize) -> bool {
    if BYTES_SINCE.fetch_add(bytes, Ordering::Relaxed) >= ASKED_AFTER {
        look();
    }
    excess <= UNTOUCHED.load(Ordering::Relaxed)
}

/// Ask the kernel. Returns whether more is untouched than was known.
pub fn look() -> bool {
    BYTES_SINCE.store(0, Ordering::Relaxed);
    let pages = PAGES.iter().map(|slot| slot.load(Ordering::Relaxed)).filter(|page| *page != 0);
    let untouched = pages.map(absent_bytes).sum::<usize>();
    UNTOUCHED.swap(untouched, Ordering::Relaxed) < untouched
}

/// Bytes of a heap page that are not in memory; 0 where the kernel does not say.
fn absent_bytes(page: usize) -> usize {
    let base = mapping::base_page().bytes();
    let mut present = [0; HEAP_PAGE / BASE_PAGE];
    if direct_io::cached_pages(PageRange::new(page, page + HEAP_PAGE), &mut present).is_err() {
        return 0;
    }
    present.iter().take(HEAP_PAGE / base).filter(|page| **page & 1 == 0).count() * base
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::os::mapping::{Mapping, gmem_page};

    #[test]
    fn what_is_in_memory_is_not_absent() {
        let memory = Mapping::new(HEAP_PAGE, gmem_page()).unwrap();
        let base = mapping::base_page().bytes();
        let start = memory.range().start();
        advice::small_pages(memory.range());
        assert_eq!(absent_bytes(start), HEAP_PAGE);
        advice::populate_write(PageRange::new(start, start + 3 * base)).unwrap();
        assert_eq!(absent_bytes(start), HEAP_PAGE - 3 * base);
    }
}
