//! Memory for the library's own small objects when the process has none left.
//!
//! Rust ends the process where a `Box` or a `String` finds no memory, and libgmem never does that. So its
//! Rust side allocates from the process's malloc, and where that gives nothing, from a small reserve: enough
//! to say what failed. What stays, a stream or work on one, asks first and fails with an error.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};

/// A slot is as large as anything that the error paths allocate.
const SLOT: usize = 4096;
/// One bit each in `taken`.
const SLOTS: usize = 64;

#[repr(align(4096))]
struct Room(UnsafeCell<[u8; SLOT * SLOTS]>);
// SAFETY: a slot is its owner's alone; ownership is a bit of `taken`.
unsafe impl Sync for Room {}

/// The process's malloc with the reserve behind it.
pub struct WithReserve {
    room: Room,
    taken: AtomicU64,
}

/// Whether the process has `bytes` more, without the reserve: asked before something is made that stays.
pub fn ask(bytes: usize, what: &'static str) -> Result<()> {
    let layout = Layout::array::<u64>(bytes.div_ceil(8).max(1));
    // SAFETY: the layout is not empty, and the block goes back as it came.
    let there = layout.is_ok_and(|layout| unsafe {
        // Hidden, or the compiler would leave out a pair of malloc and free.
        let block = std::hint::black_box(System.alloc(layout));
        if !block.is_null() {
            System.dealloc(block, layout);
        }
        !block.is_null()
    });
    if there { Ok(()) } else { Err(Error::OutOfMemory { what }) }
}

#[global_allocator]
static ALLOCATOR: WithReserve =
    WithReserve { room: Room(UnsafeCell::new([0; SLOT * SLOTS])), taken: AtomicU64::new(0) };

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
            // SAFETY: fewer than SLOTS bits were set, so the slot lies in the room.
            Ok(taken) => unsafe {
                self.room.0.get().cast::<u8>().add(taken.trailing_ones() as usize * SLOT)
            },
            Err(_) => ptr::null_mut(),
        }
    }

    /// Which slot a block is, if it is one.
    fn slot_of(&self, block: *mut u8) -> Option<usize> {
        let offset = block.addr().wrapping_sub(self.room.0.get().addr());
        (offset < SLOT * SLOTS).then_some(offset / SLOT)
    }
}

// SAFETY: a block is either System's or a slot of its own, told apart by its address.
unsafe impl GlobalAlloc for WithReserve {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        let block = unsafe { System.alloc(layout) };
        if block.is_null() { self.take(layout) } else { block }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        match self.slot_of(block) {
            Some(slot) => {
                self.taken.fetch_and(!(1 << slot), Ordering::Release);
            }
            // SAFETY: not a slot, so it came from System.
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
            room: Room(UnsafeCell::new([0; SLOT * SLOTS])),
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
