//! `malloc`: jemalloc on the heap pages of [`pages`], with the rules of POSIX, C23 and glibc.
//!
//! | file | what it does |
//! |---|---|
//! | `cpp/heap.cpp`, `cpp/malloc.cpp` | the names that programs call; the fast path to a thread's own blocks |
//! | [`thread_cache`], [`size_class`] | the blocks that a thread caches, and what happens when it has none or too many |
//! | this file | all other calls, served by jemalloc |
//! | [`transfer_cache`] | batches of blocks on their way from one thread to another |
//! | [`large`] | blocks of 2 MiB and more: on GMEM pages, grown by moving pages |
//! | [`device_blocks`] | large blocks in the current device's memory, where it has some |
//! | [`device_arena`], [`page_run`] | small blocks in a device's memory, for containers that kernels read |
//! | [`pages`], [`page_map`], [`heap_page`] | jemalloc's memory: where it comes from and where it goes |
//! | [`idle`] | when memory goes back to the kernel |
//! | [`limits`], [`own_data`] | how much memory the heap may have; how much of it jemalloc's own data take |
//! | [`arenas`] | which of jemalloc's arenas serves a block |
//! | [`control`] | jemalloc's commands, settings and numbers |
//! | [`foreign_block`] | blocks of other allocators |
//! | [`corruption`] | pointers that cannot be freed |
//! | [`hardened`] | the heap that finds more misuse, `GMEM_HARDEN=1` |
//! | [`stats`], [`settings`] | statistics; environment variables |
//! | [`profile`] | samples of who allocated what, `GMEM_HEAP_PROFILE` |
//! | [`thread_state`] | space for a thread's part of the heap |
//! | `sync`, `model` | atomics in one place, which a model check replaces |
//! | [`turn`] | a lock that survives `fork` |
//! | [`checked`], [`constants`] | checks of a checked build; constants shared with C and C++ |
//!
//! Nothing here allocates through Rust or panics: this *is* the allocator. A device that maps memory may allocate; it gets
//! ordinary memory, and it is never called with one of jemalloc's locks held.

mod arenas;
mod checked;
mod constants;
mod control;
mod corruption;
mod device_arena;
pub mod device_blocks;
mod foreign_block;
mod hardened;
mod heap_page;
mod idle;
mod large;
pub mod limits;
#[cfg(test)]
mod model;
mod own_data;
mod page_map;
mod page_run;
mod pages;
pub mod profile;
pub mod settings;
mod size_class;
pub mod stats;
mod sync;
mod thread_cache;
mod thread_state;
mod transfer_cache;
mod turn;

use std::ffi::{c_char, c_void};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicPtr, Ordering};

use tikv_jemalloc_sys as je;

use self::size_class::UNCACHED;
pub use self::thread_cache::ThreadCache;
use crate::error::Errno;
use crate::os::{mapping, set_errno};

/// Blocks from this size on start on a GMEM page.
const LARGE: usize = 2 << 20;
/// Smallest request to jemalloc. Its blocks of 8 bytes have no size class here, and C's largest type has 16 bytes.
const SMALLEST: usize = 16;

/// Most arenas that jemalloc makes by itself: the automatic ones, and the one for large blocks.
const NARENAS: usize = arenas::MOST + 1;

/// jemalloc's settings, which `GMEM_MALLOC_CONF` in the environment may override.
///
/// - `abort:false`: jemalloc reports failures, also in a checked build.
/// - `cache_oblivious:false`: large blocks start on their first page.
/// - `oversize_threshold`: blocks of [`LARGE`] bytes and more have an arena of their own, which gives them up when they are freed:
///   as kept heap pages ([`idle`]) they are at hand as well, and join up with their neighbours.
/// - `dirty_decay_ms`: some eleven days, so that [`idle`] decides when memory goes back.
/// - `narenas_ratio`: as many arenas as [`arenas::processors_for_jemalloc`] arranges.
/// - `tcache_nslots_*`: jemalloc's own caches lie behind [`thread_cache`], so they merely save visits to the arena.
/// - `tcache_gc_incr_bytes`: jemalloc inspects them less often.
///
/// A heap that is profiled puts others into their place ([`profile::choose_settings`]).
#[allow(non_upper_case_globals, reason = "jemalloc's name")]
#[unsafe(no_mangle)]
pub static _rjem_malloc_conf: AtomicPtr<c_char> = AtomicPtr::new(
    c"abort:false,oversize_threshold:2097152,cache_oblivious:false,dirty_decay_ms:1000000000,muzzy_decay_ms:0,narenas_ratio:0.5,tcache_nslots_small_max:32,tcache_nslots_small_min:4,tcache_nslots_large:4,tcache_gc_incr_bytes:1048576".as_ptr().cast_mut(),
);

