//! `GMEM_HARDEN=1`: a heap that finds more faults, at a cost in time and memory.
//!
//! - A seal in the last word of each block holds the size that was requested, and a canary fills the bytes between. `free`
//!   finds what was written behind the end.
//! - Freed blocks read as zeros. Blocks of at most [`MOST_QUARANTINED_BYTES`] wait in a quarantine, which they leave in random
//!   order and only if nobody has written to them.
//! - Large blocks have 64 KiB before and behind them that cannot be touched.
//!
//! No thread caches blocks ([`super::thread_cache`] stays closed), so all of them come here.

use std::ffi::{CStr, c_void};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use tikv_jemalloc_sys as je;

use super::size_class::{BYTES, UNCACHED};
use super::{LARGE, SMALLEST, arenas, corruption, device_blocks, idle, large, page_map, pages};
use super::{note, or_once_more, or_out_of_memory, release as release_plain};
use crate::config::{self, Answer, Setting};
use crate::os::{advice, env, mapping};
use crate::page::PageRange;

/// Read with the process's first block.
pub static HARDEN: Setting<bool> = Setting {
    name: c"GMEM_HARDEN",
    form: "`1` or `0`",
    default: "the value with which libgmem was configured (`LIBGMEM_HARDEN`), which is `0` unless changed",
    about: "`1` makes the heap find more misuse: canaries behind blocks, a quarantine for freed ones, guard pages around large \
            ones, zeros in freed memory. It costs time and memory.",
    parse: config::switch,
};

/// The default, set when the library was configured (`-DLIBGMEM_HARDEN`).
const DEFAULT: bool = match option_env!("GMEM_DEFAULT_HARDEN") {
    Some(value) => matches!(value.as_bytes(), b"1"),
    None => false,
};

/// Whether the heap is hardened. That never changes.
#[inline]
pub fn is_on() -> bool {
    static IS_ON: Answer = Answer::new();
    IS_ON.or_find(|| HARDEN.get().unwrap_or(DEFAULT))
}

/// Bytes of the largest block that waits in the quarantine.
const MOST_QUARANTINED_BYTES: usize = 8 << 10;
/// Blocks in the quarantine.
const QUARANTINE: usize = 1024;
/// Bytes of a seal.
const SEAL: usize = size_of::<usize>();
/// Bytes that cannot be touched at either end of a large block: the largest base page of any Linux.
const GUARD: usize = 64 << 10;
/// Most bytes of canary behind a block.
const MOST_CANARY: usize = 4096;

static WAITING: [AtomicPtr<c_void>; QUARANTINE] =
    [const { AtomicPtr::new(ptr::null_mut()) }; QUARANTINE];

const OVERRUN: &CStr = c"was written to behind its end";
const NO_SEAL: &CStr = c"was written to behind its end, or is no beginning of a block";
const USED_AFTER_FREE: &CStr = c"was written to after it was freed";
const TWICE: &CStr = c"is free already";
const NOT_LIVE: &CStr = c"is no live block";

// ---- seals ------------------------------------------------------------------------------------------------------

/// A block of jemalloc's and the bytes that it has.
#[derive(Clone, Copy)]
struct Block {
    start: NonNull<u8>,
    capacity: usize,
}

impl Block {
    /// The block that begins at `start`, which has a size class.
    fn of_class(start: *mut c_void, class: usize) -> Option<Self> {
        NonNull::new(start.cast()).map(|start| Self { start, capacity: BYTES[class] })
    }

    /// A block that jemalloc has given out.
    ///
    /// # Safety
    /// `start` is the beginning of a live block of jemalloc's.
    unsafe fn of_jemalloc(start: *mut c_void) -> Option<Self> {
        let first = NonNull::new(start.cast())?;
        // SAFETY: the caller promises a live block.
        Some(Self { start: first, capacity: unsafe { je::sallocx(start, 0) } })
    }

    /// Bytes that a program may use at most.
    fn room(self) -> usize {
        self.capacity - SEAL
    }

