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
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicUsize, Ordering, fence};
use std::time::Duration;

use super::constants::{ADDRESS_BITS, BASE_PAGE_BITS, REGION_BITS};
use super::heap_page::HeapPage;
pub use super::heap_page::{HEAP_PAGE, TOTALS};
use super::turn::Turn;
use crate::error::Errno;
use crate::os::mapping::Target;
use crate::os::{SysResult, advice, machine, mapping, process};
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

/// The size class of the blocks that start on the base page of `address`; 0 where none starts, and for memory that the heap does
/// not own.
#[inline]
pub fn class_of(address: usize) -> u8 {
    region(address).map_or(0, |region| region.class(address).load(Ordering::Relaxed))
}

/// Note that a block of a class starts at an address of the heap's.
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

/// Change the class of a base page from one to another; false if it has not the first.
pub fn exchange_class(address: usize, from: u8, to: u8) -> bool {
    region(address).is_some_and(|region| {
        let slot = region.class(address);
        slot.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    })
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

/// jemalloc is about to use a range: from now on nothing of it goes back to the kernel.
pub fn enter(range: PageRange) {
    each_part(range, HeapPage::enter);
}

/// jemalloc begins to use a range that was [entered](enter). With `zeros`, base pages that were used before are cleared.
pub fn begin_use(range: PageRange, zeros: bool) {
    each_part(range, |page, part| page.begin_use(part, zeros));
}

/// jemalloc ceases to use a range. Heap pages with nothing left in use are kept, until [`drop_kept`] takes them.
pub fn put_out_of_use(range: PageRange) {
    each_part(range, HeapPage::leave);
}

/// jemalloc ceases to use a range of which only a part may be in use. Returns the bytes of that part.
pub fn put_used_out_of_use(range: PageRange) -> usize {
    let mut sum = 0;
    each_part(range, |page, part| sum += page.leave_used(part));
    sum
}

/// Give kept heap pages back to the kernel until `bytes` have gone or none is left. Those with the highest addresses go first,
/// because jemalloc prefers low ones. Returns the bytes that this thread gave back.
pub fn drop_kept(bytes: usize) -> usize {
    if bytes == 0 || TOTALS.kept.load(Ordering::Relaxed) == 0 {
        return 0;
    }
    let mut marked = 0;
    let mut dropped = 0;
    let mut run = Run::new(|range| dropped += drop_run(range));
    each_region_downwards(|first, region| {
        for (number, page) in region.pages.iter().enumerate().rev() {
            if marked >= bytes {
                return;
            }
            if page.begin_drop() {
                run.add(first + number * HEAP_PAGE);
                marked += HEAP_PAGE;
            }
        }
    });
    run.finish();
    dropped
}

/// Most heap pages to which memory is moved. The kernel cannot join their mappings with others, and a process may have 65,530
/// (`vm.max_map_count`).
const MOST_MOVED: usize = 8192;

/// Move the memory of kept heap pages to those of an [entered](enter) range that have none. That changes one entry of a page
/// table for each, where the kernel would have to clear a fresh huge page.
///
/// A refusal by the kernel may leave a hole in the range, which [`fill_holes`] repairs or reports.
pub fn move_kept_to(range: PageRange) {
    /// Heap pages that are marked as moved; beyond the limit once the kernel has refused a move.
    static MOVED: AtomicUsize = AtomicUsize::new(0);
    let mut to = (range.start() + HEAP_PAGE - 1) & !(HEAP_PAGE - 1);
    if TOTALS.kept.load(Ordering::Relaxed) == 0 || MOVED.load(Ordering::Relaxed) >= MOST_MOVED {
        return;
    }
    let mut next_target = || {
        while to + HEAP_PAGE <= range.end() {
            let start = to;
            to += HEAP_PAGE;
            let page = region(start)?.page(start);
            if page.is_empty_and_huge() {
                return Some((start, page));
            }
        }
        None
    };
    let mut target = next_target();
    if target.is_none() || !mapping::is_unlimited() {
        return;
    }
    each_region_downwards(|first, region| {
        for (number, source) in region.pages.iter().enumerate().rev() {
            let Some((to, page)) = target else { return };
            if !source.is_advised() || !source.begin_drop() {
                continue;
            }
            let is_new = !page.mark_moved();
            MOVED.fetch_add(usize::from(is_new), Ordering::Relaxed);
            let from = first + number * HEAP_PAGE;
            let outcome = move_heap_page(from, to);
            source.end_drop(outcome.is_ok());
            if let Err(left) = outcome {
                match left {
                    Target::Kept => {}
                    Target::Fresh => advice::huge_pages(PageRange::new(to, to + HEAP_PAGE)),
                    Target::Lost => {
                        page.set_missing(true);
                        HOLES.store(true, Ordering::Relaxed);
                    }
                }
                MOVED.store(MOST_MOVED, Ordering::Relaxed);
                target = None;
                return;
            }
            page.begin_use(PageRange::new(to, to + HEAP_PAGE), false);
            target = next_target();
        }
    });
}

/// Move the memory of a heap page that this thread is dropping to one that it has entered as a whole.
fn move_heap_page(from: usize, to: usize) -> Result<(), Target> {
    let pointer = |address| NonNull::new(ptr::with_exposed_provenance_mut::<u8>(address));
    let Some((from, to)) = pointer(from).zip(pointer(to)) else { return Err(Target::Kept) };
    // SAFETY: nobody else uses either page, and nothing at `to` is needed.
    unsafe { mapping::move_pages(from, to, HEAP_PAGE) }
}

/// Whether a heap page may be missing.
static HOLES: AtomicBool = AtomicBool::new(false);

/// Map what is missing in an [entered](enter) range. Fails if the kernel refuses.
pub fn fill_holes(range: PageRange) -> SysResult<()> {
    /// Two threads may enter two parts of a missing heap page.
    static TURN: Turn = Turn::new();
    if !HOLES.load(Ordering::Relaxed) {
        return Ok(());
    }
    let Some(_turn) = TURN.take() else { return Err(Errno(libc::ENOMEM)) };
    let mut outcome = Ok(());
    each_part(range, |page, part| {
        let start = part.start() & !(HEAP_PAGE - 1);
        let pointer = NonNull::new(ptr::with_exposed_provenance_mut::<u8>(start));
        if let Some(pointer) = pointer.filter(|_| page.is_missing() && outcome.is_ok()) {
            // Another thread may have mapped something of its own there. Then the heap page is lost.
            outcome = mapping::map_where_nothing_is(pointer, HEAP_PAGE);
            if outcome.is_ok() {
                page.set_missing(false);
                advice::huge_pages(PageRange::new(start, start + HEAP_PAGE));
            }
        }
    });
    outcome
}

/// Wait until other threads have dropped what they are dropping. False if there was nothing, or if it takes too long: in a forked
/// child nobody drops what a thread of its parent began to drop.
pub fn await_drops() -> bool {
    if TOTALS.dropping.load(Ordering::Relaxed) == 0 {
        return false;
    }
    for _ in 0..1000 {
        process::sleep(Duration::from_micros(100));
        if TOTALS.dropping.load(Ordering::Relaxed) == 0 {
            return true;
        }
    }
    false
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
    each_page(|start, page| bytes += page.reclaim(start));
    bytes + drop_kept(usize::MAX)
}

fn each_page(mut visit: impl FnMut(usize, &HeapPage)) {
    each_region_downwards(|first, region| {
        for (number, page) in region.pages.iter().enumerate() {
            if page.is_owned() {
                visit(first + number * HEAP_PAGE, page);
            }
        }
    });
}

/// Call with the first address of each GiB of which the heap owns something, and what it knows of it.
fn each_region_downwards(mut visit: impl FnMut(usize, &Region)) {
    let first = FIRST_REGION.load(Ordering::Acquire);
    let end = END_OF_REGIONS.load(Ordering::Acquire);
    for (index, pointer) in gmem_heap_regions.iter().enumerate().take(end).skip(first).rev() {
        // SAFETY: the pointer is null or a region, and regions are never unmapped.
        if let Some(region) = unsafe { pointer.load(Ordering::Acquire).as_ref() } {
            visit(index * REGION, region);
        }
    }
}

/// Neighbouring heap pages, joined for one system call.
struct Run<F: FnMut(PageRange)> {
    range: PageRange,
    done: F,
}

impl<F: FnMut(PageRange)> Run<F> {
    /// Other threads may have to wait until a run has been dropped.
    const MOST: usize = 64 << 20;

    fn new(done: F) -> Self {
        Self { range: PageRange::new(0, 0), done }
    }

    /// Add the heap page at `start`.
    fn add(&mut self, start: usize) {
        let range = self.range;
        self.range = if start == range.end() && range.len() < Self::MOST {
            PageRange::new(range.start(), start + HEAP_PAGE)
        } else if start + HEAP_PAGE == range.start() && range.len() < Self::MOST {
            PageRange::new(start, range.end())
        } else {
            self.finish();
            PageRange::new(start, start + HEAP_PAGE)
        };
    }

    fn finish(&mut self) {
        if !self.range.is_empty() {
            (self.done)(self.range);
        }
        self.range = PageRange::new(0, 0);
    }
}

/// Give back a run of heap pages that this thread has marked as being dropped. Returns the bytes.
fn drop_run(run: PageRange) -> usize {
    // SAFETY: nothing on these heap pages is in use, and their mark keeps every other thread from taking them.
    let dropped = unsafe { advice::drop_private(run) }.is_ok();
    if !dropped && run.len() > HEAP_PAGE {
        // Locked memory (mlockall) stays, and is cleared when zeros are wanted there. Its neighbours may go.
        let middle = run.start() + (run.len() / HEAP_PAGE / 2) * HEAP_PAGE;
        return drop_run(PageRange::new(run.start(), middle))
            + drop_run(PageRange::new(middle, run.end()));
    }
    each_part(run, |page, _| page.end_drop(dropped));
    if dropped {
        TOTALS.dropped.fetch_add(run.len(), Ordering::Relaxed);
    }
    if dropped { run.len() } else { 0 }
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

    fn put_in_use(range: PageRange) {
        enter(range);
        begin_use(range, true);
    }

    fn byte(address: usize) -> *mut u8 {
        ptr::with_exposed_provenance_mut(address)
    }

    #[test]
    fn a_kept_page_is_used_again_as_it_is_or_as_zeros() {
        let range = fresh_pages(1);
        put_in_use(range);
        // SAFETY: the test's own mapping.
        unsafe { byte(range.start()).write(7) };
        put_out_of_use(range);
        enter(range);
        begin_use(range, false);
        // Nothing was dropped, unless another test has just dropped all kept pages.
        // SAFETY: the test's own mapping.
        assert!(matches!(unsafe { byte(range.start()).read() }, 7 | 0));
        put_out_of_use(range);
        put_in_use(range);
        // SAFETY: the test's own mapping.
        assert_eq!(unsafe { byte(range.start()).read() }, 0);
        put_out_of_use(range);
        drop_kept(usize::MAX);
        assert_eq!(missing_charge(range), range.len());
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
        drop_kept(usize::MAX);
        // SAFETY: the test's own mapping. The first heap page is gone, of the second nothing is.
        unsafe {
            assert_eq!(byte(range.start()).read(), 0);
            assert_eq!(byte(range.start() + HEAP_PAGE).read(), 7);
        }
        // Memory that stayed is zeroed before it is used again.
        put_in_use(first);
        // SAFETY: the test's own mapping.
        unsafe {
            assert_eq!(byte(range.start() + HEAP_PAGE).read(), 0);
            assert_eq!(byte(range.start() + edge).read(), 7);
        }
        put_out_of_use(first);
        put_out_of_use(rest);
        drop_kept(usize::MAX);
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
