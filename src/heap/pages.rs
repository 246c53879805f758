//! The heap's page source. jemalloc is compiled with its `mmap`, `munmap`, `madvise`, `sbrk` and `sysconf` renamed to
//! the functions here (`.cargo/config.toml`), so all its memory comes from and goes through
//! this file, bootstrap and metadata included. jemalloc believes that the kernel does not overcommit
//! (`cpp/jemalloc`), and so says of each piece of memory when it begins to use it and when it has no use for
//! it. [`page_map`] keeps the account of that, and gives heap pages back when nothing of them is in use.
//!
//! They run inside `malloc`: no allocation, no panic, no lock; errno as jemalloc expects it.

use std::ffi::{c_char, c_int, c_long, c_void};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering, fence};

use super::page_map::{self, HEAP_PAGE, TOTALS};
use super::{NARENAS, limits, settings};
use crate::error::Errno;
use crate::os::{SysResult, advice, errno, machine, mapping, set_errno};
use crate::page::{PageRange, PageSize};

/// A heap that stays below lies on small pages, but for its large blocks: a program that only says hello is
/// not to pay for huge pages, even where the kernel gives them to everyone.
const SMALL_HEAP: usize = 16 << 20;

/// Whether the heap has outgrown [`SMALL_HEAP`].
static IS_HUGE: AtomicBool = AtomicBool::new(false);

/// jemalloc's `mmap`: fresh memory, or with `MAP_FIXED` the use of a part of it begins or ends.
///
/// # Safety
/// As `mmap(2)`, by jemalloc: with `MAP_FIXED` the range is part of an extent of its own.
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
        // A wish for an address; jemalloc can do without.
        (false, false) => Err(Errno(libc::ENOMEM)),
    };
    outcome.unwrap_or_else(|errno| {
        set_errno(errno);
        libc::MAP_FAILED
    })
}

/// jemalloc's `munmap`, for what it trims off a fresh mapping.
///
/// # Safety
/// As `munmap(2)`: nobody uses the range, which ends where a heap page or its mapping does.
#[unsafe(no_mangle)]
unsafe extern "C" fn gmem_pages_munmap(addr: *mut c_void, length: usize) -> c_int {
    let (Some(start), Some(end)) = (
        heap_page().ceil(addr.addr()),
        addr.addr().checked_add(length).and_then(|end| heap_page().ceil(end)),
    ) else {
        return fail(Errno(libc::EINVAL));
    };
    let range = PageRange::new(start, end);
    let Some(first) = NonNull::new(addr.cast::<u8>().with_addr(start)) else {
        return fail(Errno(libc::EINVAL));
    };
    if range.is_empty() {
        return 0;
    }
    page_map::abandon(range);
    // SAFETY: jemalloc owns the range and does not use it afterwards, as munmap(2) demands of its caller.
    unsafe { mapping::unmap(first, range.len()) }.map_or_else(fail, |()| 0)
}

/// jemalloc's `madvise`: advice that splits huge pages, or gives back parts of them, is not taken. In a build
/// by Cargo alone, without the header in `cpp/jemalloc`, whole heap pages go back here.
///
/// # Safety
/// As `madvise(2)`: with `MADV_DONTNEED` the range belongs to a free extent.
#[unsafe(no_mangle)]
unsafe extern "C" fn gmem_pages_madvise(addr: *mut c_void, length: usize, advice: c_int) -> c_int {
    let range = PageRange::new(addr.addr(), addr.addr().saturating_add(length));
    if advice != libc::MADV_DONTNEED {
        return fail(Errno(libc::EINVAL));
    }
    let before = errno();
    let whole = range.inward(heap_page());
    // SAFETY: the range belongs to a free extent of jemalloc, whose contents nobody uses.
    let dropped = !whole.is_empty() && unsafe { advice::drop_private(whole).is_ok() };
    // free(3) leaves errno alone, and this may be the last call under it.
    set_errno(before);
    if dropped {
        TOTALS.dropped.fetch_add(whole.len(), Ordering::Relaxed);
    }
    // Where anything stayed, jemalloc must not take the memory for zeros.
    if dropped && whole == range { 0 } else { -1 }
}

