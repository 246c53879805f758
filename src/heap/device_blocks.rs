//! Large blocks in the current device's own memory, which the processor uses as well: each is one mapping of the
//! device's. Ordinary memory takes their place where the device has none, is not there, or is host.
//!
//! How long a block is stands in the page map, at its first heap page. What is freed is kept for blocks of about the same
//! size: at most [`MAX_IDLE`] of them, and at most a quarter of what is live or [`SMALL_IDLE`] bytes.
//!
//! A forked child has none: what a device maps is not there, or not the same. Its blocks are not given back there.

use std::cell::Cell;
use std::ffi::c_void;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};

use super::page_map::{self, HEAP_PAGE};
use super::settings;
use crate::device;
use crate::os::mapping::Region;
use crate::os::{mapping, process};
use crate::page::PageRange;

/// Blocks kept for reuse, and the bytes of them that are kept whatever is live.
const MAX_IDLE: usize = 32;
const SMALL_IDLE: usize = 64 << 20;

/// What of the process's memory is the device's, for the statistics.
pub struct Totals {
    /// Bytes in live blocks.
    pub live: AtomicUsize,
    /// Bytes in blocks kept for reuse.
    pub idle: AtomicUsize,
    /// Blocks that the device had no memory for.
    pub refused: AtomicUsize,
}

/// The process's.
pub static TOTALS: Totals =
    Totals { live: AtomicUsize::new(0), idle: AtomicUsize::new(0), refused: AtomicUsize::new(0) };

/// Whether to ask which device is the current one: not before the first large block, and never again where it is clear
/// that the device is host.
#[unsafe(export_name = "gmem_heap_consult_device")]
static CONSULT: AtomicU8 = AtomicU8::new(UNKNOWN);
const UNKNOWN: u8 = 0;
/// Read by `cpp/thread_cache.hpp`, too.
const NO: u8 = 1;
const YES: u8 = 2;

/// Forks that lay behind the process when it first had a block of a device's, plus 1.
static PROCESS: AtomicU64 = AtomicU64::new(0);

/// Blocks kept for reuse, each as one number: see [`Idle`].
static IDLE: [AtomicU64; MAX_IDLE] = [const { AtomicU64::new(0) }; MAX_IDLE];

thread_local! {
    /// A device that maps memory allocates some itself.
    static ASKING: Cell<bool> = const { Cell::new(false) };
}

/// The current device was changed.
pub fn consult() {
    CONSULT.store(YES, Ordering::Relaxed);
}

/// A block of at least `size` bytes on a GMEM page; NULL where ordinary memory is to be taken.
pub(super) fn allocate(size: usize, zero: bool) -> *mut c_void {
    if size < settings::device_threshold() { ptr::null_mut() } else { allocate_any(size, zero) }
}

/// The same for any size.
pub(super) fn allocate_any(size: usize, zero: bool) -> *mut c_void {
    if !is_consulted() || ASKING.replace(true) {
        return ptr::null_mut();
    }
    let block = ask(size, zero);
    ASKING.set(false);
    block.map_or(ptr::null_mut(), |block| block.as_ptr().cast())
}

/// The current device is opened if it is not yet, since the program asks for its memory by name, which `malloc` does not.
pub(super) fn open() {
    if is_consulted() && !ASKING.replace(true) {
        // Where it fails, the first verb says why.
        let _ = device::current_index();
        ASKING.set(false);
    }
}

/// Index of the device whose memory small blocks may share, if one is to be asked now.
pub(super) fn for_small_blocks() -> Option<usize> {
    // A driver's function must not wait for who maps memory, which may wait for that function.
    if !is_consulted() || ASKING.get() || device::is_in_host_function() || !is_own_process() {
        return None;
    }
    let index = device::current_index_unopened().ok()?;
    device::by_index(index).memory()?.is_for_small_blocks().then_some(index)
}

/// Memory of a device's that stays the heap's for good, in whole heap pages; and whether it reads as zeros.
pub(super) fn map_for_small_blocks(index: usize, length: usize) -> Option<(NonNull<u8>, bool)> {
    let memory = device::by_index(index).memory()?;
    if ASKING.replace(true) {
        return None;
    }
    let region = memory.map(length);
    ASKING.set(false);
    let region = region.ok()?;
    let (start, range) = (region.start(), region.range());
    // A driver that has taken it from this heap itself has its own account of it.
    if page_map::is_owned(range.start()) || page_map::adopt(range).is_err() {
        let asking = ASKING.replace(true);
        memory.unmap(region);
        ASKING.set(asking);
        return None;
    }
    page_map::mark_device_arena(range);
    TOTALS.live.fetch_add(length, Ordering::Relaxed);
    Some((start, memory.is_zeroed()))
}

/// Whether a block of that size may come from a device, so that one which grows goes there.
pub(super) fn may_serve(size: usize) -> bool {
    is_consulted()
        && size >= settings::device_threshold()
        && !ASKING.get()
        && device::current_index_unopened()
            .is_ok_and(|index| device::by_index(index).memory().is_some())
}

