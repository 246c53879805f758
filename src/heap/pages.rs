//! The heap's page source. jemalloc is compiled with its `mmap`, `munmap`, `madvise`, `sbrk` and `sysconf` renamed to the
//! functions here (`.cargo/config.toml`), so all its memory, bootstrap and metadata included, passes through this file.
//! jemalloc believes that the kernel does not overcommit (`cpp/jemalloc`), and therefore announces each range that it
//! begins or ceases to use. [`page_map`] accounts for that. Heap pages in which nothing is in use stay resident until
//! [`super::idle`] has them dropped. jemalloc takes them for zeros, so they are cleared when it wants zeros ([`with_zeros`]).
//!
//! These functions run inside `malloc` with jemalloc's locks held: they do not allocate, panic, lock or call a driver, and
//! they set errno as jemalloc expects.

use std::cell::Cell;
use std::ffi::{c_char, c_int, c_long, c_void};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering, fence};

use super::checked::IS_CHECKED;
use super::page_map::{self, BASE_PAGE, HEAP_PAGE, TOTALS};
use super::{NARENAS, arenas, idle, limits, own_data, settings};
use crate::error::Errno;
use crate::os::{SysResult, advice, errno, machine, mapping, set_errno};
use crate::page::{PageRange, PageSize};

/// A heap below this size lies on small pages, except for its large blocks. Every huge page that is used in part costs 2 MiB, which
/// is much of a small heap.
const SMALL_HEAP: usize = 64 << 20;

/// Whether the heap has outgrown [`SMALL_HEAP`].
static IS_HUGE: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// The hard limit refused this thread memory that jemalloc has addresses for. jemalloc's next step is to ask for more
    /// addresses, which would not help and would not be found again.
    static WAS_REFUSED: Cell<bool> = const { Cell::new(false) };
    /// jemalloc was refused addresses on this thread. What it asks for next are not its own data: without addresses it asks for
    /// the memory that a block needs.
    static HAS_NO_ADDRESSES: Cell<bool> = const { Cell::new(false) };
    /// The thread has asked jemalloc for zeros.
    static WANTS_ZEROS: Cell<bool> = const { Cell::new(false) };
    /// jemalloc has given this thread a block, so it has an arena.
    static HAS_ARENA: Cell<bool> = const { Cell::new(false) };
}

/// jemalloc has given the calling thread a block.
pub fn note_arena() {
    HAS_ARENA.set(true);
}

/// Call a function in which jemalloc is asked for zeros. Elsewhere memory that was used before comes into use as it is.
pub fn with_zeros<T>(call: impl FnOnce() -> T) -> T {
    let before = WANTS_ZEROS.replace(true);
    let result = call();
    WANTS_ZEROS.set(before);
    result
}

/// jemalloc's `mmap`: fresh memory, or with `MAP_FIXED` the use of a part of it begins or ends.
///
/// # Safety
/// Called by jemalloc alone. With `MAP_FIXED` the range is part of an extent that the calling thread has to itself.
#[unsafe(no_mangle)]
unsafe extern "C" fn gmem_pages_mmap(
    addr: *mut c_void,
    length: usize,
    protection: c_int,
    flags: c_int,
    _fd: c_int,
    _offset: libc::off_t,
) -> *mut c_void {
    let is_used = protection != libc::PROT_NONE;
    let range = PageRange::new(addr.addr(), addr.addr().saturating_add(length));
    let outcome = match (addr.is_null(), flags & libc::MAP_FIXED != 0) {
        (true, _) => map(length, is_used),
        (false, true) if is_used => begin_use(range).map(|()| {
            // A large block, even of a small heap.
            page_map::advise_huge(range);
            addr
        }),
        (false, true) => {
            end_use(range);
            Ok(addr)
        }
        // jemalloc would like a certain address, and can do without.
        (false, false) => Err(Errno(libc::ENOMEM)),
    };
    outcome.unwrap_or_else(|errno| {
        set_errno(errno);
        libc::MAP_FAILED
    })
}

/// jemalloc's `munmap`, for what it trims off a fresh mapping. Whole heap pages are unmapped. The rest stays: its heap page
/// holds other memory, or will (see [`Rest`]).
///
/// # Safety
/// Nobody uses the range, which is a mapping, or begins where one begins or ends where one ends.
#[unsafe(no_mangle)]
unsafe extern "C" fn gmem_pages_munmap(addr: *mut c_void, length: usize) -> c_int {
    let (Some(start), Some(end)) = (
        heap_page().ceil(addr.addr()),
        addr.addr().checked_add(length).and_then(|end| heap_page().ceil(end)),
    ) else {
        return fail(Errno(libc::EINVAL));
    };
    let is_whole = length >= HEAP_PAGE && start < end;
    let rest_end = if is_whole { start } else { addr.addr() + length };
    let rest = PageRange::new(addr.addr(), rest_end);
    let before = errno();
    let used = page_map::put_used_out_of_use(rest);
    TOTALS.in_use.fetch_sub(used, Ordering::Relaxed);
    set_errno(before);
    let Some(first) = NonNull::new(addr.cast::<u8>().with_addr(start)).filter(|_| is_whole) else {
        return 0;
    };
    page_map::abandon(PageRange::new(start, end));
    // SAFETY: jemalloc owns the range and does not use it afterwards, as munmap(2) demands of its caller.
    unsafe { mapping::unmap(first, end - start) }.map_or_else(fail, |()| 0)
}

