//! Large blocks in the current device's own memory, which the processor can use as well. Each block is one mapping made by
//! the device. Where the device has no memory left, is not open, or is host, the heap uses ordinary memory instead. A device that was chosen rather than named serves
//! `gmem_device_alloc` only.
//!
//! The page map keeps a block's length at its first heap page. Freed blocks are kept for later requests of about the same
//! size: at most [`MAX_IDLE`] blocks, and at most [`SMALL_IDLE`] bytes or a quarter of what is live.
//!
//! A forked child has none of this memory: a device's mapping is absent there, or differs. The child neither uses nor
//! releases its parent's blocks.

use std::cell::Cell;
use std::ffi::c_void;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};

use super::page_map;
use super::page_run::PageRun;
use super::size_class::UNCACHED;
use super::{constants, settings};
use crate::device;
use crate::os::mapping::Region;
use crate::os::{mapping, process};
use crate::page::PageRange;

/// Most freed blocks that are kept for reuse.
const MAX_IDLE: usize = 32;
/// Bytes of freed blocks that are kept however little is live.
const SMALL_IDLE: usize = 64 << 20;

/// Counters for the statistics.
pub struct Totals {
    /// Bytes in live blocks.
    pub live: AtomicUsize,
    /// Bytes in blocks kept for reuse.
    pub idle: AtomicUsize,
    /// Blocks that the device had no memory for.
    pub refused: AtomicUsize,
}

/// The process's device memory.
pub static TOTALS: Totals =
    Totals { live: AtomicUsize::new(0), idle: AtomicUsize::new(0), refused: AtomicUsize::new(0) };

/// The use that the heap makes of the current device's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum DeviceUse {
    /// None, because the device has no memory of its own.
    None = constants::NO_DEVICE as u8,
    /// For large blocks of `malloc` and blocks of `gmem_device_alloc`, because the device was named.
    Malloc = 2,
    /// For blocks of `gmem_device_alloc` only, because the device is chosen. A program that nobody configured for a device
    /// may fork, and a child does not have its parent's device memory.
    OnRequest = 3,
}

/// A [`DeviceUse`], or [`UNKNOWN`] until the first large block or the first `gmem_device_alloc`. If it is `None`, nobody looks
/// again until the program changes the device. Read by `cpp/heap.cpp`.
#[unsafe(export_name = "gmem_heap_may_have_device_memory")]
static MAY_HAVE_DEVICE_MEMORY: AtomicU8 = AtomicU8::new(UNKNOWN);
const UNKNOWN: u8 = 0;

/// Number of forks before the process got its first device block, plus 1; 0 while no process has any.
static PROCESS: AtomicU64 = AtomicU64::new(0);

/// Freed blocks kept for reuse, each a [`PageRun`].
static IDLE: [AtomicU64; MAX_IDLE] = [const { AtomicU64::new(0) }; MAX_IDLE];

thread_local! {
    /// This thread is inside the device's code, which may allocate: such blocks are ordinary.
    static IN_DEVICE: Cell<bool> = const { Cell::new(false) };
}

/// The program named another device, or had one chosen.
pub fn device_changed(is_named: bool) {
    let new = if is_named { DeviceUse::Malloc } else { DeviceUse::OnRequest };
    MAY_HAVE_DEVICE_MEMORY.store(new as u8, Ordering::Relaxed);
}

/// A block of `malloc` with at least `size` bytes, on a GMEM page; NULL where the caller has to use ordinary memory.
pub(super) fn allocate(size: usize, zero: bool) -> *mut c_void {
    if size < settings::device_threshold() || !serves_malloc() {
        return ptr::null_mut();
    }
    // Not known_index(): a concurrent gmemSetDevice("auto") may have changed the device to a chosen one.
    device::named_index().map_or(ptr::null_mut(), |index| allocate_on(index, size, zero))
}

/// A block of `gmem_device_alloc`, of any size, on a GMEM page; NULL where the caller has to use ordinary memory.
pub(super) fn allocate_on_request(size: usize) -> *mut c_void {
    if device_use() == DeviceUse::None {
        return ptr::null_mut();
    }
    device::known_index().map_or(ptr::null_mut(), |index| allocate_on(index, size, false))
}

fn allocate_on(index: usize, size: usize, zero: bool) -> *mut c_void {
    let block = outside_the_heap(|| take_or_map(index, size, zero)).flatten();
    block.map_or(ptr::null_mut(), |block| block.as_ptr().cast())
}

