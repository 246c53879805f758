//! Blocks of at least [`LARGE`] bytes: they start on a GMEM page and grow by moving pages instead of bytes.

use std::ffi::{c_int, c_void};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicUsize, Ordering};

use tikv_jemalloc_sys as je;

use super::page_map::HEAP_PAGE;
use super::size_class::UNCACHED;
use super::{
    LARGE, device_blocks, idle, or_once_more, or_out_of_memory, page_map, pages,
    purge_above_soft_limit, release,
};
use crate::os::{advice, machine, mapping};
use crate::page::PageRange;

/// Most moves of a heap page; later growth copies. Each move may leave two more mappings behind that the kernel cannot join,
/// and a process may have 65,530 (`vm.max_map_count`).
const MAX_MOVES: usize = 8192;

/// A new block.
#[cold]
pub(super) fn allocate(size: usize, flags: c_int) -> *mut c_void {
    let block = device_blocks::allocate(size, flags & je::MALLOCX_ZERO != 0);
    if !block.is_null() {
        return block;
    }
    idle::note_large(size);
    // SAFETY: the size is not 0. jemalloc returns NULL for a size that it cannot serve.
    let attempt = || unsafe { je::mallocx(size, ALIGNED | flags) };
    noted(if flags & je::MALLOCX_ZERO == 0 {
        or_once_more(size, attempt)
    } else {
        or_once_more(size, || pages::with_zeros(attempt))
    })
}

/// `realloc(3)` to a large size.
///
/// # Safety
/// `block` is NULL or a live block of this heap. Nobody uses it afterwards unless the call returns NULL.
#[cold]
pub(super) unsafe fn reallocate(block: *mut c_void, size: usize) -> *mut c_void {
    let Some(old) = NonNull::new(block) else { return allocate(size, 0) };
    if let Some(length) = device_blocks::length_of(block) {
        // SAFETY: the caller promises a live block, and it is a device's of that length.
        return unsafe { reallocate_of_device(old, length, size) };
    }
    // SAFETY: the caller promises a live block, and it is jemalloc's.
    let old_size = unsafe { je::sallocx(block, 0) };
    let stays = size <= old_size || !device_blocks::may_serve(size);
    let on_page = block.addr() & (ALIGNMENT - 1) == 0;
    // SAFETY: the block is live; it grows or shrinks in place or stays as it is.
    if stays && on_page && unsafe { je::xallocx(block, size, 0, ALIGNED) } >= size {
        return noted(block);
    }
    if stays && (old_size < 2 * LARGE || size < old_size) {
        // SAFETY: the block is live, and the size is not 0.
        let attempt = || unsafe { je::rallocx(block, size, ALIGNED) };
        return noted(or_once_more(size, attempt));
    }
    let Some(new) = NonNull::new(allocate(size, 0)) else { return ptr::null_mut() };
    // SAFETY: both blocks are live and have at least `old_size` bytes, because shrinking was handled above; nobody else has
    // the new one. If take_over() fails, the new block has a hole and is left alone for good.
    unsafe {
        if !take_over(old.cast(), new.cast(), old_size) {
            return or_out_of_memory(ptr::null_mut());
        }
        page_map::set_class(block.addr(), 0);
        release(block);
    }
    new.as_ptr()
}

/// `realloc(3)` of a block in a device's memory, whose pages stay where they are.
///
/// # Safety
/// `block` is a live block of `length` bytes in a device's memory. Nobody uses it afterwards unless the call returns NULL.
pub(super) unsafe fn reallocate_of_device(
    block: NonNull<c_void>,
    length: usize,
    size: usize,
) -> *mut c_void {
    if size <= length && size > length / 2 {
        return block.as_ptr();
    }
    let of_device =
        if size < LARGE { ptr::null_mut() } else { device_blocks::allocate_on_request(size) };
    let new = if of_device.is_null() { super::malloc(size) } else { of_device };
    if !new.is_null() {
        // SAFETY: both blocks are live and have at least `length.min(size)` bytes; the caller gives the old one up.
        unsafe {
            ptr::copy_nonoverlapping(block.as_ptr().cast::<u8>(), new.cast(), length.min(size));
            release(block.as_ptr());
        }
    }
    new
}

