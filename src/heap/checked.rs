//! The checks of a checked heap (Cargo feature `checked-heap`, CMake option `LIBGMEM_CHECKED_HEAP`). In other builds they
//! compile to nothing.
//!
//! - A cached block carries a canary and its owner, checked when it leaves the cache: a write after free, a double free or
//!   a block in two caches ends the process with one line on stderr.
//! - Freed and fresh small blocks are filled with junk.
//! - The page map asserts its state at each change ([`assert_heap`]).
//! - Threads yield in the middle of a change ([`perturb`]), as if the schedule were unfair.
//! - jemalloc is built with its own assertions.

use std::ffi::{CStr, c_void};

use super::corruption::Line;

/// Whether this is such a build.
pub const IS_CHECKED: bool = cfg!(feature = "checked-heap");

/// End the process if the heap's own data is not as it must be.
#[inline]
pub fn assert_heap(is_so: bool, fault: &CStr) {
    if IS_CHECKED && !is_so {
        corrupted(fault, 0);
    }
}

/// Let other threads run now and then, so that they come between any two steps of a change.
#[inline]
pub fn perturb() {
    #[cfg(feature = "checked-heap")]
    {
        use std::sync::atomic::{AtomicU32, Ordering};
        static STEPS: AtomicU32 = AtomicU32::new(0);
        // A pseudo-random choice of one step in sixteen.
        let step = STEPS.fetch_add(1, Ordering::Relaxed);
        if step.wrapping_mul(2_654_435_769) >> 28 == 0 {
            crate::os::process::yield_now();
        }
    }
}

/// Say which fault was found, and end the process.
#[cold]
fn corrupted(fault: &CStr, address: usize) -> ! {
    let mut line = Line::new();
    line.text(b"libgmem: heap corruption: ");
    line.text(fault.to_bytes());
    line.text(b" (");
    line.hexadecimal(address);
    line.text(b")");
    line.write();
    std::process::abort()
}

/// The marks in a cached block's first bytes.
#[cfg(feature = "checked-heap")]
#[repr(C)]
struct Mark {
    canary: usize,
    owner: usize,
}

#[cfg(feature = "checked-heap")]
const CANARY: usize = 0x9e37_79b9_7f4a_7c15;
#[cfg(feature = "checked-heap")]
const FREED: u8 = 0x5a;
#[cfg(feature = "checked-heap")]
const FRESH: u8 = 0xa5;

/// A block comes into a cache.
///
/// # Safety
/// `block` is a free block of the class, and nobody else uses it.
#[inline]
pub unsafe fn check_in(block: *mut c_void, class: usize, owner: *const c_void) {
    #[cfg(feature = "checked-heap")]
    // SAFETY: the caller promises a free block that nobody else uses.
    unsafe {
        gmem_heap_check_in(block, class, owner);
    }
    #[cfg(not(feature = "checked-heap"))]
    let _ = (block, class, owner);
}

/// A block leaves a cache. `owner` is the cache, or NULL if any cache may have held the block.
///
/// # Safety
/// `block` came into a cache by [`check_in`], and nobody else uses it.
#[inline]
pub unsafe fn check_out(block: *mut c_void, class: usize, owner: *const c_void) {
    #[cfg(feature = "checked-heap")]
    // SAFETY: the caller promises a cached block that nobody else uses.
    unsafe {
        gmem_heap_check_out(block, class, owner);
    }
    #[cfg(not(feature = "checked-heap"))]
    let _ = (block, class, owner);
}

/// [`check_in`] for `cpp/thread_cache.hpp`.
///
/// # Safety
/// `block` is a free block of the class, and nobody else uses it.
#[cfg(feature = "checked-heap")]
#[unsafe(no_mangle)]
unsafe extern "C" fn gmem_heap_check_in(block: *mut c_void, class: usize, owner: *const c_void) {
    let bytes = super::size_class::BYTES[class];
    let mark = block.cast::<Mark>();
    // SAFETY: the block is free and has room for a mark, because the smallest class has 16 bytes.
    unsafe {
        if (*mark).canary == CANARY ^ block.addr() {
            corrupted(c"a block was freed twice", block.addr());
        }
        block.cast::<u8>().write_bytes(FREED, bytes);
        mark.write(Mark { canary: CANARY ^ block.addr(), owner: owner.addr() });
    }
}

/// [`check_out`] for `cpp/thread_cache.hpp`.
///
/// # Safety
/// `block` came into a cache by [`check_in`], and nobody else uses it.
#[cfg(feature = "checked-heap")]
#[unsafe(no_mangle)]
unsafe extern "C" fn gmem_heap_check_out(block: *mut c_void, class: usize, owner: *const c_void) {
    let bytes = super::size_class::BYTES[class];
    let mark = block.cast::<Mark>();
    // SAFETY: the block is free and has `bytes` bytes.
    unsafe {
        if (*mark).canary != CANARY ^ block.addr() {
            corrupted(c"a freed block was written to, or is in two caches", block.addr());
        }
        if !owner.is_null() && (*mark).owner != owner.addr() {
            corrupted(c"a block is in another thread's cache", block.addr());
        }
        for offset in size_of::<Mark>()..bytes {
            if block.cast::<u8>().add(offset).read() != FREED {
                corrupted(c"a freed block was written to", block.addr() + offset);
            }
        }
        block.cast::<u8>().write_bytes(FRESH, bytes);
    }
}