/// Open the current device, or choose it, if that has not been done: the program asks for its memory, which `malloc` does not.
pub(super) fn open() {
    let before = device_use();
    if before == DeviceUse::None {
        return;
    }
    // The first verb reports why a device does not open.
    let opened = outside_the_heap(|| device::current_index().ok()).flatten();
    let is_without_memory = |index| device::by_index(index).memory().is_none();
    if before == DeviceUse::OnRequest && opened.is_some_and(is_without_memory) {
        // A concurrent change of the device wins.
        let (old, new) = (DeviceUse::OnRequest as u8, DeviceUse::None as u8);
        let _ =
            MAY_HAVE_DEVICE_MEMORY.compare_exchange(old, new, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// Index of the current device if small blocks may share a page of its memory and this thread may ask for it now.
pub(super) fn for_small_blocks() -> Option<usize> {
    // A host function on the driver's thread must not wait for a thread that maps memory: that one may wait for it.
    if device_use() == DeviceUse::None
        || IN_DEVICE.get()
        || device::is_in_host_function()
        || !is_own_process()
    {
        return None;
    }
    let index = device::known_index()?;
    device::by_index(index).memory()?.is_for_small_blocks().then_some(index)
}

/// Map whole heap pages of a device's memory for small blocks; also returns whether they read as zeros. Calls the driver,
/// so the caller holds no lock of the heap.
pub(super) fn map_for_small_blocks(index: usize, length: usize) -> Option<(Region, bool)> {
    let memory = device::by_index(index).memory()?;
    let region = outside_the_heap(|| memory.map(length))?.ok()?;
    // A driver that took its memory from this heap accounts for it itself.
    if page_map::is_owned(region.range().start()) || page_map::adopt(region.range()).is_err() {
        outside_the_heap(|| memory.unmap(region));
        return None;
    }
    page_map::mark_device_arena(region.range());
    TOTALS.live.fetch_add(length, Ordering::Relaxed);
    Some((region, memory.is_zeroed()))
}

/// Undo [`map_for_small_blocks`] for memory that no arena has seen.
pub(super) fn unmap_for_small_blocks(index: usize, region: Region) {
    let Some(memory) = device::by_index(index).memory() else { return };
    TOTALS.live.fetch_sub(region.range().len(), Ordering::Relaxed);
    page_map::abandon(region.range());
    outside_the_heap(|| memory.unmap(region));
}

/// Call into a device, which may allocate; what it allocates is ordinary. `None` if the thread is inside one already.
fn outside_the_heap<T>(call: impl FnOnce() -> T) -> Option<T> {
    if IN_DEVICE.replace(true) {
        return None;
    }
    let outcome = call();
    IN_DEVICE.set(false);
    Some(outcome)
}

/// Whether a block of `malloc` of that size may come from a device, so that a growing block moves there.
pub(super) fn may_serve(size: usize) -> bool {
    serves_malloc()
        && size >= settings::device_threshold()
        && !IN_DEVICE.get()
        && device::named_index().is_some_and(|index| device::by_index(index).memory().is_some())
}

fn serves_malloc() -> bool {
    device_use() == DeviceUse::Malloc
}

fn device_use() -> DeviceUse {
    let mut known = MAY_HAVE_DEVICE_MEMORY.load(Ordering::Relaxed);
    if known == UNKNOWN {
        let first = settings::device_use() as u8;
        // A concurrent change of the device wins.
        known = match MAY_HAVE_DEVICE_MEMORY.compare_exchange(
            UNKNOWN,
            first,
            Ordering::Relaxed,
            Ordering::Relaxed,
        ) {
            Ok(_) => first,
            Err(changed) => changed,
        };
    }
    [DeviceUse::Malloc, DeviceUse::OnRequest]
        .into_iter()
        .find(|of| *of as u8 == known)
        .unwrap_or(DeviceUse::None)
}

fn take_or_map(index: usize, size: usize, zero: bool) -> Option<NonNull<u8>> {
    let memory = device::by_index(index).memory()?;
    let length = mapping::gmem_page().ceil(size)?;
    if !is_own_process() {
        return None;
    }
    if let Some(idle) = take_idle(index, length) {
        TOTALS.live.fetch_add(idle.length, Ordering::Relaxed);
        let start = NonNull::new(ptr::with_exposed_provenance_mut::<u8>(idle.start))?;
        page_map::mark_device_block(idle.start, index, idle.length);
        if zero {
            // SAFETY: take_idle() gave this block to the calling thread alone, and it has `idle.length` bytes.
            unsafe { start.write_bytes(0, idle.length) };
        }
        return Some(start);
    }
    let Ok(region) = memory.map(length) else {
        TOTALS.refused.fetch_add(1, Ordering::Relaxed);
        return None;
    };
    let (start, range) = (region.start(), region.range());
    let address = range.start();
    // A driver without memory of its own has taken the block from this heap.
    if !page_map::is_owned(address) && page_map::adopt(range).is_err() {
        memory.unmap(region);
        return None;
    }
    // A driver that took the block from this heap frees it here later, as the large block that it is.
    if page_map::class_of(address) != UNCACHED {
        page_map::set_class(address, 0);
    }
    page_map::mark_device_block(address, index, length);
    TOTALS.live.fetch_add(length, Ordering::Relaxed);
    if zero && !memory.is_zeroed() {
        // SAFETY: the device mapped `length` bytes just now, and only this thread knows them.
        unsafe { start.write_bytes(0, length) };
    }
    Some(start)
}

/// Whether this process got the device's blocks, and is not a forked child of the one that did.
pub(super) fn is_own_process() -> bool {
    let own = process::forks() + 1;
    match PROCESS.compare_exchange(0, own, Ordering::Relaxed, Ordering::Relaxed) {
        Ok(_) => true,
        Err(known) => known == own,
    }
}

/// Bytes of a block in a device's memory; `None` for any other block.
pub(super) fn length_of(block: *mut c_void) -> Option<usize> {
    if PROCESS.load(Ordering::Relaxed) == 0 {
        return None;
    }
    page_map::device_block(block.addr()).map(|(_, length)| length)
}

/// Free a block in a device's memory; false if it is no such block.
///
/// # Safety
/// `block` is a live block of this heap. If it lies in a device's memory, nobody uses it afterwards.
pub(super) unsafe fn release(block: *mut c_void) -> bool {
    if PROCESS.load(Ordering::Relaxed) == 0 {
        return false;
    }
    let Some((index, length)) = page_map::device_block(block.addr()) else { return false };
    TOTALS.live.fetch_sub(length, Ordering::Relaxed);
    if is_own_process() {
        let idle = PageRun { start: block.addr(), length, device: index };
        if !keep(idle) {
            // SAFETY: the caller gave the block up, and the list of idle blocks does not have it.
            unsafe { unmap(idle) };
        }
    }
    true
}

/// Give the idle blocks back to their devices. Returns the bytes.
pub(super) fn purge() -> usize {
    if PROCESS.load(Ordering::Relaxed) == 0 || !is_own_process() {
        return 0;
    }
    let mut bytes = 0;
    for slot in &IDLE {
        if let Some(idle) = PageRun::from_number(slot.swap(0, Ordering::AcqRel)) {
            bytes += idle.length;
            TOTALS.idle.fetch_sub(idle.length, Ordering::Relaxed);
            // SAFETY: the swap took the block out of the list, so nobody else has it.
            unsafe { unmap(idle) };
        }
    }
    bytes
}

/// An idle block with room for `length` bytes, and at most an eighth more.
fn take_idle(device: usize, length: usize) -> Option<PageRun> {
    IDLE.iter().find_map(|slot| {
        let number = slot.load(Ordering::Acquire);
        let idle = PageRun::from_number(number)?;
        let fits = idle.device == device && (length..=length + length / 8).contains(&idle.length);
        let taken =
            fits && slot.compare_exchange(number, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        taken.then(|| {
            TOTALS.idle.fetch_sub(idle.length, Ordering::Relaxed);
            idle
        })
    })
}

fn keep(idle: PageRun) -> bool {
    let most = (TOTALS.live.load(Ordering::Relaxed) / 4).max(SMALL_IDLE);
    let before = TOTALS.idle.fetch_add(idle.length, Ordering::Relaxed);
    let kept = before + idle.length <= most
        && IDLE.iter().any(|slot| {
            let number = idle.to_number();
            slot.compare_exchange(0, number, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        });
    if !kept {
        TOTALS.idle.fetch_sub(idle.length, Ordering::Relaxed);
    }
    kept
}

/// Unmap a block through its device.
///
/// # Safety
/// The block is dead, and nobody else will unmap or reuse it.
unsafe fn unmap(idle: PageRun) {
    let Some(memory) = device::by_index(idle.device).memory() else { return };
    page_map::abandon_device_block(PageRange::new(idle.start, idle.start + idle.length));
    if let Some(start) = NonNull::new(ptr::with_exposed_provenance_mut(idle.start)) {
        // SAFETY: the device mapped these bytes as one region, and the caller promises that nobody else has them.
        let region = unsafe { Region::new(start, idle.length) };
        // The thread may be inside the device's code already, which frees a block.
        let before = IN_DEVICE.replace(true);
        memory.unmap(region);
        IN_DEVICE.set(before);
    }
}