    fn seal(self) -> &'static AtomicUsize {
        // SAFETY: the word lies inside the block: capacities and addresses of blocks are multiples of 16. All threads use it
        // atomically, and programs do not know of it.
        unsafe { AtomicUsize::from_ptr(self.start.as_ptr().add(self.room()).cast()) }
    }

    /// The seal of a live block for which `size` bytes were requested.
    fn live(self, size: usize) -> usize {
        size ^ secret() ^ self.start.addr().get().wrapping_mul(SPREAD)
    }

    /// The seal of a freed block.
    fn freed(self) -> usize {
        !self.live(0)
    }

    /// The bytes requested, if the seal is that of a live block.
    fn requested(self) -> Option<usize> {
        let size = self.seal().load(Ordering::Relaxed) ^ self.live(0);
        (size <= self.room()).then_some(size)
    }

    /// Give the block out for `size` bytes.
    fn close(self, size: usize) -> *mut c_void {
        // SAFETY: the caller has the block to itself, and the canary lies before the seal.
        unsafe {
            self.start.add(size).write_bytes(canary(), (self.room() - size).min(MOST_CANARY));
        }
        self.seal().store(self.live(size), Ordering::Relaxed);
        self.start.as_ptr().cast()
    }

    /// What is wrong with a block that is about to be freed; the bytes requested if nothing is.
    fn check(self) -> Result<usize, &'static CStr> {
        if self.seal().load(Ordering::Relaxed) == self.freed() {
            return Err(TWICE);
        }
        let size = self.requested().ok_or(NO_SEAL)?;
        // SAFETY: the bytes lie inside the block, and programs do not know of them.
        let is_whole = unsafe {
            is_filled(self.start.add(size), (self.room() - size).min(MOST_CANARY), canary())
        };
        if is_whole { Ok(size) } else { Err(OVERRUN) }
    }

    /// Take a live block from its owner: it reads as zeros. False if another thread has freed it meanwhile.
    fn retire(self, size: usize) -> bool {
        let (live, freed) = (self.live(size), self.freed());
        let taken =
            self.seal().compare_exchange(live, freed, Ordering::Acquire, Ordering::Relaxed).is_ok();
        if taken {
            // SAFETY: the owner has given the block up, and the exchange happens once.
            unsafe { self.start.write_bytes(0, self.room()) };
        }
        taken
    }
}

/// Whether `count` bytes have a value.
///
/// # Safety
/// The bytes may be read.
unsafe fn is_filled(first: NonNull<u8>, count: usize, value: u8) -> bool {
    // SAFETY: the caller promises that the bytes may be read.
    let bytes = unsafe { std::slice::from_raw_parts(first.as_ptr(), count) };
    // Without a branch for each byte, so that the compiler compares many of them in one step.
    bytes
        .chunks(64)
        .all(|chunk| chunk.iter().fold(0, |differs, byte| differs | (byte ^ value)) == 0)
}

/// An odd number that distributes addresses over all bits.
const SPREAD: usize = 0x9e37_79b9_7f4a_7c15;

/// A random number of this program.
fn secret() -> usize {
    static SECRET: AtomicUsize = AtomicUsize::new(0);
    match SECRET.load(Ordering::Relaxed) {
        0 => {
            let secret = env::random_number().rotate_left(17) | 1;
            SECRET.store(secret, Ordering::Relaxed);
            secret
        }
        secret => secret,
    }
}

/// The byte behind blocks: not 0, which a string might write there.
fn canary() -> u8 {
    (secret() >> 24) as u8 | 1
}

