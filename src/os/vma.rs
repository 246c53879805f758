//! The mappings (virtual memory areas) of this process.
//!
//! Since Linux 6.11 the ioctl `PROCMAP_QUERY` on `/proc/self/maps` looks up one address. Older kernels have only the text of that
//! file.

use std::ffi::CStr;
use std::ops::ControlFlow;

use super::file::Descriptor;
use super::kept_file::{KeptFile, KeptFiles};
use super::{SysResult, errno, file, mapping};
use crate::error::Errno;
use crate::page::PageRange;

/// The kind of memory of a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backing {
    /// Private anonymous memory: heap, stack, `MAP_PRIVATE|MAP_ANONYMOUS`, private hugetlb.
    Anonymous,
    /// Memory that processes share: `MAP_SHARED|MAP_ANONYMOUS`, memfd, `/dev/shm`, System V.
    SharedMemory,
    /// A file, or shared memory mapped `MAP_PRIVATE`.
    File,
}

/// The number of a file in the mappings of this process. A file has the same in all of them, which on some file systems is not that
/// of `stat(2)`. Anonymous memory has 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileNumber {
    device: (u32, u32),
    inode: u64,
}

/// One mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vma {
    /// Its addresses.
    pub range: PageRange,
    /// Readable.
    pub read: bool,
    /// Writable.
    pub write: bool,
    /// `MAP_SHARED`: its pages are those of the file, or of the shared memory.
    pub shared: bool,
    /// The kind of memory.
    pub backing: Backing,
    /// Pages of the hugetlb pool.
    pub huge_tlb: bool,
    /// Bytes of a page; 0 before Linux 6.11, where the kernel does not report it.
    pub page_bytes: usize,
    /// The file that is mapped.
    pub file: FileNumber,
    /// The address that the first byte of the file would have; it may lie before address 0.
    pub file_origin: usize,
}

impl Vma {
    /// Where the byte at an address of the mapping is in the file.
    pub const fn file_offset(&self, address: usize) -> usize {
        address.wrapping_sub(self.file_origin)
    }
}

/// Call `visit` for each mapping that touches `range`, in ascending order, until it breaks. No two of them overlap.
pub fn walk(range: PageRange, visit: impl FnMut(Vma) -> ControlFlow<()>) -> SysResult<()> {
    let mut in_order = InOrder { visited: None, visit };
    if let Some(maps) = KEPT.get().as_ref().and_then(KeptFile::descriptor)
        && query(maps, range, &mut |vma| in_order.visit(vma)).is_ok()
    {
        return Ok(());
    }
    let maps = Descriptor::open_for_reading(MAPS_FILE)?;
    let rest = in_order.rest(range);
    if can_query() && query(&maps, rest, &mut |vma| in_order.visit(vma)).is_ok() {
        return Ok(());
    }
    // The kernel has no such ioctl, or a sandbox refuses it. The text is the same for everybody.
    parse(|buffer| maps.read(buffer), in_order.rest(range), &mut |vma| in_order.visit(vma))
}

/// Passes mappings on. Between two queries another thread may map more, which the kernel joins with what was visited: of such a
/// mapping only the part behind that counts.
struct InOrder<F> {
    /// The end of the last mapping.
    visited: Option<usize>,
    visit: F,
}

impl<F: FnMut(Vma) -> ControlFlow<()>> InOrder<F> {
    fn visit(&mut self, vma: Vma) -> ControlFlow<()> {
        let start = self.visited.map_or(vma.range.start(), |end| end.max(vma.range.start()));
        if start >= vma.range.end() {
            return ControlFlow::Continue(());
        }
        self.visited = Some(vma.range.end());
        (self.visit)(Vma { range: PageRange::new(start, vma.range.end()), ..vma })
    }

    /// The part of `range` that was not visited.
    fn rest(&self, range: PageRange) -> PageRange {
        let from = self.visited.unwrap_or(range.start());
        PageRange::new(from.clamp(range.start(), range.end()), range.end())
    }
}

const MAPS_FILE: &CStr = c"/proc/self/maps";

/// Whether the kernel could look up one address when this process first asked.
pub fn can_query() -> bool {
    KEPT.get().is_some()
}

/// The file of this process, kept open where the kernel has the ioctl.
static KEPT: KeptFiles = KeptFile::per_process(|_| {
    let maps = Descriptor::open_for_reading(MAPS_FILE).ok()?;
    let start = PageRange::new(0, 1);
    query(&maps, start, &mut |_| ControlFlow::Break(())).ok()?;
    KeptFile::new(maps)
});

