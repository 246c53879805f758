//! The heap's page source. jemalloc is compiled with its `mmap`, `munmap` and `madvise` renamed to
//! the three functions here (`.cargo/config.toml`), so all its memory comes from and goes through
//! this file, bootstrap and metadata included:
//!
//! - a fresh mapping of at least one GMEM page starts on a GMEM page and is advised to be huge;
//! - memory goes back in whole GMEM pages only, because dropping a part would split a huge page.
//!
//! They run inside `malloc`: no allocation, no panic, no lock; errno as jemalloc expects it.

use std::ffi::{c_char, c_int, c_void};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::error::Errno;
use crate::os::mapping::{self, Access};
use crate::os::{advice, errno, set_errno};
use crate::page::PageRange;

static MAPPED: AtomicUsize = AtomicUsize::new(0);
static RELEASED: AtomicUsize = AtomicUsize::new(0);

/// Bytes of address space mapped so far.
#[cfg_attr(not(test), allow(dead_code))]
pub fn mapped() -> usize {
    MAPPED.load(Ordering::Relaxed)
}

/// Bytes given back so far.
pub fn released() -> usize {
    RELEASED.load(Ordering::Relaxed)
}

/// jemalloc's `mmap`.
///
/// # Safety
/// As `mmap(2)`.
#[unsafe(no_mangle)]
unsafe extern "C" fn gmem_pages_mmap(
    addr: *mut c_void,
    length: usize,
    protection: c_int,
    flags: c_int,
    fd: c_int,
    offset: libc::off_t,
) -> *mut c_void {
    keep_quiet();
    let access = match protection {
        libc::PROT_NONE => Some(Access::None),
        protection if protection == libc::PROT_READ | libc::PROT_WRITE => Some(Access::ReadWrite),
        _ => None,
    };
    let anywhere = addr.is_null() && flags & libc::MAP_ANONYMOUS != 0;
    let page = mapping::gmem_page();
    match access {
        Some(access) if anywhere && length >= page.bytes() => {
            match mapping::map_aligned(length, page, access) {
                Ok(start) => {
                    MAPPED.fetch_add(length, Ordering::Relaxed);
                    start.as_ptr().cast()
                }
                Err(errno) => {
                    set_errno(errno);
                    libc::MAP_FAILED
                }
            }
        }
        // SAFETY: the caller's promise.
        _ => unsafe { mapping::map_as_asked(addr, length, protection, flags, fd, offset) },
    }
}

/// jemalloc would write its complaints to stderr; what fails is told by NULL and errno. It asks for pages
/// before it could have any complaint.
fn keep_quiet() {
    unsafe extern "C" fn say_nothing(_: *mut c_void, _: *const c_char) {}
    // SAFETY: a word that jemalloc reads and nobody else writes; each time the same value.
    unsafe { (&raw mut tikv_jemalloc_sys::malloc_message).write(Some(say_nothing)) };
}

/// jemalloc's `munmap`.
///
/// # Safety
/// As `munmap(2)`: nobody uses the range any more.
#[unsafe(no_mangle)]
unsafe extern "C" fn gmem_pages_munmap(addr: *mut c_void, length: usize) -> c_int {
    let Some(start) = std::ptr::NonNull::new(addr.cast()) else {
        return fail(Errno(libc::EINVAL));
    };
    mapping::unmap(start, length).map_or_else(fail, |()| 0)
}

/// jemalloc's `madvise`.
///
/// Where not all of a range is dropped the call fails, and jemalloc does not take the memory for
/// zeros; the whole pages inside are dropped nevertheless.
///
/// # Safety
/// As `madvise(2)`: with `MADV_DONTNEED` the range belongs to a free extent.
#[unsafe(no_mangle)]
unsafe extern "C" fn gmem_pages_madvise(addr: *mut c_void, length: usize, advice: c_int) -> c_int {
    let range = PageRange::new(addr.addr(), addr.addr().saturating_add(length));
    match advice {
        libc::MADV_DONTNEED | libc::MADV_FREE => {
            // free(3) leaves errno alone, and this may be the last call under it.
            let before = errno();
            let whole = range.inward(mapping::gmem_page());
            if whole.is_empty() {
                return -1;
            }
            let dropped = advice::drop_private(whole).is_ok();
            set_errno(before);
            if dropped {
                RELEASED.fetch_add(whole.len(), Ordering::Relaxed);
            }
            if dropped && whole == range { 0 } else { -1 }
        }
        libc::MADV_HUGEPAGE => {
            advice::huge_pages(range);
            0
        }
        // Splitting advice (NOHUGEPAGE) and what newer releases may ask for is not taken.
        _ => fail(Errno(libc::EINVAL)),
    }
}

fn fail(errno: Errno) -> c_int {
    set_errno(errno);
    -1
}
