//! Which pages of a range are in memory: `/proc/self/pagemap`.
//!
//! Since Linux 6.7 the ioctl `PAGEMAP_SCAN` returns runs of pages of one kind. Older kernels have a word for each page, which shows
//! neither huge pages nor the zero page.

use std::cell::Cell;
use std::ffi::CStr;

use super::file::Descriptor;
use super::kept_file::{KeptFile, KeptFiles};
use super::{SysResult, errno, mapping};
use crate::error::Errno;
use crate::page::PageRange;

/// Adjacent pages of one kind. Pages that are neither in memory nor swapped out are in no run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Its addresses.
    pub range: PageRange,
    /// In memory and in the page table of this process; otherwise swapped out.
    pub present: bool,
    /// Huge: mapped by one entry of the middle level of the page table; `None` if the kernel does not report it.
    pub huge: Option<bool>,
    /// The zero page of the kernel, which the first write replaces.
    pub zero: bool,
    /// A page of a file or of memory that processes share.
    pub file: bool,
}

/// `struct page_region` of linux/fs.h.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct PageRegion {
    start: u64,
    end: u64,
    categories: u64,
}

/// `struct pm_scan_arg` of linux/fs.h.
#[repr(C)]
#[derive(Default)]
struct ScanArgument {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// Call `visit` for each run in `range`, which is widened to whole base pages, in ascending order.
pub fn scan(range: PageRange, visit: impl FnMut(Run)) -> SysResult<()> {
    scan_telling(range, Files::Told, visit)
}

/// Whether [`Run::file`] is determined. The kernel looks at each page for it, which takes as long as the rest of the scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Files {
    /// It is determined.
    Told,
    /// It is not determined, and false.
    NotTold,
}

/// [`scan`], with or without [`Run::file`].
pub fn scan_telling(range: PageRange, files: Files, mut visit: impl FnMut(Run)) -> SysResult<()> {
    let range = range.outward(mapping::base_page());
    if range.is_empty() {
        return Ok(());
    }
    let visited = Cell::new(range.start());
    let mut noting = |run: Run| {
        visited.set(run.range.end());
        visit(run);
    };
    if let Some(pagemap) = KEPT.get().as_ref().and_then(KeptFile::descriptor)
        && ask(pagemap, range, files, &mut noting).is_ok()
    {
        return Ok(());
    }
    let pagemap = Descriptor::open_for_reading(FILE)?;
    let rest = |from: usize| PageRange::new(from.min(range.end()), range.end());
    if knows_huge() && ask(&pagemap, rest(visited.get()), files, &mut noting).is_ok() {
        return Ok(());
    }
    // The kernel has no such ioctl, or a sandbox refuses it.
    read_words(&pagemap, rest(visited.get()), &mut visit)
}

const FILE: &CStr = c"/proc/self/pagemap";

/// The file of this process, kept open where the kernel has the ioctl.
static KEPT: KeptFiles = KeptFile::per_process(|_| {
    let pagemap = Descriptor::open_for_reading(FILE).ok()?;
    let nothing = PageRange::new(0, mapping::base_page().bytes());
    ask(&pagemap, nothing, Files::NotTold, &mut |_| ()).ok()?;
    KeptFile::new(pagemap)
});

/// Whether the kernel reported huge pages when this process first asked.
pub fn knows_huge() -> bool {
    KEPT.get().is_some()
}

fn ask(
    pagemap: &Descriptor,
    range: PageRange,
    files: Files,
    visit: &mut impl FnMut(Run),
) -> SysResult<()> {
    // _IOWR('f', 16, struct pm_scan_arg)
    const PAGEMAP_SCAN: libc::Ioctl = 0xc060_6610_u32 as libc::Ioctl;
    const OF_A_FILE: u64 = 1 << 2;
    const PRESENT: u64 = 1 << 3;
    const SWAPPED: u64 = 1 << 4;
    const ZERO: u64 = 1 << 5;
    const HUGE: u64 = 1 << 6;
    // Reported since Linux 6.15: a guard page looks like a page that is swapped out.
    const GUARD: u64 = 1 << 8;

    let file = if files == Files::Told { OF_A_FILE } else { 0 };
    let mut guard = GUARD;
    let mut regions = [PageRegion::default(); 64];
    let mut start = range.start();
    while start < range.end() {
        let mut argument = ScanArgument {
            size: size_of::<ScanArgument>() as u64,
            start: start as u64,
            end: range.end() as u64,
            vec: regions.as_mut_ptr().expose_provenance() as u64,
            vec_len: regions.len() as u64,
            category_anyof_mask: PRESENT | SWAPPED,
            return_mask: PRESENT | SWAPPED | ZERO | HUGE | file | guard,
            ..Default::default()
        };
        // SAFETY: the argument has the layout of the kernel's header, and the vector has capacity for `vec_len` regions.
        let found = unsafe { libc::ioctl(pagemap.0, PAGEMAP_SCAN, &raw mut argument) };
        let Ok(found) = usize::try_from(found) else {
            match errno() {
                Errno(libc::EINTR) => continue,
                Errno(libc::EINVAL) if guard != 0 => {
                    guard = 0;
                    continue;
                }
                failure => return Err(failure),
            }
        };
        for region in regions.iter().take(found) {
            let is = |category| region.categories & category != 0;
            if is(GUARD) {
                continue;
            }
            visit(Run {
                range: PageRange::new(region.start as usize, region.end as usize),
                present: is(PRESENT),
                huge: Some(is(HUGE)),
                zero: is(ZERO),
                file: is(OF_A_FILE),
            });
        }
        // The kernel stops where the vector is full. Going on by at least a page makes sure that the loop ends.
        start = (argument.walk_end as usize).max(start + mapping::base_page().bytes());
    }
    Ok(())
}

