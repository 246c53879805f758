//! `malloc`: jemalloc, on pages of [`pages`], with the rules of POSIX, C23 and glibc.
//!
//! Below [`LARGE`] a call is jemalloc's own. From there on a block starts on a GMEM page, so that a
//! prefetch or an eager free of it loses nothing to rounding.
//!
//! Nothing here allocates through Rust or panics: this *is* the allocator.

mod large;
mod pages;
pub mod reserve;
mod thread_state;

use std::ffi::{c_char, c_void};
use std::ptr;

use tikv_jemalloc_sys as je;

use crate::error::Errno;
use crate::os::{mapping, set_errno};

/// From this size on, blocks start on a GMEM page.
const LARGE: usize = 2 << 20;

/// What jemalloc is told before `_RJEM_MALLOC_CONF` in the environment may tell it otherwise.
///
/// - `cache_oblivious:false`: a large block starts where its pages do.
/// - `oversize_threshold`: blocks over 8 MiB are kept for reuse like any others, not purged at once.
/// - `dirty_decay_ms:1000`: idle memory goes back within about a second of activity.
/// - `max_background_threads:1`: see [`large`].
/// - `narenas:4`: each arena costs a huge page of its own to begin with.
/// - `tcache_*`: threads keep more small blocks; most of the time of a small malloc is its cache.
#[repr(transparent)]
pub struct Settings(*const c_char);
// SAFETY: a pointer to a constant.
unsafe impl Sync for Settings {}

/// The symbol that jemalloc looks for.
#[allow(non_upper_case_globals, reason = "jemalloc's name")]
#[unsafe(no_mangle)]
pub static _rjem_malloc_conf: Settings = Settings(
    c"oversize_threshold:1099511627776,cache_oblivious:false,dirty_decay_ms:1000,muzzy_decay_ms:0,max_background_threads:1,narenas:4,tcache_nslots_small_min:200,tcache_nslots_small_max:2000,lg_tcache_nslots_mul:4,tcache_gc_incr_bytes:4194304".as_ptr(),
);

/// `malloc(3)`.
#[inline]
pub fn malloc(size: usize) -> *mut c_void {
    if size < LARGE {
        // SAFETY: any size is fine.
        return unsafe { je::malloc(size) };
    }
    large::allocate(size, 0)
}

/// `calloc(3)`.
#[inline]
pub fn calloc(count: usize, size: usize) -> *mut c_void {
    match count.checked_mul(size) {
        Some(bytes) if bytes >= LARGE => large::allocate(bytes, je::MALLOCX_ZERO),
        // SAFETY: any arguments are fine; jemalloc checks the product itself.
        _ => unsafe { je::calloc(count, size) },
    }
}

/// `realloc(3)`.
///
/// # Safety
/// `ptr` is NULL or a live block of this heap; it is dead afterwards unless NULL is returned.
#[inline]
pub unsafe fn realloc(ptr: *mut c_void, size: usize) -> *mut c_void {
    if size < LARGE {
        // SAFETY: the caller's promise.
        return unsafe { je::realloc(ptr, size) };
    }
    // SAFETY: the caller's promise.
    unsafe { large::reallocate(ptr, size) }
}

/// `reallocarray(3)`.
///
/// # Safety
/// As [`realloc`].
pub unsafe fn reallocarray(ptr: *mut c_void, count: usize, size: usize) -> *mut c_void {
    match count.checked_mul(size) {
        // SAFETY: the caller's promise.
        Some(bytes) => unsafe { realloc(ptr, bytes) },
        None => or_out_of_memory(ptr::null_mut()),
    }
}

/// `free(3)`; leaves errno alone.
///
/// # Safety
/// `ptr` is NULL or a live block of this heap, dead afterwards.
#[inline]
pub unsafe fn free(ptr: *mut c_void) {
    // SAFETY: the caller's promise.
    unsafe { je::free(ptr) }
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
/// `ptr` is NULL or a live block of this heap.
pub unsafe fn usable_size(ptr: *mut c_void) -> usize {
    // SAFETY: the caller's promise; jemalloc gives 0 for NULL.
    unsafe { je::malloc_usable_size(ptr) }
}

/// `malloc_trim(3)`: purge every arena now. Returns whether the page source gave anything back.
pub fn trim() -> bool {
    /// `MALLCTL_ARENAS_ALL` of jemalloc.h.
    const PURGE_ALL: &std::ffi::CStr = c"arena.4096.purge";
    let before = pages::released();
    // SAFETY: the name is NUL-terminated, and purge takes and gives no value.
    let failed = unsafe {
        je::mallctl(PURGE_ALL.as_ptr(), ptr::null_mut(), ptr::null_mut(), ptr::null_mut(), 0)
    };
    failed == 0 && pages::released() > before
}

fn aligned(alignment: usize, size: usize) -> Result<*mut c_void, Errno> {
    if !alignment.is_power_of_two() {
        return Err(Errno(libc::EINVAL));
    }
    let alignment = if size < LARGE { alignment } else { alignment.max(large::alignment(size)) };
    // A size of 0 gives a block of its own; the smallest has the alignment asked for as well.
    // SAFETY: the size is not 0 and the alignment a power of two.
    let block = unsafe { je::mallocx(size.max(1), je::MALLOCX_ALIGN(alignment)) };
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
                unsafe { free(block) };
            }
        }
    }

    #[test]
    fn every_page_of_jemalloc_comes_from_the_page_source() {
        let before = pages::mapped();
        let block = malloc(256 << 20);
        assert!(pages::mapped() >= before + (256 << 20), "the capture of mmap is not compiled in");
        // SAFETY: the block is live.
        unsafe { free(block) };
        trim();
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
