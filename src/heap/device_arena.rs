//! Small blocks in the current device's own memory, for containers whose elements kernels read by address: one jemalloc
//! arena per device.
//!
//! jemalloc holds the arena's locks while it asks the arena's hook for pages, and a driver that maps memory allocates and
//! takes locks of its own. The hook therefore never calls a driver: it takes pages from a stock. When the stock is empty
//! the allocation fails, [`allocate`] refills the stock with no lock held, and tries again.
//!
//! Threads do not cache these blocks, or `malloc` would hand them out for ordinary ones.

use std::cell::Cell;
use std::ffi::{c_int, c_uint, c_void};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use tikv_jemalloc_sys as je;

use super::page_map::{self, HEAP_PAGE};
use super::page_run::PageRun;
use super::{LARGE, SMALLEST, control, device_blocks};
use crate::os::{mapping, process};

/// Larger blocks have GMEM pages of their own.
const MAX: usize = LARGE / 2;
/// Devices that may have an arena.
const DEVICES: usize = 16;
/// Most runs in the stock, of all devices. A run that finds no slot goes back to its device.
const RUNS: usize = 16;

/// Each device's arena plus 1; 0 before it has one.
static ARENAS: [AtomicU32; DEVICES] = [const { AtomicU32::new(0) }; DEVICES];

/// Mapped heap pages that no arena has yet; each is a [`PageRun`].
static STOCK: [AtomicU64; RUNS] = [const { AtomicU64::new(0) }; RUNS];

/// Whether what a device maps reads as zeros.
static IS_ZEROED: [AtomicBool; DEVICES] = [const { AtomicBool::new(false) }; DEVICES];

/// Whether a thread is refilling the stock with a device's memory.
static IS_REFILLING: [AtomicBool; DEVICES] = [const { AtomicBool::new(false) }; DEVICES];

thread_local! {
    /// The hook found the stock empty during this thread's allocation.
    static STOCK_WAS_EMPTY: Cell<bool> = const { Cell::new(false) };
}

struct Hooks(je::extent_hooks_t);
// SAFETY: the hooks are function pointers, and nobody writes to them.
unsafe impl Sync for Hooks {}

/// jemalloc keeps what it cannot give back, so pages stay with the arena.
static HOOKS: Hooks = Hooks(je::extent_hooks_t {
    alloc: Some(take_pages),
    dalloc: None,
    destroy: None,
    commit: None,
    decommit: None,
    purge_lazy: None,
    purge_forced: None,
    split: Some(split),
    merge: Some(merge),
});

/// A block in the current device's memory; NULL where the caller has to use ordinary memory.
pub(super) fn allocate(alignment: usize, size: usize) -> *mut c_void {
    if alignment > mapping::gmem_page().bytes() || !alignment.is_power_of_two() {
        return ptr::null_mut();
    }
    if size >= LARGE {
        return device_blocks::allocate_on_request(size);
    }
    let Some(device) = device_blocks::for_small_blocks() else { return ptr::null_mut() };
    if size.max(alignment) > MAX {
        return device_blocks::allocate_on_request(size);
    }
    let Some(arena) = arena_of(device) else { return ptr::null_mut() };
    let flags = je::MALLOCX_ARENA(arena as usize) | UNCACHED | je::MALLOCX_ALIGN(alignment);
    loop {
        STOCK_WAS_EMPTY.set(false);
        // SAFETY: mallocx allows any size but 0 and any alignment that is a power of two, and this is both.
        let block = unsafe { je::mallocx(size.max(SMALLEST), flags) };
        // Another thread may empty the stock again before this one comes back; then that thread made progress.
        if !block.is_null() || !STOCK_WAS_EMPTY.get() || !refill(device) {
            return block;
        }
    }
}

const UNCACHED: c_int = je::MALLOCX_TCACHE_NONE;

/// Free a block of a device's arena; false if it is no such block.
///
/// # Safety
/// `block` is a live block of this heap. If it lies in a device's arena, nobody uses it afterwards.
pub(super) unsafe fn release(block: *mut c_void) -> bool {
    if !page_map::is_in_device_arena(block.addr()) {
        return false;
    }
    // A forked child does not have its parent's device memory, and leaves the arena alone.
    if device_blocks::is_own_process() {
        // SAFETY: the block is live, it came from this arena without a thread cache, and the caller gives it up.
        unsafe { je::dallocx(block, UNCACHED) };
    }
    true
}

/// The device's arena, created on first use. Of two threads that create it at the same time, one arena stays unused.
fn arena_of(device: usize) -> Option<u32> {
    let slot = ARENAS.get(device)?;
    if let Some(known) = slot.load(Ordering::Acquire).checked_sub(1) {
        return Some(known);
    }
    let made = control::create_arena(&HOOKS.0)?;
    // By default jemalloc asks for more each time; the stock serves one heap page.
    if !control::set_of_arena(c"arena.0.retain_grow_limit", made, HEAP_PAGE) {
        return None;
    }
    match slot.compare_exchange(0, made + 1, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => Some(made),
        Err(first) => Some(first - 1),
    }
}

