//! `malloc`: jemalloc, on pages of [`pages`], with the rules of POSIX, C23 and glibc.
//!
//! | file | what it does |
//! |---|---|
//! | `cpp/heap.cpp`, `cpp/malloc.cpp` | the names that programs call; the way from and to a thread's own blocks |
//! | [`thread_cache`], [`size_class`] | the blocks that a thread keeps, and what happens when it has none or too many |
//! | here | everything else goes to jemalloc |
//! | [`transfer`] | those on their way from one thread to another |
//! | [`large`] | blocks of 2 MiB and more: on GMEM pages, grown by moving pages |
//! | [`device_blocks`] | the same in the current device's memory, where it has some |
//! | [`device_arena`] | small blocks there, for containers that kernels read |
//! | [`pages`], [`page_map`], [`limits`] | jemalloc's memory: where it comes from, when it goes back, how much there may be |
//! | [`control`] | jemalloc's commands, settings and numbers |
//! | [`foreign`] | blocks of other allocators |
//! | [`stats`], [`settings`] | what is so, and what may be asked for |
//! | [`thread_state`] | room for a thread's part of it |
//! | [`reserve`] | memory for the library's own Rust objects when the process has none left |
//!
//! Nothing here allocates through Rust or panics: this *is* the allocator. (A device that maps memory may allocate: that
//! is served from ordinary memory.)

mod control;
mod device_arena;
pub mod device_blocks;
mod foreign;
mod large;
pub mod limits;
mod page_map;
mod pages;
pub mod reserve;
pub mod settings;
mod size_class;
pub mod stats;
mod thread_cache;
mod thread_state;
mod transfer;

use std::ffi::{c_char, c_void};
use std::ptr::{self, NonNull};
use std::sync::atomic::Ordering;

use tikv_jemalloc_sys as je;

pub use self::thread_cache::ThreadCache;
use crate::error::Errno;
use crate::os::{mapping, set_errno};

/// From this size on, blocks start on a GMEM page.
const LARGE: usize = 2 << 20;
/// jemalloc's blocks of 8 bytes are never asked for: no thread keeps such, and C's largest type has 16.
const SMALLEST: usize = 16;

/// jemalloc's arenas, at most; `narenas` below.
const NARENAS: usize = 4;

/// What jemalloc is told before `GMEM_MALLOC_CONF` in the environment may tell it otherwise.
///
/// - `cache_oblivious:false`: a large block starts where its pages do.
/// - `oversize_threshold`: blocks over 8 MiB are kept for reuse like any others, not purged at once.
/// - `dirty_decay_ms:1000`: idle memory goes back within about a second of activity.
/// - `max_background_threads:1`: see [`large`].
/// - `narenas:4`: each arena costs a huge page of its own to begin with.
/// - `tcache_gc_incr_bytes`: jemalloc's own caches, behind [`thread_cache`], are looked through less often.
#[repr(transparent)]
pub struct Settings(*const c_char);
// SAFETY: a pointer to a constant.
unsafe impl Sync for Settings {}

/// The symbol that jemalloc looks for.
#[allow(non_upper_case_globals, reason = "jemalloc's name")]
#[unsafe(no_mangle)]
pub static _rjem_malloc_conf: Settings = Settings(
    c"oversize_threshold:1099511627776,cache_oblivious:false,dirty_decay_ms:1000,muzzy_decay_ms:0,max_background_threads:1,narenas:4,tcache_gc_incr_bytes:1048576".as_ptr(),
);

/// `malloc(3)`.
pub fn malloc(size: usize) -> *mut c_void {
    if size >= LARGE {
        return large::allocate(size, 0);
    }
    // SAFETY: any size is fine.
    let attempt = || unsafe { je::malloc(size.max(SMALLEST)) };
    note(or_once_more(size, attempt))
}

/// `calloc(3)`.
pub fn calloc(count: usize, size: usize) -> *mut c_void {
    match count.checked_mul(size) {
        Some(bytes) if bytes >= LARGE => large::allocate(bytes, je::MALLOCX_ZERO),
        Some(bytes) => {
            // SAFETY: any arguments are fine.
            let attempt = || unsafe { je::calloc(1, bytes.max(SMALLEST)) };
            note(or_once_more(bytes, attempt))
        }
        None => or_out_of_memory(ptr::null_mut()),
    }
}

/// `realloc(3)`.
///
/// # Safety
/// `ptr` is NULL or a live block, perhaps another allocator's; it is dead afterwards unless NULL is returned.
pub unsafe fn realloc(ptr: *mut c_void, size: usize) -> *mut c_void {
    if ptr.is_null() {
        return malloc(size);
    }
    if !page_map::is_owned(ptr.addr()) {
        // SAFETY: the caller's promise.
        return unsafe { foreign::realloc(ptr, size) };
    }
    if page_map::is_in_device_arena(ptr.addr()) {
        // SAFETY: the caller's promise.
        return unsafe { reallocate_for_device(ptr, size) };
    }
    if size >= LARGE {
        // SAFETY: the caller's promise.
        return unsafe { large::reallocate(ptr, size) };
    }
    if let Some((block, length)) = NonNull::new(ptr).zip(device_blocks::length_of(ptr)) {
        // SAFETY: the caller's promise.
        return unsafe { large::reallocate_of_device(block, length, size) };
    }
    // SAFETY: the caller's promise; where NULL is returned the block is still live.
    let attempt = || unsafe { je::realloc(ptr, size.max(SMALLEST)) };
    note(or_once_more(size, attempt))
}

