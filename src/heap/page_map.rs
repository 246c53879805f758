//! What the heap knows of each of its pages, found by address in two steps, without a lock:
//!
//! - per base page: the size class of the blocks that start there ([`class_of`]), so that `free` finds a
//!   block's thread cache with two loads;
//! - per heap page (2 MiB): how many of its base pages jemalloc has in use, and which of them were used since
//!   the page was last dropped. A heap page goes back to the kernel when the last of its base pages goes out of
//!   use, and only as a whole: dropping a part would split a huge page.
//!
//! An address that is in none of them belongs to another allocator.
//!
//! Everything here runs inside `malloc`: no allocation, no panic. Nobody waits for a thread that fork left
//! behind.

use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicPtr, AtomicU8, AtomicU64, AtomicUsize, Ordering};

use crate::os::{SysResult, advice, machine, mapping, process};
use crate::page::PageRange;

/// Bytes of a heap page, on every machine: where huge pages are larger (512 MiB with 64 KiB base pages), the
/// heap still gives memory back in pieces of this size.
pub const HEAP_PAGE: usize = 2 << 20;
/// Bytes of the smallest base page that Linux has, and of jemalloc's pages on every machine.
pub const BASE_PAGE: usize = 4096;
/// Base pages of a heap page.
const BASE_PAGES: usize = HEAP_PAGE / BASE_PAGE;
/// Bits of an address in user space, without the 57-bit addresses that mmap(2) gives only when asked.
const ADDRESS_BITS: u32 = 48;
/// One region describes 1 GiB.
const REGION_BITS: u32 = 30;
const REGION: usize = 1 << REGION_BITS;

/// In the state of a heap page: base pages in use, at most [`BASE_PAGES`].
const IN_USE: u64 = 0xffff;
/// It belongs to the heap.
const OWNED: u64 = 1 << 16;
/// The kernel was advised to back it with a huge page.
const ADVISED: u64 = 1 << 17;
/// It is the first of a block in a device's own memory, whose number of heap pages is in the upper half.
const DEVICE_BLOCK: u64 = 1 << 19;
const PAGES_SHIFT: u32 = 32;
/// It holds small blocks in a device's own memory.
const DEVICE_ARENA: u64 = 1 << 28;
/// What stays of a page of jemalloc's that a driver was given, and gave on as a device's.
const JEMALLOCS: u64 = IN_USE | OWNED | ADVISED;
/// Which device's, in such a page.
const DEVICE_SHIFT: u32 = 20;
const DEVICE_MASK: u64 = 0xff;
/// It is being dropped, by the process whose id is in the upper half.
const DROPPING: u64 = 1 << 18;
const DROPPER_SHIFT: u32 = 32;

/// Zeros are a region of which nothing is the heap's.
#[repr(C)]
struct Region {
    /// First, because `cpp/thread_cache.hpp` reads it.
    classes: [AtomicU8; REGION / BASE_PAGE],
    pages: [HeapPage; REGION / HEAP_PAGE],
}

struct HeapPage {
    state: AtomicU64,
    /// A bit for each base page that was in use since the page was last dropped, so that it may not be zeros.
    used: [AtomicU64; BASE_PAGES / 64],
}

/// Read by `cpp/thread_cache.hpp`, too.
#[unsafe(no_mangle)]
static gmem_heap_regions: [AtomicPtr<Region>; 1 << (ADDRESS_BITS - REGION_BITS)] =
    [const { AtomicPtr::new(ptr::null_mut()) }; 1 << (ADDRESS_BITS - REGION_BITS)];

/// Where in the table there are any: all of it would be 512 page faults to look at.
static FIRST_REGION: AtomicUsize = AtomicUsize::new(usize::MAX);
static END_OF_REGIONS: AtomicUsize = AtomicUsize::new(0);

/// Sums over all heap pages, in bytes.
pub struct Totals {
    /// Address space.
    pub mapped: AtomicUsize,
    /// What jemalloc has in use: live blocks, idle ones that it keeps for a while, and its own data.
    pub in_use: AtomicUsize,
    /// What was given back, ever.
    pub dropped: AtomicUsize,
}