/// Refill the stock, or wait a little for a thread that does. False where the device has no memory left. Calls the driver,
/// so no lock of the heap may be held.
fn refill(device: usize) -> bool {
    /// Yields for which one thread waits for another, whose driver may be waiting in turn: then both map.
    const MOST_YIELDS: usize = 1000;
    let Some(is_refilling) = IS_REFILLING.get(device) else { return false };
    if !is_refilling.swap(true, Ordering::AcqRel) {
        let has_refilled = map_into_stock(device);
        is_refilling.store(false, Ordering::Release);
        return has_refilled;
    }
    for _ in 0..MOST_YIELDS {
        process::yield_now();
        if !is_refilling.load(Ordering::Acquire) {
            return true;
        }
    }
    map_into_stock(device)
}

/// Map one more GMEM page of the device's.
fn map_into_stock(device: usize) -> bool {
    let Some(length) = mapping::gmem_page().ceil(HEAP_PAGE) else { return false };
    let Some((region, is_zeroed)) = device_blocks::map_for_small_blocks(device, length) else {
        return false;
    };
    if let Some(known) = IS_ZEROED.get(device) {
        known.store(is_zeroed, Ordering::Release);
    }
    let run = PageRun { start: region.range().start(), length, device };
    let is_stocked = STOCK.iter().any(|slot| {
        slot.compare_exchange(0, run.to_number(), Ordering::AcqRel, Ordering::Relaxed).is_ok()
    });
    if !is_stocked {
        // Other threads have filled the stock meanwhile.
        device_blocks::unmap_for_small_blocks(device, region);
    }
    true
}

/// Take `length` bytes of the device's memory from the stock.
fn take(device: usize, length: usize) -> Option<usize> {
    STOCK.iter().find_map(|slot| {
        slot.fetch_update(Ordering::AcqRel, Ordering::Acquire, |number| {
            let run = PageRun::from_number(number)?;
            (run.device == device && run.length >= length).then(|| run.behind(length).to_number())
        })
        .ok()
        .and_then(PageRun::from_number)
        .map(|run| run.start)
    })
}

/// jemalloc asks for pages of an arena, with locks of that arena held: nothing here allocates or waits.
unsafe extern "C" fn take_pages(
    _hooks: *mut je::extent_hooks_t,
    address: *mut c_void,
    size: usize,
    alignment: usize,
    zero: *mut bool,
    commit: *mut bool,
    arena: c_uint,
) -> *mut c_void {
    let device = ARENAS.iter().position(|slot| slot.load(Ordering::Acquire) == arena + 1);
    let Some(device) = device else { return ptr::null_mut() };
    // Each request is for one heap page (`retain_grow_limit`). After a failure jemalloc asks for the bare block.
    if !address.is_null() || size != HEAP_PAGE || alignment > HEAP_PAGE {
        return ptr::null_mut();
    }
    let Some(start) = take(device, size) else {
        STOCK_WAS_EMPTY.set(true);
        return ptr::null_mut();
    };
    let start: *mut u8 = ptr::with_exposed_provenance_mut(start);
    let is_zeroed = IS_ZEROED[device].load(Ordering::Acquire);
    // SAFETY: `zero` and `commit` point to jemalloc's own variables, and `take` gave `size` mapped bytes to this call
    // alone.
    unsafe {
        if is_zeroed {
            *zero = true;
        } else if *zero {
            start.write_bytes(0, size);
        }
        *commit = true;
    }
    start.cast()
}

/// jemalloc may split an extent anywhere: false permits it.
unsafe extern "C" fn split(
    _hooks: *mut je::extent_hooks_t,
    _start: *mut c_void,
    _size: usize,
    _first: usize,
    _second: usize,
    _committed: bool,
    _arena: c_uint,
) -> bool {
    false
}

/// jemalloc may join two extents of one heap page, which the device mapped in one piece: false permits it.
unsafe extern "C" fn merge(
    _hooks: *mut je::extent_hooks_t,
    first: *mut c_void,
    _first_size: usize,
    second: *mut c_void,
    _second_size: usize,
    _committed: bool,
    _arena: c_uint,
) -> bool {
    first.addr() / HEAP_PAGE != second.addr() / HEAP_PAGE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stock_gives_each_page_once_and_only_to_its_device() {
        // A device that no other test has, at addresses that nobody touches.
        const DEVICE: usize = 30;
        let run = PageRun { start: HEAP_PAGE * 1000, length: 3 * HEAP_PAGE, device: DEVICE };
        let slot = STOCK.iter().find(|slot| {
            slot.compare_exchange(0, run.to_number(), Ordering::AcqRel, Ordering::Relaxed).is_ok()
        });
        assert!(slot.is_some());
        assert_eq!(take(DEVICE - 1, HEAP_PAGE), None);
        let taken: Vec<_> = (0..4).map(|_| take(DEVICE, HEAP_PAGE)).collect();
        let expected = [1000, 1001, 1002].map(|page| Some(page * HEAP_PAGE));
        assert_eq!((&taken[..3], taken[3]), (&expected[..], None));
    }
}
