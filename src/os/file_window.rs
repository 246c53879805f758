//! Addresses that show a file, and in which parts of it can be replaced by memory that holds the same bytes.
//!
//! A replacement is atomic to every thread that reads: `mremap(2)` and `mmap(2)` with fixed addresses take the old pages out
//! and put the new ones in under one lock, so a read finds either the file's page or the copy.

use std::ptr;

use super::common_memory::CommonMemory;
use super::direct_io::LargeFile;
use super::mapping::{self, Region};
use super::{SysResult, advice, check, errno};
use crate::error::Errno;
use crate::page::PageRange;

/// How a file is mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// Its bytes, until copies replace them.
    File,
    /// The pages of the page cache, none of which is ever replaced.
    Cache,
    /// The same, and what is missing is read in huge pages, where the file system has them.
    CacheInHugePages,
}

/// Address space of whole GMEM pages for a file, mapped for reading.
pub struct Window {
    range: PageRange,
    file_bytes: usize,
    shown: Shown,
}

impl Window {
    /// Map a file that is not empty.
    pub fn new(file: &LargeFile, shown: Shown) -> SysResult<Self> {
        let page = mapping::gmem_page();
        let length = page.ceil(file.length()).ok_or(Errno(libc::ENOMEM))?;
        let start = mapping::map_aligned(length, page)?;
        let start = start.as_ptr().expose_provenance();
        let range = PageRange::new(start, start + length);
        let window = Self { range, file_bytes: file.length(), shown };
        // From here on the value unmaps the addresses if something fails.
        window.show_file(file, range)?;
        if shown == Shown::CacheInHugePages {
            advice::huge_pages(range);
        }
        Ok(window)
    }

    /// The addresses, whole GMEM pages.
    pub const fn range(&self) -> PageRange {
        self.range
    }

    /// Show the file itself in whole GMEM pages; what replaced it goes back to the kernel.
    pub fn show_file(&self, file: &LargeFile, pages: PageRange) -> SysResult<()> {
        let pages = pages.intersect(self.range);
        let end = mapping::base_page().ceil(self.range.start() + self.file_bytes);
        let in_file = pages.intersect(PageRange::new(self.range.start(), end.unwrap_or(0)));
        if !in_file.is_empty() {
            let offset = in_file.start() - self.range.start();
            // SAFETY: the addresses belong to the window, and what is there are copies of the file.
            unsafe { file.map_at(in_file, offset, self.shown != Shown::File)? };
        }
        let behind = PageRange::new(in_file.end().max(pages.start()), pages.end());
        if behind.is_empty() { Ok(()) } else { reserve_at(behind) }
    }

    /// Show a page of common memory, which holds the file's bytes, in the place of a whole GMEM page of the file.
    pub fn show_common(&self, at: usize, memory: &CommonMemory, page: usize) -> SysResult<()> {
        let pages = PageRange::new(at, at + mapping::gmem_page().bytes());
        if self.shown != Shown::File || pages.intersect(self.range) != pages {
            return Err(Errno(libc::EINVAL));
        }
        // SAFETY: the addresses belong to the window, and what is there are the same bytes.
        unsafe { memory.show_at(at, page) }
    }

    /// Take pages of the page cache out of this process's memory; the next read brings them back.
    pub fn unmap_cached(&self, pages: PageRange) -> SysResult<()> {
        let end = mapping::base_page().ceil(self.range.start() + self.file_bytes);
        let pages = pages.intersect(PageRange::new(self.range.start(), end.unwrap_or(0)));
        // SAFETY: where the window shows the file, nothing is lost: it is mapped read-only. Copies hold the file's bytes.
        match unsafe { advice::drop_private(pages) } {
            // Locked by mlockall(2).
            // SAFETY: the range is read-only and shows the file or copies of its bytes, so nothing is lost here either.
            Err(Errno(libc::EINVAL)) => unsafe { advice::drop_private_locked(pages) },
            outcome => outcome,
        }
    }

    /// Put memory with the file's bytes in the place of whole GMEM pages of the file. The memory becomes read-only.
    pub fn replace(&self, pages: PageRange, copy: Region) -> SysResult<()> {
        let from = copy.range();
        if self.shown != Shown::File
            || from.len() != pages.len()
            || pages.intersect(self.range) != pages
        {
            return Err(Errno(libc::EINVAL));
        }
        let (at, to) =
            (copy.start().as_ptr(), ptr::with_exposed_provenance_mut::<()>(pages.start()));
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        // SAFETY: the region is owned and given up here; the target belongs to the window, and shows the same bytes.
        let moved = unsafe {
            check(libc::mprotect(at.cast(), from.len(), libc::PROT_READ)).and_then(|()| {
                match libc::mremap(at.cast(), from.len(), from.len(), flags, to) {
                    libc::MAP_FAILED => Err(errno()),
                    _ => Ok(()),
                }
            })
        };
        moved.inspect_err(|_| {
            // The region is whole still. There is nothing to do about a second failure.
            let _ = copy.unmap();
        })
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        let start = ptr::with_exposed_provenance_mut(self.range.start());
        // SAFETY: the window owns its addresses, and ends here. There is nothing to do about a failure.
        let _ = check(unsafe { libc::munmap(start, self.range.len()) });
    }
}

/// Reserve addresses behind the end of a file, without memory and without access.
fn reserve_at(range: PageRange) -> SysResult<()> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED;
    let at = ptr::with_exposed_provenance_mut(range.start());
    // SAFETY: the addresses belong to the window of the only caller, and nothing behind the end of the file is needed.
    let mapped = unsafe { libc::mmap(at, range.len(), libc::PROT_NONE, flags, -1, 0) };
    if mapped == libc::MAP_FAILED { Err(errno()) } else { Ok(()) }
}
