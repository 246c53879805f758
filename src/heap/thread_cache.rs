//! Blocks that a thread keeps for itself: a stack of pointers per size class, in front of jemalloc. `malloc`
//! takes from one and `free` puts onto one in a few instructions (`cpp/thread_cache.hpp`); here is what happens
//! when a stack is empty or full, and when a thread begins and ends. Half a stack at a time goes to other threads
//! ([`transfer`]), if there is room for it.
//!
//! A thread keeps at most [`room`] blocks of a class, a few MiB in all, and only what it once used.

use std::ffi::c_void;
use std::mem::offset_of;
use std::ptr;
use std::sync::atomic::AtomicU8;

use super::size_class::{self, BYTES, CLASSES};
use super::{allocate_in, page_map, purge_above_soft_limit, release, release_foreign, transfer};
use crate::os::process;
use crate::os::thread::AtThreadExit;

/// One thread's stacks, all empty and without room to begin with. The C++ side knows what comes before `phase`.
#[repr(C, align(64))]
pub struct ThreadCache {
    stacks: [Stack; CLASSES],
    /// The C++ side's last look-up in the page map; no region has the number `usize::MAX`.
    last_region: usize,
    last_classes: *const AtomicU8,
    phase: Phase,
    slots: [*mut c_void; ALL_SLOTS],
}

/// Grows upward from `bottom`.
#[repr(C)]
struct Stack {
    top: *mut *mut c_void,
    bottom: *mut *mut c_void,
    limit: *mut *mut c_void,
    /// Blocks fetched at once; doubles each time, so that a thread gets as many as it uses.
    fetch: usize,
}

#[repr(u8)]
#[derive(PartialEq, Eq, Clone, Copy)]
enum Phase {
    /// The thread has not allocated enough to need one.
    Fresh,
    Open,
    /// Being opened, or the thread is ending: everything goes to jemalloc.
    Closed,
}

/// Blocks of a class that a thread keeps at most.
const fn room(class: usize) -> usize {
    match BYTES[class] {
        0 => 0,
        1..=1024 => 128,
        1025..=4096 => 64,
        4097..=8192 => 16,
        _ => 8,
    }
}

/// Blocks that go to other threads, or come from them, at once.
pub const fn batch(class: usize) -> usize {
    room(class) / 2
}

const ALL_SLOTS: usize = {
    let (mut class, mut sum) = (0, 0);
    while class < CLASSES {
        sum += room(class);
        class += 1;
    }
    sum
};

/// Gives the blocks back when a thread ends.
static CLOSE: AtThreadExit = AtThreadExit::new(close);

impl ThreadCache {
    /// Room for one, all zeros; [`reset`] makes it that of a thread.
    pub const EMPTY: Self = Self {
        stacks: [const {
            Stack {
                top: ptr::null_mut(),
                bottom: ptr::null_mut(),
                limit: ptr::null_mut(),
                fetch: 0,
            }
        }; CLASSES],
        last_region: 0,
        last_classes: ptr::null(),
        phase: Phase::Fresh,
        slots: [ptr::null_mut(); ALL_SLOTS],
    };

    /// Whether the stacks may be used; opens a fresh one.
    fn is_open(&mut self) -> bool {
        if self.phase == Phase::Fresh {
            // Arming may itself allocate, and so may the first to ask for forks.
            self.phase = Phase::Closed;
            process::forks();
            // SAFETY: a thread's cache stays where it is until the thread has ended.
            if unsafe { CLOSE.arm(ptr::from_mut(self).cast()) } {
                let mut first = self.slots.as_mut_ptr();
                for (class, stack) in self.stacks.iter_mut().enumerate() {
                    // SAFETY: the slots are as many as all classes have room for.
                    let limit = unsafe { first.add(room(class)) };
                    *stack = Stack { top: first, bottom: first, limit, fetch: 1 };
                    first = limit;
                }
                self.phase = Phase::Open;
            }
        }
        self.phase == Phase::Open
    }