/// Note that a large block is about to be given out.
fn noted(block: *mut c_void) -> *mut c_void {
    if !block.is_null() {
        page_map::set_class(block.addr(), UNCACHED);
    }
    purge_above_soft_limit();
    or_out_of_memory(block)
}

/// Every large block starts on a GMEM page.
pub(super) const ALIGNMENT: usize = mapping::gmem_page().bytes();

/// jemalloc's flag for that alignment.
const ALIGNED: c_int = je::MALLOCX_ALIGN(ALIGNMENT);

/// Bring the first `length` bytes of `from` to `to`. Whole heap pages are moved, except to a device's block; the rest is
/// copied. If that fails the call returns false: `from` still holds the bytes, and nobody may touch `to` again, because a
/// part of it is not mapped.
///
/// # Safety
/// `from` and `to` are different blocks of this heap, each of at least `length` bytes, and nobody else uses them.
#[must_use]
unsafe fn take_over(from: NonNull<u8>, to: NonNull<u8>, length: usize) -> bool {
    static MOVES: AtomicUsize = AtomicUsize::new(0);
    let is_aligned = |block: NonNull<u8>| block.addr().get() & (HEAP_PAGE - 1) == 0;
    // Only the device may replace what it has mapped.
    let may_move = device_blocks::length_of(to.as_ptr().cast()).is_none()
        && is_aligned(from)
        && is_aligned(to)
        && MOVES.fetch_add(1, Ordering::Relaxed) < MAX_MOVES;
    let mut done = 0;
    // One page at a time, so that a failure concerns that page alone. The kernel joins the mappings again, and moving a huge
    // page changes one table entry.
    while may_move && done + HEAP_PAGE <= length {
        // SAFETY: both heap pages lie inside the blocks, which the caller has to itself.
        unsafe {
            let (old, new) = (from.add(done), to.add(done));
            if mapping::move_pages(old, new, HEAP_PAGE).is_err() {
                if mapping::map_again(new, HEAP_PAGE).is_err() {
                    // Another thread took the last mapping. Copy back what was moved.
                    ptr::copy_nonoverlapping(to.as_ptr(), from.as_ptr(), done);
                    return false;
                }
                if machine::has_huge_gmem_pages() {
                    let again = new.as_ptr().expose_provenance();
                    advice::huge_pages(PageRange::new(again, again + HEAP_PAGE));
                }
                break;
            }
        }
        done += HEAP_PAGE;
    }
    // SAFETY: both blocks have at least `length` bytes and do not overlap.
    unsafe {
        let (old, new) = (from.add(done), to.add(done));
        ptr::copy_nonoverlapping(old.as_ptr(), new.as_ptr(), length - done);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growing_keeps_the_bytes_whether_moved_or_copied() {
        let mut size = 3 * LARGE + 12345;
        let mut block = allocate(size, 0).cast::<u8>();
        for i in (0..size).step_by(1000) {
            // SAFETY: inside the block.
            unsafe { block.add(i).write(i as u8 ^ 0x5a) };
        }
        for _ in 0..6 {
            let next = size * 2 + 777;
            // Something in the way, so that it cannot grow in place each time.
            let obstacle = allocate(LARGE, 0);
            // SAFETY: the block is live.
            block = unsafe { reallocate(block.cast(), next) }.cast();
            assert_eq!(block.addr() % ALIGNMENT, 0);
            for i in (0..3 * LARGE).step_by(1000) {
                // SAFETY: inside the block.
                assert_eq!(unsafe { block.add(i).read() }, i as u8 ^ 0x5a, "{i} of {next}");
            }
            // SAFETY: live, and not used again.
            unsafe { je::free(obstacle) };
            size = next;
        }
        // SAFETY: live, and not used again.
        unsafe { je::free(block.cast()) };
    }
}