/// `malloc(3)`.
pub fn malloc(size: usize) -> *mut c_void {
    if hardened::is_on() {
        return hardened::allocate(SMALLEST, size, false);
    }
    if size >= LARGE {
        return large::allocate(size, 0);
    }
    let flags = arenas::flags(size);
    // SAFETY: the size is not 0. jemalloc returns NULL for a size that it cannot serve.
    let attempt = || unsafe { je::mallocx(size.max(SMALLEST), flags) };
    or_out_of_memory(note_fresh(or_once_more(size, attempt)))
}

/// `calloc(3)`.
pub fn calloc(count: usize, size: usize) -> *mut c_void {
    match count.checked_mul(size) {
        Some(bytes) if hardened::is_on() => hardened::allocate(SMALLEST, bytes, true),
        Some(bytes) if bytes >= LARGE => large::allocate(bytes, je::MALLOCX_ZERO),
        Some(bytes) => {
            let flags = arenas::flags(bytes) | je::MALLOCX_ZERO;
            // SAFETY: as for malloc.
            let attempt =
                || pages::with_zeros(|| unsafe { je::mallocx(bytes.max(SMALLEST), flags) });
            or_out_of_memory(note(or_once_more(bytes, attempt)))
        }
        None => or_out_of_memory(ptr::null_mut()),
    }
}

/// `realloc(3)`.
///
/// # Safety
/// `ptr` is NULL or a live block, perhaps another allocator's. Nobody uses it afterwards unless the call returns NULL.
pub unsafe fn realloc(ptr: *mut c_void, size: usize) -> *mut c_void {
    if ptr.is_null() {
        return malloc(size);
    }
    if !page_map::is_owned(ptr.addr()) {
        // SAFETY: the caller promises a live block, and it is not this heap's.
        return unsafe { foreign_block::realloc(ptr, size) };
    }
    if page_map::is_in_device_arena(ptr.addr()) {
        // SAFETY: the caller promises a live block, and it lies in a device's arena.
        return unsafe { reallocate_for_device(ptr, size) };
    }
    if hardened::is_on() && device_blocks::length_of(ptr).is_none() {
        // SAFETY: the caller promises a live block, and it is this heap's, but not a device's.
        return unsafe { hardened::reallocate(ptr, size) };
    }
    if size >= LARGE {
        // SAFETY: the caller promises a live block, and it is this heap's.
        return unsafe { large::reallocate(ptr, size) };
    }
    if let Some((block, length)) = NonNull::new(ptr).zip(device_blocks::length_of(ptr)) {
        // SAFETY: the caller promises a live block, and it is a device's of that length.
        return unsafe { large::reallocate_of_device(block, length, size) };
    }
    let flags = arenas::flags(size);
    // SAFETY: the caller promises a live block, and it is jemalloc's. The size is not 0. After NULL the block is still live, so
    // that a second attempt may have it.
    let attempt = || unsafe { je::rallocx(ptr, size.max(SMALLEST), flags) };
    or_out_of_memory(note(or_once_more(size, attempt)))
}

/// Resize a block so that it keeps an alignment, without copying it to another one; NULL where that is not possible. Then the
/// block is as it was.
///
/// # Safety
/// `ptr` is a live block, perhaps another allocator's. Nobody uses it afterwards unless the call returns NULL.
pub unsafe fn realloc_in_place(ptr: *mut c_void, alignment: usize, size: usize) -> *mut c_void {
    if hardened::is_on() {
        return ptr::null_mut();
    }
    // SAFETY: the caller promises a live block.
    let old_size = unsafe { usable_size(ptr) };
    // A block of slightly less than LARGE has that many bytes as well, anywhere.
    let alignment_here = if size < LARGE { alignment } else { alignment.max(large::ALIGNMENT) };
    let is_aligned = ptr.addr().is_multiple_of(alignment_here);
    if is_aligned && size <= old_size && size > old_size / 2 {
        return ptr;
    }
    // Blocks from LARGE on start on a GMEM page wherever they move, and their pages move with them.
    if size >= LARGE && alignment <= large::ALIGNMENT && page_map::is_owned(ptr.addr()) {
        // SAFETY: the caller promises a live block, and it is this heap's.
        return unsafe { realloc(ptr, size) };
    }
    ptr::null_mut()
}