    /// Fill the empty stack of a class; gives one more block than it keeps.
    fn fetch(&mut self, class: u8) -> *mut c_void {
        let most = batch(usize::from(class));
        let stack = &mut self.stacks[usize::from(class)];
        // SAFETY: the stack is empty and has room for twice as many.
        if unsafe { transfer::take(usize::from(class), stack.bottom, most) } {
            // SAFETY: as above; they are the calling thread's now.
            unsafe {
                stack.top = stack.bottom.add(most - 1);
                return stack.top.read();
            }
        }
        let count = stack.fetch.min(most);
        stack.fetch = (count * 2).min(most);
        // The first that jemalloc gives is used first, so that memory is used from its beginning.
        let block = allocate_in(class);
        for index in (0..count).rev() {
            let kept = allocate_in(class);
            if kept.is_null() {
                // Keep what came, without a gap below it.
                let came = count - 1 - index;
                // SAFETY: `came` slots were written from `index + 1` on, and the stack has room for more.
                unsafe {
                    ptr::copy(stack.bottom.add(index + 1), stack.bottom, came);
                    stack.top = stack.bottom.add(came);
                }
                return block;
            }
            // SAFETY: at most half of the stack's room.
            unsafe { stack.bottom.add(index).write(kept) };
        }
        // SAFETY: as above.
        stack.top = unsafe { stack.bottom.add(count) };
        purge_above_soft_limit();
        block
    }
}

impl Stack {
    /// Let the oldest batch of blocks of a class go.
    fn give_batch(&mut self, class: usize) {
        let count = batch(class);
        // SAFETY: the stack holds at least so many, each live and known to nobody else.
        if unsafe { transfer::put(class, self.bottom, count) } {
            self.forget(count);
        } else {
            self.give_back(count);
        }
    }

    /// Give the `count` oldest blocks back to jemalloc.
    fn give_back(&mut self, count: usize) {
        for index in 0..count {
            // SAFETY: the stack holds at least `count` blocks, each live and known to nobody else.
            unsafe { release(self.bottom.add(index).read()) };
        }
        self.forget(count);
    }

    /// The `count` oldest blocks are not the thread's any more.
    fn forget(&mut self, count: usize) {
        let kept = self.len() - count;
        // SAFETY: what remains moves to the bottom.
        unsafe {
            ptr::copy(self.bottom.add(count), self.bottom, kept);
            self.top = self.bottom.add(kept);
        }
    }

    fn len(&self) -> usize {
        (self.top.addr() - self.bottom.addr()) / size_of::<*mut c_void>()
    }
}

/// `malloc` for a block that the thread does not keep.
///
/// # Safety
/// `cache` is NULL or the calling thread's.
#[unsafe(no_mangle)]
#[cold]
unsafe extern "C" fn gmem_heap_malloc(size: usize, cache: *mut ThreadCache) -> *mut c_void {
    let class = size_class::of_size(size);
    // SAFETY: the caller's promise.
    if let Some(cache) = unsafe { cache.as_mut() }
        && class != 0
        && cache.is_open()
    {
        let block = cache.fetch(class);
        if !block.is_null() {
            return block;
        }
    }
    let block = super::malloc(size);
    if !block.is_null() {
        return block;
    }
    // Memory is short: what the thread keeps may make room.
    // SAFETY: the caller's promise.
    unsafe { flush(cache) };
    super::malloc(size)
}

/// `free` for a block that the thread cannot keep, or does not know.
///
/// # Safety
/// `block` is NULL, a live block of this heap's or another allocator's; `cache` as above.
#[unsafe(no_mangle)]
#[cold]
unsafe extern "C" fn gmem_heap_free(block: *mut c_void, cache: *mut ThreadCache) {
    let class = page_map::class_of(block.addr());
    if class == 0 {
        // SAFETY: the caller's promise.
        return unsafe { release_foreign(block) };
    }
    // SAFETY: the caller's promise.
    if let Some(cache) = unsafe { cache.as_mut() }
        && cache.is_open()
    {
        let stack = &mut cache.stacks[usize::from(class)];
        if stack.top == stack.limit {
            stack.give_batch(usize::from(class));
        }
        // SAFETY: there is room now.
        unsafe {
            stack.top.write(block);
            stack.top = stack.top.add(1);
        }
        return;
    }
    // SAFETY: the caller's promise.
    unsafe { release(block) };
}

