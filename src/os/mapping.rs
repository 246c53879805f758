//! Mappings: `mmap(2)`, `munmap(2)`, and the size of the machine's pages.

#[cfg(test)]
use std::mem::ManuallyDrop;
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{SysResult, check, errno, file, syscall};
use crate::error::Errno;
use crate::page::{PageRange, PageSize};

/// The kernel's base page.
pub fn base_page() -> PageSize {
    const FALLBACK: PageSize = match PageSize::new(4096) {
        Some(page) => page,
        None => unreachable!(),
    };
    // SAFETY: sysconf only reads.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(bytes).ok().and_then(PageSize::new).unwrap_or(FALLBACK)
}

/// The GMEM page: 2 MiB on every machine, so that ranges round alike everywhere.
///
/// With base pages of 4 KiB it is the kernel's huge page. With 16 and 64 KiB, whose huge pages are 32 and 512 MiB, it
/// is the largest run of base pages that aarch64 maps by one entry of the TLB (contiguous PTEs).
pub const fn gmem_page() -> PageSize {
    match PageSize::new(2 << 20) {
        Some(page) => page,
        None => unreachable!(),
    }
}

/// The kernel's huge page, which one entry of the page table's middle level maps: a GMEM page or several. A kernel
/// without huge pages counts as one with huge pages of the GMEM page's size.
pub fn huge_page() -> PageSize {
    static BYTES: AtomicUsize = AtomicUsize::new(0);
    // Two threads may both ask the kernel and store the same answer: no lock, because malloc calls.
    let mut bytes = BYTES.load(Ordering::Relaxed);
    if bytes == 0 {
        bytes = file::read_number(c"/sys/kernel/mm/transparent_hugepage/hpage_pmd_size")
            .filter(|bytes| *bytes >= gmem_page().bytes())
            .unwrap_or(gmem_page().bytes());
        BYTES.store(bytes, Ordering::Relaxed);
    }
    PageSize::new(bytes).unwrap_or(gmem_page())
}

/// Memory, mapped for reading and writing, that belongs to whoever has this value. It does not go back by itself: it
/// came from somewhere, and goes back there.
#[derive(Debug, PartialEq, Eq)]
pub struct Region {
    start: NonNull<u8>,
    length: usize,
}
// SAFETY: the memory is the value's, whichever thread has that.
unsafe impl Send for Region {}

impl Region {
    /// Take possession.
    ///
    /// # Safety
    /// The bytes are mapped for reading and writing, and nobody else uses them as long as the value is there.
    pub const unsafe fn new(start: NonNull<u8>, length: usize) -> Self {
        Self { start, length }
    }

    /// Its first byte.
    pub const fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Its addresses.
    pub fn range(&self) -> PageRange {
        let start = self.start.as_ptr().expose_provenance();
        PageRange::new(start, start + self.length)
    }

    /// What is in it.
    pub const fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: `new` was promised that the bytes are mapped for reading and writing and that nobody else uses them.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.length) }
    }

    /// Unmap it. It has to be a whole mapping, or whole pages of one.
    pub fn unmap(self) -> SysResult<()> {
        // SAFETY: the value owns its bytes, and ends here.
        unsafe { unmap(self.start, self.length) }
    }
}

/// Fresh private memory that goes back with this value.
#[derive(Debug)]
pub struct Mapping(Region);

impl Mapping {
    /// See [`map_aligned`].
    pub fn new(length: usize, alignment: PageSize) -> SysResult<Self> {
        let start = map_aligned(length, alignment)?;
        // SAFETY: mapped just now.
        Ok(Self(unsafe { Region::new(start, length) }))
    }

    /// Its addresses.
    pub fn range(&self) -> PageRange {
        self.0.range()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the value owns the mapping, and ends here. There is nothing to do about a failure.
        let _ = unsafe { unmap(self.0.start, self.0.length) };
    }
}

/// For tests: base pages, counted from the first of a mapping.
#[cfg(test)]
#[allow(clippy::unwrap_used)]
impl Mapping {
    /// So many, none of which becomes part of a huge one.
    pub fn of_base_pages(count: usize) -> Self {
        let mapping = Self::new(count * base_page().bytes(), base_page()).unwrap();
        super::advice::small_pages(mapping.range());
        mapping
    }

    /// Addresses of the pages `from..to`.
    pub fn pages(&self, from: usize, to: usize) -> PageRange {
        let (start, page) = (self.range().start(), base_page().bytes());
        PageRange::new(start + from * page, start + to * page)
    }

    /// Make a hole of the pages `from..to`; what is left lies before it and behind it.
    pub fn with_hole(self, from: usize, to: usize) -> [Self; 2] {
        let (whole, hole) = (self.range(), self.pages(from, to));
        let _parts_are_dropped = ManuallyDrop::new(self);
        let part = |from: usize, to: usize| {
            let start = NonNull::new(ptr::with_exposed_provenance_mut(from)).unwrap();
            // SAFETY: parts of the mapping, which has none of them any more, and no byte of which is in two.
            Self(unsafe { Region::new(start, to - from) })
        };
        drop(part(hole.start(), hole.end()));
        [part(whole.start(), hole.start()), part(hole.end(), whole.end())]
    }

    /// What is in it.
    pub fn bytes(&mut self) -> &mut [u8] {
        self.0.bytes()
    }
}

