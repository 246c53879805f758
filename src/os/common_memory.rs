//! Memory that several processes have in common (`memfd_create(2)`): pages of data, and words about them.

use std::ffi::c_int;
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::atomic::AtomicU64;

use super::direct_io::{DIRECT_ALIGNMENT, LargeFile};
use super::file::{self, Descriptor};
use super::kept_descriptor::Kept;
use super::{SysResult, advice, check, errno, mapping, syscall};
use crate::error::Errno;
use crate::page::PageRange;

/// GMEM pages of data, and behind them 64-bit words. Its size never changes, so no access meets the end of the file.
pub struct CommonMemory {
    file: Kept,
    start: NonNull<u8>,
    pages: usize,
    words: usize,
}
// SAFETY: the words are atomic, and the data are written by the kernel and through the slices of `fill` only.
unsafe impl Send for CommonMemory {}
// SAFETY: as above.
unsafe impl Sync for CommonMemory {}

/// Nobody changes the size, nor this list.
const SEALS: c_int = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;

impl CommonMemory {
    /// Make memory; the words are 0.
    pub fn create(pages: usize, words: usize) -> SysResult<Self> {
        let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
        // SAFETY: the name is NUL-terminated.
        let number = unsafe { libc::memfd_create(c"gmem-model".as_ptr(), flags) };
        if number < 0 {
            return Err(errno());
        }
        let file = Descriptor(number);
        let length = libc::off_t::try_from(bytes(pages, words)?).map_err(|_| Errno(libc::EFBIG))?;
        // SAFETY: the descriptor was opened above.
        unsafe {
            check(libc::ftruncate(file.0, length))?;
            check(libc::fcntl(file.0, libc::F_ADD_SEALS, SEALS))?;
        }
        Self::map(Kept::new(file)?, pages, words)
    }

    /// The memory that another process has made with as many pages and words. `EINVAL` if the descriptor is of something else.
    pub fn join(descriptor: c_int, pages: usize, words: usize) -> SysResult<Self> {
        let file = Descriptor(syscall::copy_of(descriptor)?);
        let status = file::status(file.0).ok_or_else(errno)?;
        // SAFETY: the descriptor was opened above.
        let seals = unsafe { libc::fcntl(file.0, libc::F_GET_SEALS) };
        let length = usize::try_from(status.st_size).unwrap_or(0);
        if seals < 0 || seals & SEALS != SEALS || length != bytes(pages, words)? {
            return Err(Errno(libc::EINVAL));
        }
        Self::map(Kept::new(file)?, pages, words)
    }

    fn map(file: Kept, pages: usize, words: usize) -> SysResult<Self> {
        let length = bytes(pages, words)?;
        let start = mapping::map_aligned(length, mapping::gmem_page())?;
        let made = Self { file, start, pages, words };
        let (protection, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_FIXED);
        let number = made.file.number()?;
        // SAFETY: replaces the mapping made above, whose address nobody else has.
        let mapped =
            unsafe { libc::mmap(start.as_ptr().cast(), length, protection, flags, number, 0) };
        if mapped == libc::MAP_FAILED { Err(errno()) } else { Ok(made) }
    }

    /// The words.
    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY: the words lie behind the pages, aligned, in a file whose size is sealed; they are mapped as long as the value
        // exists, and every process uses them as atomics.
        unsafe {
            let first = self.start.add(self.pages * mapping::gmem_page().bytes());
            slice::from_raw_parts(first.cast().as_ptr(), self.words)
        }
    }

    /// Another descriptor of it, which exec closes.
    pub fn descriptor(&self) -> SysResult<c_int> {
        syscall::copy_of(self.file.number()?)
    }

    /// Read bytes of a file into a page, which nobody else fills or uses meanwhile. `huge`: on a huge page if the kernel has one.
    pub fn fill(
        &self,
        page: usize,
        huge: bool,
        file: &LargeFile,
        offset: usize,
        length: usize,
    ) -> (usize, SysResult<()>) {
        let range = self.addresses(page);
        if huge {
            advice::huge_pages(range);
            // Whatever the system's setting for shared memory is: with one page of it in memory, the rest can be collapsed.
            let first = PageRange::new(range.start(), range.start() + mapping::base_page().bytes());
            if advice::populate_write(first).is_ok() {
                let _ = advice::collapse(range);
            }
        }
        let length = length.next_multiple_of(DIRECT_ALIGNMENT).min(range.len());
        let start = ptr::with_exposed_provenance_mut(range.start());
        // SAFETY: the page is mapped for writing, and the caller is the only one who uses it meanwhile.
        file.read(unsafe { slice::from_raw_parts_mut(start, length) }, offset)
    }

    /// Show a page at other addresses, for reading, in the place of what is there. Children of fork do not have it there.
    ///
    /// # Safety
    /// The caller owns the addresses, a whole GMEM page, and what is there is not needed.
    pub unsafe fn show_at(&self, address: usize, page: usize) -> SysResult<()> {
        let (at, bytes) = (ptr::with_exposed_provenance_mut(address), mapping::gmem_page().bytes());
        let offset = libc::off_t::try_from(page * bytes).map_err(|_| Errno(libc::EOVERFLOW))?;
        let (flags, file) = (libc::MAP_SHARED | libc::MAP_FIXED, self.file.number()?);
        // SAFETY: the caller owns the addresses, and what is there may go.
        unsafe {
            if libc::mmap(at, bytes, libc::PROT_READ, flags, file, offset) == libc::MAP_FAILED {
                return Err(errno());
            }
            check(libc::madvise(at, bytes, libc::MADV_DONTFORK))
        }
    }

    /// Return the memory of a page, which nobody uses, to the kernel.
    pub fn drop_page(&self, page: usize) -> SysResult<()> {
        // SAFETY: nobody uses the page's contents any more.
        unsafe { advice::drop_shared(self.addresses(page)) }
    }

    fn addresses(&self, page: usize) -> PageRange {
        let bytes = mapping::gmem_page().bytes();
        let start = self.start.as_ptr().expose_provenance() + page * bytes;
        PageRange::new(start, start + bytes)
    }
}

impl Drop for CommonMemory {
    fn drop(&mut self) {
        let length = bytes(self.pages, self.words).unwrap_or(0);
        // SAFETY: the value owns the mapping, and ends here. There is nothing to do about a failure.
        let _ = unsafe { mapping::unmap(self.start, length) };
    }
}

fn bytes(pages: usize, words: usize) -> SysResult<usize> {
    let data = pages.checked_mul(mapping::gmem_page().bytes());
    let all = words.checked_mul(size_of::<u64>()).and_then(|words| data?.checked_add(words));
    all.and_then(|all| mapping::base_page().ceil(all)).ok_or(Errno(libc::ENOMEM))
}