/// Give back what the calling thread keeps.
///
/// # Safety
/// `cache` is NULL or the calling thread's.
pub unsafe fn flush(cache: *mut ThreadCache) {
    // SAFETY: the caller's promise.
    if let Some(cache) = unsafe { cache.as_mut() } {
        for stack in &mut cache.stacks {
            stack.give_back(stack.len());
        }
    }
}

/// At the end of a thread.
unsafe extern "C" fn close(cache: *mut c_void) {
    let cache = cache.cast::<ThreadCache>();
    // SAFETY: what was armed: this thread's, which nobody looks at meanwhile.
    unsafe {
        for (class, stack) in (*cache).stacks.iter_mut().enumerate() {
            while stack.len() >= batch(class).max(1) {
                stack.give_batch(class);
            }
        }
        flush(cache);
        (*cache).stacks = ThreadCache::EMPTY.stacks;
        (*cache).phase = Phase::Closed;
    }
}

/// Make a cache one of a thread that has not begun.
///
/// # Safety
/// `cache` may be written, and nobody else looks at it.
pub unsafe fn reset(cache: *mut ThreadCache) {
    // The slots need no reset: what is above a stack's top is never read.
    // SAFETY: the caller's promise.
    unsafe {
        (*cache).stacks = ThreadCache::EMPTY.stacks;
        (*cache).last_region = usize::MAX;
        (*cache).phase = Phase::Fresh;
    }
}

// The C++ side counts on it.
const _: () = assert!(offset_of!(ThreadCache, stacks) == 0 && size_of::<Stack>() == 32);

#[cfg(test)]
mod tests {
    use super::size_class::MAX_KEPT;
    use super::*;

    fn take(cache: &mut ThreadCache, size: usize) -> *mut c_void {
        let class = usize::from(size_class::of_size(size));
        let stack = &mut cache.stacks[class];
        if class != 0 && stack.top != stack.bottom {
            // SAFETY: as the C++ side does it.
            unsafe {
                stack.top = stack.top.sub(1);
                return stack.top.read();
            }
        }
        // SAFETY: the cache is this thread's.
        unsafe { gmem_heap_malloc(size, cache) }
    }

    #[test]
    fn blocks_come_back_and_none_is_given_out_twice() {
        let mut cache = Box::new(ThreadCache::EMPTY);
        let mut live = std::collections::BTreeSet::new();
        for round in 0..3 {
            for size in [1, 16, 100, 1000, 4096, 9000, MAX_KEPT, MAX_KEPT + 1] {
                for _ in 0..300 {
                    let block = take(&mut cache, size);
                    assert!(!block.is_null() && live.insert(block.addr()), "{round} {size}");
                    // SAFETY: the block has so many bytes.
                    unsafe { block.cast::<u8>().write_bytes(0x5a, size) };
                }
            }
            for address in std::mem::take(&mut live) {
                // SAFETY: live, and not used again. (The stack may be full or not; the cold path does both.)
                unsafe {
                    gmem_heap_free(ptr::with_exposed_provenance_mut(address), &raw mut *cache)
                };
            }
        }
        for (class, stack) in cache.stacks.iter().enumerate() {
            assert!(stack.len() <= room(class));
        }
        // SAFETY: this thread's; the exit hook would come after the box has gone.
        unsafe {
            close((&raw mut *cache).cast());
            CLOSE.arm(ptr::null_mut());
        }
        assert!(cache.stacks.iter().all(|stack| stack.len() == 0));
    }
}
