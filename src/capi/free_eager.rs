//! `gmemFreeEager`, `gmemFreeEagerFile`, and `gmemFreeEagerV` with its report.

use std::ffi::{c_int, c_uint, c_ulong, c_void};
use std::sync::Arc;

use super::ranges::{Range, Ranges};
use super::versioned_struct::{VersionedOut, VersionedStruct};
use crate::error::Result;
use crate::free_eager::{self, Caller, FreeReport};
use crate::free_eager_file;
use crate::guard::{IntResult, guard};
use crate::stream_argument::StreamArgument;

/// # Safety
/// Nobody uses the contents of the whole GMEM pages in the range again before they are written.
#[unsafe(no_mangle)]
unsafe extern "C" fn gmemFreeEager(addr: c_ulong, size: usize, stream: *mut c_void) -> IntResult {
    guard(|| {
        let stream = StreamArgument::classify(stream.addr())?;
        free_eager::free_eager(addr as usize, size, stream).map(|()| 0)
    })
}

/// # Safety
/// No other thread maps memory in the range during the call: its contents could go.
#[unsafe(no_mangle)]
unsafe extern "C" fn gmemFreeEagerFile(
    addr: c_ulong,
    size: usize,
    descriptor: c_int,
    stream: *mut c_void,
) -> IntResult {
    guard(|| {
        let stream = StreamArgument::classify(stream.addr())?;
        free_eager_file::free_eager_file(addr as usize, size, descriptor, stream).map(|()| 0)
    })
}

/// `gmemFreeReport_t`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Report {
    size: usize,
    result: c_int,
    blocks: c_uint,
    bytes: usize,
    freed: usize,
    lost: usize,
}
// SAFETY: `repr(C)`, all fields are numbers, of which any bits are a value, and `size` is the first.
unsafe impl VersionedStruct for Report {}

impl Report {
    fn new(report: &FreeReport, result: c_int) -> Self {
        Self {
            size: size_of::<Self>(),
            result,
            blocks: c_uint::try_from(report.blocks).unwrap_or(c_uint::MAX),
            bytes: report.bytes,
            freed: report.freed,
            lost: report.lost,
        }
    }
}

/// A caller in C, who may want a report.
struct CallerInC(Option<VersionedOut<Report>>);
// SAFETY: libgmem.h requires that the report may be written, by whichever thread does the work, until the work is done.
unsafe impl Send for CallerInC {}
// SAFETY: the report is written once after it was handed over, by the thread that ends the work.
unsafe impl Sync for CallerInC {}

impl Caller for CallerInC {
    fn finished(&self, report: &FreeReport, outcome: &Result<()>) {
        if let Some(out) = &self.0 {
            let result = outcome.as_ref().map_or_else(|failure| failure.errno().negative(), |()| 0);
            out.write(&Report::new(report, result));
        }
    }
}

/// # Safety
/// Nobody uses the contents of the ranges' whole GMEM pages again before they are written. `ranges` is NULL or points to `count`
/// ranges. `report` is NULL or points to a structure whose field `size` says how many
/// of its bytes may be written until the work is done.
#[unsafe(no_mangle)]
unsafe extern "C" fn gmemFreeEagerV(
    ranges: *const Range,
    count: usize,
    stream: *mut c_void,
    report: *mut Report,
) -> IntResult {
    guard(|| {
        // SAFETY: `report` is NULL or may be written for as many bytes as its `size` says, until the work is done; it is
        // last written by `finished`, which is when the work is done.
        let report = unsafe { VersionedOut::new(report, "report->size") }?;
        // SAFETY: `ranges` is NULL or points to `count` ranges, which stay as they are during this call.
        let ranges = unsafe { Ranges::new(ranges, count) }?;
        crate::reserve::ask(size_of::<CallerInC>() + size_of::<FreeReport>(), "the eager free")?;
        if let Some(out) = &report {
            out.write(&Report::new(&FreeReport::default(), -libc::EINPROGRESS));
        }
        let caller = Arc::new(CallerInC(report));
        let arguments = StreamArgument::classify(stream.addr())
            .and_then(|stream| Ok((stream, ranges.union()?)));
        let outcome = match arguments {
            Ok((stream, union)) => free_eager::free_eager_all(union, stream, caller),
            Err(failure) => {
                let outcome = Err(failure);
                caller.finished(&FreeReport::default(), &outcome);
                outcome
            }
        };
        outcome.map(|()| 0)
    })
}
