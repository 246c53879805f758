//! How a model's bytes get into memory, and the choice for files whose opener leaves it to the library.

use std::ffi::CStr;

use crate::os::direct_io::{self, LargeFile};
use crate::os::file_window::{Shown, Window};
use crate::os::fork_lock::ForkLock;
use crate::os::{advice, machine, mapping, pagemap};
use crate::page::PageRange;

/// How the bytes get into memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The pages of the page cache are mapped.
    Shared,
    /// Private huge pages are filled by reads past the page cache.
    Private,
}

/// The mode for a file, and the reason.
pub fn choose(file: &LargeFile) -> (Mode, &'static CStr) {
    if file.length() < mapping::gmem_page().bytes() {
        return (Mode::Shared, c"the file is smaller than a GMEM page");
    }
    if file.is_in_memory() {
        return (Mode::Shared, c"the file system is in memory, so a copy would take it twice");
    }
    if !file.is_direct() {
        return (Mode::Shared, c"the file system has no reads past the page cache (O_DIRECT)");
    }
    if machine::huge_pages() == machine::HugePages::Never {
        return (Mode::Shared, c"the system gives no huge pages");
    }
    if is_cached(file) {
        return (Mode::Shared, c"the page cache has most of the file already");
    }
    if page_cache_is_huge(file) {
        return (Mode::Shared, c"the page cache has huge pages for this file system, filled without zeroing them first");
    }
    (Mode::Private, c"the file is not in the page cache, and can be read past it")
}

/// What is known of a file system.
#[derive(Clone, Copy)]
struct Known {
    file_system: u64,
    is_huge: bool,
}

/// File systems that were looked at. Of further ones, each file is looked at.
static KNOWN: ForkLock<[Option<Known>; 32]> = ForkLock::new([None; 32]);

/// Whether the page cache reads the files of this file system in huge pages. Nothing but a huge page in the page table proves it,
/// so the first file of a file system has one read, and dropped again.
fn page_cache_is_huge(file: &LargeFile) -> bool {
    let file_system = file.file_system();
    let about_it = |known: &&Known| known.file_system == file_system;
    if let Some(known) = KNOWN.with(|all| all.iter().flatten().find(about_it).copied()) {
        return known.is_huge;
    }
    let Some(is_huge) = reads_a_huge_page(file) else { return false };
    KNOWN.with(|all| {
        if let Some(free) = all.iter_mut().find(|slot| slot.is_none()) {
            *free = Some(Known { file_system, is_huge });
        }
    });
    is_huge
}

/// Huge pages of a file that are looked at for one that is not in the page cache.
const TRIES: usize = 8;

/// Whether a part of the file that is not in the page cache is read as a huge page; `None` if that cannot be seen.
fn reads_a_huge_page(file: &LargeFile) -> Option<bool> {
    let huge = mapping::gmem_page();
    // Larger ones would be read as a whole for this.
    if mapping::huge_page() != huge || !pagemap::knows_huge() {
        return None;
    }
    let window = Window::new(file, Shown::CacheInHugePages).ok()?;
    let whole = PageRange::new(window.range().start(), window.range().start() + file.length());
    let mut present = vec![1; huge.bytes() / mapping::base_page().bytes()];
    let mut is_uncached = |sample: &PageRange| {
        let seen = direct_io::cached_pages(*sample, &mut present);
        seen.is_ok() && present.iter().all(|page| *page & 1 == 0)
    };
    let pages = whole.inward(huge);
    let count = pages.len() / huge.bytes();
    // The beginning may be cached, because programs read headers.
    let samples = (0..TRIES.min(count)).map(|i| {
        let start = pages.start() + i * count / TRIES.min(count) * huge.bytes();
        PageRange::new(start, start + huge.bytes())
    });
    let sample = samples.into_iter().find(|sample| is_uncached(sample))?;
    let first = sample.start();
    advice::populate_read(PageRange::new(first, first + mapping::base_page().bytes())).ok()?;
    let mut is_huge = false;
    let seen = pagemap::scan(sample, |run| is_huge |= run.huge == Some(true));
    window.unmap_cached(sample).ok()?;
    file.drop_cached(first - whole.start(), huge.bytes());
    seen.ok().map(|()| is_huge)
}

/// Samples of the file, and base pages in each.
const SAMPLES: usize = 64;
const SAMPLE_PAGES: usize = 16;

/// Whether at least half of the samples are in the page cache, as far as the system says so truthfully.
fn is_cached(file: &LargeFile) -> bool {
    if !file.tells_what_is_cached() {
        return false;
    }
    let Ok(window) = Window::new(file, Shown::Cache) else { return false };
    let base = mapping::base_page();
    let step = file.length() / SAMPLES;
    let mut cached = 0;
    for sample in 0..SAMPLES {
        let start = base.floor(window.range().start() + sample * step);
        let mut present = [0; SAMPLE_PAGES];
        let range =
            PageRange::new(start, start + SAMPLE_PAGES.min(step / base.bytes()) * base.bytes());
        if direct_io::cached_pages(range, &mut present).is_ok() {
            cached += present.iter().filter(|page| **page & 1 != 0).count();
        }
    }
    cached * 2 >= SAMPLES * SAMPLE_PAGES.min(step / base.bytes())
}