/// jemalloc's `madvise`: advice that would take huge pages apart is refused. In a build by Cargo alone, without the header
/// in `cpp/jemalloc`, whole heap pages go back to the kernel here.
///
/// # Safety
/// With `MADV_DONTNEED` the range belongs to a free extent.
#[unsafe(no_mangle)]
unsafe extern "C" fn gmem_pages_madvise(addr: *mut c_void, length: usize, advice: c_int) -> c_int {
    let range = PageRange::new(addr.addr(), addr.addr().saturating_add(length));
    if advice != libc::MADV_DONTNEED {
        return fail(Errno(libc::EINVAL));
    }
    let before = errno();
    let whole = range.inward(heap_page());
    // SAFETY: the range belongs to a free extent of jemalloc, whose contents nobody uses.
    let dropped = !whole.is_empty() && unsafe { advice::drop_private(whole) }.is_ok();
    // free(3) leaves errno alone, and this may be the last call under it.
    set_errno(before);
    if dropped {
        TOTALS.dropped.fetch_add(whole.len(), Ordering::Relaxed);
    }
    // Where anything stayed, jemalloc must not take the memory for zeros.
    if dropped && whole == range { 0 } else { -1 }
}

/// jemalloc's `sysconf`: its pages have 4 KiB, whatever the kernel's have, because memory goes back as whole heap pages; and the
/// number of processors decides how many arenas it makes.
#[unsafe(no_mangle)]
extern "C" fn gmem_pages_sysconf(name: c_int) -> c_long {
    if name == libc::_SC_PAGESIZE {
        trust_madvise();
        return BASE_PAGE as c_long;
    }
    if name == libc::_SC_NPROCESSORS_ONLN {
        return arenas::processors_for_jemalloc() as c_long;
    }
    machine::configuration(name)
}

/// jemalloc's `sbrk`: it always fails, whatever jemalloc's settings say.
#[unsafe(no_mangle)]
extern "C" fn gmem_pages_sbrk(_increment: isize) -> *mut c_void {
    set_errno(Errno(libc::ENOMEM));
    libc::MAP_FAILED
}

/// Fresh heap pages for `length` bytes.
fn map(length: usize, is_used: bool) -> SysResult<*mut c_void> {
    keep_quiet();
    keep_addresses();
    settings::read_once();
    ARENA_RESERVE.fill();
    if !is_used {
        let addresses = match WAS_REFUSED.get() {
            true => Err(Errno(libc::ENOMEM)),
            false => {
                let padded = heap_page().ceil(length).ok_or(Errno(libc::ENOMEM));
                padded.and_then(|padded| map_pages(padded, 0))
            }
        };
        HAS_NO_ADDRESSES.set(addresses.is_err());
        return addresses;
    }
    WAS_REFUSED.set(false);
    let is_own_data = !HAS_NO_ADDRESSES.replace(false) && length.is_multiple_of(HEAP_PAGE);
    while !limits::has_space(length) {
        if page_map::drop_kept(length) > 0 || page_map::await_drops() || own_data::look() {
            continue;
        }
        limits::count_refusal();
        return ARENA_RESERVE.take(length).ok_or(Errno(libc::ENOMEM));
    }
    if let Some(start) = REST.take(length) {
        begin_use(PageRange::new(start, start + length))?;
        return Ok(ptr::with_exposed_provenance_mut(start));
    }
    let padded = heap_page().ceil(length).ok_or(Errno(libc::ENOMEM))?;
    match map_pages(padded, length) {
        Err(errno) => ARENA_RESERVE.take(length).ok_or(errno),
        Ok(start) if length < HEAP_PAGE => {
            REST.keep(start.addr() + length, HEAP_PAGE - length);
            Ok(start)
        }
        Ok(start) if is_own_data => {
            own_data::note(start.addr(), length);
            Ok(start)
        }
        other => other,
    }
}

/// Map whole heap pages, of which the first `used` bytes are in use.
fn map_pages(length: usize, used: usize) -> SysResult<*mut c_void> {
    let start = mapping::map_aligned(length, heap_page())?;
    let first = start.as_ptr().expose_provenance();
    let range = PageRange::new(first, first + length);
    adopt(range, PageRange::new(first, first + used)).inspect_err(|_| {
        page_map::abandon(range);
        // SAFETY: mapped above, and its address was given to nobody.
        let _ = unsafe { mapping::unmap(start, length) };
    })?;
    Ok(start.as_ptr().cast())
}

