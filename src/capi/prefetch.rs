//! `gmemPrefetchEx`: options and receipt as C has them.

use std::ffi::{c_int, c_uint, c_ulong, c_void};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use super::growing::{self, Grows, Out};
use crate::device;
use crate::error::Result;
use crate::guard::guard;
use crate::huge_policy::{self, HugePolicy};
use crate::page::PageRange;
use crate::prefetch::{self, Caller, Options};
use crate::report::Report;

/// `gmemPrefetchReport_t`.
#[repr(C)]
#[derive(Clone, Copy)]
struct PrefetchReport {
    size: usize,
    result: c_int,
    threads: c_uint,
    bytes: usize,
    there: usize,
    populated: usize,
    migrated: usize,
    failed: usize,
    huge: usize,
    fallen_back: usize,
    first_failed: c_ulong,
    first_errno: c_int,
    stalled: c_int,
    nanoseconds: u64,
}
// SAFETY: numbers alone, the size first.
unsafe impl Grows for PrefetchReport {}

impl PrefetchReport {
    fn new(report: &Report, result: c_int) -> Self {
        let (errno, at) = report.first_failure.map_or((0, 0), |(errno, at)| (errno.0, at));
        Self {
            size: size_of::<Self>(),
            result,
            threads: c_uint::try_from(report.threads).unwrap_or(c_uint::MAX),
            bytes: report.bytes,
            there: report.there,
            populated: report.populated,
            migrated: report.migrated,
            failed: report.failed,
            huge: report.huge.unwrap_or(Report::UNKNOWN),
            fallen_back: report.fallen_back.unwrap_or(Report::UNKNOWN),
            first_failed: at as c_ulong,
            first_errno: errno,
            stalled: report.stalled.into(),
            nanoseconds: report.nanoseconds,
        }
    }
}

/// `gmemPrefetchOptions_t`.
#[repr(C)]
#[derive(Clone, Copy)]
struct PrefetchOptions {
    size: usize,
    huge: c_int,
    threads: c_uint,
    timeout_ns: u64,
    cancel: *const c_int,
    progress: Option<unsafe extern "C" fn(usize, usize, *mut c_void) -> c_int>,
    progress_arg: *mut c_void,
    finished: Option<unsafe extern "C" fn(*mut c_void)>,
    finished_arg: *mut c_void,
}
// SAFETY: the size first; the functions may have any bits, because it is the caller who says that they are functions.
unsafe impl Grows for PrefetchOptions {}

const NO_OPTIONS: PrefetchOptions = PrefetchOptions {
    size: size_of::<PrefetchOptions>(),
    huge: 0,
    threads: 0,
    timeout_ns: 0,
    cancel: ptr::null(),
    progress: None,
    progress_arg: ptr::null_mut(),
    finished: None,
    finished_arg: ptr::null_mut(),
};

/// A caller in C.
struct CallerInC {
    options: PrefetchOptions,
    report: Option<Out<PrefetchReport>>,
}
// SAFETY: the header says that what options and report point to is used by the thread that does the work, whichever that is.
unsafe impl Send for CallerInC {}
// SAFETY: all threads of a prefetch read `cancel`, atomically; the rest is used by one after the other.
unsafe impl Sync for CallerInC {}

impl Caller for CallerInC {
    fn is_cancelled(&self) -> bool {
        let cancel = self.options.cancel.cast_mut();
        // SAFETY: not NULL, so it is an int that stays until the work is done and is set atomically.
        !cancel.is_null() && unsafe { AtomicI32::from_ptr(cancel) }.load(Ordering::Relaxed) != 0
    }

    fn progress(&self, done: usize, total: usize) -> bool {
        match self.options.progress {
            // SAFETY: the caller's function with the caller's argument.
            Some(progress) => unsafe { progress(done, total, self.options.progress_arg) == 0 },
            None => true,
        }
    }

    fn finished(&self, report: &Report, outcome: &Result<()>) {
        let result = outcome.as_ref().map_or_else(|failure| failure.errno().negative(), |()| 0);
        if let Some(out) = &self.report {
            out.write(&PrefetchReport::new(report, result));
        }
        if let Some(finished) = self.options.finished {
            // SAFETY: the caller's function with the caller's argument.
            unsafe { finished(self.options.finished_arg) };
        }
    }
}

/// # Safety
/// `options` and `report` are NULL, or structures of which as many bytes are there as their `size` says.
#[unsafe(no_mangle)]
unsafe extern "C" fn gmemPrefetchEx(
    addr: c_ulong,
    size: usize,
    hnid: c_int,
    stream: *mut c_void,
    options: *const PrefetchOptions,
    report: *mut PrefetchReport,
) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise.
        let options = unsafe { growing::read(options, "options->size", NO_OPTIONS) }?;
        // SAFETY: the same.
        let report = unsafe { Out::new(report, "report->size") }?;
        let options = options.unwrap_or(NO_OPTIONS);
        let asked = Options {
            huge: HugePolicy::from_number(options.huge)?,
            max_threads: options.threads as usize,
            timeout: (options.timeout_ns > 0).then(|| Duration::from_nanos(options.timeout_ns)),
            wants_report: report.is_some(),
        };
        crate::reserve::ask(
            size_of::<CallerInC>() + size_of::<Options>(),
            "the prefetch's options",
        )?;
        if let Some(out) = &report {
            out.write(&PrefetchReport::new(&Report::EMPTY, -libc::EINPROGRESS));
        }
        let caller = Arc::new(CallerInC { options, report });
        prefetch::prefetch_with(addr as usize, size, hnid, stream.addr(), asked, caller).map(|()| 0)
    })
}

#[unsafe(no_mangle)]
extern "C" fn gmemSetHugePolicy(policy: c_int) -> c_int {
    guard(|| {
        huge_policy::set(HugePolicy::from_number(policy)?);
        Ok(0)
    })
}

#[unsafe(no_mangle)]
extern "C" fn gmemSetRangeHugePolicy(addr: c_ulong, size: usize, policy: c_int) -> c_int {
    guard(|| {
        let policy = HugePolicy::from_number(policy)?;
        let range = PageRange::from_arguments(addr as usize, size)?;
        device::current()?.advise_huge(range, policy)?;
        huge_policy::set_range(range, policy);
        Ok(0)
    })
}

#[unsafe(no_mangle)]
extern "C" fn gmemGetHugePolicy(addr: c_ulong) -> c_int {
    huge_policy::at(addr as usize) as c_int
}
