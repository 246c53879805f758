//! Size classes of the blocks that threads cache. They are jemalloc's classes from 16 bytes to 32 KiB, four to each
//! doubling, so that a block is at most a quarter larger than requested.

use super::constants::QUANTUM;
pub use super::constants::{CLASSES, MAX_CACHED};

/// Bytes of a block of each class; 0 for those that no thread caches.
pub const BYTES: [usize; CLASSES] = sizes();

/// The class of blocks that no thread caches. It is the entry of the base page on which such a block begins, so that each can be
/// freed once.
pub const UNCACHED: u8 = (CLASSES - 1) as u8;

/// For each class, the bits of an address that are 0 in all its blocks: they lie on multiples of their size, from the beginning of
/// a base page on.
pub const MISALIGNED: [usize; CLASSES] = {
    let mut masks = [0; CLASSES];
    let mut class = 1;
    while class < CLASSES - 1 {
        let lowest_bit = 1 << BYTES[class].trailing_zeros();
        masks[class] = if lowest_bit < 4096 { lowest_bit - 1 } else { 4095 };
        class += 1;
    }
    masks
};

/// The class of each size, in steps of 16 bytes, rounded up. `cpp/thread_cache.hpp` reads it.
#[unsafe(no_mangle)]
static gmem_heap_class_of_size: [u8; MAX_CACHED / QUANTUM + 1] = classes();

/// [`BYTES`], for `cpp/heap.cpp`.
#[unsafe(no_mangle)]
static gmem_heap_bytes_of_class: [usize; CLASSES] = BYTES;

/// The class of a block for `size` bytes; 0 above [`MAX_CACHED`].
#[inline]
pub fn of_size(size: usize) -> u8 {
    gmem_heap_class_of_size.get(size.div_ceil(QUANTUM)).copied().unwrap_or(0)
}

const fn sizes() -> [usize; CLASSES] {
    let mut bytes = [0; CLASSES];
    let (mut class, mut size) = (1, 0_usize);
    while class < CLASSES - 1 {
        // Steps of 16 up to 128, then a quarter of the last power of two.
        let step = if size < 128 { QUANTUM } else { (1 << size.ilog2()) / 4 };
        size += step;
        bytes[class] = size;
        class += 1;
    }
    bytes
}

const fn classes() -> [u8; MAX_CACHED / QUANTUM + 1] {
    let mut of_size = [1; MAX_CACHED / QUANTUM + 1];
    let (mut index, mut class) = (0, 1);
    while index < of_size.len() {
        if index * QUANTUM > BYTES[class] {
            class += 1;
        }
        of_size[index] = class as u8;
        index += 1;
    }
    of_size
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_jemallocs() {
        for size in 9..=MAX_CACHED {
            let class = usize::from(of_size(size));
            // SAFETY: the size is not 0.
            assert_eq!(BYTES[class], unsafe { tikv_jemalloc_sys::nallocx(size, 0) }, "{size}");
        }
        assert_eq!(
            (of_size(0), of_size(1), of_size(MAX_CACHED + 1), of_size(usize::MAX)),
            (1, 1, 0, 0)
        );
        assert_eq!(BYTES[CLASSES - 2], MAX_CACHED);
        assert_eq!((MISALIGNED[1], MISALIGNED[3], MISALIGNED[5]), (15, 15, 15));
        assert_eq!((MISALIGNED[4], MISALIGNED[CLASSES - 2]), (63, 4095));
    }
}
