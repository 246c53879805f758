//! The verb *prefetch*: arguments are checked now, the range moves now or in a stream's order.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::{LogLevel, log};
use crate::device::{self, Device, DriverStreams, Registered, Request, Unwatched, Watch};
use crate::error::{Error, Result};
use crate::huge_policy::{self, HugePolicy};
use crate::native_stream;
use crate::os::mapping;
use crate::os::process::PerProcess;
use crate::page::PageRange;
use crate::report::Report;
use crate::stream::{self, RangeVerb, RangeWork, Target};

static PREFETCH: RangeVerb = RangeVerb { name: "gmemPrefetch", apply: run, patient: false };

/// See `gmemPrefetch` in `libgmem.h`. `stream` 0 is no stream.
pub fn prefetch(addr: usize, size: usize, hnid: i32, stream: usize) -> Result<()> {
    let (range, target) = checked(addr, size, hnid)?;
    let register = |range| {
        let work = RangeWork { verb: &PREFETCH, range, target };
        stream::in_order(native_stream::resolve(stream)?, work)
    };
    match native_stream::native(stream)? {
        Some(streams) => Options::default()
            .register(streams, stream, range, target, &Unwatched)?
            .left
            .into_iter()
            .try_for_each(register),
        None => register(range),
    }
}

fn checked(addr: usize, size: usize, hnid: i32) -> Result<(PageRange, Target)> {
    let range = PageRange::from_arguments(addr, size)?;
    let device = device::current_index()?;
    device::by_index(device).node(hnid)?;
    Ok((range, Target { device, hnid }))
}

fn run(asked: PageRange, target: Target) -> Result<()> {
    Options::default().run(asked, target, &Unwatched, &mut { Report::EMPTY })
}

/// What a caller may ask for beside the range.
#[derive(Default)]
pub struct Options {
    /// Huge pages or not; `AsIs` for what the range or the process has.
    pub huge: HugePolicy,
    /// At most as many threads; 0 for as many as help.
    pub max_threads: usize,
    /// It ends when it takes longer than this, from the call on.
    pub timeout: Option<Duration>,
    /// Whether the report is of interest.
    pub wants_report: bool,
}

/// Whoever asked for a prefetch, while it goes on and when it is over.
pub trait Caller: Send + Sync {
    /// Asked by each thread that works.
    fn is_cancelled(&self) -> bool;

    /// Told, by one thread, the bytes done and those in all; false cancels.
    fn progress(&self, done: usize, total: usize) -> bool;

    /// Told once, with what was done, and how it ended.
    fn finished(&self, report: &Report, outcome: &Result<()>);
}

/// See `gmemPrefetchEx`. `caller` hears of the end in any case, here if it fails at once.
pub fn prefetch_with(
    addr: usize,
    size: usize,
    hnid: i32,
    stream: usize,
    options: Options,
    caller: Arc<dyn Caller>,
) -> Result<()> {
    let begun = checked(addr, size, hnid).map(|(asked, target)| Watched {
        asked,
        target,
        deadline: options.timeout.map(|timeout| (Instant::now() + timeout, timeout)),
        caller: Arc::clone(&caller),
    });
    let outcome = match begun {
        Ok(watched) if stream == 0 => return watched.run(&options),
        Ok(watched) => watched.register(stream, options),
        Err(failure) => Err(failure),
    };
    if outcome.is_err() {
        caller.finished(&Report::EMPTY, &outcome);
    }
    outcome
}

impl Options {
    /// Have a driver's stream do what is its own to do.
    fn register(
        &self,
        streams: &dyn DriverStreams,
        stream: usize,
        asked: PageRange,
        target: Target,
        watch: &dyn Watch,
    ) -> Result<Registered> {
        let node = device::by_index(target.device).node(target.hnid)?;
        log(LogLevel::Trace, || {
            format!(
                "prefetch {:#x}..{:#x} to node {node} on {stream:#x}",
                asked.start(),
                asked.end()
            )
        });
        streams.prefetch(stream, &self.request(asked, node, watch))
    }

