//! What the heap knows of each address, found in two steps without a lock:
//!
//! - per base page: the size class of the blocks that start there ([`class_of`]), so that `free` finds a block's stack
//!   with two loads;
//! - per heap page (2 MiB): its state ([`HeapPage`]).
//!
//! An address without an entry belongs to another allocator.
//!
//! All of this runs inside `malloc`: it neither allocates nor panics, and it never waits for a thread that a fork left
//! behind.

use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicPtr, AtomicU8, AtomicUsize, Ordering, fence};

use super::constants::{ADDRESS_BITS, BASE_PAGE_BITS, REGION_BITS};
use super::heap_page::{Change, HeapPage};
pub use super::heap_page::{HEAP_PAGE, TOTALS};
use crate::os::{SysResult, advice, machine, mapping};
use crate::page::PageRange;

/// Bytes of the smallest base page that Linux has.
pub const BASE_PAGE: usize = 1 << BASE_PAGE_BITS;
const REGION: usize = 1 << REGION_BITS;

/// What the heap knows of 1 GiB. Zeros describe a region in which the heap owns nothing.
#[repr(C)]
struct Region {
    /// First, because `cpp/thread_cache.hpp` reads it.
    classes: [AtomicU8; REGION / BASE_PAGE],
    pages: [HeapPage; REGION / HEAP_PAGE],
}

/// Read by `cpp/thread_cache.hpp`.
#[unsafe(no_mangle)]
static gmem_heap_regions: [AtomicPtr<Region>; 1 << (ADDRESS_BITS - REGION_BITS)] =
    [const { AtomicPtr::new(ptr::null_mut()) }; 1 << (ADDRESS_BITS - REGION_BITS)];

/// The part of the table that is in use: to look at all of it costs 512 page faults.
static FIRST_REGION: AtomicUsize = AtomicUsize::new(usize::MAX);
static END_OF_REGIONS: AtomicUsize = AtomicUsize::new(0);

/// The size class of the blocks that start on the base page of `address`; 0 for a large block, and for memory that the
/// heap does not own.
#[inline]
pub fn class_of(address: usize) -> u8 {
    region(address).map_or(0, |region| region.class(address).load(Ordering::Relaxed))
}

/// Note that a block of a class, or a large one (0), starts at an address of the heap's.
#[inline]
pub fn set_class(address: usize, class: u8) {
    if let Some(region) = region(address) {
        let slot = region.class(address);
        // Most pages have their class already, and a store would take the cache line from other threads.
        if slot.load(Ordering::Relaxed) != class {
            slot.store(class, Ordering::Relaxed);
        }
    }
}

/// Whether an address lies on one of the heap's pages.
pub fn is_owned(address: usize) -> bool {
    region(address).is_some_and(|region| region.page(address).is_owned())
}

/// Note that a block of `length` bytes in the memory of the device with that index begins at `address`.
pub fn mark_device_block(address: usize, device: usize, length: usize) {
    if let Some(region) = region(address) {
        region.page(address).mark_device_block(device, length);
    }
}

/// The device and the bytes of the block in a device's memory that begins at `address`; `None` for any other block.
pub fn device_block(address: usize) -> Option<(usize, usize)> {
    region(address)?.page(address).device_block()
}

/// Note that adopted heap pages hold small blocks in a device's memory, which no thread caches.
pub fn mark_device_arena(range: PageRange) {
    each_part(range, |page, _| page.mark_device_arena());
    for page in (range.start()..range.end()).step_by(BASE_PAGE) {
        set_class(page, 0);
    }
}

/// Whether a block lies on a page of a device's arena.
pub fn is_in_device_arena(address: usize) -> bool {
    region(address).is_some_and(|region| region.page(address).is_in_device_arena())
}

/// Make freshly mapped heap pages the heap's. None of their base pages is in use.
pub fn adopt(range: PageRange) -> SysResult<()> {
    for start in (range.start()..range.end()).step_by(HEAP_PAGE) {
        region_or_new(start)?.page(start).adopt();
    }
    Ok(())
}

/// Forget whole heap pages that are about to be unmapped.
pub fn abandon(range: PageRange) {
    each_part(range, |page, _| page.abandon());
}