/// A block of any size that kernels of the current device may read by address; NULL where the caller has to
/// use ordinary memory.
pub fn device_alloc(alignment: usize, size: usize) -> *mut c_void {
    device_blocks::open();
    device_arena::allocate(alignment, size)
}

/// `realloc(3)` of a small block in a device's memory, which stays there.
///
/// # Safety
/// `ptr` is a live block in a device's arena. Nobody uses it afterwards unless the call returns NULL.
unsafe fn reallocate_for_device(ptr: *mut c_void, size: usize) -> *mut c_void {
    // SAFETY: the caller promises a live block in an arena of jemalloc's.
    let old_size = unsafe { je::malloc_usable_size(ptr) };
    if size <= old_size && size > old_size / 2 {
        return ptr;
    }
    let of_device = device_alloc(SMALLEST, size);
    let new = if of_device.is_null() { malloc(size) } else { of_device };
    if !new.is_null() {
        // SAFETY: both blocks are live and have at least `old_size.min(size)` bytes; the caller gives the old one up.
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
/// `ptr` is NULL or a live block of this heap, and nobody uses it afterwards.
#[inline]
unsafe fn release(ptr: *mut c_void) {
    // SAFETY: the caller promises NULL or a live block of this heap that nobody uses afterwards. The first two functions
    // take what is theirs, so the rest is jemalloc's.
    unsafe {
        if device_blocks::release(ptr) || device_arena::release(ptr) {
            return;
        }
        je::free(ptr);
    }
    idle::note_free();
    purge_above_soft_limit();
}

/// `free(3)` of a block that no thread caches, or that is another allocator's.
///
/// # Safety
/// `ptr` is NULL or a live block, and nobody uses it afterwards.
unsafe fn release_uncached(ptr: *mut c_void) {
    if page_map::is_owned(ptr.addr()) {
        if !is_of_device(ptr)
            && let Some(fault) = corruption::fault_of_uncached(ptr)
        {
            return corruption::report(ptr, 0, fault);
        }
        if hardened::is_on() && !is_of_device(ptr) {
            // SAFETY: the caller gives a live block up, whose entry in the page map is gone.
            return unsafe { hardened::release_uncached(ptr) };
        }
        // SAFETY: the caller gives a live block up, and it is this heap's.
        unsafe { release(ptr) };
    } else if !ptr.is_null() {
        // SAFETY: the caller gives a live block up, and it is not this heap's.
        unsafe { foreign_block::free(ptr) };
    }
}

/// Whether a block of this heap lies in a device's memory.
fn is_of_device(ptr: *mut c_void) -> bool {
    page_map::is_in_device_arena(ptr.addr()) || device_blocks::length_of(ptr).is_some()
}

/// A block of a class; NULL where memory is short.
fn allocate_in(class: u8) -> *mut c_void {
    // SAFETY: malloc takes any size.
    let block = unsafe { je::malloc(size_class::BYTES[usize::from(class)]) };
    if !block.is_null() {
        pages::note_arena();
        page_map::set_class(block.addr(), class);
    }
    block
}

/// Note the class of a block that is about to be given out.
fn note(block: *mut c_void) -> *mut c_void {
    if !block.is_null() {
        pages::note_arena();
        // SAFETY: jemalloc has just given the block.
        let class = match size_class::of_size(unsafe { je::sallocx(block, 0) }) {
            0 => UNCACHED,
            class => class,
        };
        page_map::set_class(block.addr(), class);
    }
    purge_above_soft_limit();
    block
}

/// [`note`] for a block whose contents are nobody's.
fn note_fresh(block: *mut c_void) -> *mut c_void {
    let block = note(block);
    // Larger blocks are not marked, and their pages not touched.
    if !block.is_null() && page_map::class_of(block.addr()) != UNCACHED {
        // SAFETY: jemalloc has just given the block.
        unsafe { thread_cache::unmark(block) };
    }
    block
}

/// Where memory is short, give idle memory back and try again.
fn or_once_more(size: usize, attempt: impl Fn() -> *mut c_void) -> *mut c_void {
    let mut block = attempt();
    if block.is_null() && size <= isize::MAX as usize {
        purge();
        block = attempt();
        if block.is_null() && limits::may_reclaim() && reclaim() > 0 {
            block = attempt();
        }
    }
    block
}

/// Take huge pages apart to give back what is unused in them. Returns the bytes.
fn reclaim() -> usize {
    let errno = crate::os::errno();
    let bytes = page_map::reclaim_unused();
    set_errno(errno);
    bytes
}

/// Give what jemalloc caches for the calling thread back to its arena.
fn flush_jemallocs_cache() {
    control::command(c"thread.tcache.flush");
}

/// Give the blocks on their way from one thread to another back to jemalloc.
fn empty_transfer_cache() {
    let mut blocks = [ptr::null_mut(); transfer_cache::BATCH];
    for class in 1..size_class::CLASSES {
        let count = thread_cache::batch(class);
        while !transfer_cache::is_empty() {
            // SAFETY: the array has space for BATCH pointers, and no batch is larger.
            if !unsafe { transfer_cache::take(class, blocks.as_mut_ptr(), count) } {
                break;
            }
            for block in blocks.iter().take(count) {
                // SAFETY: the block left the transfer cache, so nobody else has it.
                unsafe {
                    checked::check_out(*block, class, ptr::null());
                    je::free(*block);
                }
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

/// `memalign(3)`: raises any alignment to a power of two, as glibc does.
pub fn memalign(alignment: usize, size: usize) -> *mut c_void {
    aligned_alloc(alignment.checked_next_power_of_two().unwrap_or(0), size)
}

/// `posix_memalign(3)`: the block, or the error, which is *returned*; errno stays as it is.
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
        _ if hardened::is_on() && page_map::is_owned(ptr.addr()) && !is_of_device(ptr) => {
            // SAFETY: the address is the heap's.
            unsafe { hardened::usable_size(ptr) }
        }
        0 | UNCACHED if page_map::is_owned(ptr.addr()) => match device_blocks::length_of(ptr) {
            Some(length) => length,
            // SAFETY: the caller promises a live block, and it is jemalloc's.
            None => unsafe { je::malloc_usable_size(ptr) },
        },
        // SAFETY: the caller promises a live block, and it is not this heap's.
        0 => unsafe { foreign_block::usable_size(ptr) },
        class => size_class::BYTES[usize::from(class)],
    }
}

/// Give all idle memory back, and what the calling thread caches. Returns the bytes.
///
/// # Safety
/// `cache` is NULL or the calling thread's.
pub unsafe fn trim(cache: *mut ThreadCache) -> usize {
    let before = page_map::TOTALS.dropped.load(Ordering::Relaxed);
    // SAFETY: the caller promises NULL or the calling thread's cache.
    unsafe { thread_cache::flush(cache) };
    purge();
    device_blocks::purge() + page_map::TOTALS.dropped.load(Ordering::Relaxed) - before
}

/// Give idle memory of all arenas back to the kernel, and the blocks that no thread caches.
fn purge() {
    let errno = crate::os::errno();
    if hardened::is_on() {
        hardened::empty_quarantine();
    }
    empty_transfer_cache();
    flush_jemallocs_cache();
    idle::purge_arenas();
    page_map::drop_kept(usize::MAX);
    set_errno(errno);
}

fn aligned(alignment: usize, size: usize) -> Result<*mut c_void, Errno> {
    if !alignment.is_power_of_two() {
        return Err(Errno(libc::EINVAL));
    }
    if hardened::is_on() {
        let block = hardened::allocate(alignment.max(SMALLEST), size, false);
        return if block.is_null() { Err(Errno(libc::ENOMEM)) } else { Ok(block) };
    }
    if size >= LARGE && alignment <= large::ALIGNMENT {
        let block = large::allocate(size, 0);
        return if block.is_null() { Err(Errno(libc::ENOMEM)) } else { Ok(block) };
    }
    let flags = je::MALLOCX_ALIGN(alignment) | if size < LARGE { arenas::flags(size) } else { 0 };
    // A size of 0 gives a block of its own.
    // SAFETY: the size is not 0, and the alignment is a power of two.
    let attempt = || unsafe { je::mallocx(size.max(SMALLEST), flags) };
    let block = note_fresh(or_once_more(size, attempt));
    if block.is_null() { Err(Errno(libc::ENOMEM)) } else { Ok(block) }
}

/// Set errno for NULL: jemalloc's functions that end in `x` do not.
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
