//! The state of one heap page (2 MiB), without a lock.
//!
//! A heap page counts the base pages that jemalloc has in use, and remembers which base pages may be resident. When the
//! last base page goes out of use the heap page is *kept*: it stays resident until jemalloc uses it again or [`super::idle`]
//! has it dropped. It goes back to the kernel as a whole: dropping a part would take a huge page apart. Only a heap at its
//! hard limit does that ([`HeapPage::reclaim`]).
//!
//! The *charge* of a page is an upper bound of its resident memory, and hard limits compare the sum of all charges: a page
//! advised to be huge is charged in full from its first use, another one by the base pages used since its last drop.
//!
//! While a thread drops a page, or parts of it, the state says so and which process the thread belongs to. Other threads
//! that want the page wait. A forked child does not wait for its parent's threads: it takes the page over.

use std::ptr;

use super::checked::{assert_heap, perturb};
use super::page_map::BASE_PAGE;
use super::sync::{AtomicU64, AtomicUsize, Ordering, yield_now};
use crate::os::{advice, mapping, process};
use crate::page::PageRange;

/// Bytes of a heap page, on every machine. Where huge pages are larger (512 MiB with base pages of 64 KiB), the heap still
/// gives memory back in pieces of this size.
pub const HEAP_PAGE: usize = 2 << 20;
/// Base pages of a heap page.
const BASE_PAGES: usize = HEAP_PAGE / BASE_PAGE;

/// Bits of the state: the number of base pages in use, at most [`BASE_PAGES`].
const IN_USE: u64 = 0xffff;
/// The page belongs to the heap.
const OWNED: u64 = 1 << 16;
/// The kernel was advised to back the page with a huge page.
const ADVISED: u64 = 1 << 17;
/// A thread is dropping the page or parts of it; its process id is in the upper half.
const DROPPING: u64 = 1 << 18;
/// The first page of a block in a device's memory; the block's number of heap pages is in the upper half.
const DEVICE_BLOCK: u64 = 1 << 19;
/// The index of that block's device.
const DEVICE_SHIFT: u32 = 20;
const DEVICE_MASK: u64 = 0xff;
/// The page holds small blocks in a device's memory.
const DEVICE_ARENA: u64 = 1 << 28;
/// Nothing of the page is in use, and some of it is resident. It remains set while a thread drops the page.
const KEPT: u64 = 1 << 29;
/// The memory of another heap page was moved here, so the kernel may have a mapping for this page alone.
const MOVED: u64 = 1 << 30;
/// Nothing is mapped here, because a move failed halfway and could not be repaired then.
const MISSING: u64 = 1 << 31;
/// The upper half.
const UPPER_SHIFT: u32 = 32;
/// What remains of the state when a drop, or the use as a device's block, is over.
const LASTING: u64 = IN_USE | OWNED | ADVISED | MOVED | MISSING;

/// Sums over all heap pages, in bytes.
pub struct Totals {
    /// Address space.
    pub mapped: AtomicUsize,
    /// What jemalloc has in use: live blocks, idle ones that it keeps for a while, and its own data.
    pub in_use: AtomicUsize,
    /// The charges: at most this much is resident.
    pub charged: AtomicUsize,
    /// Pages that are kept, in full.
    pub kept: AtomicUsize,
    /// Kept pages that threads are dropping now, in full.
    pub dropping: AtomicUsize,
    /// Memory given back so far.
    pub dropped: AtomicUsize,
}

/// The process's heap.
pub static TOTALS: Totals = Totals {
    mapped: AtomicUsize::new(0),
    in_use: AtomicUsize::new(0),
    charged: AtomicUsize::new(0),
    kept: AtomicUsize::new(0),
    dropping: AtomicUsize::new(0),
    dropped: AtomicUsize::new(0),
};

/// One bit for each base page.
type Bitmap = [AtomicU64; BASE_PAGES / 64];

/// Zeros describe a page that is not the heap's.
pub struct HeapPage {
    state: AtomicU64,
    /// Bytes that the page adds to [`Totals::charged`].
    charge: AtomicUsize,
    /// Base pages that were in use since the page was last dropped: they may be resident and need not be zeros.
    used: Bitmap,
    /// Base pages in use. Set after the count in `state` rises and cleared before it falls, so that equal counts mean
    /// that no thread is between the two.
    in_use: Bitmap,
}

