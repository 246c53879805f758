//! Model files and pipelines.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::ptr;

use super::ranges::{Range, Ranges};
use super::versioned_struct::{self, VersionedOut, VersionedStruct};
use crate::error::{Error, Result};
use crate::guard::{IntResult, guard};
use crate::huge_policy::HugePolicy;
use crate::model::{self, Copy, Mode, pipeline};
use crate::stream_argument::StreamArgument;

// ---- models ---------------------------------------------------------------------------------------

/// `gmemModelOptions_t`.
#[repr(C)]
#[derive(Clone, Copy)]
struct ModelOptions {
    size: usize,
    mode: c_int,
    huge: c_int,
    copy: c_int,
    copy_descriptor: c_int,
}
// SAFETY: `repr(C)`, all fields are numbers, of which any bits are a value, and `size` is the first.
unsafe impl VersionedStruct for ModelOptions {}

/// `gmemModelInfo_t`.
#[repr(C)]
#[derive(Clone, Copy)]
struct ModelInfo {
    size: usize,
    mode: c_int,
    direct: c_int,
    data: *const c_void,
    bytes: usize,
    loaded: usize,
    read: usize,
    reason: *const c_char,
}
// SAFETY: `repr(C)`, all fields are numbers and pointers, of which any bits are a value, and `size` is the first.
unsafe impl VersionedStruct for ModelInfo {}

fn mode(number: c_int) -> Result<Option<Mode>> {
    match number {
        0 => Ok(None),
        1 => Ok(Some(Mode::Shared)),
        2 => Ok(Some(Mode::Private)),
        mode => Err(Error::UnknownModelMode { mode }),
    }
}

fn copy(options: &ModelOptions) -> Result<Copy> {
    match options.copy {
        0 => Ok(Copy::Own),
        1 if options.mode != 1 => Ok(Copy::Common),
        2 if options.mode != 1 => Ok(Copy::Join(options.copy_descriptor)),
        copy => Err(Error::UnknownModelCopy { copy }),
    }
}

/// # Safety
/// `path` is NULL or a NUL-terminated string, `options` is NULL or points to a structure whose field `size` says how many of its
/// bytes may be read, and `out` is NULL or points to a handle that may be written.
#[unsafe(no_mangle)]
unsafe extern "C" fn gmemModelOpen(
    path: *const c_char,
    options: *const ModelOptions,
    out: *mut *mut c_void,
) -> IntResult {
    guard(|| {
        if path.is_null() {
            return Err(Error::Null { argument: "path", wanted: "the path of a file" });
        }
        if out.is_null() {
            return Err(Error::Null { argument: "model", wanted: "the address of a gmemModel_t" });
        }
        let unset = ModelOptions {
            size: size_of::<ModelOptions>(),
            mode: 0,
            huge: 0,
            copy: 0,
            copy_descriptor: 0,
        };
        // SAFETY: `options` is NULL or may be read for as many bytes as its `size` says.
        let given = unsafe { versioned_struct::read(options, "options->size", unset) }?;
        let given = given.unwrap_or(unset);
        let options = model::Options {
            mode: mode(given.mode)?,
            huge: HugePolicy::from_number(given.huge)?,
            copy: copy(&given)?,
        };
        // SAFETY: `path` is not NULL, so it is a NUL-terminated string, which stays as it is during the call.
        let handle = model::open(unsafe { CStr::from_ptr(path) }, &options)?;
        // SAFETY: `out` is not NULL, so a handle may be written there.
        unsafe { out.write(ptr::without_provenance_mut(handle)) };
        Ok(0)
    })
}

/// # Safety
/// `info` is NULL or points to a structure whose field `size` says how many of its bytes may be written.
#[unsafe(no_mangle)]
unsafe extern "C" fn gmemModelGetInfo(model: *mut c_void, info: *mut ModelInfo) -> IntResult {
    guard(|| {
        // SAFETY: `info` is NULL or may be written for as many bytes as its `size` says, which is done during this call only.
        let out = unsafe { VersionedOut::new(info, "info->size") }?;
        let out = out
            .ok_or(Error::Null { argument: "info", wanted: "the address of a gmemModelInfo_t" })?;
        let facts = model::find(model.addr())?.facts();
        out.write(&ModelInfo {
            size: size_of::<ModelInfo>(),
            mode: match facts.mode {
                Mode::Shared => 1,
                Mode::Private => 2,
            },
            direct: facts.is_direct.into(),
            data: ptr::with_exposed_provenance(facts.bytes.start()),
            bytes: facts.bytes.len(),
            loaded: facts.loaded,
            read: facts.read,
            reason: facts.reason.as_ptr(),
        });
        Ok(0)
    })
}

/// # Safety
/// `range` is NULL or points to a range that may be written.
#[unsafe(no_mangle)]
unsafe extern "C" fn gmemModelRange(
    model: *mut c_void,
    offset: usize,
    length: usize,
    range: *mut Range,
) -> IntResult {
    guard(|| {
        if range.is_null() {
            return Err(Error::Null { argument: "range", wanted: "the address of a gmemRange_t" });
        }
        let part = model::find(model.addr())?.part(offset, length)?;
        // SAFETY: `range` is not NULL, so a range may be written there.
        unsafe { range.write(Range::new(part)) };
        Ok(0)
    })
}

