//! Blocks that a thread caches: a stack of pointers per size class, in front of jemalloc. `malloc` pops one and `free`
//! pushes one in a few instructions (`cpp/thread_cache.hpp`). This file handles the rest: an empty or a full stack, and the
//! beginning and end of a thread. Batches of blocks go to other threads through [`transfer_cache`] if it has space.
//!
//! A stack begins with space for one batch. It grows when it overflows and has run empty before that: only then would more
//! space have helped. A thread that merely frees, or merely allocates, passes batches on. The space beyond the first batch comes
//! out of one budget for the process ([`budget`]). Once a second a thread looks for stacks that it no longer uses, and gives up
//! their blocks and their space.

use std::ffi::c_void;
use std::mem::offset_of;
use std::ptr;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use super::constants::STACK_BYTES;
use super::size_class::{self, BYTES, CLASSES, UNCACHED};
use super::{
    allocate_in, checked, corruption, hardened, idle, limits, page_map, purge_above_soft_limit, release,
    release_uncached, transfer_cache,
};
use crate::os::process;
use crate::os::thread::AtThreadExit;

/// One thread's stacks, which are empty and have no capacity until the cache is opened. The C++ side knows the fields before
/// `phase`.
#[repr(C, align(64))]
pub struct ThreadCache {
    stacks: [Stack; CLASSES],
    /// The C++ side's last look-up in the page map. No region has the number `usize::MAX`.
    last_region: usize,
    last_classes: *const AtomicU8,
    phase: Phase,
    /// [`idle::passes`] when the thread last looked for unused stacks.
    looked: usize,
    /// Bytes that the stacks have out of the budget.
    borrowed: usize,
    slots: [*mut c_void; ALL_SLOTS],
}

/// Grows upward from `bottom`.
#[repr(C)]
struct Stack {
    top: *mut *mut c_void,
    bottom: *mut *mut c_void,
    limit: *mut *mut c_void,
    /// Blocks to fetch next time; doubles each time, so that a thread gets as many as it uses.
    fetch: u16,
    /// Blocks in it when the thread last looked, plus 1; 0 if the stack was used since.
    seen: u16,
    /// [`size_class::MISALIGNED`].
    misaligned: u16,
    /// Whether it has run empty since it last grew.
    ran_empty: bool,
}

#[repr(u8)]
#[derive(PartialEq, Eq, Clone, Copy)]
enum Phase {
    /// Not opened yet.
    Fresh,
    Open,
    /// The cache is being opened, the thread is ending, or the heap is hardened: all blocks come from and go to jemalloc.
    Closed,
}

/// Most blocks of a class that a thread caches.
const fn capacity(class: usize) -> usize {
    match BYTES[class] {
        0 => 0,
        1..=1024 => 256,
        1025..=4096 => 128,
        4097..=8192 => 64,
        _ => 48,
    }
}

/// Blocks of a class that move between threads in one batch; a stack begins with space for as many.
pub const fn batch(class: usize) -> usize {
    match BYTES[class] {
        0 => 0,
        1..=1024 => 64,
        1025..=4096 => 32,
        4097..=8192 => 8,
        _ => 4,
    }
}

/// Bytes that all stacks together may have space for, beyond a batch each.
const BUDGET: usize = 32 << 20;

/// Bytes taken out of the budget.
static BORROWED: AtomicUsize = AtomicUsize::new(0);

/// The budget, less where the heap has a small hard limit: blocks that one thread caches are out of reach for the others.
fn budget() -> usize {
    match limits::get().1 {
        limits::NONE => BUDGET,
        hard => BUDGET.min(hard / 64),
    }
}

const ALL_SLOTS: usize = {
    let (mut class, mut sum) = (0, 0);
    while class < CLASSES {
        sum += capacity(class);
        class += 1;
    }
    sum
};

/// Gives a thread's blocks back when it ends.
static CLOSE: AtThreadExit = AtThreadExit::new(close);