impl HeapPage {
    /// Not the heap's.
    #[cfg(test)]
    #[allow(dead_code, reason = "for the model")]
    pub fn new() -> Self {
        Self {
            state: AtomicU64::new(0),
            charge: AtomicUsize::new(0),
            used: [const { AtomicU64::new(0) }; BASE_PAGES / 64],
            in_use: [const { AtomicU64::new(0) }; BASE_PAGES / 64],
        }
    }

    /// Whether it belongs to the heap.
    pub fn is_owned(&self) -> bool {
        self.state.load(Ordering::Relaxed) & OWNED != 0
    }

    /// Become the heap's, with nothing in use.
    pub fn adopt(&self) {
        assert_heap(self.state.load(Ordering::Relaxed) == 0, c"a heap page was mapped twice");
        clear(&self.used);
        clear(&self.in_use);
        self.state.store(OWNED, Ordering::Release);
        TOTALS.mapped.fetch_add(HEAP_PAGE, Ordering::Relaxed);
    }

    /// Cease to be the heap's.
    pub fn abandon(&self) {
        let before = self.state.swap(0, Ordering::AcqRel);
        settle(before, 0);
        if before & OWNED != 0 {
            clear(&self.used);
            clear(&self.in_use);
            self.recharge();
            let in_use = (before & IN_USE) as usize * BASE_PAGE;
            TOTALS.in_use.fetch_sub(in_use, Ordering::Relaxed);
            TOTALS.mapped.fetch_sub(HEAP_PAGE, Ordering::Relaxed);
        }
    }

    /// Note that the kernel is about to be advised to make the page huge; false if it was advised before, or if the page
    /// is a device's.
    pub fn mark_advised(&self) -> bool {
        let before = self.state.load(Ordering::Relaxed);
        if before & ADVISED != 0 || self.is_of_device() {
            return false;
        }
        let is_first = self.state.fetch_or(ADVISED, Ordering::AcqRel) & ADVISED == 0;
        self.recharge();
        is_first
    }

    /// Whether nothing of it is resident, and the kernel was advised to make it huge.
    pub fn is_empty_and_huge(&self) -> bool {
        self.is_advised() && is_clear(&self.used)
    }

    /// Whether the kernel was advised to make it huge.
    pub fn is_advised(&self) -> bool {
        self.state.load(Ordering::Relaxed) & ADVISED != 0
    }

    /// Note that another page's memory is about to be moved here. Returns whether that happened before.
    pub fn mark_moved(&self) -> bool {
        self.state.fetch_or(MOVED, Ordering::Relaxed) & MOVED != 0
    }

    /// Note that nothing is mapped here, or that it is again.
    pub fn set_missing(&self, is_missing: bool) {
        if is_missing {
            self.state.fetch_or(MISSING, Ordering::Relaxed);
        } else {
            self.state.fetch_and(!MISSING, Ordering::Relaxed);
        }
    }

    /// Whether nothing is mapped here.
    pub fn is_missing(&self) -> bool {
        self.state.load(Ordering::Relaxed) & MISSING != 0
    }

    /// Whether it lies in a device's memory.
    pub fn is_of_device(&self) -> bool {
        self.state.load(Ordering::Relaxed) & (DEVICE_BLOCK | DEVICE_ARENA) != 0
    }