/// Map fresh private memory for reading and writing, aligned to `alignment`.
///
/// `length` is a multiple of the base page. No memory is taken until it is touched.
pub fn map_aligned(length: usize, alignment: PageSize) -> SysResult<NonNull<u8>> {
    // Since Linux 6.7 a mapping of whole huge pages is aligned to begin with.
    let first = map(length)?;
    if alignment.floor(first.addr().get()) == first.addr().get() {
        return Ok(first);
    }
    // SAFETY: mapped above, and nobody else has its address.
    unsafe { unmap(first, length)? };

    let slack = alignment.bytes().saturating_sub(base_page().bytes());
    let padded = length.checked_add(slack).ok_or(Errno(libc::ENOMEM))?;
    let start = map(padded)?;
    let address = start.addr().get();
    let aligned = alignment.ceil(address).unwrap_or(address);
    let head = aligned - address;
    if head > 0 {
        // SAFETY: the first bytes of the mapping made above, whose address nobody else has.
        unsafe { unmap(start, head)? };
    }
    // SAFETY: `head` is at most the slack, which lies inside the mapping.
    let body = unsafe { start.add(head) };
    let tail = padded - head - length;
    if tail > 0 {
        // SAFETY: the tail follows the `length` bytes of the body in the mapping made above, whose address nobody else has.
        unsafe { unmap(body.add(length), tail)? };
    }
    Ok(body)
}

fn map(length: usize) -> SysResult<NonNull<u8>> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
    let start = unsafe { libc::mmap(ptr::null_mut(), length, protection, flags, -1, 0) };
    if start == libc::MAP_FAILED { Err(errno()) } else { NonNull::new(start.cast()).ok_or(errno()) }
}

/// Whether anything is mapped on the base page of `address`.
pub fn is_mapped(address: usize) -> bool {
    let page = base_page();
    syscall::is_mapped(ptr::without_provenance(page.floor(address)), page.bytes())
}

/// Unmap `length` bytes from `start`: the memory and the addresses go back to the kernel.
///
/// # Safety
/// The caller owns the bytes, which are part of a mapping that was made here or with [`Region`], and nobody uses them
/// afterwards.
pub unsafe fn unmap(start: NonNull<u8>, length: usize) -> SysResult<()> {
    // SAFETY: the caller owns the bytes and nobody uses them afterwards, so no live memory disappears.
    check(unsafe { libc::munmap(start.as_ptr().cast(), length) })
}

/// Move the pages of private memory to other addresses instead of copying them; the old addresses stay
/// mapped and read as zeros (`MREMAP_DONTUNMAP`, Linux 5.7). After a failure `from` is as it was, and at `to` there
/// may be **nothing mapped** any more ([`map_again`] mends that): the kernel makes room before it looks whether it
/// can move. It refuses what spans two mappings (before Linux 6.17), and any where a process has too many.
///
/// # Safety
/// Both ranges are base-page-aligned, `length` bytes long, mapped alike, apart, and the caller's alone;
/// what was at `to` is lost.
pub unsafe fn move_pages(from: NonNull<u8>, to: NonNull<u8>, length: usize) -> SysResult<()> {
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED | libc::MREMAP_DONTUNMAP;
    let (from, to) = (from.as_ptr().cast(), to.as_ptr().cast::<libc::c_void>());
    // SAFETY: the caller owns both ranges, which are page-aligned, apart and of one length; what is at `to` may go.
    let moved = unsafe { libc::mremap(from, length, length, flags, to) };
    if moved == libc::MAP_FAILED { Err(errno()) } else { Ok(()) }
}

/// Map fresh private memory where something was mapped.
///
/// # Safety
/// The range is page-aligned and the caller's alone; what was there is lost.
pub unsafe fn map_again(start: NonNull<u8>, length: usize) -> SysResult<()> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED;
    // SAFETY: the caller owns the page-aligned range, and what is there may go.
    let mapped = unsafe { libc::mmap(start.as_ptr().cast(), length, protection, flags, -1, 0) };
    if mapped == libc::MAP_FAILED { Err(errno()) } else { Ok(()) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_mapping_is_aligned_and_writable_to_its_end() {
        let page = gmem_page();
        for length in [base_page().bytes(), page.bytes(), 3 * page.bytes() + base_page().bytes()] {
            let start = map_aligned(length, page).unwrap();
            assert_eq!(start.addr().get() % page.bytes(), 0);
            // SAFETY: the mapping is `length` bytes long.
            unsafe { start.add(length - 1).write(1) };
            // SAFETY: mapped above, and not used afterwards.
            unsafe { unmap(start, length).unwrap() };
        }
    }

    #[test]
    fn moved_pages_take_their_bytes_along() {
        let page = gmem_page();
        let from = map_aligned(page.bytes(), page).unwrap();
        let to = map_aligned(page.bytes(), page).unwrap();
        // SAFETY: both mappings are one page long and ours.
        unsafe {
            from.add(5).write(7);
            move_pages(from, to, page.bytes()).unwrap();
            assert_eq!((to.add(5).read(), from.add(5).read()), (7, 0));
        }
        for start in [from, to] {
            // SAFETY: mapped above, and not used afterwards.
            unsafe { unmap(start, page.bytes()).unwrap() };
        }
    }

    #[test]
    fn too_much_is_an_errno() {
        assert_eq!(map_aligned(1 << 55, gmem_page()).unwrap_err().0, libc::ENOMEM);
    }
}