impl ThreadCache {
    /// All zeros. [`reset`] makes it the cache of a thread.
    pub const EMPTY: Self = Self {
        stacks: [const {
            Stack {
                top: ptr::null_mut(),
                bottom: ptr::null_mut(),
                limit: ptr::null_mut(),
                fetch: 0,
                seen: 0,
                misaligned: 0,
                ran_empty: false,
            }
        }; CLASSES],
        last_region: 0,
        last_classes: ptr::null(),
        phase: Phase::Fresh,
        looked: 0,
        borrowed: 0,
        slots: [ptr::null_mut(); ALL_SLOTS],
    };

    /// Whether the stacks may be used; opens a fresh one.
    fn is_open(&mut self) -> bool {
        if self.phase == Phase::Fresh {
            // Both calls may allocate.
            self.phase = Phase::Closed;
            process::forks();
            // SAFETY: close() may be called with this cache, which stays where it is until the thread has ended.
            if !hardened::is_on() && unsafe { CLOSE.arm(ptr::from_mut(self).cast()) } {
                let mut first = self.slots.as_mut_ptr();
                for (class, stack) in self.stacks.iter_mut().enumerate() {
                    // SAFETY: there are as many slots as all classes have capacity for together.
                    let (limit, next) =
                        unsafe { (first.add(batch(class)), first.add(capacity(class))) };
                    *stack = Stack {
                        top: first,
                        bottom: first,
                        limit,
                        fetch: 1,
                        seen: 0,
                        misaligned: size_class::MISALIGNED[class] as u16,
                        ran_empty: false,
                    };
                    first = next;
                }
                self.phase = Phase::Open;
            }
        }
        self.phase == Phase::Open
    }

    /// Fill the empty stack of a class, and return one more block. Allocating may call back into this cache (the C library
    /// may allocate in jemalloc's calls), so the stack is whole before and after each call of jemalloc.
    fn fetch(&mut self, class: u8) -> *mut c_void {
        let owner = ptr::from_mut(self).cast::<c_void>();
        let index = usize::from(class);
        let most = batch(index);
        self.give_up_unused();
        let stack = &mut self.stacks[index];
        (stack.ran_empty, stack.seen) = (true, 0);
        // SAFETY: the stack is empty, and has space for a batch.
        if unsafe { transfer_cache::take(index, stack.bottom, most) } {
            for number in 0..most {
                // SAFETY: take() wrote `most` blocks, which are this thread's now.
                unsafe { stack.adopt(number, index, owner) };
            }
            // SAFETY: the stack holds `most` blocks, and `most` is not 0.
            unsafe {
                stack.top = stack.bottom.add(most);
                return stack.pop(index, owner);
            }
        }
        let count = usize::from(stack.fetch).min(most);
        stack.fetch = (count * 2).min(most) as u16;
        let mut fetched = [ptr::null_mut(); transfer_cache::BATCH];
        let mut came = 0;
        let block = allocate_in(class);
        while came < count && !block.is_null() {
            let next = allocate_in(class);
            if next.is_null() {
                break;
            }
            fetched[came] = next;
            came += 1;
        }
        // The block that came first is used first, so that memory is used from its beginning.
        let stack = &mut self.stacks[index];
        for block in fetched[..came].iter().rev() {
            if stack.top == stack.limit {
                // SAFETY: jemalloc has just given the block, and nobody else knows it.
                unsafe { release(*block) };
            } else {
                // SAFETY: the block is free, and the stack is not full.
                unsafe { stack.push(*block, index, owner) };
            }
        }
        purge_above_soft_limit();
        block
    }
}

impl ThreadCache {
    /// Make room in the full stack of a class.
    fn make_room(&mut self, class: usize) {
        self.give_up_unused();
        let stack = &mut self.stacks[class];
        stack.seen = 0;
        if stack.top != stack.limit {
            return;
        }
        let bytes = stack.space_to_gain(class) * BYTES[class];
        if stack.ran_empty
            && bytes > 0
            && BORROWED.fetch_add(bytes, Ordering::Relaxed) + bytes <= budget()
        {
            // SAFETY: the stack has that many more slots.
            stack.limit = unsafe { stack.limit.add(bytes / BYTES[class]) };
            stack.ran_empty = false;
            self.borrowed += bytes;
            return;
        }
        if stack.ran_empty && bytes > 0 {
            BORROWED.fetch_sub(bytes, Ordering::Relaxed);
        }
        stack.give_batch(class);
    }