/// A number that nobody can predict without the secret.
fn random() -> usize {
    static STEPS: AtomicUsize = AtomicUsize::new(0);
    let step = STEPS.fetch_add(SPREAD, Ordering::Relaxed).wrapping_add(secret());
    let mixed = (step ^ (step >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb) >> 31
}

// ---- blocks -----------------------------------------------------------------------------------------------------

/// A block of any size and alignment, which is a power of two. `zero` asks for zeros.
pub fn allocate(alignment: usize, size: usize, zero: bool) -> *mut c_void {
    let block = match size.checked_add(SEAL) {
        Some(bytes) if bytes < LARGE => allocate_sealed(alignment, size, zero),
        Some(_) => allocate_guarded(alignment, size, zero),
        None => ptr::null_mut(),
    };
    or_out_of_memory(block)
}

fn allocate_sealed(alignment: usize, size: usize, zero: bool) -> *mut c_void {
    let bytes = (size + SEAL).max(SMALLEST);
    let aligned = if alignment > SMALLEST { je::MALLOCX_ALIGN(alignment) } else { 0 };
    let flags = aligned | arenas::flags(bytes);
    // SAFETY: the size is not 0, and the alignment is a power of two.
    let start = note(or_once_more(bytes, || unsafe { je::mallocx(bytes, flags) }));
    // SAFETY: NULL, which has no class, or a block that jemalloc has just given out.
    let Some(Found::Sealed(block)) = (unsafe { find(start) }) else { return start };
    if zero {
        // SAFETY: the block has that many bytes and is nobody's yet.
        unsafe { block.start.write_bytes(0, size) };
    }
    block.close(size)
}

/// The bytes that a program may use in a live block of this heap, but not of a device; 0 for what is none.
///
/// # Safety
/// `start` lies on a page of the heap.
pub unsafe fn usable_size(start: *mut c_void) -> usize {
    // SAFETY: the caller promises a page of the heap.
    match unsafe { find(start) } {
        Some(Found::Sealed(block)) => block.requested().unwrap_or(0),
        Some(Found::Guarded(block)) => block.size,
        None => 0,
    }
}

/// A block by its address.
enum Found {
    Sealed(Block),
    Guarded(Guarded),
}

/// The block that begins at an address; `None` where none does, as far as the page map knows.
///
/// # Safety
/// `start` lies on a page of the heap.
unsafe fn find(start: *mut c_void) -> Option<Found> {
    match page_map::class_of(start.addr()) {
        0 => None,
        UNCACHED if is_guarded(start) => Guarded::of(start).map(Found::Guarded),
        // SAFETY: the page map has an entry for the block, which its release removes.
        UNCACHED => unsafe { Block::of_jemalloc(start) }.map(Found::Sealed),
        class => Block::of_class(start, class.into()).map(Found::Sealed),
    }
}

/// `free(3)` of a block with a size class.
///
/// # Safety
/// The caller gives up what begins at `start`, where the page map has that class.
pub unsafe fn release(start: *mut c_void, class: usize) {
    let Some(block) = Block::of_class(start, class) else { return };
    match block.check() {
        Err(fault) => corruption::report(start, class, fault),
        Ok(size) if !block.retire(size) => corruption::report(start, class, TWICE),
        Ok(_) if block.capacity <= MOST_QUARANTINED_BYTES => {
            let slot = &WAITING[random() % QUARANTINE];
            // SAFETY: the block came from the quarantine.
            unsafe { discharge(slot.swap(start, Ordering::AcqRel)) };
        }
        // SAFETY: the caller gives the block up, and the exchange above happens once.
        Ok(_) => unsafe { release_plain(start) },
    }
}

/// `free(3)` of a block that no size class has. The page map has ceased to list it.
///
/// # Safety
/// `start` was the beginning of such a block, which the caller gives up.
pub unsafe fn release_uncached(start: *mut c_void) {
    if is_guarded(start) {
        match Guarded::of(start) {
            // SAFETY: the caller gives the block up.
            Some(block) => unsafe { block.release() },
            None => corruption::report(start, 0, NO_SEAL),
        }
        return;
    }
    // SAFETY: the page map had an entry, which the caller has removed, so the block is live and nobody else frees it.
    let Some(block) = (unsafe { Block::of_jemalloc(start) }) else { return };
    match block.check() {
        Err(fault) => corruption::report(start, 0, fault),
        Ok(size) => {
            block.retire(size);
            // SAFETY: the caller gives the block up.
            unsafe { release_plain(start) };
        }
    }
}

/// Let a block leave the quarantine.
///
/// # Safety
/// `start` is NULL or came from the quarantine.
unsafe fn discharge(start: *mut c_void) {
    let class = usize::from(page_map::class_of(start.addr()));
    let Some(block) = Block::of_class(start, class) else { return };
    // SAFETY: nobody owns the block, so its bytes may be read.
    let is_untouched = unsafe { is_filled(block.start, block.room(), 0) };
    if is_untouched && block.seal().load(Ordering::Relaxed) == block.freed() {
        // SAFETY: the block left the quarantine, so nobody else has it.
        unsafe { release_plain(start) };
    } else {
        corruption::report(start, class, USED_AFTER_FREE);
    }
}

/// Let all blocks leave the quarantine.
pub fn empty_quarantine() {
    for slot in &WAITING {
        // SAFETY: the block came from the quarantine.
        unsafe { discharge(slot.swap(ptr::null_mut(), Ordering::AcqRel)) };
    }
}

/// `realloc(3)` of a block of this heap, but not of a device.
///
/// # Safety
/// `start` lies on a page of the heap and begins a live block. Nobody uses it afterwards unless the call returns NULL.
pub unsafe fn reallocate(start: *mut c_void, size: usize) -> *mut c_void {
    // SAFETY: the caller promises a page of the heap.
    let Some(found) = (unsafe { find(start) }) else {
        corruption::report(start, 0, NOT_LIVE);
        return or_out_of_memory(ptr::null_mut());
    };
    let old_size = match found {
        Found::Guarded(block) => block.size,
        Found::Sealed(block) => match block.check() {
            Ok(old_size) => old_size,
            Err(fault) => {
                corruption::report(start, page_map::class_of(start.addr()).into(), fault);
                return or_out_of_memory(ptr::null_mut());
            }
        },
    };
    let new = allocate(SMALLEST, size, false);
    if !new.is_null() {
        // SAFETY: both blocks are live and have that many bytes.
        unsafe { ptr::copy_nonoverlapping(start.cast::<u8>(), new.cast(), old_size.min(size)) };
        // SAFETY: the caller gives the old block up.
        unsafe { release_found(start) };
    }
    new
}

/// `free(3)` of a block that [`find`] has found.
///
/// # Safety
/// `start` begins a live block of this heap, but not of a device. The caller gives it up.
unsafe fn release_found(start: *mut c_void) {
    // SAFETY: the caller gives the block up; the page map lists each one without a size class once.
    unsafe {
        match page_map::class_of(start.addr()) {
            UNCACHED if page_map::exchange_class(start.addr(), UNCACHED, 0) => {
                release_uncached(start)
            }
            UNCACHED => corruption::report(start, 0, NOT_LIVE),
            class => release(start, class.into()),
        }
    }
}

// ---- large blocks -----------------------------------------------------------------------------------------------

/// A large block between two guards. Before the first one lies a page that describes the block:
///
/// ```text
/// allocation ... | description | guard | block, to the end of its last page | guard
/// ```
///
/// The last page of the first guard has an entry in the page map, which no other block can have: blocks with such an entry are larger
/// than a page.
#[derive(Clone, Copy)]
#[repr(C)]
struct Guarded {
    allocation: *mut c_void,
    start: *mut c_void,
    /// Bytes requested.
    size: usize,
    /// Combines the other fields with the secret.
    check: usize,
}

/// Whether a large block between guards begins at an address.
fn is_guarded(start: *mut c_void) -> bool {
    start
        .addr()
        .checked_sub(page_map::BASE_PAGE)
        .is_some_and(|before| page_map::class_of(before) == UNCACHED)
}

fn allocate_guarded(alignment: usize, size: usize, zero: bool) -> *mut c_void {
    let of_device = device_blocks::allocate(size, zero);
    if !of_device.is_null() {
        return of_device;
    }
    let page = mapping::base_page();
    let alignment = alignment.max(large::ALIGNMENT);
    let bytes = page.ceil(size).and_then(|length| length.checked_add(alignment + GUARD));
    let Some(bytes) = bytes else { return ptr::null_mut() };
    idle::note_large(bytes);
    let flags = je::MALLOCX_ALIGN(alignment) | if zero { je::MALLOCX_ZERO } else { 0 };
    // SAFETY: the size is not 0, and the alignment is a power of two.
    let attempt = || unsafe { je::mallocx(bytes, flags) };
    let allocation =
        or_once_more(bytes, || if zero { pages::with_zeros(attempt) } else { attempt() });
    if allocation.is_null() {
        return allocation;
    }
    let start = allocation.wrapping_byte_add(alignment);
    let block = Guarded { allocation, start, size, check: 0 };
    let block = Guarded { check: block.expected(), ..block };
    // Without guards, where the kernel has no room for more mappings, the canary is left.
    // SAFETY: both guards are part of the allocation, and nobody needs them.
    let _ = block.guards().map(|guard| unsafe { mapping::forbid(guard) });
    // SAFETY: the page before the guard is part of the allocation, which has `alignment` bytes before the block.
    unsafe { Guarded::description(start).write(block) };
    // SAFETY: the bytes lie between the block's end and the guard.
    unsafe { start.byte_add(size).cast::<u8>().write_bytes(canary(), block.slack()) };
    page_map::set_class(start.addr() - page_map::BASE_PAGE, UNCACHED);
    page_map::set_class(start.addr(), UNCACHED);
    super::purge_above_soft_limit();
    start
}

impl Guarded {
    fn description(start: *mut c_void) -> *mut Self {
        start.wrapping_byte_sub(GUARD + mapping::base_page().bytes()).cast()
    }

    /// The block that begins at an address before which there is a guard; `None` if its description is damaged.
    fn of(start: *mut c_void) -> Option<Self> {
        // SAFETY: the page map says that there is such a page.
        let block = unsafe { Self::description(start).read() };
        (block.start == start && block.check == block.expected()).then_some(block)
    }

    fn expected(&self) -> usize {
        (self.allocation.addr() ^ self.size).wrapping_mul(SPREAD) ^ secret()
    }

    fn length(&self) -> usize {
        mapping::base_page().ceil(self.size).unwrap_or(self.size)
    }

    /// Bytes of canary between the block and its guard.
    fn slack(&self) -> usize {
        (self.length() - self.size).min(MOST_CANARY)
    }

    fn guards(&self) -> [PageRange; 2] {
        let (start, end) = (self.start.addr(), self.start.addr() + self.length());
        [PageRange::new(start - GUARD, start), PageRange::new(end, end + GUARD)]
    }

    /// # Safety
    /// The caller gives the block up.
    unsafe fn release(self) {
        let Some(end) = NonNull::new(self.start.wrapping_byte_add(self.size).cast()) else {
            return;
        };
        // SAFETY: the bytes lie between the block's end and its guard.
        if !unsafe { is_filled(end, self.slack(), canary()) } {
            return corruption::report(self.start, 0, OVERRUN);
        }
        // The kernel splits mappings to forbid, so it can join them again.
        // SAFETY: the pages are the heap's.
        if !self.guards().iter().all(|guard| unsafe { mapping::permit(*guard) }.is_ok()) {
            // jemalloc would give the guard out. The block stays as it is, without memory.
            return self.discard();
        }
        self.discard();
        page_map::set_class(self.start.addr() - page_map::BASE_PAGE, 0);
        // SAFETY: the caller gives the block up.
        unsafe { release_plain(self.allocation) };
    }

    /// The next read gives zeros.
    fn discard(&self) {
        let range = PageRange::new(self.start.addr(), self.start.addr() + self.length());
        // SAFETY: the owner has given the block up.
        if unsafe { advice::drop_private(range) }.is_err() {
            // Locked memory stays.
            // SAFETY: the bytes are the block's.
            unsafe { self.start.cast::<u8>().write_bytes(0, self.length()) };
        }
    }
}