/// The rest of a heap page whose beginning jemalloc got: it asks for less than a heap page where it is refused more, as at
/// a hard limit, and would take a heap page for each slab of small blocks.
struct Rest(AtomicU64);

static REST: Rest = Rest(AtomicU64::new(0));

impl Rest {
    /// Start and length lie on base pages, and the length is less than a heap page: both fit into one number.
    const LENGTH_BITS: u32 = HEAP_PAGE.ilog2() - BASE_PAGE.ilog2();

    fn number(start: usize, length: usize) -> u64 {
        let (start, length) = ((start / BASE_PAGE) as u64, (length / BASE_PAGE) as u64);
        if length == 0 { 0 } else { start << Self::LENGTH_BITS | length }
    }

    fn start_and_length(number: u64) -> (usize, usize) {
        let length = number & ((1 << Self::LENGTH_BITS) - 1);
        ((number >> Self::LENGTH_BITS) as usize * BASE_PAGE, length as usize * BASE_PAGE)
    }

    /// Take `length` bytes.
    fn take(&self, length: usize) -> Option<usize> {
        let before = self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, |number| {
            let (start, left) = Self::start_and_length(number);
            (length <= left).then(|| Self::number(start + length, left - length))
        });
        before.ok().map(|number| Self::start_and_length(number).0)
    }

    /// Keep `length` bytes, unless more are kept already. What is not kept costs addresses, no memory.
    fn keep(&self, start: usize, length: usize) {
        let _ = self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, |number| {
            (length > Self::start_and_length(number).1).then(|| Self::number(start, length))
        });
    }
}

/// Heap pages for jemalloc's arenas. jemalloc creates an arena for some of the first threads, with one heap page for its
/// data, and 5.3.1 does not survive a failure to do so. This is address space only. The hard limit does not apply to it.
struct ArenaReserve([AtomicPtr<c_void>; NARENAS - 1]);

static ARENA_RESERVE: ArenaReserve =
    ArenaReserve([const { AtomicPtr::new(ptr::null_mut()) }; NARENAS - 1]);

impl ArenaReserve {
    /// With the heap's first pages.
    fn fill(&self) {
        static FILLED: AtomicBool = AtomicBool::new(false);
        if FILLED.load(Ordering::Relaxed) || FILLED.swap(true, Ordering::Relaxed) {
            return;
        }
        let Ok(start) = map_pages(self.0.len() * HEAP_PAGE, 0) else {
            return FILLED.store(false, Ordering::Relaxed);
        };
        for (index, slot) in self.0.iter().enumerate() {
            slot.store(start.wrapping_byte_add(index * HEAP_PAGE), Ordering::Release);
        }
    }

    /// A page for a thread that has no arena yet, if `length` is what jemalloc asks for then.
    fn take(&self, length: usize) -> Option<*mut c_void> {
        if length != HEAP_PAGE || HAS_ARENA.get() {
            return None;
        }
        let page = self.0.iter().find_map(|slot| {
            let page = slot.swap(ptr::null_mut(), Ordering::AcqRel);
            (!page.is_null()).then_some(page)
        })?;
        TOTALS.in_use.fetch_add(HEAP_PAGE, Ordering::Relaxed);
        let range = PageRange::new(page.addr(), page.addr() + HEAP_PAGE);
        page_map::enter(range);
        page_map::begin_use(range, false);
        own_data::note(range.start(), HEAP_PAGE);
        Some(page)
    }
}

/// Make a fresh mapping the heap's, and begin to use a part of it.
fn adopt(range: PageRange, used: PageRange) -> SysResult<()> {
    page_map::adopt(range)?;
    // Either this thread sees that the heap has become huge, or the thread that made it so sees these pages.
    fence(Ordering::SeqCst);
    let is_huge = IS_HUGE.load(Ordering::Relaxed) && limits::has_space_for_huge_pages();
    if is_huge && machine::has_huge_gmem_pages() {
        page_map::advise_huge(range);
    } else {
        advice::small_pages(range);
    }
    begin_use(used)
}