    /// Once a second, give up the blocks of stacks that were not used for a second, and their space.
    fn give_up_unused(&mut self) {
        let passes = idle::passes();
        if self.looked == passes {
            return;
        }
        self.looked = passes;
        for (class, stack) in self.stacks.iter_mut().enumerate() {
            let len = stack.len();
            let before = std::mem::replace(&mut stack.seen, len as u16 + 1);
            if usize::from(before) != len + 1 {
                continue;
            }
            stack.give_back(class, len);
            let space = stack.space();
            if space > batch(class) && stack.len() == 0 {
                let bytes = (space - batch(class)) * BYTES[class];
                // SAFETY: the stack has at least that many slots, and is empty.
                stack.limit = unsafe { stack.bottom.add(batch(class)) };
                self.borrowed -= bytes;
                BORROWED.fetch_sub(bytes, Ordering::Relaxed);
            }
        }
    }
}

impl Stack {
    /// Blocks that it has space for.
    fn space(&self) -> usize {
        (self.limit.addr() - self.bottom.addr()) / size_of::<*mut c_void>()
    }

    /// Blocks by which it would grow next.
    fn space_to_gain(&self, class: usize) -> usize {
        self.space().min(capacity(class) - self.space())
    }

    /// Put a block on top.
    ///
    /// # Safety
    /// The stack is not full; the block is a free one of the class, and nobody else has it.
    unsafe fn push(&mut self, block: *mut c_void, class: usize, owner: *const c_void) {
        // SAFETY: the caller promises a free block that nobody else has.
        unsafe { checked::check_in(block, class, owner) };
        // SAFETY: the caller promises that the stack is not full, so `top` is below the limit.
        unsafe {
            self.top.write(block);
            self.top = self.top.add(1);
        }
    }

    /// Take the block on top.
    ///
    /// # Safety
    /// The stack is not empty.
    unsafe fn pop(&mut self, class: usize, owner: *const c_void) -> *mut c_void {
        // SAFETY: the caller promises that the stack is not empty, and each slot below `top` holds a cached block.
        unsafe {
            self.top = self.top.sub(1);
            let block = self.top.read();
            checked::check_out(block, class, owner);
            unmark(block);
            block
        }
    }

    /// Make a block that came from another thread's cache this cache's.
    ///
    /// # Safety
    /// The slot holds a block that left another cache in a batch, and that nobody else has.
    unsafe fn adopt(&mut self, number: usize, class: usize, owner: *const c_void) {
        if checked::IS_CHECKED {
            // SAFETY: the caller promises that the slot holds such a block.
            unsafe {
                let block = self.bottom.add(number).read();
                checked::check_out(block, class, ptr::null());
                checked::check_in(block, class, owner);
            }
        }
    }

    /// Let the oldest batch of blocks of a class go.
    fn give_batch(&mut self, class: usize) {
        let count = batch(class);
        // SAFETY: the stack holds at least `count` blocks, which are free, and which it forgets below.
        if unsafe { transfer_cache::put(class, self.bottom, count) } {
            self.forget(count);
        } else {
            self.give_back(class, count);
        }
    }

    /// Give the `count` oldest blocks back to jemalloc. Each leaves the stack first, because freeing may call back.
    fn give_back(&mut self, class: usize, count: usize) {
        let mut left = count;
        let mut blocks = [ptr::null_mut(); transfer_cache::BATCH];
        while left > 0 && self.len() > 0 {
            let now = left.min(blocks.len()).min(self.len());
            // SAFETY: the stack holds at least `now` blocks, and the array has space for as many.
            unsafe { ptr::copy_nonoverlapping(self.bottom, blocks.as_mut_ptr(), now) };
            self.forget(now);
            for block in &blocks[..now] {
                // SAFETY: the block was cached, and nobody else has it.
                unsafe {
                    checked::check_out(*block, class, ptr::null());
                    release(*block);
                }
            }
            left -= now;
        }
    }

