//! The verb *prefetch*: check the arguments now, move the range now or in stream order.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::{LogLevel, log};
use crate::device::{self, Registered, Request, Unwatched, Watch};
use crate::error::{Error, Result};
use crate::huge_policy::{self, HugePolicy};
use crate::model;
use crate::os::{mapping, own_faults};
use crate::page::PageRange;
use crate::range_set::RangeSet;
use crate::report::Report;
use crate::stream::{self, RangeVerb, RangeWork, Target, Work};
use crate::stream_argument::{DriverStream, StreamArgument};

static PREFETCH: RangeVerb =
    RangeVerb { name: "gmemPrefetch", apply: run_queued, deferrable: false };

/// See `gmemPrefetch` in `libgmem.h`.
pub fn prefetch(addr: usize, size: usize, hnid: i32, stream: StreamArgument) -> Result<()> {
    let prefetch = Prefetch::new(addr, size, hnid, stream)?;
    match stream {
        StreamArgument::None => prefetch.run_plain(),
        StreamArgument::Own(handle) => stream::enqueue(handle, prefetch.into_work()),
        StreamArgument::Driver(driver) => {
            let registered = prefetch.register(driver, &Options::default(), &Unwatched)?;
            let mut rest = registered.left.into_iter().map(|part| prefetch.of_part(part));
            rest.try_for_each(|part| driver.enqueue(part.into_work()))
        }
    }
}

/// Prefetch a range now, to a node of a device.
pub fn prefetch_now(asked: PageRange, device: usize, node: usize) -> Result<()> {
    Prefetch { asked, device, node }.run_plain()
}

fn run_queued(asked: PageRange, [device, node]: Target) -> Result<()> {
    Prefetch { asked, device, node }.run_plain()
}

/// A prefetch whose arguments have been checked.
#[derive(Clone, Copy)]
struct Prefetch {
    asked: PageRange,
    /// Index of the device.
    device: usize,
    /// The device's node, which the caller's hnid stands for.
    node: usize,
}

impl Prefetch {
    fn new(addr: usize, size: usize, hnid: i32, stream: StreamArgument) -> Result<Self> {
        let asked = PageRange::from_arguments(addr, size)?;
        let device = stream.device()?;
        let node = device::by_index(device).node(hnid)?;
        Ok(Self { asked, device, node })
    }

    fn of_part(self, asked: PageRange) -> Self {
        Self { asked, ..self }
    }

    fn into_work(self) -> Work {
        let Self { asked, device, node } = self;
        Work::Range(RangeWork { verb: &PREFETCH, range: asked, target: [device, node] })
    }

    fn run_plain(self) -> Result<()> {
        self.run(&Options::default(), &Unwatched, &mut { Report::EMPTY })
    }

    fn run(self, options: &Options, watch: &dyn Watch, report: &mut Report) -> Result<()> {
        report.bytes = self.asked.len();
        if self.asked.is_empty() {
            return Ok(());
        }
        self.trace(None);
        own_faults::not_the_programs(|| {
            model::prefetch(device::by_index(self.device), &self.request(options, watch), report)
        })
    }

    /// Register the driver's part with its stream.
    fn register(
        self,
        driver: DriverStream,
        options: &Options,
        watch: &dyn Watch,
    ) -> Result<Registered> {
        self.trace(Some(driver));
        driver.prefetch(&self.request(options, watch))
    }

    fn request<'a>(&self, options: &Options, watch: &'a dyn Watch) -> Request<'a> {
        let huge = match options.huge {
            HugePolicy::AsIs => huge_policy::at(self.asked.start()),
            chosen => chosen,
        };
        let Options { max_threads, wants_report, .. } = *options;
        Request {
            asked: self.asked,
            node: self.node,
            huge,
            max_threads,
            wants_report,
            reads_huge_pages: false,
            stays: false,
            watch,
        }
    }

    fn trace(&self, driver: Option<DriverStream>) {
        let Self { asked, node, .. } = self;
        log(LogLevel::Trace, || {
            let stream = driver.map_or_else(String::new, |driver| format!(" on {driver}"));
            format!("prefetch {:#x}..{:#x} to node {node}{stream}", asked.start(), asked.end())
        });
    }
}