fn read_words(
    pagemap: &Descriptor,
    range: PageRange,
    visit: &mut impl FnMut(Run),
) -> SysResult<()> {
    const PRESENT: u64 = 1 << 63;
    const SWAPPED: u64 = 1 << 62;
    const OF_A_FILE: u64 = 1 << 61;
    const GUARD: u64 = 1 << 58;

    let page = mapping::base_page().bytes();
    let mut words = [0_u64; 2048];
    let mut at = range.start();
    let mut open: Option<Run> = None;
    while at < range.end() {
        let wanted = words.len().min((range.end() - at) / page);
        let got = pagemap.read_words_at(&mut words[..wanted], at / page * size_of::<u64>())?;
        if got == 0 {
            break;
        }
        for word in &words[..got] {
            let is_there = word & (PRESENT | SWAPPED) != 0 && word & GUARD == 0;
            let next = is_there.then(|| Run {
                range: PageRange::new(at, at + page),
                present: word & PRESENT != 0,
                huge: None,
                zero: false,
                file: word & OF_A_FILE != 0,
            });
            at += page;
            open = match (open, next) {
                (Some(run), Some(next)) if (run.present, run.file) == (next.present, next.file) => {
                    Some(Run { range: PageRange::new(run.range.start(), at), ..run })
                }
                (Some(run), next) => {
                    visit(run);
                    next
                }
                (None, next) => next,
            };
        }
    }
    open.into_iter().for_each(visit);
    Ok(())
}

/// The page frame of each base page of `range`; 0 for pages that are not present. Without `CAP_SYS_ADMIN` all are 0.
pub fn frames(range: PageRange) -> SysResult<Vec<u64>> {
    const PRESENT: u64 = 1 << 63;
    const FRAME: u64 = (1 << 55) - 1;
    let page = mapping::base_page().bytes();
    let pagemap = Descriptor::open_for_reading(FILE)?;
    let mut words = vec![0; range.len().div_ceil(page)];
    let mut filled = 0;
    while filled < words.len() {
        let offset = (range.start() / page + filled) * size_of::<u64>();
        match pagemap.read_words_at(&mut words[filled..], offset)? {
            0 => break,
            got => filled += got,
        }
    }
    for word in &mut words {
        *word = if *word & PRESENT != 0 { *word & FRAME } else { 0 };
    }
    Ok(words)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::os::advice;
    use crate::os::mapping::Mapping;

    type Scan = fn(&Descriptor, PageRange, &mut dyn FnMut(Run)) -> SysResult<()>;

    fn collect(scan: Scan, range: PageRange) -> SysResult<Vec<Run>> {
        let mut found = Vec::new();
        let pagemap = Descriptor::open_for_reading(FILE)?;
        scan(&pagemap, range, &mut |run| found.push(run))?;
        Ok(found)
    }

    #[test]
    fn both_ways_of_asking_tell_what_is_there() {
        let mapping = Mapping::of_base_pages(16);
        let part = |from, to| mapping.pages(from, to);
        advice::populate_write(part(2, 5)).unwrap();
        advice::populate_write(part(6, 7)).unwrap();

        let words = collect(|p, r, mut v| read_words(p, r, &mut v), part(0, 16)).unwrap();
        let ranges: Vec<_> = words.iter().map(|run| run.range).collect();
        assert_eq!(ranges, [part(2, 5), part(6, 7)]);
        assert!(words.iter().all(|run| run.present && !run.file && run.huge.is_none()));
        if knows_huge() {
            let asked = collect(|p, r, mut v| ask(p, r, Files::Told, &mut v), part(0, 16)).unwrap();
            let ranges: Vec<_> = asked.iter().map(|run| run.range).collect();
            assert_eq!(ranges, [part(2, 5), part(6, 7)]);
            assert!(asked.iter().all(|run| run.huge == Some(false) && run.present && !run.zero));
        }
    }

    #[test]
    fn a_guard_page_is_not_there() {
        // Linux 6.13; told apart from what is swapped out since 6.15.
        const MADV_GUARD_INSTALL: libc::c_int = 102;
        let mut mapping = Mapping::of_base_pages(4);
        let (whole, page) = (mapping.range(), mapping::base_page().bytes());
        advice::populate_write(whole).unwrap();
        let first = mapping.bytes().as_mut_ptr().cast();
        // SAFETY: the test's own mapping.
        let guarded = unsafe { libc::madvise(first, page, MADV_GUARD_INSTALL) == 0 };
        let told = Descriptor::open_for_reading(FILE).is_ok_and(|pagemap| {
            let mut word = [0];
            pagemap.read_words_at(&mut word, whole.start() / page * 8).is_ok()
                && word[0] >> 58 & 1 != 0
        });
        if guarded && told {
            for files in [Files::Told, Files::NotTold] {
                let mut found = Vec::new();
                scan_telling(whole, files, |run| found.push(run.range)).unwrap();
                assert_eq!(found, [mapping.pages(1, 4)]);
            }
            let words = collect(|p, r, mut v| read_words(p, r, &mut v), whole).unwrap();
            assert_eq!(words[0].range, mapping.pages(1, 4));
        }
    }

    #[test]
    fn more_runs_than_fit_into_one_answer() {
        let mapping = Mapping::of_base_pages(2000);
        for i in (0..2000).step_by(2) {
            advice::populate_write(mapping.pages(i, i + 1)).unwrap();
        }
        let mut runs = 0;
        scan(mapping.range(), |run| {
            assert_eq!(run.range, mapping.pages(2 * runs, 2 * runs + 1));
            runs += 1;
        })
        .unwrap();
        assert_eq!(runs, 1000);
    }
}
