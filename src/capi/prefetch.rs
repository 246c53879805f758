//! `gmemPrefetchEx` and `gmemPrefetchV` with their options and report, and the huge-page policies.

use std::ffi::{c_int, c_uint, c_ulong, c_void};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use super::ranges::{Range, Ranges};
use super::versioned_struct::{self, VersionedOut, VersionedStruct};
use crate::device;
use crate::error::Result;
use crate::guard::{IntResult, guard};
use crate::huge_policy::{self, HugePolicy};
use crate::page::PageRange;
use crate::prefetch::{self, Caller, Options};
use crate::range_set::RangeSet;
use crate::report::Report;
use crate::stream_argument::StreamArgument;

/// `gmemPrefetchReport_t`.
#[repr(C)]
#[derive(Clone, Copy)]
struct PrefetchReport {
    size: usize,
    result: c_int,
    threads: c_uint,
    bytes: usize,
    already_resident: usize,
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
// SAFETY: `repr(C)`, all fields are numbers, of which any bits are a value, and `size` is the first.
unsafe impl VersionedStruct for PrefetchReport {}

impl PrefetchReport {
    fn new(report: &Report, result: c_int) -> Self {
        let (errno, at) = report.first_failure.map_or((0, 0), |(errno, at)| (errno.0, at));
        Self {
            size: size_of::<Self>(),
            result,
            threads: c_uint::try_from(report.threads).unwrap_or(c_uint::MAX),
            bytes: report.bytes,
            already_resident: report.already_resident,
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
// SAFETY: `repr(C)` with `size` first. The other fields are numbers, pointers, and functions or NULL: libgmem.h requires
// that a caller whose `size` covers one of the two functions has set it to NULL or to a function of that type.
unsafe impl VersionedStruct for PrefetchOptions {}

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
    report: Option<VersionedOut<PrefetchReport>>,
}
// SAFETY: libgmem.h requires that everything `options` and `report` point to stays usable, by whichever thread does the
// work, until the work is done.
unsafe impl Send for CallerInC {}
// SAFETY: the threads of a prefetch share it, but only `cancel` is used by several of them at the same time, and that is
// read atomically. `progress` is called by one thread only, and `finished`, which writes the report, once, when the other
// threads have ended.
unsafe impl Sync for CallerInC {}

impl Caller for CallerInC {
    fn is_cancelled(&self) -> bool {
        let cancel = self.options.cancel.cast_mut();
        // SAFETY: `cancel` is not NULL, so it points to an aligned int of the caller, which stays until the work is done
        // and is only written atomically.
        !cancel.is_null() && unsafe { AtomicI32::from_ptr(cancel) }.load(Ordering::Relaxed) != 0
    }

    fn progress(&self, done: usize, total: usize) -> bool {
        match self.options.progress {
            // SAFETY: libgmem.h lets `progress` be called with `progress_arg` until the work is done, which it is not
            // before `finished`.
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
            // SAFETY: libgmem.h lets `finished` be called with `finished_arg` once the work is done; this is the only call.
            unsafe { finished(self.options.finished_arg) };
        }
    }
}

/// # Safety
/// `options` and `report` are NULL or point to structures whose fields `size` say how many of their bytes may be used;
/// those of `report`, and everything `options` points to, until the work is done.
#[unsafe(no_mangle)]
unsafe extern "C" fn gmemPrefetchEx(
    addr: c_ulong,
    size: usize,
    hnid: c_int,
    stream: *mut c_void,
    options: *const PrefetchOptions,
    report: *mut PrefetchReport,
) -> IntResult {
    guard(|| {
        let ranges = || PageRange::from_arguments(addr as usize, size).map(RangeSet::of);
        // SAFETY: `options` and `report` are as the caller promises, which is what `run` requires.
        unsafe { run(ranges, size, hnid, stream, options, report) }
    })
}

/// # Safety
/// `ranges` is NULL or points to `count` ranges. `options` and `report` are as for [`gmemPrefetchEx`].
#[unsafe(no_mangle)]
unsafe extern "C" fn gmemPrefetchV(
    ranges: *const Range,
    count: usize,
    hnid: c_int,
    stream: *mut c_void,
    options: *const PrefetchOptions,
    report: *mut PrefetchReport,
) -> IntResult {
    guard(|| {
        // SAFETY: `ranges` is NULL or points to `count` ranges, which stay as they are during this call.
        let ranges = unsafe { Ranges::new(ranges, count) }?;
        // SAFETY: `options` and `report` are as the caller promises, which is what `run` requires.
        unsafe { run(|| ranges.union(), 0, hnid, stream, options, report) }
    })
}

/// Prefetch `ranges`. The report of a call with wrong arguments has `bytes`.
///
/// # Safety
/// `options` is NULL or may be read for as many bytes as its `size` says, and what it points to stays until the work is
/// done. `report` is NULL or may be written for as many bytes as its `size` says, until the work is done.
unsafe fn run(
    ranges: impl FnOnce() -> Result<RangeSet>,
    bytes: usize,
    hnid: c_int,
    stream: *mut c_void,
    options: *const PrefetchOptions,
    report: *mut PrefetchReport,
) -> Result<i32> {
    // SAFETY: `options` is NULL or may be read for as many bytes as its `size` says.
    let options = unsafe { versioned_struct::read(options, "options->size", NO_OPTIONS) }?;
    // SAFETY: `report` is NULL or may be written for as many bytes as its `size` says, until the work is done; it is last
    // written by `finished`, which is when the work is done.
    let report = unsafe { VersionedOut::new(report, "report->size") }?;
    let options = options.unwrap_or(NO_OPTIONS);
    let asked = Options {
        huge: HugePolicy::from_number(options.huge)?,
        max_threads: options.threads as usize,
        timeout: (options.timeout_ns > 0).then(|| Duration::from_nanos(options.timeout_ns)),
        wants_report: report.is_some(),
    };
    crate::reserve::ask(size_of::<CallerInC>() + size_of::<Options>(), "the prefetch's options")?;
    if let Some(out) = &report {
        out.write(&PrefetchReport::new(&Report::EMPTY, -libc::EINPROGRESS));
    }
    let caller = Arc::new(CallerInC { options, report });
    let arguments =
        StreamArgument::classify(stream.addr()).and_then(|stream| Ok((stream, ranges()?)));
    let outcome = match arguments {
        Ok((stream, ranges)) => prefetch::prefetch_with(ranges, hnid, stream, asked, caller),
        Err(failure) => prefetch::refuse(&*caller, bytes, failure),
    };
    outcome.map(|()| 0)
}

#[unsafe(no_mangle)]
extern "C" fn gmemSetHugePolicy(policy: c_int) -> IntResult {
    guard(|| {
        huge_policy::set(HugePolicy::from_number(policy)?);
        Ok(0)
    })
}

#[unsafe(no_mangle)]
extern "C" fn gmemSetRangeHugePolicy(addr: c_ulong, size: usize, policy: c_int) -> IntResult {
    guard(|| {
        let policy = HugePolicy::from_number(policy)?;
        let range = PageRange::from_arguments(addr as usize, size)?;
        device::current()?.advise_huge(range, policy)?;
        huge_policy::set_range(range, policy)?;
        Ok(0)
    })
}

#[unsafe(no_mangle)]
extern "C" fn gmemGetHugePolicy(addr: c_ulong) -> IntResult {
    (huge_policy::at(addr as usize) as c_int).into()
}