/// jemalloc's `sbrk`: there is none, whatever its settings say.
#[unsafe(no_mangle)]
extern "C" fn gmem_pages_sbrk(_increment: isize) -> *mut c_void {
    set_errno(Errno(libc::ENOMEM));
    libc::MAP_FAILED
}

/// jemalloc's `sysconf`: its pages are 4 KiB, even where the kernel's are larger. It need not know those, because
/// memory comes and goes in whole heap pages only.
#[unsafe(no_mangle)]
extern "C" fn gmem_pages_sysconf(name: c_int) -> c_long {
    match name {
        libc::_SC_PAGESIZE => page_map::BASE_PAGE as c_long,
        _ => machine::configuration(name),
    }
}

/// Fresh heap pages for `length` bytes.
fn map(length: usize, is_used: bool) -> SysResult<*mut c_void> {
    keep_quiet();
    keep_addresses();
    settings::read_once();
    ARENA_RESERVE.fill();
    if !is_used && !limits::has_room(length) {
        // jemalloc then asks for no more than it needs.
        return Err(Errno(libc::ENOMEM));
    }
    let used = if is_used { length } else { 0 };
    let padded = heap_page().ceil(length).ok_or(Errno(libc::ENOMEM))?;
    match map_pages(padded, used) {
        Err(errno) if used == HEAP_PAGE => ARENA_RESERVE.take().ok_or(errno),
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

/// Heap pages for jemalloc's arenas: it makes one for some of the first threads, with one heap page for its data,
/// and 5.3.1 does not survive a thread for which it could not. Address space only.
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
        for (index, place) in self.0.iter().enumerate() {
            place.store(start.wrapping_byte_add(index * HEAP_PAGE), Ordering::Release);
        }
    }

    fn take(&self) -> Option<*mut c_void> {
        let page = self.0.iter().find_map(|place| {
            let page = place.swap(ptr::null_mut(), Ordering::AcqRel);
            (!page.is_null()).then_some(page)
        })?;
        TOTALS.in_use.fetch_add(HEAP_PAGE, Ordering::Relaxed);
        page_map::put_in_use(PageRange::new(page.addr(), page.addr() + HEAP_PAGE));
        Some(page)
    }
}

/// Make a fresh mapping the heap's, and take a part of it into use.
fn adopt(range: PageRange, used: PageRange) -> SysResult<()> {
    page_map::adopt(range)?;
    // Pairs with the fence in `begin_use`: either this thread sees that the heap is huge, or that one sees the pages.
    fence(Ordering::SeqCst);
    if IS_HUGE.load(Ordering::Relaxed) {
        page_map::advise_huge(range);
    } else {
        advice::small_pages(range);
    }
    begin_use(used)
}

/// jemalloc takes memory into use: for blocks, and for what it keeps of them for a while.
fn begin_use(range: PageRange) -> SysResult<()> {
    let in_use = limits::admit(range.len())?;
    page_map::put_in_use(range);
    if in_use > SMALL_HEAP && !IS_HUGE.swap(true, Ordering::Relaxed) {
        fence(Ordering::SeqCst);
        page_map::each_run(page_map::advise_huge);
    }
    Ok(())
}

fn end_use(range: PageRange) {
    let before = errno();
    TOTALS.in_use.fetch_sub(range.len(), Ordering::Relaxed);
    page_map::put_out_of_use(range);
    set_errno(before);
}

/// jemalloc would write its complaints to stderr; what fails is told by NULL and errno. Called before jemalloc
/// could have anything to say.
pub fn keep_quiet() {
    unsafe extern "C" fn say_nothing(_: *mut c_void, _: *const c_char) {}
    // SAFETY: a word that jemalloc reads and nobody else writes; each time the same value.
    unsafe { (&raw mut tikv_jemalloc_sys::malloc_message).write(Some(say_nothing)) };
}

/// jemalloc is to keep the addresses that it has (`retain`), whatever its settings say: `munmap` is there for fresh
/// mappings only. Called when it has read them, and before it looks.
fn keep_addresses() {
    unsafe extern "C" {
        #[link_name = "_rjem_je_opt_retain"]
        static mut OPT_RETAIN: bool;
    }
    // SAFETY: as in `keep_quiet`.
    unsafe { (&raw mut OPT_RETAIN).write(true) };
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