    /// Remove the `count` oldest blocks.
    fn forget(&mut self, count: usize) {
        let kept = self.len() - count;
        // SAFETY: the stack holds `count + kept` blocks; the last `kept` of them move to the bottom.
        unsafe {
            ptr::copy(self.bottom.add(count), self.bottom, kept);
            self.top = self.bottom.add(kept);
        }
    }

    fn len(&self) -> usize {
        (self.top.addr() - self.bottom.addr()) / size_of::<*mut c_void>()
    }
}

/// Note in a cached block that it is free. A checked heap does so itself.
///
/// # Safety
/// The block is free, and nobody else has it.
unsafe fn mark(block: *mut c_void) {
    if !checked::IS_CHECKED {
        // SAFETY: the block has at least one word, which nobody uses.
        unsafe { block.cast::<usize>().write(corruption::mark_of(block)) };
    }
}

/// Remove what [`mark`] wrote, or what is left of an earlier use.
///
/// # Safety
/// The block is about to be given out, and nobody else has it.
pub unsafe fn unmark(block: *mut c_void) {
    if !checked::IS_CHECKED {
        // SAFETY: the block has at least one word, which nobody uses yet.
        unsafe { block.cast::<usize>().write(0) };
    }
}

/// `malloc` of a block that the thread has not cached.
///
/// # Safety
/// `cache` is NULL or the calling thread's.
#[unsafe(no_mangle)]
#[cold]
unsafe extern "C" fn gmem_heap_malloc(size: usize, cache: *mut ThreadCache) -> *mut c_void {
    let class = size_class::of_size(size);
    // SAFETY: the cache is NULL or the calling thread's, so nobody else uses it.
    if let Some(cache) = unsafe { cache.as_mut() }
        && class != 0
        && cache.is_open()
    {
        let block = cache.fetch(class);
        if !block.is_null() {
            // SAFETY: the block is the caller's, and nobody else has it.
            unsafe { unmark(block) };
            return block;
        }
    }
    let block = super::malloc(size);
    if !block.is_null() {
        return block;
    }
    // Memory is short: give back what the thread caches and try again.
    // SAFETY: the cache is NULL or the calling thread's.
    unsafe { flush(cache) };
    super::malloc(size)
}

/// `free` of a block for which the thread has no stack, or a full one.
///
/// # Safety
/// `block` is NULL, or a live block of this heap's or another allocator's; `cache` is NULL or the calling thread's.
#[unsafe(no_mangle)]
#[cold]
unsafe extern "C" fn gmem_heap_free(block: *mut c_void, cache: *mut ThreadCache) {
    let class = page_map::class_of(block.addr());
    if class == 0 || class == UNCACHED {
        // SAFETY: the caller promises NULL or a live block, which it gives up.
        return unsafe { release_uncached(block) };
    }
    let class = usize::from(class);
    // SAFETY: blocks of the class begin on this page.
    if let Some(fault) = unsafe { corruption::fault_of(block, class) } {
        return corruption::report(block, class, fault);
    }
    if hardened::is_on() {
        // SAFETY: the caller gives the block up, which has that class.
        return unsafe { hardened::release(block, class) };
    }
    // SAFETY: the cache is NULL or the calling thread's, so nobody else uses it.
    if let Some(cache) = unsafe { cache.as_mut() }
        && cache.is_open()
    {
        let owner = ptr::from_mut(cache).cast::<c_void>();
        cache.make_room(class);
        let stack = &mut cache.stacks[class];
        // SAFETY: the stack has space for another block, which the caller gives up.
        unsafe {
            stack.push(block, class, owner);
            mark(block);
        }
        return;
    }
    // SAFETY: blocks with a class are this heap's, and the caller gives this one up.
    unsafe { release(block) };
}

/// Give back what the calling thread caches.
///
/// # Safety
/// `cache` is NULL or the calling thread's.
pub unsafe fn flush(cache: *mut ThreadCache) {
    // SAFETY: the cache is NULL or the calling thread's, so nobody else uses it.
    if let Some(cache) = unsafe { cache.as_mut() } {
        for (class, stack) in cache.stacks.iter_mut().enumerate() {
            stack.give_back(class, stack.len());
        }
    }
}

