//! Blocks of at least [`LARGE`] bytes: they start on a GMEM page, grow by moving pages
//! instead of bytes, and go back to the kernel also when the program rests.

use std::ffi::{c_int, c_void};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tikv_jemalloc_sys as je;

use super::page_map::HEAP_PAGE;
use super::{
    LARGE, control, device_blocks, or_once_more, or_out_of_memory, page_map,
    purge_above_soft_limit, release,
};
use crate::os::{advice, machine, mapping};
use crate::page::PageRange;

/// Bytes of large blocks handed out before jemalloc's background thread is started.
///
/// jemalloc gives idle memory back while the program allocates and frees. A program that stops doing so
/// needs a thread for it; one that never had much is spared it.
const PURGER_THRESHOLD: usize = 64 << 20;

/// Each move may leave two more mappings behind that the kernel cannot join, and a process has 65,530
/// (`vm.max_map_count`). After so many moves bytes are copied again.
const MAX_MOVES: usize = 8192;

/// A new block.
#[cold]
pub(super) fn allocate(size: usize, flags: c_int) -> *mut c_void {
    let block = device_blocks::allocate(size, flags & je::MALLOCX_ZERO != 0);
    if !block.is_null() {
        return block;
    }
    count_and_start_purger(size);
    // SAFETY: the size is not 0; jemalloc gives NULL for one that it cannot serve.
    let attempt = || unsafe { je::mallocx(size, ON_GMEM_PAGE | flags) };
    noted(or_once_more(size, attempt))
}

/// `realloc(3)` to a large size.
///
/// # Safety
/// `block` is NULL or a live block of this heap; it is dead afterwards unless NULL is returned.
#[cold]
pub(super) unsafe fn reallocate(block: *mut c_void, size: usize) -> *mut c_void {
    let Some(old) = NonNull::new(block) else { return allocate(size, 0) };
    if let Some(length) = device_blocks::length_of(block) {
        // SAFETY: the caller's promise.
        return unsafe { reallocate_of_device(old, length, size) };
    }
    // SAFETY: a live block.
    let old_size = unsafe { je::sallocx(block, 0) };
    let stays = size <= old_size || !device_blocks::may_serve(size);
    let on_page = block.addr() & (mapping::gmem_page().bytes() - 1) == 0;
    // SAFETY: a live block; grown or shrunk in place or left as it is.
    if stays && on_page && unsafe { je::xallocx(block, size, 0, ON_GMEM_PAGE) } >= size {
        return noted(block);
    }
    if stays && (old_size < 2 * LARGE || size < old_size) {
        // SAFETY: a live block and a size that is not 0.
        let attempt = || unsafe { je::rallocx(block, size, ON_GMEM_PAGE) };
        return noted(or_once_more(size, attempt));
    }
    let Some(new) = NonNull::new(allocate(size, 0)) else { return ptr::null_mut() };
    // SAFETY: two live blocks of at least `old_size` bytes, the new one unused so far; what shrinks
    // has been seen to above. One with a hole is given up.
    unsafe {
        if !take_over(old.cast(), new.cast(), old_size) {
            return or_out_of_memory(ptr::null_mut());
        }
        release(block);
    }
    new.as_ptr()
}

/// `realloc(3)` of a block in a device's memory, whose pages stay where they are.
///
/// # Safety
/// As [`reallocate`]; `length` is the block's.
pub(super) unsafe fn reallocate_of_device(
    block: NonNull<c_void>,
    length: usize,
    size: usize,
) -> *mut c_void {
    if size <= length && size > length / 2 {
        return block.as_ptr();
    }
    let new = super::malloc(size);
    if !new.is_null() {
        // SAFETY: two live blocks, each at least as long as what is copied.
        unsafe {
            ptr::copy_nonoverlapping(block.as_ptr().cast::<u8>(), new.cast(), length.min(size));
            release(block.as_ptr());
        }
    }
    new
}

/// A large block, about to be given out.
fn noted(block: *mut c_void) -> *mut c_void {
    page_map::set_class(block.addr(), 0);
    purge_above_soft_limit();
    or_out_of_memory(block)
}

/// jemalloc's flag for a block that starts on a GMEM page.
const ON_GMEM_PAGE: c_int = je::MALLOCX_ALIGN(mapping::gmem_page().bytes());

/// Put the first `length` bytes of `from` to `to`: whole heap pages are moved, except to a
/// device's block, the rest is copied. False if that could
/// not be done; then `from` holds them still, and `to` is not to be touched again, because a part of it is not mapped.
///
/// # Safety
/// Two blocks of this heap, each of at least `length` bytes.
#[must_use]
unsafe fn take_over(from: NonNull<u8>, to: NonNull<u8>, length: usize) -> bool {
    static MOVES: AtomicUsize = AtomicUsize::new(0);
    let is_aligned = |block: NonNull<u8>| block.addr().get() & (HEAP_PAGE - 1) == 0;
    // What a device has mapped is only the device's to map again.
    let may_move = device_blocks::length_of(to.as_ptr().cast()).is_none()
        && is_aligned(from)
        && is_aligned(to)
        && MOVES.fetch_add(1, Ordering::Relaxed) < MAX_MOVES;
    let mut done = 0;
    // One at a time, so that a failure is a failure of that one. The kernel joins them again, and for a huge page it is
    // one entry of a table.
    while may_move && done + HEAP_PAGE <= length {
        // SAFETY: heap pages of two blocks that the caller owns.
        unsafe {
            let (old, new) = (from.add(done), to.add(done));
            if mapping::move_pages(old, new, HEAP_PAGE).is_err() {
                if mapping::map_again(new, HEAP_PAGE).is_err() {
                    // Another thread took what room there was. What was moved goes back as bytes.
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
    // SAFETY: both blocks are at least `length` bytes long and apart.
    unsafe {
        let (old, new) = (from.add(done), to.add(done));
        ptr::copy_nonoverlapping(old.as_ptr(), new.as_ptr(), length - done);
    }
    true
}

fn count_and_start_purger(size: usize) {
    static TOTAL: AtomicUsize = AtomicUsize::new(0);
    static STARTED: AtomicBool = AtomicBool::new(false);
    if STARTED.load(Ordering::Relaxed) {
        return;
    }
    let total = TOTAL.fetch_add(size, Ordering::Relaxed).saturating_add(size);
    // A size that cannot be served tells nothing about the program's appetite.
    if total < PURGER_THRESHOLD
        || size > isize::MAX as usize
        || STARTED.swap(true, Ordering::Relaxed)
    {
        return;
    }
    let errno = crate::os::errno();
    // Where no thread can be started, idle memory goes back while the program allocates, as before.
    control::set(c"background_thread", true);
    crate::os::set_errno(errno);
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
            assert_eq!(block.addr() % mapping::gmem_page().bytes(), 0);
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