/// The process's.
pub static TOTALS: Totals = Totals {
    mapped: AtomicUsize::new(0),
    in_use: AtomicUsize::new(0),
    dropped: AtomicUsize::new(0),
};

/// The size class of the blocks that start on the base page of `address`; 0 for a large block, and for memory
/// that is not the heap's.
#[inline]
pub fn class_of(address: usize) -> u8 {
    region(address).map_or(0, |region| region.class(address).load(Ordering::Relaxed))
}

/// Note that a block of a class, or a large one (0), starts at an address of the heap's.
#[inline]
pub fn set_class(address: usize, class: u8) {
    if let Some(region) = region(address) {
        let slot = region.class(address);
        // Most are noted already, and a store would take the cache line from other threads.
        if slot.load(Ordering::Relaxed) != class {
            slot.store(class, Ordering::Relaxed);
        }
    }
}

/// Whether an address lies on one of the heap's pages.
pub fn is_owned(address: usize) -> bool {
    region(address)
        .is_some_and(|region| region.page(address).state.load(Ordering::Relaxed) & OWNED != 0)
}

/// Note that a block of `length` bytes in the memory of the device with that index begins at `address`.
pub fn mark_device_block(address: usize, device: usize, length: usize) {
    if let Some(region) = region(address) {
        let pages = (length / HEAP_PAGE) as u64;
        let mark = OWNED | DEVICE_BLOCK | pages << PAGES_SHIFT | (device as u64) << DEVICE_SHIFT;
        let state = &region.page(address).state;
        // All of the page is the block's, so nobody else changes it.
        state.store(state.load(Ordering::Relaxed) & JEMALLOCS | mark, Ordering::Release);
    }
}

/// The device and the bytes of the block that begins at `address`, if it is one of a device's.
pub fn device_block(address: usize) -> Option<(usize, usize)> {
    let state = region(address)?.page(address).state.load(Ordering::Acquire);
    let device = (state >> DEVICE_SHIFT & DEVICE_MASK) as usize;
    let length = (state >> PAGES_SHIFT) as usize * HEAP_PAGE;
    (state & (OWNED | DEVICE_BLOCK) == OWNED | DEVICE_BLOCK).then_some((device, length))
}

/// Note that heap pages, which were adopted, hold small blocks in a device's memory: blocks that no thread keeps.
pub fn mark_device_arena(range: PageRange) {
    each_part(range, |page, _| {
        page.state.fetch_or(DEVICE_ARENA, Ordering::Release);
    });
    for page in (range.start()..range.end()).step_by(BASE_PAGE) {
        set_class(page, 0);
    }
}

/// Whether a block lies on such a page.
pub fn is_in_device_arena(address: usize) -> bool {
    region(address).is_some_and(|region| {
        region.page(address).state.load(Ordering::Relaxed) & DEVICE_ARENA != 0
    })
}

/// Take fresh mappings in: whole heap pages, none of it in use.
pub fn adopt(range: PageRange) -> SysResult<()> {
    for start in (range.start()..range.end()).step_by(HEAP_PAGE) {
        region_or_new(start)?.page(start).state.store(OWNED, Ordering::Release);
        TOTALS.mapped.fetch_add(HEAP_PAGE, Ordering::Relaxed);
    }
    Ok(())
}

/// Let go of whole heap pages that are about to be unmapped.
pub fn abandon(range: PageRange) {
    each_part(range, |page, _| {
        if page.state.swap(0, Ordering::AcqRel) & OWNED != 0 {
            page.forget_used();
            TOTALS.mapped.fetch_sub(HEAP_PAGE, Ordering::Relaxed);
        }
    });
}

/// The same for a block in a device's memory. What a driver has taken from this heap stays in it.
pub fn abandon_device_block(range: PageRange) {
    let Some(region) = region(range.start()) else { return };
    let state = &region.page(range.start()).state;
    if state.load(Ordering::Relaxed) & IN_USE == 0 {
        return abandon(range);
    }
    state.fetch_and(JEMALLOCS, Ordering::AcqRel);
}

/// jemalloc begins to use a part of the heap, and takes it for zeros: what is not is made so.
pub fn put_in_use(range: PageRange) {
    each_part(range, |page, part| {
        page.enter(base_pages(part));
        page.zero_used(part);
    });
}

