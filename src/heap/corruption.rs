//! What to do about a pointer that cannot be freed: say so in one line on stderr and end the process, or leak the block
//! (`GMEM_ABORT_ON_CORRUPTION=0`).
//!
//! The first word of a cached block is a mark, made of its address and a random number. `free` finds it in a block that is
//! already free, and `malloc` removes it. Addresses are checked against the alignment of the block's size class; and each block
//! that no thread caches has an entry of its own in the page map, which `free` removes.

use std::ffi::{CStr, c_void};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::size_class::{self, UNCACHED};
use super::{control, page_map};
use crate::os::{env, file};

/// Read by `cpp/thread_cache.hpp`. It changes once, with the heap's first pages.
#[unsafe(no_mangle)]
static gmem_heap_mark: AtomicUsize = AtomicUsize::new(0x9e37_79b9_7f4a_7c15);

/// Whether corruption ends the process.
static ABORTS: AtomicBool = AtomicBool::new(true);

/// Set what corruption leads to, and make marks unpredictable.
pub fn set_up(aborts: bool) {
    ABORTS.store(aborts, Ordering::Relaxed);
    gmem_heap_mark.store(env::random_number() | 1, Ordering::Relaxed);
}

/// The mark of a cached block.
pub fn mark_of(block: *const c_void) -> usize {
    gmem_heap_mark.load(Ordering::Relaxed) ^ block.addr()
}

/// Why a block of a class with a stack cannot be freed; `None` if it can.
///
/// # Safety
/// A block of the class begins on the base page of `block`, and no thread writes to the word at `block`.
pub unsafe fn fault_of(block: *const c_void, class: usize) -> Option<&'static CStr> {
    if block.addr() & size_class::MISALIGNED[class] != 0 && !may_begin_anywhere(class) {
        return Some(INSIDE);
    }
    // SAFETY: blocks are aligned and have at least one word; the caller promises the rest.
    (unsafe { block.cast::<usize>().read_unaligned() } == mark_of(block)).then_some(TWICE)
}

/// Why a pointer to a base page that belongs to an uncached block, or to none, cannot be freed. `None` if it can: once.
pub fn fault_of_uncached(block: *const c_void) -> Option<&'static CStr> {
    if !block.addr().is_multiple_of(page_map::BASE_PAGE) && !may_begin_anywhere(UNCACHED.into()) {
        return Some(INSIDE);
    }
    let was_live = page_map::exchange_class(block.addr(), UNCACHED, 0);
    (!was_live).then_some(NOT_LIVE)
}

/// Whether `GMEM_MALLOC_CONF` has jemalloc begin its larger blocks on any cache line (`cache_oblivious`).
fn may_begin_anywhere(class: usize) -> bool {
    let is_in_slab = (1..=JEMALLOCS_SMALL).contains(&size_class::BYTES[class]);
    !is_in_slab && control::number(c"opt.cache_oblivious", None).unwrap_or(false)
}

/// Bytes of the largest block that jemalloc puts into a slab with others.
const JEMALLOCS_SMALL: usize = 14 << 10;

const TWICE: &CStr = c"is free already";
const INSIDE: &CStr = c"is no beginning of a block";
const NOT_LIVE: &CStr = c"is no live block";

/// Report that a pointer of the heap's cannot be freed. If this returns, the caller leaves the block alone.
#[cold]
pub fn report(block: *const c_void, class: usize, fault: &CStr) {
    let mut line = Line::new();
    line.text(b"libgmem: heap corruption: free: ");
    line.hexadecimal(block.addr());
    line.text(b" ");
    line.text(fault.to_bytes());
    match size_class::BYTES.get(class) {
        None | Some(0) => line.text(b" (size class: none)"),
        Some(bytes) => {
            line.text(b" (size class: ");
            line.decimal(*bytes);
            line.text(b" bytes)");
        }
    }
    line.write();
    if ABORTS.load(Ordering::Relaxed) {
        std::process::abort();
    }
}

/// A line for stderr that needs no memory from the heap.
pub struct Line {
    bytes: [u8; 256],
    length: usize,
}

impl Line {
    /// An empty line.
    pub const fn new() -> Self {
        Self { bytes: [0; 256], length: 0 }
    }

    /// Append text, cut where the line is full.
    pub fn text(&mut self, text: &[u8]) {
        for byte in text {
            if self.length + 1 < self.bytes.len() {
                self.bytes[self.length] = *byte;
                self.length += 1;
            }
        }
    }

    /// Append a number as an address.
    pub fn hexadecimal(&mut self, number: usize) {
        self.text(b"0x");
        let digits = (usize::BITS - number.leading_zeros()).div_ceil(4).max(1);
        for digit in (0..digits).rev() {
            self.text(&b"0123456789abcdef"[(number >> (4 * digit)) & 15..][..1]);
        }
    }

    fn decimal(&mut self, number: usize) {
        if number >= 10 {
            self.decimal(number / 10);
        }
        self.text(&b"0123456789"[number % 10..][..1]);
    }

    /// Write it to stderr.
    pub fn write(mut self) {
        self.bytes[self.length] = b'\n';
        file::write_stderr(&self.bytes[..=self.length]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_numbers_and_an_end() {
        let mut line = Line::new();
        line.hexadecimal(0);
        line.text(b" ");
        line.hexadecimal(0x7f00_1234_abcd);
        line.text(b" ");
        line.decimal(32768);
        assert_eq!(&line.bytes[..line.length], b"0x0 0x7f001234abcd 32768");
        line.text(&[b'x'; 300]);
        assert!(line.length < line.bytes.len());
    }
}
