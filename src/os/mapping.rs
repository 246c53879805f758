//! Mappings: `mmap(2)`, `munmap(2)`, and the size of the machine's pages.

use std::mem::ManuallyDrop;
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{SysResult, check, errno, file, syscall};
use crate::error::Errno;
use crate::page::{PageRange, PageSize};

/// The base page of the kernel.
pub fn base_page() -> PageSize {
    const FALLBACK: PageSize = match PageSize::new(4096) {
        Some(page) => page,
        None => unreachable!(),
    };
    // SAFETY: sysconf has no preconditions.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(bytes).ok().and_then(PageSize::new).unwrap_or(FALLBACK)
}

/// The GMEM page: 2 MiB on every machine, so that ranges are rounded in the same way everywhere.
///
/// With base pages of 4 KiB it is the kernel's huge page. With 16 and 64 KiB, whose huge pages have 32 and 512 MiB, it is the
/// largest run of base pages that aarch64 maps by one entry of the TLB (contiguous PTEs).
pub const fn gmem_page() -> PageSize {
    match PageSize::new(2 << 20) {
        Some(page) => page,
        None => unreachable!(),
    }
}

/// The kernel's huge page, which one page-table entry of the middle level maps: one GMEM page or several. On a kernel without
/// huge pages it is the GMEM page.
pub fn huge_page() -> PageSize {
    static BYTES: AtomicUsize = AtomicUsize::new(0);
    // There is no lock, because malloc calls this: two threads may both read the file and store the same number.
    let mut bytes = BYTES.load(Ordering::Relaxed);
    if bytes == 0 {
        bytes = file::read_number(c"/sys/kernel/mm/transparent_hugepage/hpage_pmd_size")
            .filter(|bytes| *bytes >= gmem_page().bytes())
            .unwrap_or(gmem_page().bytes());
        BYTES.store(bytes, Ordering::Relaxed);
    }
    PageSize::new(bytes).unwrap_or(gmem_page())
}

/// Memory, mapped for reading and writing, that the owner of the value owns. It is not unmapped on drop: it has to go back to
/// where it came from.
#[derive(Debug, PartialEq, Eq)]
pub struct Region {
    start: NonNull<u8>,
    length: usize,
}
// SAFETY: the value owns the memory, and any thread may use memory that it owns.
unsafe impl Send for Region {}

impl Region {
    /// Take ownership of memory.
    ///
    /// # Safety
    /// The bytes are mapped for reading and writing, and nobody else uses them while the value exists.
    pub const unsafe fn new(start: NonNull<u8>, length: usize) -> Self {
        Self { start, length }
    }

    /// The first byte.
    pub const fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// The addresses.
    pub fn range(&self) -> PageRange {
        let start = self.start.as_ptr().expose_provenance();
        PageRange::new(start, start + self.length)
    }

    /// The contents.
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

/// Fresh private memory that is unmapped on drop.
#[derive(Debug)]
pub struct Mapping(Region);

impl Mapping {
    /// Map memory; see [`map_aligned`].
    pub fn new(length: usize, alignment: PageSize) -> SysResult<Self> {
        let start = map_aligned(length, alignment)?;
        // SAFETY: mapped just now, for reading and writing, and nobody else has the address.
        Ok(Self(unsafe { Region::new(start, length) }))
    }

    /// The addresses.
    pub fn range(&self) -> PageRange {
        self.0.range()
    }

    /// The contents.
    pub const fn bytes(&mut self) -> &mut [u8] {
        self.0.bytes()
    }

    /// The memory, which is no longer unmapped on drop.
    pub fn into_region(self) -> Region {
        let whole = ManuallyDrop::new(self);
        // SAFETY: the mapping is not dropped, so the new value is the only owner of its memory.
        unsafe { Region::new(whole.0.start, whole.0.length) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the value owns the mapping, and ends here. There is nothing to do about a failure.
        let _ = unsafe { unmap(self.0.start, self.0.length) };
    }
}

/// Helpers for tests. Pages are base pages, counted from the first of the mapping.
#[cfg(test)]
#[allow(clippy::unwrap_used)]
impl Mapping {
    /// Map `count` pages that never become part of a huge page.
    pub fn of_base_pages(count: usize) -> Self {
        let mapping = Self::new(count * base_page().bytes(), base_page()).unwrap();
        super::advice::small_pages(mapping.range());
        mapping
    }

    /// The addresses of the pages `from..to`.
    pub fn pages(&self, from: usize, to: usize) -> PageRange {
        let (start, page) = (self.range().start(), base_page().bytes());
        PageRange::new(start + from * page, start + to * page)
    }