    fn request<'a>(&self, asked: PageRange, node: usize, watch: &'a dyn Watch) -> Request<'a> {
        let huge = match self.huge {
            HugePolicy::AsIs => huge_policy::at(asked.start()),
            own => own,
        };
        let wants_report = self.wants_report || huge == HugePolicy::Prefer;
        Request { asked, node, huge, max_threads: self.max_threads, wants_report, watch }
    }

    fn run(
        &self,
        asked: PageRange,
        target: Target,
        watch: &dyn Watch,
        report: &mut Report,
    ) -> Result<()> {
        report.bytes = asked.len();
        if asked.is_empty() {
            return Ok(());
        }
        let device = device::by_index(target.device);
        let node = device.node(target.hnid)?;
        log(LogLevel::Trace, || {
            format!("prefetch {:#x}..{:#x} to node {node}", asked.start(), asked.end())
        });
        let request = self.request(asked, node, watch);
        let huge = request.huge;
        let outcome = device.prefetch(&request, report);
        let fell_back = report.fallen_back.is_none_or(|pages| pages > 0);
        if report.stalled || (fell_back && huge == HugePolicy::Prefer) {
            collapse_later(asked, device);
        }
        outcome
    }
}

/// Huge pages that could not be had without waiting are made in the background, on a stream of the library's own.
fn collapse_later(asked: PageRange, device: &'static dyn Device) {
    static STREAM: PerProcess<Option<usize>> = PerProcess::new(|_| stream::create().ok());
    // Nothing is lost if that fails: the kernel does the same, only later (khugepaged).
    if let Some(stream) = STREAM.get() {
        let work = move || {
            device.collapse_all(asked.outward(mapping::gmem_page()));
            Ok(())
        };
        let _ = stream::launch(*stream, Box::new(work));
    }
}

/// A prefetch whose caller looks on.
struct Watched {
    asked: PageRange,
    target: Target,
    /// When it has to be done, and how long it was given.
    deadline: Option<(Instant, Duration)>,
    caller: Arc<dyn Caller>,
}

impl Watched {
    fn run(&self, options: &Options) -> Result<()> {
        let mut report = Report::EMPTY;
        let outcome = options.run(self.asked, self.target, self, &mut report);
        if let Err(failure) = &outcome {
            report.first_failure.get_or_insert((failure.errno(), self.asked.start()));
        }
        self.caller.finished(&report, &outcome);
        outcome
    }

    /// In the order of a stream, which does what is its own to do.
    fn register(self, stream: usize, options: Options) -> Result<()> {
        let registered = match native_stream::native(stream)? {
            Some(streams) => options.register(streams, stream, self.asked, self.target, &self)?,
            None => Registered { with_driver: false, left: Vec::new() },
        };
        let work: stream::Task = if registered.with_driver {
            Box::new(move || self.run_rest(&options, &registered.left))
        } else {
            Box::new(move || self.run(&options))
        };
        stream::launch(native_stream::resolve(stream)?, work)
    }

    /// What the driver has left, when it has come to here.
    fn run_rest(&self, options: &Options, left: &[PageRange]) -> Result<()> {
        let mut report = Report::untold(self.asked.len());
        let outcome = left.iter().try_for_each(|part| {
            let mut done = Report::EMPTY;
            let outcome = options.run(*part, self.target, &Unwatched, &mut done);
            report.failed += done.failed;
            report.threads = report.threads.max(done.threads);
            outcome
        });
        if let Err(failure) = &outcome {
            report.first_failure = Some((failure.errno(), self.asked.start()));
        }
        // All is done, whatever the caller says.
        let _ = self.progress(self.asked.len(), self.asked.len());
        self.caller.finished(&report, &outcome);
        outcome
    }

    fn cancelled(&self, done: usize, total: usize) -> Error {
        Error::Cancelled { from: self.asked.start(), to: self.asked.end(), done, total }
    }
}

impl Watch for Watched {
    fn go_on(&self, done: usize, total: usize) -> Result<()> {
        if self.caller.is_cancelled() {
            return Err(self.cancelled(done, total));
        }
        match self.deadline {
            Some((at, timeout)) if Instant::now() >= at => Err(Error::TimedOut {
                from: self.asked.start(),
                to: self.asked.end(),
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
