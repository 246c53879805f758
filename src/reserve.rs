//! Memory for the library's own small objects when the process has none left.
//!
//! Rust ends the process when a `Box` or a `String` finds no memory, and libgmem must never do that. So the Rust side
//! allocates from the process's malloc and falls back on a small reserve, which is enough to report what failed. Code that
//! makes an object to stay, such as a stream or work on one, asks first and fails with an error.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};

/// Bytes of a slot: nothing that the error paths allocate is larger.
const SLOT: usize = 4096;
/// Slots, with one bit each in `taken`.
const SLOTS: usize = 64;

#[repr(align(4096))]
struct Slots(UnsafeCell<[u8; SLOT * SLOTS]>);
// SAFETY: only the thread that set a slot's bit in `taken` uses the slot.
unsafe impl Sync for Slots {}

/// The process's malloc with the reserve behind it.
pub struct WithReserve {
    slots: Slots,
    taken: AtomicU64,
}

/// A value in a block of its own, of which there is one for each thread. `None` without memory: the reserve is for calls that
/// end, so threads may use up half of it.
pub fn lasting<T>(value: T) -> Option<Box<T>> {
    let taken = ALLOCATOR.taken.load(Ordering::Relaxed).count_ones() as usize;
    let has_memory = taken < SLOTS / 2 || ask(size_of::<T>(), "a thread").is_ok();
    has_memory.then(|| Box::new(value))
}

/// Whether the process has `bytes` more without the reserve. Asked before an object is made that stays.
pub fn ask(bytes: usize, what: &'static str) -> Result<()> {
    let layout = Layout::array::<u64>(bytes.div_ceil(8).max(1));
    // SAFETY: the layout has at least 8 bytes, and the block is freed with the layout that it was allocated with.
    let has_memory = layout.is_ok_and(|layout| unsafe {
        // The compiler would leave out a malloc whose block is only freed.
        let block = std::hint::black_box(System.alloc(layout));
        if !block.is_null() {
            System.dealloc(block, layout);
        }
        !block.is_null()
    });
    if has_memory { Ok(()) } else { Err(Error::OutOfMemory { what }) }
}

#[global_allocator]
static ALLOCATOR: WithReserve =
    WithReserve { slots: Slots(UnsafeCell::new([0; SLOT * SLOTS])), taken: AtomicU64::new(0) };

impl WithReserve {
    fn take(&self, layout: Layout) -> *mut u8 {
        if layout.size() > SLOT || layout.align() > SLOT {
            return ptr::null_mut();
        }
        let slot = self.taken.fetch_update(Ordering::Acquire, Ordering::Relaxed, |taken| {
            let free = taken.trailing_ones();
            (free < SLOTS as u32).then(|| taken | 1 << free)
        });
        match slot {
            // SAFETY: fewer than SLOTS bits were set, so the slot number is below SLOTS.
            Ok(taken) => unsafe {
                self.slots.0.get().cast::<u8>().add(taken.trailing_ones() as usize * SLOT)
            },
            Err(_) => ptr::null_mut(),
        }
    }

    /// The number of the slot that a block is; `None` for a block of malloc's.
    fn slot_of(&self, block: *mut u8) -> Option<usize> {
        let offset = block.addr().wrapping_sub(self.slots.0.get().addr());
        (offset < SLOT * SLOTS).then_some(offset / SLOT)
    }
}

// SAFETY: a block comes from System, which is an allocator, or is a slot that no other block has; its address tells which.
unsafe impl GlobalAlloc for WithReserve {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: GlobalAlloc's caller promises that the layout is not empty, which is all that System asks.
        let block = unsafe { System.alloc(layout) };
        if block.is_null() { self.take(layout) } else { block }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        match self.slot_of(block) {
            Some(slot) => {
                self.taken.fetch_and(!(1 << slot), Ordering::Release);
            }
            // SAFETY: the block is no slot, so System allocated it, and the caller passes the layout of that allocation.
            None => unsafe { System.dealloc(block, layout) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_gives_each_slot_once_and_takes_it_back() {
        let reserve = WithReserve {
            slots: Slots(UnsafeCell::new([0; SLOT * SLOTS])),
            taken: AtomicU64::new(0),
        };
        let layout = Layout::new::<[u8; 100]>();
        let mut blocks: Vec<_> = (0..SLOTS).map(|_| reserve.take(layout)).collect();
        assert!(reserve.take(layout).is_null());
        assert!(reserve.take(Layout::new::<[u8; SLOT + 1]>()).is_null());
        // SAFETY: a slot of this reserve.
        unsafe { reserve.dealloc(blocks[7], layout) };
        assert_eq!(reserve.take(layout), blocks[7]);
        blocks.sort();
        blocks.dedup();
        assert_eq!(blocks.len(), SLOTS);
        assert!(blocks.iter().all(|block| block.addr() % SLOT == 0));
    }
}