    /// Note that a block of `length` bytes in the memory of the device with that index begins here.
    pub fn mark_device_block(&self, device: usize, length: usize) {
        let pages = (length / HEAP_PAGE) as u64;
        let mark = OWNED | DEVICE_BLOCK | pages << UPPER_SHIFT | (device as u64) << DEVICE_SHIFT;
        let before = self.state.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |state| {
            Some(state & LASTING | mark)
        });
        settle(before.unwrap_or_default(), mark);
    }

    /// Device and bytes of the block that begins here.
    pub fn device_block(&self) -> Option<(usize, usize)> {
        let state = self.state.load(Ordering::Acquire);
        let device = (state >> DEVICE_SHIFT & DEVICE_MASK) as usize;
        let length = (state >> UPPER_SHIFT) as usize * HEAP_PAGE;
        (state & (OWNED | DEVICE_BLOCK) == OWNED | DEVICE_BLOCK).then_some((device, length))
    }

    /// The block in a device's memory that begins here ends. True if the memory is not jemalloc's.
    pub fn end_device_block(&self) -> bool {
        let before = self.state.fetch_and(LASTING, Ordering::AcqRel);
        assert_heap(before & DEVICE_BLOCK != 0, c"a block in a device's memory was freed twice");
        before & IN_USE == 0
    }

    /// Note that the page holds small blocks in a device's memory.
    pub fn mark_device_arena(&self) {
        self.state.fetch_or(DEVICE_ARENA, Ordering::Release);
    }

    /// Whether it holds small blocks in a device's memory.
    pub fn is_in_device_arena(&self) -> bool {
        self.state.load(Ordering::Relaxed) & DEVICE_ARENA != 0
    }

    /// Bytes by which the charge grows when `part` comes into use.
    pub fn missing_charge(&self, part: PageRange) -> usize {
        let charge = self.charge.load(Ordering::Relaxed);
        if self.state.load(Ordering::Relaxed) & ADVISED != 0 {
            return HEAP_PAGE - charge.min(HEAP_PAGE);
        }
        let mut unused = 0;
        each_word(part, |index, mask| {
            unused += (mask & !self.used[index].load(Ordering::Relaxed)).count_ones() as usize;
        });
        unused * BASE_PAGE
    }

    /// Count the base pages of `part` as in use, once no thread is dropping the page.
    pub fn enter(&self, part: PageRange) {
        let base_pages = base_pages(part);
        let mut state = self.state.load(Ordering::Relaxed);
        loop {
            if state & DROPPING != 0 && is_of_this_process(state) {
                yield_now();
                state = self.state.load(Ordering::Relaxed);
                continue;
            }
            // A drop by another process is the parent's: its thread does not exist here.
            let base = if state & DROPPING != 0 { state & LASTING } else { state & !KEPT };
            let next = base + base_pages;
            assert_heap(
                base & OWNED != 0 && next & IN_USE <= BASE_PAGES as u64,
                c"memory came into use that is not the heap's, or is in use already",
            );
            match self.state.compare_exchange_weak(state, next, Ordering::AcqRel, Ordering::Relaxed)
            {
                Ok(_) => break settle(state, next),
                Err(now) => state = now,
            }
        }
        perturb();
        each_word(part, |index, mask| {
            let before = self.in_use[index].fetch_or(mask, Ordering::AcqRel);
            assert_heap(before & mask == 0, c"memory came into use that was in use already");
        });
    }

    /// Count the base pages of `part` as out of use, all of which are in use.
    pub fn leave(&self, part: PageRange) {
        assert_heap(
            self.leave_used(part) == part.len(),
            c"memory went out of use that was not in use",
        );
    }

    /// Count the base pages of `part` that are in use as out of use. Returns their bytes.
    pub fn leave_used(&self, part: PageRange) -> usize {
        let mut base_pages = 0;
        each_word(part, |index, mask| {
            let before = self.in_use[index].fetch_and(!mask, Ordering::AcqRel);
            base_pages += u64::from((before & mask).count_ones());
        });
        perturb();
        let left = self.state.fetch_sub(base_pages, Ordering::AcqRel) - base_pages;
        self.keep_if_unused(left);
        base_pages as usize * BASE_PAGE
    }

    /// Keep the page if nothing of it is in use and some of it may be resident.
    fn keep_if_unused(&self, state: u64) {
        if state & (IN_USE | KEPT) != 0
            || state & OWNED == 0
            || state & DROPPING != 0 && is_of_this_process(state)
            || is_clear(&self.used)
        {
            return;
        }
        perturb();
        let kept = state & LASTING | KEPT;
        // If that fails another thread uses the page again, or keeps it.
        if self.state.compare_exchange(state, kept, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            TOTALS.kept.fetch_add(HEAP_PAGE, Ordering::Relaxed);
        }
    }

    /// Mark a kept page as being dropped. If true, the caller drops it and then calls [`end_drop`](Self::end_drop); nobody
    /// else uses it until then.
    pub fn begin_drop(&self) -> bool {
        let state = self.state.load(Ordering::Relaxed);
        if state & KEPT == 0 || state & DROPPING != 0 && is_of_this_process(state) {
            return false;
        }
        let dropping = state & LASTING | KEPT | dropping_here();
        let changed =
            self.state.compare_exchange(state, dropping, Ordering::AcqRel, Ordering::Relaxed);
        if changed.is_ok() && state & DROPPING == 0 {
            TOTALS.dropping.fetch_add(HEAP_PAGE, Ordering::Relaxed);
        }
        changed.is_ok()
    }

    /// The drop is over; `dropped` unless the kernel refused.
    pub fn end_drop(&self, dropped: bool) {
        if dropped {
            clear(&self.used);
            self.recharge();
        }
        let before = self.state.fetch_and(LASTING, Ordering::AcqRel);
        settle(before, 0);
        assert_heap(
            before & DROPPING != 0 && before & IN_USE == 0,
            c"a heap page was in use while it was dropped",
        );
    }

    /// Note that the base pages of `part` are used from now on. With `zeros`, clear those that were used before.
    pub fn begin_use(&self, part: PageRange, zeros: bool) {
        let page = part.start() & !(HEAP_PAGE - 1);
        each_word(part, |index, mask| {
            let before = self.used[index].fetch_or(mask, Ordering::AcqRel) & mask;
            each_run_of_bits(if zeros { before } else { 0 }, |from, to| {
                let start = page + (index * 64 + from) * BASE_PAGE;
                let start: *mut u8 = ptr::with_exposed_provenance_mut(start);
                // SAFETY: these base pages are mapped, and jemalloc hands them to nobody before this call returns.
                unsafe { start.write_bytes(0, (to - from) * BASE_PAGE) };
            });
        });
        self.recharge();
    }

    /// Give back the base pages that are resident but not in use. The page is advised against huge pages, or the kernel
    /// would fill it again. Returns the bytes.
    pub fn reclaim(&self, start: usize) -> usize {
        let state = self.state.load(Ordering::Relaxed);
        let in_use = state & IN_USE;
        if in_use == 0
            || state & (DROPPING | DEVICE_BLOCK | DEVICE_ARENA) != 0
            || in_use as usize == BASE_PAGES
        {
            return 0;
        }
        let dropping = state | dropping_here();
        if self
            .state
            .compare_exchange(state, dropping, Ordering::AcqRel, Ordering::Relaxed)
            .is_err()
        {
            return 0;
        }
        perturb();
        // Nobody enters now. Equal counts: nobody is between the count and the bits, either.
        let mut bytes = 0;
        if count(&self.in_use) == in_use {
            advice::small_pages(PageRange::new(start, start + HEAP_PAGE));
            let was_huge = self.state.fetch_and(!ADVISED, Ordering::AcqRel) & ADVISED != 0;
            if was_huge {
                advice::split(PageRange::new(start, start + mapping::base_page().bytes()));
            }
            for (index, used) in self.used.iter().enumerate() {
                let in_use = self.in_use[index].load(Ordering::Acquire);
                // A huge page is resident as a whole, whatever was used of it.
                let resident = if was_huge { u64::MAX } else { used.load(Ordering::Acquire) };
                each_run_of_bits(resident & !in_use, |from, to| {
                    let first = start + (index * 64 + from) * BASE_PAGE;
                    let range = PageRange::new(first, first + (to - from) * BASE_PAGE);
                    // SAFETY: jemalloc has these base pages out of use, and the drop in progress keeps others from taking them.
                    if unsafe { advice::drop_private(range) }.is_ok() {
                        used.fetch_and(!bits(from, to, 0), Ordering::AcqRel);
                        bytes += range.len();
                    } else {
                        used.fetch_or(bits(from, to, 0), Ordering::AcqRel);
                    }
                });
            }
            self.recharge();
        }
        let state = self.state.fetch_and(LASTING, Ordering::AcqRel) & LASTING;
        TOTALS.dropped.fetch_add(bytes, Ordering::Relaxed);
        // Threads that left meanwhile have seen a drop in progress and relied on it.
        self.keep_if_unused(state);
        bytes
    }

    /// Bring the charge up to date. Of two threads that change the page at the same time, the last one to store looks
    /// again.
    fn recharge(&self) {
        let mut charge = self.present_charge();
        loop {
            let before = self.charge.swap(charge, Ordering::AcqRel);
            if charge > before {
                TOTALS.charged.fetch_add(charge - before, Ordering::Relaxed);
            } else if charge < before {
                TOTALS.charged.fetch_sub(before - charge, Ordering::Relaxed);
            }
            perturb();
            let now = self.present_charge();
            if now == charge {
                return;
            }
            charge = now;
        }
    }

    fn present_charge(&self) -> usize {
        let used = count(&self.used) as usize * BASE_PAGE;
        let is_huge = self.state.load(Ordering::Acquire) & ADVISED != 0;
        if is_huge && used > 0 { HEAP_PAGE } else { used }
    }
}