// ---- with options and a report ------------------------------------------------------------------------

/// The options of a prefetch.
#[derive(Default)]
pub struct Options {
    /// Huge pages or not; `AsIs` for the policy of the range, else of the process.
    pub huge: HugePolicy,
    /// Maximum number of threads; 0 for as many as help.
    pub max_threads: usize,
    /// Time limit, counted from the call.
    pub timeout: Option<Duration>,
    /// Whether anybody reads the report.
    pub wants_report: bool,
}

/// The caller of a prefetch, who watches it and gets the report.
pub trait Caller: Send + Sync {
    /// Whether to stop; called on each thread that works.
    fn is_cancelled(&self) -> bool;

    /// Called on one thread with the bytes done and the total. False cancels.
    fn progress(&self, done: usize, total: usize) -> bool;

    /// Called once, at the end.
    fn finished(&self, report: &Report, outcome: &Result<()>);
}

/// See `gmemPrefetchEx` and `gmemPrefetchV`. Calls `caller.finished` in any case, before it returns if it fails immediately.
pub fn prefetch_with(
    ranges: RangeSet,
    hnid: i32,
    stream: StreamArgument,
    options: Options,
    caller: Arc<dyn Caller>,
) -> Result<()> {
    let bytes = ranges.bytes();
    let found = stream.device().and_then(|device| {
        let node = device::by_index(device).node(hnid)?;
        Ok((device, node))
    });
    let (device, node) = match found {
        Ok(found) => found,
        Err(failure) => return refuse(&*caller, bytes, failure),
    };
    let deadline = options.timeout.map(|timeout| (Instant::now() + timeout, timeout));
    let watched =
        Watched { ranges, bytes, device, node, options, deadline, caller: Arc::clone(&caller) };
    match stream {
        StreamArgument::None => watched.run(),
        StreamArgument::Own(handle) => {
            stream::enqueue(handle, Work::Task(Box::new(move || watched.run())))
                .or_else(|failure| refuse(&*caller, bytes, failure))
        }
        StreamArgument::Driver(driver) => {
            watched.register(driver).or_else(|failure| refuse(&*caller, bytes, failure))
        }
    }
}

/// Report a failure that kept a prefetch of `bytes` from being started.
pub fn refuse(caller: &dyn Caller, bytes: usize, failure: Error) -> Result<()> {
    let outcome = Err(failure);
    caller.finished(&Report::refused(bytes), &outcome);
    outcome
}

/// A prefetch of one or many ranges that its caller watches.
struct Watched {
    ranges: RangeSet,
    /// Bytes in all ranges.
    bytes: usize,
    /// Index of the device.
    device: usize,
    /// The device's node.
    node: usize,
    options: Options,
    /// When the prefetch must be done, and the time it was given.
    deadline: Option<(Instant, Duration)>,
    caller: Arc<dyn Caller>,
}

impl Watched {
    fn prefetch_of(&self, asked: PageRange) -> Prefetch {
        Prefetch { asked, device: self.device, node: self.node }
    }