/// Forget a block in a device's memory. Memory that a driver took from this heap stays the heap's.
pub fn abandon_device_block(range: PageRange) {
    let Some(region) = region(range.start()) else { return };
    if region.page(range.start()).end_device_block() {
        abandon(range);
    }
}

/// Bytes by which the heap's charge grows when jemalloc begins to use a range.
pub fn missing_charge(range: PageRange) -> usize {
    let mut bytes = 0;
    each_part(range, |page, part| bytes += page.missing_charge(part));
    bytes
}

/// jemalloc begins to use a range and expects zeros: base pages that were used before are cleared.
pub fn put_in_use(range: PageRange) {
    each_part(range, |page, part| {
        page.enter(part);
        page.zero_used(part);
    });
}

/// jemalloc ceases to use a range. Heap pages with nothing left in use go back to the kernel.
pub fn put_out_of_use(range: PageRange) {
    leave_each(range, HeapPage::leave);
}

/// jemalloc ceases to use a range of which only a part may be in use. Returns the bytes of that part.
pub fn put_used_out_of_use(range: PageRange) -> usize {
    let mut sum = 0;
    leave_each(range, |page, part| {
        let (bytes, change) = page.leave_used(part);
        sum += bytes;
        change
    });
    sum
}

fn leave_each(range: PageRange, mut leave: impl FnMut(&HeapPage, PageRange) -> Change) {
    let mut run = Run::new(drop_run);
    each_part(range, |page, part| {
        if leave(page, part) == Change::MustDrop {
            run.add(part.start() & !(HEAP_PAGE - 1));
        }
    });
    run.finish();
}

/// Advise the kernel to back the whole heap pages inside `range` with huge pages. Not if its huge pages are larger than a
/// heap page: releasing one heap page would split such a page.
pub fn advise_huge(range: PageRange) {
    if !machine::has_huge_gmem_pages() {
        return;
    }
    let mut run = Run::new(advice::huge_pages);
    each_part(range, |page, part| {
        if part.len() == HEAP_PAGE && page.mark_advised() {
            run.add(part.start());
        }
    });
    run.finish();
}

/// Call with each run of neighbouring heap pages of ordinary memory.
pub fn each_run(found: impl FnMut(PageRange)) {
    let mut run = Run::new(found);
    // The caller has just announced that new pages get advice by themselves; pages that a thread adopts without seeing
    // that announcement must be seen here.
    fence(Ordering::SeqCst);
    each_page(|start, page| {
        if !page.is_of_device() {
            run.add(start);
        }
    });
    run.finish();
}

/// Give back each unused base page that is still resident because its neighbours are in use. This takes huge pages apart,
/// so it is for a heap at its hard limit only. Returns the bytes.
pub fn reclaim_unused() -> usize {
    let mut bytes = 0;
    each_page(|start, page| match page.reclaim(start) {
        (reclaimed, Change::None) => bytes += reclaimed,
        (reclaimed, Change::MustDrop) => {
            bytes += reclaimed;
            drop_run(PageRange::new(start, start + HEAP_PAGE));
        }
    });
    bytes
}

fn each_page(mut visit: impl FnMut(usize, &HeapPage)) {
    let first = FIRST_REGION.load(Ordering::Acquire);
    let end = END_OF_REGIONS.load(Ordering::Acquire);
    for (index, pointer) in gmem_heap_regions.iter().enumerate().take(end).skip(first) {
        // SAFETY: the pointer is null or a region, and regions are never unmapped.
        let Some(region) = (unsafe { pointer.load(Ordering::Acquire).as_ref() }) else { continue };
        for (number, page) in region.pages.iter().enumerate() {
            if page.is_owned() {
                visit(index * REGION + number * HEAP_PAGE, page);
            }
        }
    }
}

/// Neighbouring heap pages, joined for one system call.
struct Run<F: FnMut(PageRange)> {
    range: PageRange,
    done: F,
}

impl<F: FnMut(PageRange)> Run<F> {
    fn new(done: F) -> Self {
        Self { range: PageRange::new(0, 0), done }
    }

