//! Model files: weights whose pages can be prefetched and freed any number of times, each prefetch bringing the file's bytes
//! back.
//!
//! - [`weights`]: one open file: its bytes in memory, loaded and released
//! - [`choice`]: how the bytes get there: the page cache itself, or private huge pages
//! - [`load`]: fills private pages by direct reads, several in flight
//! - [`common_copy`]: private memory that several processes have in common
//! - [`page_states`]: which private pages are loaded, and which are in somebody's hands
//! - [`registry`]: the open files, by handle and by address
//! - [`pipeline`]: brings ranges in the order of their use, within a budget
//!
//! The verbs know models by their addresses: [`prefetch`] and [`free_eager`] stand between them and the device.
//!
//! **What a read finds that was not prefetched.** The file itself: addresses that hold no private pages are a read-only mapping of
//! the file, and a private page replaces the file's in one step. So a read finds the right bytes at any time, also while another
//! thread prefetches or frees, and costs a page fault and the page cache, as with `mmap`. A `userfaultfd` would need a thread that
//! outlives forks, and a permission that containers withhold; inaccessible pages would turn each forgotten prefetch into a crash.
//! Fault scopes find those.

mod choice;
mod common_copy;
mod load;
mod page_states;
pub mod pipeline;
mod registry;
mod weights;

use std::sync::Arc;
use std::time::Instant;

use crate::device::{Device, Request, Watch};
use crate::error::{Error, Result};
use crate::os::{mapping, process};
use crate::page::PageRange;
use crate::report::Report;

pub use choice::Mode;
pub use registry::{close, find, open};
pub use weights::{Copy, Facts, Options};

use weights::Weights;

/// Prefetch a range that may hold parts of models: load those, then let the device do the rest.
pub fn prefetch(device: &dyn Device, request: &Request<'_>, report: &mut Report) -> Result<()> {
    let models = registry::overlapping(request.asked);
    if models.is_empty() {
        return device.prefetch(request, report);
    }
    let begun = Instant::now();
    let mut loaded = load::Loaded::default();
    let outcome = models.iter().try_for_each(|model| model.load(request, &mut loaded));
    if let Err(failure) = outcome {
        *report = loaded.report_of_failure(request, &failure);
        return Err(failure);
    }
    let watch = AfterLoad { watch: request.watch, loaded: loaded.bytes };
    let reads_huge_pages = models.iter().all(|model| model.reads_huge_pages());
    let stays = models.iter().any(|model| model.is_common());
    let rest = Request { watch: &watch, reads_huge_pages, stays, ..*request };
    let mut outcome = device.prefetch(&rest, report);
    for _ in 0..GAP_RETRIES {
        if !outcome.as_ref().is_err_and(|failure| is_gap(failure, &models)) {
            break;
        }
        process::yield_now();
        *report = Report::EMPTY;
        outcome = device.prefetch(&rest, report);
    }
    // The device found these pages resident, because they were loaded just now.
    let populated = (loaded.bytes / mapping::base_page().bytes()).min(report.already_resident);
    if report.already_resident != Report::UNKNOWN {
        report.already_resident -= populated;
        report.populated = report.populated.saturating_add(populated);
    }
    report.threads = report.threads.max(loaded.threads);
    report.nanoseconds = u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
    outcome.map_err(|failure| match &models[..] {
        [model] => model.explain(failure),
        _ => failure,
    })
}

/// How often a prefetch looks again at a gap.
const GAP_RETRIES: usize = 1000;

/// Whether nothing seemed to be mapped inside a model. Since Linux 6.16 the kernel answers such questions without its lock, so for a
/// moment it shows a gap where another thread replaces pages.
fn is_gap(failure: &Error, models: &[Arc<Weights>]) -> bool {
    match failure {
        Error::Hole { at, .. } => {
            models.iter().any(|model| (model.bytes().start()..model.bytes().end()).contains(at))
        }
        _ => false,
    }
}

/// Free whole GMEM pages that may hold parts of models: those show their files again, and `rest` frees everything else.
pub fn free_eager(pages: PageRange, rest: impl Fn(PageRange) -> Result<()>) -> Result<()> {
    let mut outcome = Ok(());
    let mut at = pages.start();
    for model in registry::overlapping(pages) {
        let part = model.range().intersect(pages);
        if part.start() > at {
            outcome = outcome.and(rest(PageRange::new(at, part.start())));
        }
        outcome = outcome.and(model.release(part));
        at = part.end();
    }
    if at < pages.end() {
        outcome = outcome.and(rest(PageRange::new(at, pages.end())));
    }
    outcome
}

/// The whole GMEM pages of a range that is to be freed. The page in which a model ends counts as whole if the range reaches the
/// model's last byte: nothing else is on it.
pub fn whole_pages(range: PageRange) -> PageRange {
    let page = mapping::gmem_page();
    let to_the_end = |model: &Weights| model.bytes().end() == range.end();
    let ends = !range.is_empty() && registry::overlapping(range).iter().any(|m| to_the_end(m));
    let range = if ends {
        PageRange::new(range.start(), page.ceil(range.end()).unwrap_or(range.end()))
    } else {
        range
    };
    range.inward(page)
}

/// The model that a range lies inside.
fn model_of(range: PageRange) -> Result<Arc<Weights>> {
    let mut models = registry::overlapping(range).into_iter();
    let (from, to) = (range.start(), range.end());
    models
        .find(|model| model.bytes().intersect(range) == range)
        .ok_or(Error::NotInAModel { from, to })
}

/// Watches the device's part of a prefetch, whose progress begins at what was loaded before.
struct AfterLoad<'a> {
    watch: &'a dyn Watch,
    loaded: usize,
}

impl Watch for AfterLoad<'_> {
    fn go_on(&self, done: usize, total: usize) -> Result<()> {
        self.watch.go_on(done.max(self.loaded), total)
    }

    fn progress(&self, done: usize, total: usize) -> Result<()> {
        self.watch.progress(done.max(self.loaded), total)
    }
}