/// Called when a thread ends.
unsafe extern "C" fn close(cache: *mut c_void) {
    let cache = cache.cast::<ThreadCache>();
    // SAFETY: is_open() armed this function with the ending thread's cache, which nobody else uses.
    unsafe {
        for (class, stack) in (*cache).stacks.iter_mut().enumerate() {
            while stack.len() >= batch(class).max(1) {
                stack.give_batch(class);
            }
        }
        flush(cache);
        BORROWED.fetch_sub((*cache).borrowed, Ordering::Relaxed);
        (*cache).borrowed = 0;
        (*cache).stacks = ThreadCache::EMPTY.stacks;
        (*cache).phase = Phase::Closed;
    }
}

/// Make a cache ready for a new thread.
///
/// # Safety
/// `cache` may be written, and nobody else uses it.
pub unsafe fn reset(cache: *mut ThreadCache) {
    // The slots need no reset: nobody reads above a stack's top.
    // SAFETY: the caller promises that nobody else uses the cache.
    unsafe {
        (*cache).stacks = ThreadCache::EMPTY.stacks;
        // A thread that was never closed left it behind.
        BORROWED.fetch_sub((*cache).borrowed, Ordering::Relaxed);
        (*cache).borrowed = 0;
        (*cache).last_region = usize::MAX;
        (*cache).phase = Phase::Fresh;
    }
}

// cpp/thread_cache.hpp asserts the same of its own declarations.
const _: () = assert!(size_of::<Stack>() == STACK_BYTES && offset_of!(Stack, limit) == 16);
const _: () = assert!(offset_of!(Stack, misaligned) == 28);
const _: () = assert!(offset_of!(ThreadCache, stacks) == 0);
const _: () = assert!(offset_of!(ThreadCache, last_region) == CLASSES * STACK_BYTES);
const _: () = assert!(offset_of!(ThreadCache, last_classes) == CLASSES * STACK_BYTES + 8);

#[cfg(test)]
mod tests {
    use super::size_class::MAX_CACHED;
    use super::*;

    fn take(cache: &mut ThreadCache, size: usize) -> *mut c_void {
        let class = usize::from(size_class::of_size(size));
        let owner = ptr::from_mut(cache).cast::<c_void>();
        let stack = &mut cache.stacks[class];
        if class != 0 && stack.top != stack.bottom {
            // SAFETY: the stack is not empty.
            return unsafe { stack.pop(class, owner) };
        }
        // SAFETY: the cache is this thread's.
        unsafe { gmem_heap_malloc(size, cache) }
    }

    #[test]
    fn blocks_come_back_and_none_is_given_out_twice() {
        let mut cache = Box::new(ThreadCache::EMPTY);
        let mut live = std::collections::BTreeSet::new();
        for round in 0..3 {
            for size in [1, 16, 100, 1000, 4096, 9000, MAX_CACHED, MAX_CACHED + 1] {
                for _ in 0..300 {
                    let block = take(&mut cache, size);
                    assert!(!block.is_null() && live.insert(block.addr()), "{round} {size}");
                    // SAFETY: the block has so many bytes.
                    unsafe { block.cast::<u8>().write_bytes(0x5a, size) };
                }
            }
            for address in std::mem::take(&mut live) {
                // SAFETY: the block is live, and not used again. The cold path serves full stacks and others.
                unsafe {
                    gmem_heap_free(ptr::with_exposed_provenance_mut(address), &raw mut *cache)
                };
            }
        }
        for (class, stack) in cache.stacks.iter().enumerate() {
            assert!(stack.len() <= capacity(class));
        }
        // SAFETY: this thread's; the exit hook would come after the box has gone.
        unsafe {
            close((&raw mut *cache).cast());
            CLOSE.arm(ptr::null_mut());
        }
        assert!(cache.stacks.iter().all(|stack| stack.len() == 0));
    }
}