/// jemalloc has no more use for a part of the heap. Heap pages with nothing left in use go back.
pub fn put_out_of_use(range: PageRange) {
    let mut run = PageRange::new(range.start(), range.start());
    each_part(range, |page, part| {
        if !page.leave(base_pages(part)) {
            return;
        }
        let start = part.start() & !(HEAP_PAGE - 1);
        if start != run.end() || run.is_empty() {
            drop_run(run);
            run = PageRange::new(start, start);
        }
        run = PageRange::new(run.start(), start + HEAP_PAGE);
    });
    drop_run(run);
}

/// Advise the kernel to back with huge pages: the whole heap pages inside of `range` that it does not know of. Not
/// where its huge pages are larger than a heap page: returning one heap page to the kernel would split such a page.
pub fn advise_huge(range: PageRange) {
    if !machine::has_huge_gmem_pages() {
        return;
    }
    let mut run = PageRange::new(range.start(), range.start());
    each_part(range, |page, part| {
        if part.len() == HEAP_PAGE && page.state.fetch_or(ADVISED, Ordering::Relaxed) & ADVISED == 0
        {
            if part.start() != run.end() {
                advise_run(run);
                run = PageRange::new(part.start(), part.start());
            }
            run = PageRange::new(run.start(), part.end());
        }
    });
    advise_run(run);
}

/// Call with each run of neighbouring heap pages.
pub fn each_run(mut found: impl FnMut(PageRange)) {
    let mut run = PageRange::new(0, 0);
    each_page(|start, _| {
        if start != run.end() {
            if !run.is_empty() {
                found(run);
            }
            run = PageRange::new(start, start);
        }
        run = PageRange::new(run.start(), start + HEAP_PAGE);
    });
    if !run.is_empty() {
        found(run);
    }
}

/// An upper bound of the heap's resident bytes.
pub fn resident_at_most() -> usize {
    let mut sum = 0;
    each_page(|_, page| sum += page.resident_at_most());
    sum
}

fn each_page(mut visit: impl FnMut(usize, &HeapPage)) {
    let first = FIRST_REGION.load(Ordering::Acquire);
    let end = END_OF_REGIONS.load(Ordering::Acquire);
    for (index, pointer) in gmem_heap_regions.iter().enumerate().take(end).skip(first) {
        // SAFETY: regions are never unmapped.
        let Some(region) = (unsafe { pointer.load(Ordering::Acquire).as_ref() }) else { continue };
        for (number, page) in region.pages.iter().enumerate() {
            if page.state.load(Ordering::Relaxed) & OWNED != 0 {
                visit(index * REGION + number * HEAP_PAGE, page);
            }
        }
    }
}

fn advise_run(run: PageRange) {
    if !run.is_empty() {
        advice::huge_pages(run);
    }
}

/// Give back a run of heap pages that are marked [`DROPPING`].
fn drop_run(run: PageRange) {
    if run.is_empty() {
        return;
    }
    // SAFETY: the heap owns the pages, and nothing in use lies on them: each is marked as being dropped.
    let dropped = unsafe { advice::drop_private(run).is_ok() };
    if !dropped && run.len() > HEAP_PAGE {
        // Locked memory (mlockall) stays, and is zeroed when it is used again. Its neighbours need not.
        let middle = run.start() + (run.len() / HEAP_PAGE / 2) * HEAP_PAGE;
        drop_run(PageRange::new(run.start(), middle));
        return drop_run(PageRange::new(middle, run.end()));
    }
    each_part(run, |page, _| {
        if dropped {
            page.forget_used();
        }
        page.state.fetch_and(OWNED | ADVISED, Ordering::Release);
    });
    if dropped {
        TOTALS.dropped.fetch_add(run.len(), Ordering::Relaxed);
    }
}

impl HeapPage {
    /// Count base pages that come into use, once nobody is dropping the page.
    fn enter(&self, base_pages: u64) {
        let mut state = self.state.load(Ordering::Relaxed);
        loop {
            let mut next = state + base_pages;
            if state & DROPPING != 0 {
                if state >> DROPPER_SHIFT == u64::from(process::process_id().unsigned_abs()) {
                    process::yield_now();
                    state = self.state.load(Ordering::Relaxed);
                    continue;
                }
                // The thread that did this is the parent's, and will never end it here.
                next = (state & (OWNED | ADVISED)) + base_pages;
            }
            match self.state.compare_exchange_weak(state, next, Ordering::AcqRel, Ordering::Relaxed)
            {
                Ok(_) => return,
                Err(now) => state = now,
            }
        }
    }

