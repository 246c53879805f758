//! Advice on ranges: `madvise(2)`.
//!
//! Callers pass ranges of memory that the program handed to the library; what the kernel refuses
//! comes back as an errno, so no argument can do more harm than the same call by the program.

use super::{SysResult, check, mapping};
use crate::page::PageRange;

/// linux/mman.h; the libc crate has no name for it.
const MADV_DONTNEED_LOCKED: libc::c_int = 24;

/// Populate page tables as if each page were written (Linux 5.14). Contents stay as they are.
pub fn populate_write(range: PageRange) -> SysResult<()> {
    retry(range, libc::MADV_POPULATE_WRITE)
}

/// Populate page tables as if each page were read (Linux 5.14).
pub fn populate_read(range: PageRange) -> SysResult<()> {
    retry(range, libc::MADV_POPULATE_READ)
}

/// Whether the kernel knows the two above.
pub fn can_populate() -> bool {
    is_known(libc::MADV_POPULATE_READ)
}

/// Whether the kernel knows [`drop_private_locked`].
pub fn can_drop_locked() -> bool {
    is_known(MADV_DONTNEED_LOCKED)
}

/// An empty range is fine with every advice that is known.
fn is_known(advice: libc::c_int) -> bool {
    advise(PageRange::new(0, 0), advice).is_ok()
}

/// Drop private memory: the next read gives zeros. `ENOMEM` for a hole, after dropping the rest;
/// `EINVAL` where part of it is locked.
///
/// The bytes are gone for everyone who still points at them; that is what the caller was asked for.
pub fn drop_private(range: PageRange) -> SysResult<()> {
    split_at_ends(range);
    advise(range, libc::MADV_DONTNEED)
}

/// The same for memory that may be locked (Linux 5.18); it stays locked, to be filled on touch.
pub fn drop_private_locked(range: PageRange) -> SysResult<()> {
    split_at_ends(range);
    advise(range, MADV_DONTNEED_LOCKED)
}

/// Split huge pages that lie in `range` in part. The kernel keeps the memory of such a part until it runs short, and
/// there are such pages only where the kernel's huge page is larger than a GMEM page.
fn split_at_ends(range: PageRange) {
    let (base, huge) = (mapping::base_page().bytes(), mapping::huge_page());
    if huge == mapping::gmem_page() || range.len() < base {
        return;
    }
    let first = PageRange::new(range.start(), range.start() + base);
    let last = PageRange::new(range.end() - base, range.end());
    for (end, page) in [(range.start(), first), (range.end(), last)] {
        if huge.floor(end) != end {
            // Advice about a part of a huge page splits it. A failure only delays the return of the memory.
            let _ = advise(page, libc::MADV_COLD);
        }
    }
}

/// Punch a hole into shared memory: the next read gives zeros, to everyone who maps it.
pub fn drop_shared(range: PageRange) -> SysResult<()> {
    advise(range, libc::MADV_REMOVE)
}

/// Prefer huge pages. A kernel without them refuses, and nothing is lost.
pub fn huge_pages(range: PageRange) {
    let _ = advise(range, libc::MADV_HUGEPAGE);
}

/// Take small pages, even where the kernel gives huge ones to everyone.
pub fn small_pages(range: PageRange) {
    let _ = advise(range, libc::MADV_NOHUGEPAGE);
}

/// Have each whole huge page in `range` made of the base pages there, and wait for it (Linux 6.1). Contents stay.
/// `EINVAL` where the mapping may not have any or nothing is there, `ENOMEM` and `EAGAIN` where none can be made now;
/// what comes before the first that fails is huge.
pub fn collapse(range: PageRange) -> SysResult<()> {
    advise(range, libc::MADV_COLLAPSE)
}

/// Whether the kernel knows the one above.
pub fn can_collapse() -> bool {
    collapse(PageRange::new(0, 0)).is_ok()
}

/// Begin to read pages of a file that will be wanted.
pub fn will_need(range: PageRange) {
    let _ = advise(range, libc::MADV_WILLNEED);
}

/// Populating is cut short by signals that do not end the process; what is there stays.
fn retry(range: PageRange, advice: libc::c_int) -> SysResult<()> {
    loop {
        match advise(range, advice) {
            Err(errno) if errno.0 == libc::EINTR || errno.0 == libc::EAGAIN => {}
            other => return other,
        }
    }
}

fn advise(range: PageRange, advice: libc::c_int) -> SysResult<()> {
    let start = std::ptr::with_exposed_provenance_mut(range.start());
    // SAFETY: none of the advice above makes memory invalid that is valid; dropping contents is
    // asked for by name by the owner of the range.
    check(unsafe { libc::madvise(start, range.len(), advice) })
}
