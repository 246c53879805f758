//! How a model's bytes get into memory, and the choice for files whose opener leaves it to the library.

use std::ffi::CStr;

use crate::os::direct_io::{self, LargeFile};
use crate::os::{file_window::Window, machine, mapping};
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
    (Mode::Private, c"the file is not in the page cache, and can be read past it")
}

/// Samples of the file, and base pages in each.
const SAMPLES: usize = 64;
const SAMPLE_PAGES: usize = 16;

/// Whether at least half of the samples are in the page cache, as far as the system says so truthfully.
fn is_cached(file: &LargeFile) -> bool {
    if !file.tells_what_is_cached() {
        return false;
    }
    let Ok(window) = Window::new(file, true) else { return false };
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
