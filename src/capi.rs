//! The C functions of `libgmem.h`, whose comments document them.
//!
//! Each function turns its arguments into Rust's, calls one verb inside the guard, and returns a number. A `void *stream`
//! is classified here. The functions that C declares as `int` return [`IntResult`].
//!
//! - here: plain prefetch, version, device, last error
//! - [`free_eager`]: eager free of one or many ranges; [`ranges`]: the array of ranges
//! - [`prefetch`]: prefetch with options, of one or many ranges; huge-page policies
//! - [`model`]: model files and pipelines
//! - [`streams`]: streams and events
//! - [`faults`], [`topology`], [`residency`]: what can be observed
//! - [`heap`]: statistics and limits, and the functions behind `malloc`
//! - [`versioned_struct`], [`text`]: structures that grow, and text

mod faults;
mod free_eager;
mod heap;
mod mapped_file;
mod model;
mod prefetch;
mod ranges;
mod residency;
mod streams;
mod text;
mod topology;
mod versioned_struct;

use std::ffi::{CStr, c_char, c_int, c_ulong, c_void};
use std::ptr;

use crate::error::Error;
use crate::guard::{IntResult, guard};
use crate::heap::device_blocks;
use crate::os::mapping;
use crate::stream_argument::StreamArgument;
use crate::{device, last_error};

// ---- ranges -----------------------------------------------------------------------------------

#[unsafe(no_mangle)]
extern "C" fn gmemPrefetch(
    addr: c_ulong,
    size: usize,
    hnid: c_int,
    stream: *mut c_void,
) -> IntResult {
    guard(|| {
        let stream = StreamArgument::classify(stream.addr())?;
        crate::prefetch::prefetch(addr as usize, size, hnid, stream).map(|()| 0)
    })
}

#[unsafe(no_mangle)]
extern "C" fn gmemGetNumaId() -> IntResult {
    guard(|| device::current()?.numa_id())
}

#[unsafe(no_mangle)]
extern "C" fn gmemGetPageSize() -> usize {
    mapping::gmem_page().bytes()
}

// ---- errors, version, device ------------------------------------------------------------------

#[unsafe(no_mangle)]
extern "C" fn gmemLastError() -> *const c_char {
    last_error::last_message_ptr()
}

#[unsafe(no_mangle)]
extern "C" fn gmemVersion() -> *const c_char {
    const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
    VERSION.as_ptr().cast()
}

/// # Safety
/// `name` is NULL or a NUL-terminated string.
#[unsafe(no_mangle)]
unsafe extern "C" fn gmemSetDevice(name: *const c_char) -> IntResult {
    guard(|| {
        if name.is_null() {
            return Err(Error::Null {
                argument: "name",
                wanted: "the name of a device, e.g. \"host\", or \"auto\"",
            });
        }
        // SAFETY: `name` is not NULL, so it is a NUL-terminated string, which stays as it is during the call.
        let name = unsafe { CStr::from_ptr(name) };
        let is_named = device::set_current(&name.to_string_lossy())?;
        device_blocks::device_changed(is_named);
        Ok(0)
    })
}

#[unsafe(no_mangle)]
extern "C" fn gmemGetDevice() -> *const c_char {
    let mut name = ptr::null();
    guard(|| {
        name = device::current()?.c_name().as_ptr();
        Ok(0)
    });
    name
}

#[unsafe(no_mangle)]
extern "C" fn gmemGetDeviceContext() -> *mut c_void {
    let mut context = ptr::null_mut();
    guard(|| {
        context = device::current()?.context()?;
        Ok(0)
    });
    context
}