    /// Unmap the pages `from..to` and return the parts before and behind them.
    pub fn with_hole(self, from: usize, to: usize) -> [Self; 2] {
        let (whole, hole) = (self.range(), self.pages(from, to));
        let _parts_are_dropped = ManuallyDrop::new(self);
        let part = |from: usize, to: usize| {
            let start = NonNull::new(ptr::with_exposed_provenance_mut(from)).unwrap();
            // SAFETY: a part of the mapping, which is not dropped itself; the parts do not overlap.
            Self(unsafe { Region::new(start, to - from) })
        };
        drop(part(hole.start(), hole.end()));
        [part(whole.start(), hole.start()), part(hole.end(), whole.end())]
    }
}

/// Map fresh private memory for reading and writing, aligned to `alignment`. `length` is a multiple of the base page. The
/// kernel provides pages when they are touched. Where a sandbox refuses to unmap the rest, that costs addresses and no memory.
pub fn map_aligned(length: usize, alignment: PageSize) -> SysResult<NonNull<u8>> {
    // Since Linux 6.7 the kernel itself aligns a mapping of whole huge pages.
    let first = map(length)?;
    if alignment.floor(first.addr().get()) == first.addr().get() {
        return Ok(first);
    }
    // SAFETY: mapped above, and nobody else has its address.
    let _ = unsafe { unmap(first, length) };

    let slack = alignment.bytes().saturating_sub(base_page().bytes());
    let padded = length.checked_add(slack).ok_or(Errno(libc::ENOMEM))?;
    let start = map(padded)?;
    let address = start.addr().get();
    let aligned = alignment.ceil(address).unwrap_or(address);
    let head = aligned - address;
    if head > 0 {
        // SAFETY: the first bytes of the mapping made above, whose address nobody else has.
        let _ = unsafe { unmap(start, head) };
    }
    // SAFETY: `head` is at most the slack, which lies inside the mapping.
    let body = unsafe { start.add(head) };
    let tail = padded - head - length;
    if tail > 0 {
        // SAFETY: the tail follows the `length` bytes of the body in the mapping made above, whose address nobody else has.
        let _ = unsafe { unmap(body.add(length), tail) };
    }
    Ok(body)
}

fn map(length: usize) -> SysResult<NonNull<u8>> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: the kernel chooses the address, so the new mapping replaces none.
    let start = unsafe { libc::mmap(ptr::null_mut(), length, protection, flags, -1, 0) };
    if start == libc::MAP_FAILED { Err(errno()) } else { NonNull::new(start.cast()).ok_or(errno()) }
}

/// Map one base page that the kernel clears in each child process that has memory of its own (`MADV_WIPEONFORK`).
pub fn map_wiped_on_fork() -> SysResult<NonNull<u8>> {
    let bytes = base_page().bytes();
    let page = map(bytes)?;
    // SAFETY: mapped above, nobody else has its address, and it holds nothing that a child could need.
    let advised =
        check(unsafe { libc::madvise(page.as_ptr().cast(), bytes, libc::MADV_WIPEONFORK) });
    advised.map(|()| page).inspect_err(|_| {
        // SAFETY: mapped above, and nobody else has its address. There is nothing to do about a failure.
        let _ = unsafe { unmap(page, bytes) };
    })
}

/// Let nobody touch the pages of a range (`mprotect(2)`). The kernel refuses where the process has too many mappings.
///
/// # Safety
/// The caller owns the range, which is aligned to base pages, and nobody uses it until [`permit`].
pub unsafe fn forbid(range: PageRange) -> SysResult<()> {
    // SAFETY: the caller promises that nobody uses the range.
    unsafe { protect(range, libc::PROT_NONE) }
}

/// Undo [`forbid`].
///
/// # Safety
/// The caller owns the range, which was forbidden or is readable and writable anyway.
pub unsafe fn permit(range: PageRange) -> SysResult<()> {
    // SAFETY: the caller owns the range.
    unsafe { protect(range, libc::PROT_READ | libc::PROT_WRITE) }
}

/// # Safety
/// The caller owns the range, and nobody relies on more than `protection` allows.
unsafe fn protect(range: PageRange, protection: libc::c_int) -> SysResult<()> {
    let start = ptr::with_exposed_provenance_mut(range.start());
    // SAFETY: the caller owns the range.
    check(unsafe { libc::mprotect(start, range.len(), protection) })
}

/// Whether anything is mapped on the base page of `address`.
pub fn is_mapped(address: usize) -> bool {
    let page = base_page();
    syscall::is_mapped(ptr::without_provenance(page.floor(address)), page.bytes())
}

/// Unmap `length` bytes from `start`: the memory and the addresses go back to the kernel. Where a sandbox refuses that, the memory
/// goes back, and the addresses stay mapped.
///
/// # Safety
/// The caller owns the bytes, which are part of a mapping that was made here or with [`Region`], and nobody uses them
/// afterwards.
pub unsafe fn unmap(start: NonNull<u8>, length: usize) -> SysResult<()> {
    let start = start.as_ptr().cast();
    // SAFETY: the caller owns the bytes and nobody uses them afterwards, so no live memory disappears.
    let unmapped = check(unsafe { libc::munmap(start, length) });
    unmapped.inspect_err(|_| {
        // SAFETY: the caller owns the bytes and needs them no more.
        unsafe { libc::madvise(start, length, libc::MADV_DONTNEED) };
    })
}

/// What is at the target of [`move_pages`] after a failure.
#[derive(PartialEq, Eq, Clone, Copy, Debug)]
pub enum Target {
    /// Private memory as before.
    Kept,
    /// Fresh private memory, without the advice of what was there.
    Fresh,
    /// Nothing, or a mapping of another thread. [`map_where_nothing_is`] may succeed later.
    Lost,
}

/// Move the pages of private memory to other addresses without copying; the old addresses stay mapped and read as zeros
/// (`MREMAP_DONTUNMAP`, Linux 5.7). After a failure `from` is unchanged. The kernel may have unmapped `to` before it refused, and any
/// other thread may map something there, so it is mapped again only where nothing is. The kernel refuses ranges that span two
/// mappings (before Linux 6.17), and processes that have too many mappings.
///
/// # Safety
/// Both ranges are aligned to base pages, `length` bytes long and mapped alike. They do not overlap, only the caller uses
/// them, and the contents of `to` are not needed.
pub unsafe fn move_pages(from: NonNull<u8>, to: NonNull<u8>, length: usize) -> Result<(), Target> {
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED | libc::MREMAP_DONTUNMAP;
    let (old, new) = (from.as_ptr().cast(), to.as_ptr().cast::<libc::c_void>());
    // SAFETY: the caller owns both ranges, which are page-aligned, apart and of one length; what is at `to` may go.
    if unsafe { libc::mremap(old, length, length, flags, new) } != libc::MAP_FAILED {
        return Ok(());
    }
    let refusal = errno();
    Err(match map_where_nothing_is(to, length) {
        Ok(()) => Target::Fresh,
        // The kernel counts the mappings before it unmaps anything. After other refusals the mapping is another thread's.
        Err(Errno(libc::EEXIST)) if refusal == Errno(libc::ENOMEM) => Target::Kept,
        Err(_) => Target::Lost,
    })
}

/// Whether the process may map any amount of private memory (`RLIMIT_AS`, `RLIMIT_DATA`). Below such a limit, and more so after
/// it was lowered, [`move_pages`] may fail halfway with no way to repair that.
pub fn is_unlimited() -> bool {
    [libc::RLIMIT_AS, libc::RLIMIT_DATA].iter().all(|resource| {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: the limit may be written.
        let got = check(unsafe { libc::getrlimit(*resource, &raw mut limit) });
        got.is_ok() && limit.rlim_cur == libc::RLIM_INFINITY
    })
}

/// Map fresh private memory at given addresses, which are aligned to base pages. Fails with `EEXIST` if anything is mapped there.
pub fn map_where_nothing_is(start: NonNull<u8>, length: usize) -> SysResult<()> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags =
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED_NOREPLACE;
    let wanted = start.as_ptr().cast();
    // SAFETY: the flag makes the kernel leave alone what is mapped; a kernel without it (before 4.17) maps elsewhere.
    let mapped = unsafe { libc::mmap(wanted, length, protection, flags, -1, 0) };
    if mapped == libc::MAP_FAILED {
        return Err(errno());
    }
    if mapped != wanted {
        // SAFETY: the kernel has just mapped it, and nobody knows of it.
        unsafe { libc::munmap(mapped, length) };
        return Err(Errno(libc::EEXIST));
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_hole_is_mapped_once() {
        let page = gmem_page();
        let start = map_aligned(page.bytes(), page).unwrap();
        assert_eq!(map_where_nothing_is(start, page.bytes()), Err(Errno(libc::EEXIST)));
        // SAFETY: mapped above, and not used.
        unsafe { unmap(start, page.bytes()).unwrap() };
        assert_eq!(map_where_nothing_is(start, page.bytes()), Ok(()));
        // SAFETY: mapped above, and not used.
        unsafe { unmap(start, page.bytes()).unwrap() };
    }

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