/// `struct procmap_query` of linux/fs.h.
#[repr(C)]
#[derive(Default)]
struct ProcmapQuery {
    size: u64,
    query_flags: u64,
    query_addr: u64,
    vma_start: u64,
    vma_end: u64,
    vma_flags: u64,
    vma_page_size: u64,
    vma_offset: u64,
    inode: u64,
    dev_major: u32,
    dev_minor: u32,
    vma_name_size: u32,
    build_id_size: u32,
    vma_name_addr: u64,
    build_id_addr: u64,
}

fn query(
    maps: &Descriptor,
    range: PageRange,
    visit: &mut impl FnMut(Vma) -> ControlFlow<()>,
) -> SysResult<()> {
    // _IOWR(PROCFS_IOCTL_MAGIC, 17, struct procmap_query)
    const PROCMAP_QUERY: libc::Ioctl = 0xc068_6611_u32 as libc::Ioctl;
    const COVERING_OR_NEXT_VMA: u64 = 0x10;
    const READABLE: u64 = 0x1;
    const WRITABLE: u64 = 0x2;
    const SHARED: u64 = 0x8;

    let mut at = range.start();
    while at < range.end() {
        let mut name = [0_u8; NAME_BYTES];
        let mut request = ProcmapQuery {
            size: size_of::<ProcmapQuery>() as u64,
            query_flags: COVERING_OR_NEXT_VMA,
            query_addr: at as u64,
            vma_name_size: NAME_BYTES as u32,
            vma_name_addr: name.as_mut_ptr().expose_provenance() as u64,
            ..Default::default()
        };
        // SAFETY: the request is as the kernel's header has it, and the name buffer outlives the call.
        let result = unsafe { libc::ioctl(maps.0, PROCMAP_QUERY, &raw mut request) };
        let shared = request.vma_flags & SHARED != 0;
        let backing = match (result, errno()) {
            (0, _) => {
                let length = (request.vma_name_size as usize).saturating_sub(1).min(NAME_BYTES);
                backing(
                    request.inode,
                    (request.dev_major, request.dev_minor),
                    shared,
                    &name[..length],
                )
            }
            (_, Errno(libc::ENOENT)) => return Ok(()),
            // The path is longer than the buffer: no shared memory has such a name. Ask again for
            // the rest of the answer.
            (_, Errno(libc::ENAMETOOLONG)) => {
                request.vma_name_size = 0;
                request.vma_name_addr = 0;
                // SAFETY: the request is as the kernel's header has it, and asks for no name, so no buffer is written.
                if unsafe { libc::ioctl(maps.0, PROCMAP_QUERY, &raw mut request) } != 0 {
                    return Err(errno());
                }
                Backing::File
            }
            (_, failure) => return Err(failure),
        };
        let vma = Vma {
            range: PageRange::new(request.vma_start as usize, request.vma_end as usize),
            read: request.vma_flags & READABLE != 0,
            write: request.vma_flags & WRITABLE != 0,
            shared,
            backing,
            huge_tlb: request.vma_page_size > mapping::base_page().bytes() as u64,
            page_bytes: request.vma_page_size as usize,
            file: FileNumber {
                device: (request.dev_major, request.dev_minor),
                inode: request.inode,
            },
            file_origin: origin(request.vma_start as usize, request.vma_offset),
        };
        if vma.range.start() >= range.end() || visit(vma).is_break() {
            return Ok(());
        }
        at = vma.range.end();
    }
    Ok(())
}

const fn origin(start: usize, offset: u64) -> usize {
    start.wrapping_sub(offset as usize)
}

/// Long enough for every name that [`backing`] distinguishes.
const NAME_BYTES: usize = 256;

/// Anonymous memory has no inode. The kernel's own file systems are recognized by their device, because a file on a disk may have
/// any name.
fn backing(inode: u64, device: (u32, u32), shared: bool, name: &[u8]) -> Backing {
    /// The major device number of file systems that are not on a disk.
    const NO_DISK: u32 = 0;
    if inode == 0 {
        return Backing::Anonymous;
    }
    if device.0 == NO_DISK && name.starts_with(b"/anon_hugepage") {
        return if shared { Backing::SharedMemory } else { Backing::Anonymous };
    }
    let hugetlb_memfd =
        || device.0 == NO_DISK && name.starts_with(b"/memfd:") && name.ends_with(b" (deleted)");
    let posix =
        || name.starts_with(b"/dev/shm/") && Some(device) == file::posix_shared_memory_device();
    let is_memory = || Some(device) == file::shared_memory_device() || hugetlb_memfd() || posix();
    if shared && is_memory() { Backing::SharedMemory } else { Backing::File }
}