/// A block for what kernels of the current device read by its address, however small it is; NULL where ordinary memory
/// is to be taken.
pub fn device_alloc(alignment: usize, size: usize) -> *mut c_void {
    device_blocks::open();
    device_arena::allocate(alignment, size)
}

/// `realloc(3)` of a small block in a device's memory, which stays there.
///
/// # Safety
/// As [`realloc`].
unsafe fn reallocate_for_device(ptr: *mut c_void, size: usize) -> *mut c_void {
    // SAFETY: the caller's promise.
    let old_size = unsafe { je::malloc_usable_size(ptr) };
    if size <= old_size && size > old_size / 2 {
        return ptr;
    }
    let there = device_alloc(SMALLEST, size);
    let new = if there.is_null() { malloc(size) } else { there };
    if !new.is_null() {
        // SAFETY: two live blocks, each at least as long as what is copied.
        unsafe {
            ptr::copy_nonoverlapping(ptr.cast::<u8>(), new.cast(), old_size.min(size));
            release(ptr);
        }
    }
    new
}

/// `free(3)`; leaves errno alone.
///
/// # Safety
/// `ptr` is NULL or a live block of this heap, dead afterwards.
#[inline]
unsafe fn release(ptr: *mut c_void) {
    // SAFETY: the caller's promise.
    unsafe {
        if device_blocks::release(ptr) || device_arena::release(ptr) {
            return;
        }
        je::free(ptr);
    }
    purge_above_soft_limit();
}

/// `free(3)` of a block that may be another allocator's.
///
/// # Safety
/// `ptr` is NULL or a live block, dead afterwards.
unsafe fn release_foreign(ptr: *mut c_void) {
    if page_map::is_owned(ptr.addr()) {
        // SAFETY: the caller's promise.
        unsafe { release(ptr) };
    } else if !ptr.is_null() {
        // SAFETY: the caller's promise.
        unsafe { foreign::free(ptr) };
    }
}

/// A block of a class, NULL without an errno where there is none.
fn allocate_in(class: u8) -> *mut c_void {
    // SAFETY: any size is fine.
    let block = unsafe { je::malloc(size_class::BYTES[usize::from(class)]) };
    if !block.is_null() {
        page_map::set_class(block.addr(), class);
    }
    block
}

/// Note the class of a block of any size that is about to be given out.
fn note(block: *mut c_void) -> *mut c_void {
    if !block.is_null() {
        // SAFETY: a live block.
        let class = size_class::of_size(unsafe { je::sallocx(block, 0) });
        page_map::set_class(block.addr(), class);
    }
    purge_above_soft_limit();
    block
}

/// Where memory is short, what is idle goes back, and there is one more attempt.
fn or_once_more(size: usize, attempt: impl Fn() -> *mut c_void) -> *mut c_void {
    let block = attempt();
    if block.is_null() && size <= isize::MAX as usize {
        purge();
        return attempt();
    }
    block
}

/// What jemalloc keeps for the calling thread goes back to its arena.
fn flush_jemallocs_cache() {
    control::command(c"thread.tcache.flush");
}

/// What is on its way from one thread to another goes back to jemalloc.
fn empty_transfer() {
    let mut blocks = [ptr::null_mut(); transfer::BATCH];
    for class in 1..size_class::CLASSES {
        let count = thread_cache::batch(class);
        // SAFETY: there is room for the largest batch.
        while !transfer::is_empty() && unsafe { transfer::take(class, blocks.as_mut_ptr(), count) }
        {
            for block in blocks.iter().take(count) {
                // SAFETY: a live block that is nobody's.
                unsafe { je::free(*block) };
            }
        }
    }
}

fn purge_above_soft_limit() {
    if limits::was_soft_exceeded() {
        purge();
    }
}

/// `aligned_alloc(3)`: any power of two, any size.
pub fn aligned_alloc(alignment: usize, size: usize) -> *mut c_void {
    match aligned(alignment, size) {
        Ok(block) => block,
        Err(errno) => {
            set_errno(errno);
            ptr::null_mut()
        }
    }
}

/// `memalign(3)`: as glibc has it, any alignment is raised to a power of two.
pub fn memalign(alignment: usize, size: usize) -> *mut c_void {
    aligned_alloc(alignment.checked_next_power_of_two().unwrap_or(0), size)
}