    /// `before` counts the bytes of the blocks before this one, in whole base pages.
    fn watch(&self, block: PageRange, before: usize) -> WatchedBlock<'_> {
        let sizes = self.ranges.blocks().iter().map(|block| touched(*block));
        let all = sizes.fold(0, usize::saturating_add);
        WatchedBlock { all: self, before, others: all.saturating_sub(touched(block)) }
    }

    /// Prefetch block after block, up to the first failure. Pages of the blocks behind it count as failed.
    fn run(&self) -> Result<()> {
        let mut report = Report { bytes: self.bytes, ..Report::EMPTY };
        let mut outcome = Ok(());
        let mut before = 0;
        for block in self.ranges.blocks() {
            if outcome.is_err() {
                report.failed =
                    report.failed.saturating_add(touched(*block) / mapping::base_page().bytes());
                continue;
            }
            let (part, result) = self.run_block(*block, before);
            report.append(&part);
            outcome = result;
            before += touched(*block);
        }
        self.caller.finished(&report, &outcome);
        outcome
    }

    fn run_block(&self, block: PageRange, before: usize) -> (Report, Result<()>) {
        let mut report = Report::EMPTY;
        let watch = self.watch(block, before);
        let outcome = self.prefetch_of(block).run(&self.options, &watch, &mut report);
        if let Err(failure) = &outcome {
            if report.counted_pages() == 0 {
                report = Report { threads: report.threads, ..Report::refused(block.len()) };
            }
            report.first_failure.get_or_insert((failure.errno(), block.start()));
        }
        (report, outcome)
    }

    /// Register the prefetch with a driver's stream.
    fn register(self, driver: DriverStream) -> Result<()> {
        let mut with_driver = false;
        let mut left = Vec::new();
        let mut before = 0;
        for block in self.ranges.blocks() {
            let watch = self.watch(*block, before);
            let registered = self.prefetch_of(*block).register(driver, &self.options, &watch)?;
            with_driver |= registered.with_driver;
            left.extend(registered.left);
            before += touched(*block);
        }
        driver.enqueue(Work::Task(if with_driver {
            Box::new(move || self.run_rest(&left))
        } else {
            Box::new(move || self.run())
        }))
    }

    /// Do what the driver left, when its stream has come to it.
    fn run_rest(&self, left: &[PageRange]) -> Result<()> {
        let mut report = Report::unknown(self.bytes);
        let outcome = left.iter().try_for_each(|part| {
            let mut done = Report::EMPTY;
            let outcome = self.prefetch_of(*part).run(&self.options, &Unwatched, &mut done);
            report.failed = report.failed.saturating_add(done.failed);
            report.threads = report.threads.max(done.threads);
            outcome
        });
        if let Err(failure) = &outcome {
            report.first_failure = Some((failure.errno(), self.ranges.start()));
        }
        // The work is done, so the caller can no longer cancel it.
        let _ = self.caller.progress(self.bytes, self.bytes);
        self.caller.finished(&report, &outcome);
        outcome
    }
}

/// Bytes of the base pages that a range touches.
fn touched(range: PageRange) -> usize {
    range.outward(mapping::base_page()).len()
}

/// Watches one block of a prefetch, and counts the progress of all blocks.
struct WatchedBlock<'a> {
    all: &'a Watched,
    /// Bytes of the blocks before this one.
    before: usize,
    /// Bytes of all other blocks.
    others: usize,
}

impl WatchedBlock<'_> {
    fn cancelled(&self, done: usize, total: usize) -> Error {
        let ranges = &self.all.ranges;
        Error::Cancelled { from: ranges.start(), to: ranges.end(), done, total }
    }
}

impl Watch for WatchedBlock<'_> {
    fn go_on(&self, done: usize, total: usize) -> Result<()> {
        let (done, total) = (self.before + done, self.others + total);
        let Watched { ranges, deadline, caller, .. } = self.all;
        if caller.is_cancelled() {
            return Err(self.cancelled(done, total));
        }
        match *deadline {
            Some((at, timeout)) if Instant::now() >= at => Err(Error::TimedOut {
                from: ranges.start(),
                to: ranges.end(),
                done,
                total,
                timeout: u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX),
            }),
            _ => Ok(()),
        }
    }

    fn progress(&self, done: usize, total: usize) -> Result<()> {
        let (done, total) = (self.before + done, self.others + total);
        if self.all.caller.progress(done, total) {
            Ok(())
        } else {
            Err(self.cancelled(done, total))
        }
    }
}