/// A change from one state to another: count a page that is no longer kept.
fn settle(before: u64, after: u64) {
    if before & KEPT != 0 && after & KEPT == 0 {
        TOTALS.kept.fetch_sub(HEAP_PAGE, Ordering::Relaxed);
        if before & DROPPING != 0 {
            TOTALS.dropping.fetch_sub(HEAP_PAGE, Ordering::Relaxed);
        }
    }
}

fn dropping_here() -> u64 {
    DROPPING | u64::from(process::process_id().unsigned_abs()) << UPPER_SHIFT
}

fn is_of_this_process(state: u64) -> bool {
    state >> UPPER_SHIFT == u64::from(process::process_id().unsigned_abs())
}

fn clear(bitmap: &Bitmap) {
    for word in bitmap {
        word.store(0, Ordering::Release);
    }
}

fn is_clear(bitmap: &Bitmap) -> bool {
    bitmap.iter().all(|word| word.load(Ordering::Acquire) == 0)
}

fn count(bitmap: &Bitmap) -> u64 {
    bitmap.iter().map(|word| u64::from(word.load(Ordering::Acquire).count_ones())).sum()
}

fn base_pages(part: PageRange) -> u64 {
    (part.len() / BASE_PAGE) as u64
}

/// Call with each word of a bitmap that has bits of `part`, and those bits.
fn each_word(part: PageRange, mut visit: impl FnMut(usize, u64)) {
    let first = (part.start() & (HEAP_PAGE - 1)) / BASE_PAGE;
    let end = first + part.len() / BASE_PAGE;
    for index in first / 64..end.div_ceil(64).min(BASE_PAGES / 64) {
        visit(index, bits(first, end, index));
    }
}

/// The bits of word `index` that lie in `first..end`.
fn bits(first: usize, end: usize, index: usize) -> u64 {
    let (low, high) = (first.max(index * 64), end.min(index * 64 + 64));
    if low >= high {
        return 0;
    }
    (u64::MAX >> (64 - (high - low))) << (low - index * 64)
}

/// Call with `from..to` of each run of set bits.
fn each_run_of_bits(mut word: u64, mut found: impl FnMut(usize, usize)) {
    while word != 0 {
        let from = word.trailing_zeros();
        let length = (word >> from).trailing_ones();
        found(from as usize, (from + length) as usize);
        if from + length == 64 {
            return;
        }
        word &= u64::MAX << (from + length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_of_words() {
        assert_eq!(bits(0, 512, 3), u64::MAX);
        assert_eq!(bits(60, 70, 0), 0xf << 60);
        assert_eq!(bits(60, 70, 1), 0x3f);
        assert_eq!(bits(60, 70, 2), 0);
        let mut runs = Vec::new();
        each_run_of_bits(0xf000_0000_0000_0a06, |from, to| runs.push((from, to)));
        assert_eq!(runs, [(1, 3), (9, 10), (11, 12), (60, 64)]);
    }
}