    /// Count base pages that go out of use. True if none is left and there is something to drop: then the page
    /// is marked as being dropped, and the caller must do so.
    fn leave(&self, base_pages: u64) -> bool {
        let left = self.state.fetch_sub(base_pages, Ordering::AcqRel) - base_pages;
        if left & IN_USE != 0 || self.used.iter().all(|word| word.load(Ordering::Relaxed) == 0) {
            return false;
        }
        let dropping =
            left | DROPPING | u64::from(process::process_id().unsigned_abs()) << DROPPER_SHIFT;
        self.state.compare_exchange(left, dropping, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Make a part zeros that comes into use, and note that it may hold anything from now on.
    fn zero_used(&self, part: PageRange) {
        let first = (part.start() & (HEAP_PAGE - 1)) / BASE_PAGE;
        let last = first + part.len() / BASE_PAGE;
        let page = part.start() & !(HEAP_PAGE - 1);
        for (index, word) in self.used.iter().enumerate() {
            let mask = bits(first, last, index);
            if mask == 0 {
                continue;
            }
            let before = word.fetch_or(mask, Ordering::Relaxed) & mask;
            each_run_of_bits(before, |from, to| {
                let start = page + (index * 64 + from) * BASE_PAGE;
                // SAFETY: base pages that the heap owns and that jemalloc is only about to use.
                unsafe {
                    let start: *mut u8 = ptr::with_exposed_provenance_mut(start);
                    start.write_bytes(0, (to - from) * BASE_PAGE);
                }
            });
        }
    }

    fn forget_used(&self) {
        for word in &self.used {
            word.store(0, Ordering::Relaxed);
        }
    }

    /// At most so much of the page is resident.
    fn resident_at_most(&self) -> usize {
        let used: u32 =
            self.used.iter().map(|word| word.load(Ordering::Relaxed).count_ones()).sum();
        let huge = self.state.load(Ordering::Relaxed) & ADVISED != 0;
        if used > 0 && huge { HEAP_PAGE } else { used as usize * BASE_PAGE }
    }
}

impl Region {
    fn class(&self, address: usize) -> &AtomicU8 {
        &self.classes[address % REGION / BASE_PAGE]
    }

    fn page(&self, address: usize) -> &HeapPage {
        &self.pages[address % REGION / HEAP_PAGE]
    }
}

fn region(address: usize) -> Option<&'static Region> {
    let pointer = gmem_heap_regions.get(address >> REGION_BITS)?;
    // SAFETY: regions are never unmapped.
    unsafe { pointer.load(Ordering::Acquire).as_ref() }
}

fn region_or_new(address: usize) -> SysResult<&'static Region> {
    const TOO_HIGH: crate::error::Errno = crate::error::Errno(libc::ENOMEM);
    if let Some(region) = region(address) {
        return Ok(region);
    }
    let index = address >> REGION_BITS;
    let pointer = gmem_heap_regions.get(index).ok_or(TOO_HIGH)?;
    // Touched here and there only, so on small pages.
    let fresh: NonNull<Region> =
        mapping::map_aligned(size_of::<Region>(), mapping::base_page())?.cast();
    let known = pointer.compare_exchange(
        ptr::null_mut(),
        fresh.as_ptr(),
        Ordering::AcqRel,
        Ordering::Acquire,
    );
    FIRST_REGION.fetch_min(index, Ordering::AcqRel);
    END_OF_REGIONS.fetch_max(index + 1, Ordering::AcqRel);
    // SAFETY: regions are never unmapped; zeros are a region; a failed exchange found one.
    let region = unsafe { known.map_or_else(|other| &*other, |_| fresh.as_ref()) };
    if known.is_err() {
        // SAFETY: mapped above, and the exchange that would have published its address failed.
        let _ = unsafe { mapping::unmap(fresh.cast(), size_of::<Region>()) };
    }
    Ok(region)
}