#[unsafe(no_mangle)]
extern "C" fn gmemModelCopyDescriptor(model: *mut c_void) -> IntResult {
    guard(|| model::find(model.addr())?.copy_descriptor())
}

#[unsafe(no_mangle)]
extern "C" fn gmemModelClose(model: *mut c_void) -> IntResult {
    guard(|| model::close(model.addr()).map(|()| 0))
}

// ---- pipelines ------------------------------------------------------------------------------------

/// `gmemPipelineOptions_t`.
#[repr(C)]
#[derive(Clone, Copy)]
struct PipelineOptions {
    size: usize,
    budget: usize,
    look_ahead: c_uint,
    order: c_int,
    hnid: c_int,
    stream: *mut c_void,
}
// SAFETY: `repr(C)`, all fields are numbers and pointers, of which any bits are a value, and `size` is the first.
unsafe impl VersionedStruct for PipelineOptions {}

/// `gmemPipelineReport_t`.
#[repr(C)]
#[derive(Clone, Copy)]
struct PipelineReport {
    size: usize,
    wants: usize,
    waits: usize,
    waited_ns: u64,
    prefetches: usize,
    bytes: usize,
    drops: usize,
    peak: usize,
}
// SAFETY: `repr(C)`, all fields are numbers, of which any bits are a value, and `size` is the first.
unsafe impl VersionedStruct for PipelineReport {}

/// # Safety
/// `ranges` is NULL or points to `count` ranges. `options` is NULL or points to a structure whose field `size` says how many of
/// its bytes may be read. `out` is NULL or points to a handle that may be written.
#[unsafe(no_mangle)]
unsafe extern "C" fn gmemPipelineCreate(
    ranges: *const Range,
    count: usize,
    options: *const PipelineOptions,
    out: *mut *mut c_void,
) -> IntResult {
    guard(|| {
        if out.is_null() {
            let wanted = "the address of a gmemPipeline_t";
            return Err(Error::Null { argument: "pipeline", wanted });
        }
        // SAFETY: `ranges` is NULL or points to `count` ranges, which stay as they are during this call.
        let ranges = unsafe { Ranges::new(ranges, count) }?.each()?;
        let unset = PipelineOptions {
            size: size_of::<PipelineOptions>(),
            budget: 0,
            look_ahead: 0,
            order: 0,
            hnid: 0,
            stream: ptr::null_mut(),
        };
        // SAFETY: `options` is NULL or may be read for as many bytes as its `size` says.
        let given = unsafe { versioned_struct::read(options, "options->size", unset) }?;
        let wanted = "a gmemPipelineOptions_t with a budget";
        let given = given.ok_or(Error::Null { argument: "options", wanted })?;
        let options = pipeline::Options {
            budget: given.budget,
            look_ahead: given.look_ahead as usize,
            order: order(given.order)?,
            hnid: given.hnid,
            stream: StreamArgument::classify(given.stream.addr())?,
        };
        let handle = pipeline::create(&ranges, options)?;
        // SAFETY: `out` is not NULL, so a handle may be written there.
        unsafe { out.write(ptr::without_provenance_mut(handle)) };
        Ok(0)
    })
}

fn order(number: c_int) -> Result<pipeline::Order> {
    match number {
        0 => Ok(pipeline::Order::Sequence),
        1 => Ok(pipeline::Order::Cycle),
        2 => Ok(pipeline::Order::Any),
        order => Err(Error::UnknownPipelineOrder { order }),
    }
}

#[unsafe(no_mangle)]
extern "C" fn gmemPipelineWant(pipeline: *mut c_void, index: usize) -> IntResult {
    guard(|| pipeline::find(pipeline.addr())?.want(index).map(|()| 0))
}

#[unsafe(no_mangle)]
extern "C" fn gmemPipelineSoon(pipeline: *mut c_void, index: usize) -> IntResult {
    guard(|| pipeline::find(pipeline.addr())?.soon(index).map(|()| 0))
}

#[unsafe(no_mangle)]
extern "C" fn gmemPipelineDone(pipeline: *mut c_void, index: usize) -> IntResult {
    guard(|| pipeline::find(pipeline.addr())?.done(index).map(|()| 0))
}

/// # Safety
/// `report` is NULL or points to a structure whose field `size` says how many of its bytes may be written.
#[unsafe(no_mangle)]
unsafe extern "C" fn gmemPipelineGetReport(
    pipeline: *mut c_void,
    report: *mut PipelineReport,
) -> IntResult {
    guard(|| {
        // SAFETY: `report` is NULL or may be written for as many bytes as its `size` says, which is done during this call only.
        let out = unsafe { VersionedOut::new(report, "report->size") }?;
        let wanted = "the address of a gmemPipelineReport_t";
        let out = out.ok_or(Error::Null { argument: "report", wanted })?;
        let report = pipeline::find(pipeline.addr())?.report();
        out.write(&PipelineReport {
            size: size_of::<PipelineReport>(),
            wants: report.wants,
            waits: report.waits,
            waited_ns: report.waited_ns,
            prefetches: report.prefetches,
            bytes: report.bytes,
            drops: report.drops,
            peak: report.peak,
        });
        Ok(0)
    })
}

#[unsafe(no_mangle)]
extern "C" fn gmemPipelineDestroy(pipeline: *mut c_void) -> IntResult {
    guard(|| pipeline::destroy(pipeline.addr()).map(|()| 0))
}