/// `posix_memalign(3)`: the block, or the error that is *returned*, with errno left alone.
pub fn posix_memalign(alignment: usize, size: usize) -> Result<*mut c_void, Errno> {
    if !alignment.is_multiple_of(size_of::<*mut c_void>()) {
        return Err(Errno(libc::EINVAL));
    }
    let errno = crate::os::errno();
    let outcome = aligned(alignment, size);
    set_errno(errno);
    outcome
}

/// `valloc(3)`.
pub fn valloc(size: usize) -> *mut c_void {
    aligned_alloc(mapping::base_page().bytes(), size)
}

/// `pvalloc(3)`: whole pages, at least one.
pub fn pvalloc(size: usize) -> *mut c_void {
    match mapping::base_page().ceil(size.max(1)) {
        Some(bytes) => valloc(bytes),
        None => or_out_of_memory(ptr::null_mut()),
    }
}

/// `malloc_usable_size(3)`.
///
/// # Safety
/// `ptr` is NULL or a live block, perhaps another allocator's.
pub unsafe fn usable_size(ptr: *mut c_void) -> usize {
    match page_map::class_of(ptr.addr()) {
        0 if ptr.is_null() => 0,
        0 if page_map::is_owned(ptr.addr()) => match device_blocks::length_of(ptr) {
            Some(length) => length,
            // SAFETY: the caller's promise.
            None => unsafe { je::malloc_usable_size(ptr) },
        },
        // SAFETY: the caller's promise.
        0 => unsafe { foreign::usable_size(ptr) },
        class => size_class::BYTES[usize::from(class)],
    }
}

/// Give everything idle back now, and what the calling thread keeps. Returns the bytes given back.
///
/// # Safety
/// `cache` is NULL or the calling thread's.
pub unsafe fn trim(cache: *mut ThreadCache) -> usize {
    let before = page_map::TOTALS.dropped.load(Ordering::Relaxed);
    // SAFETY: the caller's promise.
    unsafe { thread_cache::flush(cache) };
    purge();
    device_blocks::purge() + page_map::TOTALS.dropped.load(Ordering::Relaxed) - before
}

/// Give what no thread keeps and what is idle in any arena back to the kernel now.
fn purge() {
    let errno = crate::os::errno();
    empty_transfer();
    flush_jemallocs_cache();
    // 4096 stands for all of them (MALLCTL_ARENAS_ALL).
    control::command(c"arena.4096.purge");
    set_errno(errno);
}

fn aligned(alignment: usize, size: usize) -> Result<*mut c_void, Errno> {
    if !alignment.is_power_of_two() {
        return Err(Errno(libc::EINVAL));
    }
    if size >= LARGE && alignment <= mapping::gmem_page().bytes() {
        let block = large::allocate(size, 0);
        return if block.is_null() { Err(Errno(libc::ENOMEM)) } else { Ok(block) };
    }
    // A size of 0 gives a block of its own; the smallest has the alignment asked for as well.
    // SAFETY: the size is not 0 and the alignment a power of two.
    let attempt = || unsafe { je::mallocx(size.max(SMALLEST), je::MALLOCX_ALIGN(alignment)) };
    let block = note(or_once_more(size, attempt));
    if block.is_null() { Err(Errno(libc::ENOMEM)) } else { Ok(block) }
}

/// The functions with an `x` at the end do not set errno.
fn or_out_of_memory(block: *mut c_void) -> *mut c_void {
    if block.is_null() {
        set_errno(Errno(libc::ENOMEM));
    }
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_blocks_start_on_a_gmem_page() {
        let page = mapping::gmem_page().bytes();
        for size in [LARGE, LARGE + 1, 3 * LARGE - 1, 64 << 20] {
            for block in [malloc(size), calloc(1, size), aligned_alloc(64, size)] {
                assert_eq!(block.addr() % page, 0, "{size}");
                // SAFETY: just allocated.
                let block = unsafe { realloc(block, 2 * size) };
                assert_eq!(block.addr() % page, 0, "{size}");
                // SAFETY: the block is live.
                unsafe { release(block) };
            }
        }
    }

    #[test]
    fn every_page_of_jemalloc_comes_from_the_page_source() {
        for size in [16, 20_000, 1 << 20, 256 << 20] {
            let block = malloc(size);
            assert!(page_map::is_owned(block.addr()), "the capture of mmap is not compiled in");
            // SAFETY: the block is live.
            unsafe { release(block) };
        }
    }

    #[test]
    fn what_cannot_be_served_is_an_errno() {
        for block in [malloc(usize::MAX / 2 + 2), calloc(usize::MAX, 2), pvalloc(usize::MAX)] {
            assert!(block.is_null());
            assert_eq!(crate::os::errno().0, libc::ENOMEM);
        }
        assert_eq!(posix_memalign(3, 8), Err(Errno(libc::EINVAL)));
        assert_eq!(posix_memalign(0, 8), Err(Errno(libc::EINVAL)));
        assert!(aligned_alloc(24, 8).is_null());
    }
}