fn is_consulted() -> bool {
    match CONSULT.load(Ordering::Relaxed) {
        UNKNOWN => {
            let answer = if settings::names_a_device() { YES } else { NO };
            // A change of the device that came in between wins.
            let _ = CONSULT.compare_exchange(UNKNOWN, answer, Ordering::Relaxed, Ordering::Relaxed);
            CONSULT.load(Ordering::Relaxed) == YES
        }
        answer => answer == YES,
    }
}

fn ask(size: usize, zero: bool) -> Option<NonNull<u8>> {
    let index = device::current_index_unopened().ok()?;
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
            // SAFETY: a block of the device's that nobody has.
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
    // A driver that has no memory but the process's has taken it from this heap.
    if !page_map::is_owned(address) && page_map::adopt(range).is_err() {
        memory.unmap(region);
        return None;
    }
    page_map::set_class(address, 0);
    page_map::mark_device_block(address, index, length);
    TOTALS.live.fetch_add(length, Ordering::Relaxed);
    if zero && !memory.is_zeroed() {
        // SAFETY: a block of the device's that nobody has.
        unsafe { start.write_bytes(0, length) };
    }
    Some(start)
}

/// Whether this is the process that has the blocks, not a child of it.
fn is_own_process() -> bool {
    let own = process::forks() + 1;
    match PROCESS.compare_exchange(0, own, Ordering::Relaxed, Ordering::Relaxed) {
        Ok(_) => true,
        Err(known) => known == own,
    }
}

/// Bytes of a block, if it is a device's.
pub(super) fn length_of(block: *mut c_void) -> Option<usize> {
    if PROCESS.load(Ordering::Relaxed) == 0 {
        return None;
    }
    page_map::device_block(block.addr()).map(|(_, length)| length)
}

/// Free a block if it is a device's; false if it is not.
///
/// # Safety
/// A live block of the heap's, dead afterwards if it is a device's.
pub(super) unsafe fn release(block: *mut c_void) -> bool {
    if PROCESS.load(Ordering::Relaxed) == 0 {
        return false;
    }
    let Some((index, length)) = page_map::device_block(block.addr()) else { return false };
    TOTALS.live.fetch_sub(length, Ordering::Relaxed);
    if is_own_process() {
        let idle = Idle { start: block.addr(), length, index };
        if !keep(idle) {
            // SAFETY: the block is dead.
            unsafe { unmap(idle) };
        }
    }
    true
}

/// Give back what is kept. Returns the bytes.
pub(super) fn purge() -> usize {
    if PROCESS.load(Ordering::Relaxed) == 0 || !is_own_process() {
        return 0;
    }
    let mut bytes = 0;
    for slot in &IDLE {
        if let Some(idle) = Idle::from_number(slot.swap(0, Ordering::AcqRel)) {
            bytes += idle.length;
            TOTALS.idle.fetch_sub(idle.length, Ordering::Relaxed);
            // SAFETY: taken out of the list, so that nobody else has it.
            unsafe { unmap(idle) };
        }
    }
    bytes
}

/// A freed block, in memory of the device with that index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Idle {
    start: usize,
    length: usize,
    index: usize,
}

impl Idle {
    const START_BITS: u32 = 27;
    const INDEX_BITS: u32 = 5;

    /// Never 0: a block has at least one heap page.
    fn to_number(self) -> u64 {
        let pages = (self.length / HEAP_PAGE) as u64;
        let start = (self.start / HEAP_PAGE) as u64;
        (pages << Self::INDEX_BITS | self.index as u64) << Self::START_BITS | start
    }

    fn from_number(number: u64) -> Option<Self> {
        let bits = |shift: u32, count: u32| (number >> shift & ((1 << count) - 1)) as usize;
        (number != 0).then(|| Self {
            start: bits(0, Self::START_BITS) * HEAP_PAGE,
            index: bits(Self::START_BITS, Self::INDEX_BITS),
            length: (number >> (Self::START_BITS + Self::INDEX_BITS)) as usize * HEAP_PAGE,
        })
    }
}

/// One that has room for `length` bytes and not more than an eighth beyond.
fn take_idle(index: usize, length: usize) -> Option<Idle> {
    IDLE.iter().find_map(|slot| {
        let number = slot.load(Ordering::Acquire);
        let idle = Idle::from_number(number)?;
        let fits = idle.index == index && (length..=length + length / 8).contains(&idle.length);
        let taken =
            fits && slot.compare_exchange(number, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        taken.then(|| {
            TOTALS.idle.fetch_sub(idle.length, Ordering::Relaxed);
            idle
        })
    })
}

fn keep(idle: Idle) -> bool {
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

/// # Safety
/// Nobody has the block any more.
unsafe fn unmap(idle: Idle) {
    let Some(memory) = device::by_index(idle.index).memory() else { return };
    page_map::abandon_device_block(PageRange::new(idle.start, idle.start + idle.length));
    if let Some(start) = NonNull::new(ptr::with_exposed_provenance_mut(idle.start)) {
        let asking = ASKING.replace(true);
        // SAFETY: what `map` gave; the caller's promise.
        memory.unmap(unsafe { Region::new(start, idle.length) });
        ASKING.set(asking);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_block_is_one_number() {
        let idle = Idle { start: 0x7fff_ffe0_0000, length: 5 << 30, index: 31 };
        assert_eq!(Idle::from_number(idle.to_number()), Some(idle));
        assert_eq!(Idle::from_number(0), None);
    }
}