fn parse(
    read: impl FnMut(&mut [u8]) -> SysResult<usize>,
    range: PageRange,
    visit: &mut impl FnMut(Vma) -> ControlFlow<()>,
) -> SysResult<()> {
    // Nearly all lines are shorter; of the others only the end of a file's name is missing.
    let mut buffer = [0; 1 << 14];
    file::each_line(read, &mut buffer, |line| match parse_line(line) {
        Some(vma) if vma.range.start() >= range.end() => ControlFlow::Break(()),
        Some(vma) if vma.range.end() > range.start() => visit(vma),
        _ => ControlFlow::Continue(()),
    })
}

/// `7f00-7f10 rw-p 00000000 00:01 1234   /memfd:x (deleted)`
fn parse_line(line: &[u8]) -> Option<Vma> {
    // A name that is not UTF-8 is none of the kernel's own: what precedes it is all that counts.
    let text = match std::str::from_utf8(line) {
        Ok(text) => text,
        Err(end) => std::str::from_utf8(&line[..end.valid_up_to()]).ok()?,
    };
    let mut fields = text.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let permissions = fields.next()?.as_bytes();
    let offset = u64::from_str_radix(fields.next()?, 16).ok()?;
    let (major, minor) = fields.next()?.split_once(':')?;
    let inode = fields.next()?.parse().ok()?;
    // The name may hold spaces.
    let name = text.find('/').map_or("", |start| text[start..].trim_end());
    let address = |hex| usize::from_str_radix(hex, 16).ok();
    let number = |hex| u32::from_str_radix(hex, 16).ok();
    let shared = permissions.get(3) == Some(&b's');
    let device = (number(major)?, number(minor)?);
    let backing = backing(inode, device, shared, name.as_bytes());
    let range = PageRange::new(address(start)?, address(end)?);
    Some(Vma {
        range,
        read: permissions.first() == Some(&b'r'),
        write: permissions.get(1) == Some(&b'w'),
        shared,
        backing,
        // A memfd of the pool has an arbitrary name, so it is not recognized.
        huge_tlb: backing != Backing::File && name.starts_with("/anon_hugepage"),
        page_bytes: 0,
        file: FileNumber { device, inode },
        file_origin: origin(range.start(), offset),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::mangled;
    use crate::os::mapping::Mapping;

    type Walk = fn(&Descriptor, PageRange, &mut dyn FnMut(Vma) -> ControlFlow<()>) -> SysResult<()>;

    fn collect(walk: Walk, range: PageRange) -> Vec<Vma> {
        let maps = Descriptor::open_for_reading(c"/proc/self/maps").unwrap();
        let mut found = Vec::new();
        walk(&maps, range, &mut |vma| {
            found.push(vma);
            ControlFlow::Continue(())
        })
        .unwrap();
        found
    }

    #[test]
    fn both_ways_of_asking_agree() {
        let page = mapping::gmem_page();
        let mapping = Mapping::new(page.bytes(), page).unwrap();
        let range = mapping.range();
        let text = collect(|m, r, mut v| parse(|buffer| m.read(buffer), r, &mut v), range);
        assert_eq!(text.len(), 1);
        assert_eq!(text[0].backing, Backing::Anonymous);
        assert!(text[0].write && text[0].range.intersect(range) == range);
        let queried = Descriptor::open_for_reading(c"/proc/self/maps")
            .and_then(|maps| query(&maps, range, &mut |_| ControlFlow::Break(())));
        if queried.is_ok() {
            let mut asked = collect(|m, r, mut v| query(m, r, &mut v), range);
            assert_eq!(asked[0].page_bytes, mapping::base_page().bytes());
            asked[0].page_bytes = 0;
            assert_eq!(asked, text);
        }
    }

    #[test]
    fn a_mapping_that_grew_between_two_queries_is_visited_once() {
        let vma = |start, end| Vma {
            range: PageRange::new(start, end),
            read: true,
            write: true,
            shared: false,
            backing: Backing::Anonymous,
            huge_tlb: false,
            page_bytes: 0,
            file: FileNumber { device: (0, 0), inode: 0 },
            file_origin: 0,
        };
        let mut seen = Vec::new();
        let mut in_order = InOrder {
            visited: None,
            visit: |vma: Vma| {
                seen.push((vma.range.start(), vma.range.end()));
                ControlFlow::Continue(())
            },
        };
        let whole = PageRange::new(0x2000, 0x9000);
        assert_eq!(in_order.rest(whole), whole);
        for (start, end) in [(0x1000, 0x3000), (0x1000, 0x5000), (0x2000, 0x4000), (0x7000, 0x8000)]
        {
            assert!(in_order.visit(vma(start, end)).is_continue());
        }
        assert_eq!(in_order.rest(whole), PageRange::new(0x8000, 0x9000));
        assert_eq!(seen, [(0x1000, 0x3000), (0x3000, 0x5000), (0x7000, 0x8000)]);
    }

    #[test]
    fn backings_are_told_apart_by_device() {
        let memory = file::shared_memory_device().unwrap();
        let disk = (8, 1);
        assert_eq!(backing(0, (0, 0), false, b"[heap]"), Backing::Anonymous);
        assert_eq!(backing(7, memory, true, b"/memfd:kv (deleted)"), Backing::SharedMemory);
        assert_eq!(backing(7, memory, true, b"/dev/zero (deleted)"), Backing::SharedMemory);
        assert_eq!(backing(7, memory, false, b"/memfd:kv (deleted)"), Backing::File);
        assert_eq!(backing(7, disk, true, b"/memfd:kv (deleted)"), Backing::File);
        assert_eq!(backing(7, disk, true, b"/dev/shm/kv"), Backing::File);
        assert_eq!(backing(7, (0, 15), false, b"/anon_hugepage (deleted)"), Backing::Anonymous);
        assert_eq!(backing(7, (0, 15), true, b"/anon_hugepage (deleted)"), Backing::SharedMemory);
        assert_eq!(backing(7, disk, true, b"/anon_hugepage (deleted)"), Backing::File);
        assert_eq!(backing(7, disk, true, b"/srv/weights.bin"), Backing::File);
    }

    #[test]
    fn lines_of_the_kernel_are_read() {
        let vma =
            parse_line(b"7f0000000000-7f0000200000 rw-s 00003000 08:01 42   /memfd:a b (deleted)")
                .unwrap();
        assert_eq!(vma.range, PageRange::new(0x7f00_0000_0000, 0x7f00_0020_0000));
        assert_eq!((vma.read, vma.write, vma.shared), (true, true, true));
        assert_eq!(vma.backing, Backing::File);
        assert_eq!(vma.file, FileNumber { device: (8, 1), inode: 42 });
        assert_eq!(vma.file_offset(0x7f00_0000_1000), 0x4000);
        assert_eq!(parse_line(b""), None);
    }

    const RECORDED: &str = "\
5559d0a00000-5559d0a02000 r--p 00000000 fe:00 247282                     /usr/bin/head
5559d13f1000-5559d1412000 rw-p 00000000 00:00 0                          [heap]
7f2a40000000-7f2a40200000 rw-s 00000000 00:0f 33                         /anon_hugepage (deleted)
7f2a5c000000-7f2a5c021000 rw-s 00000000 00:01 1029                       /memfd:key value (deleted)
7f2a5e3f0000-7f2a5e3f2000 ---p 00000000 00:00 0 
7f2a5e400000-7f2a5e402000 r-xp 00001000 fe:00 41                         /srv/a\\012b.so
7ffd3c1e0000-7ffd3c201000 rw-p 00000000 00:00 0                          [stack]
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
";

    fn parsed(text: &[u8], piece: usize, range: PageRange) -> Vec<Vma> {
        let (mut found, mut left) = (Vec::new(), text);
        let read = |into: &mut [u8]| Ok(file::pieces_of(&mut left, piece, into));
        let keep = &mut |vma| {
            found.push(vma);
            ControlFlow::Continue(())
        };
        parse(read, range, keep).unwrap();
        found
    }

    #[test]
    fn mangled_maps() {
        let everywhere = PageRange::new(0, usize::MAX);
        let part = PageRange::new(0x5559_d0a0_1000, 0x7f2a_4010_0000);
        mangled::texts(&[RECORDED], |text| {
            let all = parsed(text, usize::MAX, everywhere);
            assert_eq!(parsed(text, 7, everywhere), all);
            assert!(all.len() <= text.split(|byte| *byte == b'\n').count());
            let inside = |vma: &Vma| !vma.range.intersect(part).is_empty();
            assert!(parsed(text, 100, part).iter().all(|vma| inside(vma) || vma.range.is_empty()));
        });
        assert_eq!(parsed(RECORDED.as_bytes(), 1, everywhere).len(), 8);
        assert_eq!(parsed(RECORDED.as_bytes(), 1, part).len(), 3);
    }
}