    /// Add the heap page at `start`.
    fn add(&mut self, start: usize) {
        if start != self.range.end() {
            self.finish();
            self.range = PageRange::new(start, start);
        }
        self.range = PageRange::new(self.range.start(), start + HEAP_PAGE);
    }

    fn finish(&mut self) {
        if !self.range.is_empty() {
            (self.done)(self.range);
        }
        self.range = PageRange::new(0, 0);
    }
}

/// Give back a run of heap pages that this thread has marked as being dropped.
fn drop_run(run: PageRange) {
    // SAFETY: nothing on these heap pages is in use, and their mark keeps every other thread from taking them.
    let dropped = unsafe { advice::drop_private(run) }.is_ok();
    if !dropped && run.len() > HEAP_PAGE {
        // Locked memory (mlockall) stays, and is cleared when it is used again. Its neighbours may go.
        let middle = run.start() + (run.len() / HEAP_PAGE / 2) * HEAP_PAGE;
        drop_run(PageRange::new(run.start(), middle));
        return drop_run(PageRange::new(middle, run.end()));
    }
    each_part(run, |page, _| page.end_drop(dropped));
    if dropped {
        TOTALS.dropped.fetch_add(run.len(), Ordering::Relaxed);
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
    // SAFETY: the pointer is null or a region, and regions are never unmapped.
    unsafe { pointer.load(Ordering::Acquire).as_ref() }
}

fn region_or_new(address: usize) -> SysResult<&'static Region> {
    const TOO_HIGH: crate::error::Errno = crate::error::Errno(libc::ENOMEM);
    if let Some(region) = region(address) {
        return Ok(region);
    }
    let index = address >> REGION_BITS;
    let pointer = gmem_heap_regions.get(index).ok_or(TOO_HIGH)?;
    // Only a few base pages of it are ever touched, so it lies on small pages.
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
    // SAFETY: a failed exchange found another thread's region, else `fresh` is one, because zeros are a region. Neither
    // is unmapped once it is in the table.
    let region = unsafe { known.map_or_else(|other| &*other, |_| fresh.as_ref()) };
    if known.is_err() {
        // SAFETY: mapped above, and not in the table, so no other thread has its address.
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Adopted heap pages that only the calling test uses; they stay mapped.
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
        // SAFETY: the test's own mapping.
        unsafe {
            assert_eq!(byte(range.start() + HEAP_PAGE).read(), 0);
            assert_eq!(byte(range.start() + edge).read(), 7);
        }
        put_out_of_use(first);
        put_out_of_use(rest);
        // SAFETY: the test's own mapping.
        assert_eq!(unsafe { byte(range.start() + edge).read() }, 0);
    }

    #[test]
    fn classes_and_ownership_are_found_by_address() {
        let range = fresh_pages(1);
        set_class(range.start() + 5 * BASE_PAGE + 16, 9);
        assert_eq!(class_of(range.start() + 5 * BASE_PAGE), 9);
        assert_eq!(class_of(range.start() + 6 * BASE_PAGE), 0);
        assert!(is_owned(range.end() - 1));
        for address in [0, 4096, usize::MAX, ptr::from_ref(&not_on_the_heap).addr()] {
            assert!(!is_owned(address) && class_of(address) == 0, "{address:#x}");
        }
    }

    #[allow(non_upper_case_globals, reason = "a variable, not a constant")]
    static not_on_the_heap: AtomicU8 = AtomicU8::new(0);

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
    fn reclaiming_takes_what_is_unused_and_leaves_the_rest() {
        let range = fresh_pages(1);
        let (kept, unused) = (part(range, 0, BASE_PAGE), part(range, BASE_PAGE, HEAP_PAGE));
        put_in_use(range);
        for at in (range.start()..range.end()).step_by(BASE_PAGE) {
            // SAFETY: the test's own mapping.
            unsafe { byte(at).write(7) };
        }
        put_out_of_use(unused);
        assert!(reclaim_unused() >= unused.len());
        // SAFETY: the test's own mapping.
        unsafe {
            assert_eq!(byte(kept.start()).read(), 7);
            assert_eq!(byte(unused.start()).read(), 0);
        }
        assert_eq!(missing_charge(unused), unused.len());
        put_out_of_use(kept);
    }
}
