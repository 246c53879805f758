//! Small blocks in the current device's own memory, for containers whose elements kernels read by their addresses: an
//! arena of jemalloc's for each device, on pages that the device maps and that stay the heap's.
//!
//! No thread keeps such blocks, or they would be given out for others.

use std::ffi::{c_int, c_uint, c_void};
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};

use tikv_jemalloc_sys as je;

use super::page_map::{self, HEAP_PAGE};
use super::{LARGE, SMALLEST, control, device_blocks};
use crate::os::mapping;

/// From this size on a block has GMEM pages of its own.
const MAX: usize = LARGE / 2;

/// Of each device, plus 1; 0 where there is none yet.
static ARENAS: [AtomicU32; 16] = [const { AtomicU32::new(0) }; 16];

struct Hooks(je::extent_hooks_t);
// SAFETY: functions, and never written to.
unsafe impl Sync for Hooks {}

/// What is not there cannot be done, and jemalloc keeps what it has.
static HOOKS: Hooks = Hooks(je::extent_hooks_t {
    alloc: Some(map),
    dalloc: None,
    destroy: None,
    commit: None,
    decommit: None,
    purge_lazy: None,
    purge_forced: None,
    split: Some(split),
    merge: Some(merge),
});

/// A block below [`LARGE`] in the current device's memory; NULL where ordinary memory is to be taken.
pub(super) fn allocate(alignment: usize, size: usize) -> *mut c_void {
    if size >= LARGE || alignment > mapping::gmem_page().bytes() || !alignment.is_power_of_two() {
        return ptr::null_mut();
    }
    let Some(device) = device_blocks::for_small_blocks() else { return ptr::null_mut() };
    if size.max(alignment) > MAX {
        return device_blocks::allocate_any(size, false);
    }
    let Some(arena) = arena_of(device) else { return ptr::null_mut() };
    let flags = je::MALLOCX_ARENA(arena as usize) | UNKEPT | je::MALLOCX_ALIGN(alignment);
    // SAFETY: the size is not 0, and the alignment a power of two.
    unsafe { je::mallocx(size.max(SMALLEST), flags) }
}

const UNKEPT: c_int = je::MALLOCX_TCACHE_NONE;

/// Free a block if it is one of these; false if it is not.
///
/// # Safety
/// A live block of the heap's, dead afterwards if it is one of these.
pub(super) unsafe fn release(block: *mut c_void) -> bool {
    let is_here = page_map::is_in_device_arena(block.addr());
    if is_here {
        // SAFETY: a live block, of which nobody keeps track but its arena.
        unsafe { je::dallocx(block, UNKEPT) };
    }
    is_here
}

/// The device's arena, made when it is first asked for. Of two that come at once, one is left unused.
fn arena_of(device: usize) -> Option<u32> {
    let slot = ARENAS.get(device)?;
    if let Some(known) = slot.load(Ordering::Acquire).checked_sub(1) {
        return Some(known);
    }
    let made = control::create_arena(&HOOKS.0)?;
    match slot.compare_exchange(0, made + 1, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => Some(made),
        Err(first) => Some(first - 1),
    }
}

/// jemalloc wants pages for an arena.
unsafe extern "C" fn map(
    _hooks: *mut je::extent_hooks_t,
    wish: *mut c_void,
    size: usize,
    alignment: usize,
    zero: *mut bool,
    commit: *mut bool,
    arena: c_uint,
) -> *mut c_void {
    let page = mapping::gmem_page();
    let device = ARENAS.iter().position(|slot| slot.load(Ordering::Acquire) == arena + 1);
    let (Some(device), Some(length)) = (device, page.ceil(size)) else { return ptr::null_mut() };
    if !wish.is_null() || alignment > page.bytes() {
        return ptr::null_mut();
    }
    let Some((start, is_zeroed)) = device_blocks::map_for_small_blocks(device, length) else {
        return ptr::null_mut();
    };
    // SAFETY: jemalloc's own two values, and as much memory as was mapped.
    unsafe {
        if *zero && !is_zeroed {
            start.write_bytes(0, length);
        } else if !is_zeroed {
            *zero = false;
        }
        *commit = true;
    }
    start.as_ptr().cast()
}

/// False takes them apart.
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

/// False joins them: only what lies on one heap page, which the device mapped at once.
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
