// SPDX-License-Identifier: Apache-2.0
//! [`Gmem`]: libgmem's heap as a global allocator.

use std::alloc::{GlobalAlloc, Layout};
use std::ptr;

use crate::ffi;

/// libgmem's heap, for `#[global_allocator]`.
///
/// A block of at least one GMEM page starts on a GMEM page. With the feature `malloc` Rust's default allocator uses
/// this heap as well, because it calls `malloc`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Gmem;

/// Whether a plain gmem_malloc of that size is aligned enough. Like malloc(3), it aligns to 16 bytes, and a block
/// smaller than that to its size.
fn is_aligned_anyway(align: usize, size: usize) -> bool {
    align <= 16 && align <= size
}

// SAFETY: each block comes from the heap with the size and alignment of its layout, stays where it is until it is
// reallocated or freed, and no function unwinds.
unsafe impl GlobalAlloc for Gmem {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let block = if is_aligned_anyway(layout.align(), layout.size()) {
            ffi::gmem_malloc(layout.size())
        } else {
            ffi::gmem_aligned_alloc(layout.align(), layout.size())
        };
        block.cast()
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if is_aligned_anyway(layout.align(), layout.size()) {
            return ffi::gmem_calloc(1, layout.size()).cast();
        }
        // SAFETY: the caller promises a layout whose size is not zero.
        let block = unsafe { self.alloc(layout) };
        if !block.is_null() {
            // SAFETY: the block has that size.
            unsafe { ptr::write_bytes(block, 0, layout.size()) };
        }
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, _layout: Layout) {
        // SAFETY: the caller promises that the block came from this allocator, which takes all of them from this heap.
        unsafe { ffi::gmem_free(block.cast()) };
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        if is_aligned_anyway(layout.align(), new_size) {
            // SAFETY: the caller promises a live block of this allocator, which takes all of them from this heap.
            return unsafe { ffi::gmem_realloc(block.cast(), new_size) }.cast();
        }
        // SAFETY: the caller promises that new_size, rounded up to the alignment, does not overflow an isize.
        let new_layout = unsafe { Layout::from_size_align_unchecked(new_size, layout.align()) };
        // SAFETY: the caller promises that new_size is not zero.
        let moved = unsafe { self.alloc(new_layout) };
        if !moved.is_null() {
            // SAFETY: both blocks hold the smaller of the two sizes, and they are different blocks.
            unsafe { ptr::copy_nonoverlapping(block, moved, layout.size().min(new_size)) };
            // SAFETY: the caller promises a live block of this allocator, and gives it up where this succeeds.
            unsafe { self.dealloc(block, layout) };
        }
        moved
    }
}