/// jemalloc begins to use memory: for blocks, for idle memory that it keeps for a while, and for its own data.
fn begin_use(range: PageRange) -> SysResult<()> {
    // From here on nothing of the range goes back to the kernel, so what is missing stays the same.
    page_map::enter(range);
    let missing = if limits::is_hard() { page_map::missing_charge(range) } else { 0 };
    while let Err(errno) = limits::admit(range.len(), missing) {
        if page_map::drop_kept(missing) == 0 && !page_map::await_drops() && !own_data::look() {
            limits::count_refusal();
            WAS_REFUSED.set(true);
            page_map::put_out_of_use(range);
            return Err(errno);
        }
    }
    page_map::move_kept_to(range);
    if let Err(errno) = page_map::fill_holes(range) {
        limits::withdraw(range.len(), missing);
        page_map::put_out_of_use(range);
        return Err(errno);
    }
    // jemalloc asserts in a checked build that fresh memory is zero; here it may have been moved from elsewhere.
    page_map::begin_use(range, WANTS_ZEROS.get() || zeroes_everything() || IS_CHECKED);
    // From here on the page map has charged what was only reserved.
    limits::end_reservation(missing);
    idle::note_use();
    if TOTALS.in_use.load(Ordering::Relaxed) > SMALL_HEAP
        && !IS_HUGE.load(Ordering::Relaxed)
        && limits::has_space_for_huge_pages()
        && !IS_HUGE.swap(true, Ordering::SeqCst)
    {
        page_map::each_run(page_map::advise_huge);
    }
    Ok(())
}

fn end_use(range: PageRange) {
    let before = errno();
    page_map::put_out_of_use(range);
    // Last, so that nobody counts on memory that has not gone back yet.
    TOTALS.in_use.fetch_sub(range.len(), Ordering::Relaxed);
    set_errno(before);
}

/// Keep jemalloc from writing complaints to stderr: NULL and errno report what fails. Called before jemalloc can have
/// anything to say. In a checked build its assertions do say what is wrong.
pub fn keep_quiet() {
    unsafe extern "C" fn say_nothing(_: *mut c_void, _: *const c_char) {}
    if IS_CHECKED {
        return;
    }
    let say_nothing: unsafe extern "C" fn(*mut c_void, *const c_char) = say_nothing;
    let hook = (&raw mut tikv_jemalloc_sys::malloc_message).cast();
    // SAFETY: the variable is an aligned pointer to a function that lives as long as the library, and threads write it
    // here alone, atomically and with the same value each time. jemalloc reads it as one word.
    unsafe { AtomicPtr::from_ptr(hook) }.store(say_nothing as *mut c_void, Ordering::Relaxed);
}

unsafe extern "C" {
    #[link_name = "_rjem_je_opt_retain"]
    static mut OPT_RETAIN: bool;
    #[link_name = "_rjem_je_opt_trust_madvise"]
    static mut OPT_TRUST_MADVISE: bool;
    #[link_name = "_rjem_je_opt_zero"]
    static mut OPT_ZERO: bool;
}

/// Whether jemalloc's settings (`zero:true`) ask for zeros in all blocks.
fn zeroes_everything() -> bool {
    // SAFETY: jemalloc's variable is one aligned byte, and jemalloc writes it while it reads its settings, before it asks for
    // memory.
    unsafe { AtomicBool::from_ptr(&raw mut OPT_ZERO) }.load(Ordering::Relaxed)
}

/// Have jemalloc keep its addresses (`retain`), whatever its settings say: `munmap` here is for fresh mappings only.
/// Called when jemalloc has read its settings, and before it looks.
fn keep_addresses() {
    // SAFETY: jemalloc's variable is one aligned byte. Threads write it here alone, atomically and with the same value
    // each time; jemalloc reads it as one byte.
    unsafe { AtomicBool::from_ptr(&raw mut OPT_RETAIN) }.store(true, Ordering::Relaxed);
}

/// Keep jemalloc from testing MADV_DONTNEED on a fresh mapping (`trust_madvise`): it writes to the mapping even if there
/// is none. Called when jemalloc has read its settings, and before it looks.
fn trust_madvise() {
    // SAFETY: jemalloc's variable is one aligned byte. Threads write it here alone, atomically and with the same value
    // each time; jemalloc reads it as one byte.
    unsafe { AtomicBool::from_ptr(&raw mut OPT_TRUST_MADVISE) }.store(true, Ordering::Relaxed);
}

const fn heap_page() -> PageSize {
    match PageSize::new(HEAP_PAGE) {
        Some(page) => page,
        None => unreachable!(),
    }
}

fn fail(errno: Errno) -> c_int {
    set_errno(errno);
    -1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_of_a_page_is_given_out_once() {
        let rest = Rest(AtomicU64::new(0));
        assert_eq!(rest.take(BASE_PAGE), None);
        let start = 0x7fff_ffe0_0000 + BASE_PAGE;
        rest.keep(start, HEAP_PAGE - BASE_PAGE);
        assert_eq!(rest.take(5 * BASE_PAGE), Some(start));
        // The smaller rest does not displace the larger one.
        rest.keep(HEAP_PAGE, BASE_PAGE);
        assert_eq!(rest.take(HEAP_PAGE - 6 * BASE_PAGE), Some(start + 5 * BASE_PAGE));
        assert_eq!(rest.take(BASE_PAGE), None);
    }
}
