//! The verb *free eager*: release the whole GMEM pages of one or many ranges, now or in stream order.

use std::sync::Arc;

use crate::config::{LogLevel, log};
use crate::device::{self, Device};
use crate::error::Result;
use crate::model;
use crate::page::PageRange;
use crate::range_set::RangeSet;
use crate::stream::{self, RangeVerb, RangeWork, Target, Work};
use crate::stream_argument::{DriverStream, StreamArgument};

static FREE_EAGER: RangeVerb =
    RangeVerb { name: "gmemFreeEager", apply: run_queued, deferrable: true };

/// See `gmemFreeEager` in `libgmem.h`.
pub fn free_eager(addr: usize, size: usize, stream: StreamArgument) -> Result<()> {
    // Rounded before it is queued: otherwise joined neighbours could free a page that neither holds as a whole.
    let pages = model::whole_pages(PageRange::from_arguments(addr, size)?);
    let device = stream.device()?;
    let work = |range| Work::Range(RangeWork { verb: &FREE_EAGER, range, target: [device, 0] });
    match stream {
        StreamArgument::None => run(pages, device),
        StreamArgument::Own(handle) => stream::enqueue(handle, work(pages)),
        StreamArgument::Driver(driver) => {
            let rest = driver.free_eager(pages)?;
            rest.into_iter().try_for_each(|part| driver.enqueue(work(part)))
        }
    }
}

fn run_queued(pages: PageRange, [device, _]: Target) -> Result<()> {
    run(pages, device)
}

fn run(pages: PageRange, device: usize) -> Result<()> {
    if pages.is_empty() {
        return Ok(());
    }
    log(LogLevel::Trace, || format!("free {:#x}..{:#x}", pages.start(), pages.end()));
    model::free_eager(pages, |rest| device::by_index(device).free_eager(rest))
}

// ---- many ranges ------------------------------------------------------------------------------------

/// Results of a call with many ranges.
#[derive(Debug, Clone, Copy, Default)]
pub struct FreeReport {
    /// Bytes of the union of the ranges.
    pub bytes: usize,
    /// Bytes of the whole GMEM pages that were released.
    pub freed: usize,
    /// Bytes that stay because they belong to GMEM pages that the union holds only in part.
    pub lost: usize,
    /// Number of blocks that the ranges form.
    pub blocks: usize,
}

/// The caller of an eager free of many ranges.
pub trait Caller: Send + Sync {
    /// Called once, at the end.
    fn finished(&self, report: &FreeReport, outcome: &Result<()>);
}

/// See `gmemFreeEagerV`. Calls `caller.finished` in any case, before it returns if it fails immediately.
pub fn free_eager_all(
    ranges: RangeSet,
    stream: StreamArgument,
    caller: Arc<dyn Caller>,
) -> Result<()> {
    let (bytes, blocks) = (ranges.bytes(), ranges.blocks().len());
    let pages = ranges.rounded(model::whole_pages);
    let report = FreeReport { bytes, freed: 0, lost: bytes.saturating_sub(pages.bytes()), blocks };
    let registered = stream.device().and_then(|device| {
        let batch = Batch { pages, device, report, caller: Arc::clone(&caller) };
        match stream {
            StreamArgument::None => Ok(Some(batch)),
            StreamArgument::Own(handle) => {
                stream::enqueue(handle, batch.into_work()).map(|()| None)
            }
            StreamArgument::Driver(driver) => batch.register(driver).map(|()| None),
        }
    });
    match registered {
        Ok(Some(batch)) => batch.run(),
        Ok(None) => Ok(()),
        Err(failure) => {
            let outcome = Err(failure);
            caller.finished(&report, &outcome);
            outcome
        }
    }
}

/// The whole pages of many ranges, to be released by one piece of work.
struct Batch {
    pages: RangeSet,
    /// Index of the device.
    device: usize,
    report: FreeReport,
    caller: Arc<dyn Caller>,
}

impl Batch {
    fn into_work(self) -> Work {
        Work::Task(Box::new(move || self.run()))
    }

    /// Release all blocks, or none if a part of one must not be released. After another failure the remaining blocks are
    /// released all the same, and the first failure is returned.
    fn run(mut self) -> Result<()> {
        let Self { pages, device, report, .. } = &mut self;
        let outcome = check(pages.blocks(), device::by_index(*device)).and_then(|()| {
            let mut outcome = Ok(());
            for block in pages.blocks() {
                match run(*block, *device) {
                    Ok(()) => report.freed += block.len(),
                    failure => outcome = outcome.and(failure),
                }
            }
            outcome
        });
        // The page in which a model ends counts as whole, but has fewer bytes.
        report.freed = report.freed.min(report.bytes - report.lost);
        self.caller.finished(&self.report, &outcome);
        outcome
    }

    /// Register the blocks with a driver's stream: the driver's parts first, then one piece of work for the rest.
    fn register(mut self, driver: DriverStream) -> Result<()> {
        check(self.pages.blocks(), device::by_index(self.device))?;
        let mut rest = Vec::new();
        for block in self.pages.blocks() {
            rest.extend(driver.free_eager(*block)?.iter().map(|part| (part.start(), part.len())));
        }
        let rest = RangeSet::union_of(rest.into_iter())?;
        // The driver has released its parts when the stream comes to this work.
        self.report.freed = self.pages.bytes().saturating_sub(rest.bytes());
        self.pages = rest;
        driver.enqueue(self.into_work())
    }
}

/// Fails if a part of the blocks must not be released. A single block is checked when it is released.
fn check(blocks: &[PageRange], device: &dyn Device) -> Result<()> {
    match blocks {
        [] | [_] => Ok(()),
        many => many.iter().try_for_each(|block| device.may_free_eager(*block)),
    }
}