/// Call with each heap page of a range and the part of the range on it.
fn each_part(range: PageRange, mut visit: impl FnMut(&HeapPage, PageRange)) {
    let mut start = range.start();
    while start < range.end() {
        let end = range.end().min((start & !(HEAP_PAGE - 1)) + HEAP_PAGE);
        if let Some(region) = region(start) {
            visit(region.page(start), PageRange::new(start, end));
        }
        start = end;
    }
}

fn base_pages(part: PageRange) -> u64 {
    (part.len() / BASE_PAGE) as u64
}

/// The bits of word `index` that lie in `first..last`.
fn bits(first: usize, last: usize, index: usize) -> u64 {
    let (low, high) = (first.max(index * 64), last.min(index * 64 + 64));
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
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Heap pages of a test's own, adopted; nobody unmaps them.
    fn fresh_pages(count: usize) -> PageRange {
        let page = crate::page::PageSize::new(HEAP_PAGE).unwrap();
        let start = mapping::map_aligned(count * HEAP_PAGE, page).unwrap();
        let start = start.as_ptr().expose_provenance();
        let range = PageRange::new(start, start + count * HEAP_PAGE);
        adopt(range).unwrap();
        range
    }

    fn part(range: PageRange, from: usize, to: usize) -> PageRange {
        PageRange::new(range.start() + from, range.start() + to)
    }

    fn byte(address: usize) -> *mut u8 {
        ptr::with_exposed_provenance_mut(address)
    }

    #[test]
    fn a_heap_page_goes_back_when_its_last_part_does_and_reads_as_zeros() {
        let range = fresh_pages(2);
        let edge = HEAP_PAGE + 3 * BASE_PAGE;
        let (first, rest) = (part(range, 0, edge), part(range, edge, 2 * HEAP_PAGE));
        put_in_use(first);
        put_in_use(rest);
        for at in (range.start()..range.end()).step_by(BASE_PAGE) {
            // SAFETY: the test's own mapping.
            unsafe { byte(at).write(7) };
        }
        put_out_of_use(first);
        // SAFETY: the test's own mapping. The first heap page is gone, of the second nothing is.
        unsafe {
            assert_eq!(byte(range.start()).read(), 0);
            assert_eq!(byte(range.start() + HEAP_PAGE).read(), 7);
        }
        // What stayed is zeroed before it is used again.
        put_in_use(first);
        // SAFETY: as above.
        unsafe {
            assert_eq!(byte(range.start() + HEAP_PAGE).read(), 0);
            assert_eq!(byte(range.start() + edge).read(), 7);
        }
        put_out_of_use(first);
        put_out_of_use(rest);
        // SAFETY: as above.
        assert_eq!(unsafe { byte(range.start() + edge).read() }, 0);
    }

    #[test]
    fn classes_and_ownership_are_found_by_address() {
        let range = fresh_pages(1);
        set_class(range.start() + 5 * BASE_PAGE + 16, 9);
        assert_eq!(class_of(range.start() + 5 * BASE_PAGE), 9);
        assert_eq!(class_of(range.start() + 6 * BASE_PAGE), 0);
        assert!(is_owned(range.end() - 1));
        for foreign in [0, 4096, usize::MAX, ptr::from_ref(&foreign_place).addr()] {
            assert!(!is_owned(foreign) && class_of(foreign) == 0, "{foreign:#x}");
        }
    }

    #[allow(non_upper_case_globals, reason = "a place, not a constant")]
    static foreign_place: AtomicU8 = AtomicU8::new(0);

    #[test]
    fn threads_may_use_and_leave_parts_of_one_page() {
        let range = fresh_pages(1);
        let threads: Vec<_> = (0..8)
            .map(|index| {
                std::thread::spawn(move || {
                    let size = HEAP_PAGE / 8;
                    let own = part(range, index * size, (index + 1) * size);
                    for round in 0..2000_u32 {
                        put_in_use(own);
                        let at = byte(own.start() + (round as usize % 64) * BASE_PAGE);
                        // SAFETY: the test's own mapping, this thread's part.
                        unsafe {
                            assert_eq!(at.read(), 0, "taken for zeros");
                            at.write(1);
                        }
                        put_out_of_use(own);
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
    }

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
