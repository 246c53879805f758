//! Advice on ranges: `madvise(2)`.
//!
//! Advice that keeps the contents is safe for any range: the kernel refuses what does not fit, with an errno. Advice that
//! drops contents is `unsafe`.

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

/// Whether the kernel knows `MADV_POPULATE_READ` and `_WRITE`.
pub fn can_populate() -> bool {
    is_known(libc::MADV_POPULATE_READ)
}

/// Whether the kernel knows [`drop_private_locked`].
pub fn can_drop_locked() -> bool {
    is_known(MADV_DONTNEED_LOCKED)
}

/// Every advice that the kernel knows succeeds for an empty range.
fn is_known(advice: libc::c_int) -> bool {
    advise(PageRange::new(0, 0), advice).is_ok()
}

/// Drop private memory: the next read gives zeros. `ENOMEM` if there is a hole, after the rest was dropped; `EINVAL` if part
/// of the range is locked.
///
/// # Safety
/// The owner of the memory has given up its contents: no value in it is used again before it is written.
pub unsafe fn drop_private(range: PageRange) -> SysResult<()> {
    split_at_ends(range);
    advise(range, libc::MADV_DONTNEED)
}

/// Drop private memory that may be locked (Linux 5.18). It stays locked; a page comes back when it is touched.
///
/// # Safety
/// The owner of the memory has given up its contents: no value in it is used again before it is written.
pub unsafe fn drop_private_locked(range: PageRange) -> SysResult<()> {
    split_at_ends(range);
    advise(range, MADV_DONTNEED_LOCKED)
}

/// Split huge pages that lie in `range` in part: the kernel would keep the memory of such a part until it runs short. There are
/// such pages only where the kernel's huge page is larger than a GMEM page.
fn split_at_ends(range: PageRange) {
    let (base, huge) = (mapping::base_page().bytes(), mapping::huge_page());
    if huge == mapping::gmem_page() || range.len() < base {
        return;
    }
    let first = PageRange::new(range.start(), range.start() + base);
    let last = PageRange::new(range.end() - base, range.end());
    for (end, page) in [(range.start(), first), (range.end(), last)] {
        if huge.floor(end) != end {
            split(page);
        }
    }
}

/// Split the huge page that holds a base page, so that parts of it can go back to the kernel. Until then the kernel keeps parts
/// that were dropped, and counts them in the control group, although they are not resident.
pub fn split(base_page: PageRange) {
    // Advice about a part of a huge page splits it. A failure only delays the return of the memory.
    let _ = advise(base_page, libc::MADV_COLD);
}

/// Punch a hole into shared memory: the next read gives zeros to every process that maps it.
///
/// # Safety
/// The owners of the memory, in all processes, have given up its contents: no value in it is used again before it is
/// written.
pub unsafe fn drop_shared(range: PageRange) -> SysResult<()> {
    advise(range, libc::MADV_REMOVE)
}

/// Prefer huge pages. A kernel that has none refuses, which does no harm.
pub fn huge_pages(range: PageRange) {
    let _ = advise(range, libc::MADV_HUGEPAGE);
}

/// Use base pages, even if the kernel gives huge ones to all memory.
pub fn small_pages(range: PageRange) {
    let _ = advise(range, libc::MADV_NOHUGEPAGE);
}

/// Turn the base pages in `range` into huge pages, and wait until that is done (Linux 6.1). Contents stay. `EINVAL` if the
/// mapping cannot have huge pages or nothing is in memory; `ENOMEM` or `EAGAIN` if no huge page is available now. The
/// pages before the first failure are huge.
pub fn collapse(range: PageRange) -> SysResult<()> {
    advise(range, libc::MADV_COLLAPSE)
}

/// Whether the kernel knows [`collapse`].
pub fn can_collapse() -> bool {
    collapse(PageRange::new(0, 0)).is_ok()
}

/// Start reading pages of a file that will be needed soon.
pub fn will_need(range: PageRange) {
    let _ = advise(range, libc::MADV_WILLNEED);
}

/// Repeats advice that a signal interrupted; what is populated by then stays.
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
    // SAFETY: no advice used here unmaps memory or changes its protection. Contents are dropped only by the functions
    // above that require their caller to own them.
    check(unsafe { libc::madvise(start, range.len(), advice) })
}
