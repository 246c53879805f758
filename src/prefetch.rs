//! The verb *prefetch*: check the arguments now, move the range now or in stream order.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::{LogLevel, log};
use crate::device::{self, Registered, Request, Unwatched, Watch};
use crate::error::{Error, Result};
use crate::huge_policy::{self, HugePolicy};
use crate::page::PageRange;
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
        device::by_index(self.device).prefetch(&self.request(options, watch), report)
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
        Request { asked: self.asked, node: self.node, huge, max_threads, wants_report, watch }
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

/// See `gmemPrefetchEx`. Calls `caller.finished` in any case, before it returns if it fails immediately.
pub fn prefetch_with(
    addr: usize,
    size: usize,
    hnid: i32,
    stream: StreamArgument,
    options: Options,
    caller: Arc<dyn Caller>,
) -> Result<()> {
    let prefetch = match Prefetch::new(addr, size, hnid, stream) {
        Ok(prefetch) => prefetch,
        Err(failure) => return refuse(&*caller, size, failure),
    };
    let deadline = options.timeout.map(|timeout| (Instant::now() + timeout, timeout));
    let watched = Watched { prefetch, options, deadline, caller: Arc::clone(&caller) };
    match stream {
        StreamArgument::None => watched.run(),
        StreamArgument::Own(handle) => {
            stream::enqueue(handle, Work::Task(Box::new(move || watched.run())))
                .or_else(|failure| refuse(&*caller, size, failure))
        }
        StreamArgument::Driver(driver) => {
            watched.register(driver).or_else(|failure| refuse(&*caller, size, failure))
        }
    }
}

/// Report a failure that kept a prefetch of `size` bytes from being started.
pub fn refuse(caller: &dyn Caller, size: usize, failure: Error) -> Result<()> {
    let outcome = Err(failure);
    caller.finished(&Report::refused(size), &outcome);
    outcome
}

/// A prefetch that its caller watches.
struct Watched {
    prefetch: Prefetch,
    options: Options,
    /// When the prefetch must be done, and the time it was given.
    deadline: Option<(Instant, Duration)>,
    caller: Arc<dyn Caller>,
}

impl Watched {
    fn run(&self) -> Result<()> {
        let asked = self.prefetch.asked;
        let mut report = Report::EMPTY;
        let outcome = self.prefetch.run(&self.options, self, &mut report);
        if let Err(failure) = &outcome {
            if report.counted_pages() == 0 {
                report = Report { threads: report.threads, ..Report::refused(asked.len()) };
            }
            report.first_failure.get_or_insert((failure.errno(), asked.start()));
        }
        self.caller.finished(&report, &outcome);
        outcome
    }

    /// Register the prefetch with a driver's stream.
    fn register(self, driver: DriverStream) -> Result<()> {
        let registered = self.prefetch.register(driver, &self.options, &self)?;
        driver.enqueue(Work::Task(if registered.with_driver {
            Box::new(move || self.run_rest(&registered.left))
        } else {
            Box::new(move || self.run())
        }))
    }

    /// Do what the driver left, when its stream has come to it.
    fn run_rest(&self, left: &[PageRange]) -> Result<()> {
        let asked = self.prefetch.asked;
        let mut report = Report::unknown(asked.len());
        let outcome = left.iter().try_for_each(|part| {
            let mut done = Report::EMPTY;
            let outcome = self.prefetch.of_part(*part).run(&self.options, &Unwatched, &mut done);
            report.failed += done.failed;
            report.threads = report.threads.max(done.threads);
            outcome
        });
        if let Err(failure) = &outcome {
            report.first_failure = Some((failure.errno(), asked.start()));
        }
        // The work is done, so the caller can no longer cancel it.
        let _ = self.progress(asked.len(), asked.len());
        self.caller.finished(&report, &outcome);
        outcome
    }

    fn cancelled(&self, done: usize, total: usize) -> Error {
        let asked = self.prefetch.asked;
        Error::Cancelled { from: asked.start(), to: asked.end(), done, total }
    }
}

impl Watch for Watched {
    fn go_on(&self, done: usize, total: usize) -> Result<()> {
        if self.caller.is_cancelled() {
            return Err(self.cancelled(done, total));
        }
        match self.deadline {
            Some((at, timeout)) if Instant::now() >= at => Err(Error::TimedOut {
                from: self.prefetch.asked.start(),
                to: self.prefetch.asked.end(),
                done,
                total,
                timeout: u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX),
            }),
            _ => Ok(()),
        }
    }

    fn progress(&self, done: usize, total: usize) -> Result<()> {
        if self.caller.progress(done, total) { Ok(()) } else { Err(self.cancelled(done, total)) }
    }
}
