// SPDX-License-Identifier: Apache-2.0
//! The current device of the process.

use std::ffi::{CStr, CString};

use crate::{Error, Result, ffi};

/// Makes a device the current one for the whole process: "host", "gmem", "ascend", "opencl" or "cuda".
pub fn set_device(name: &str) -> Result<()> {
    let name = CString::new(name).map_err(|_| {
        Error::invalid(format!("name={name:?} holds a NUL byte; no device has such a name"))
    })?;
    // SAFETY: the name ends in NUL and lives during the call; the library keeps no pointer to it.
    Error::check(unsafe { ffi::gmemSetDevice(name.as_ptr()) }).map(drop)
}

/// The name of the current device, or `None` when `GMEM_DEVICE` names none that exists and can be used.
pub fn device() -> Option<&'static str> {
    let name = ffi::gmemGetDevice();
    if name.is_null() {
        return None;
    }
    // SAFETY: not NULL; the name is a constant of the library, which is never unloaded.
    unsafe { CStr::from_ptr(name) }.to_str().ok()
}

/// The heterogeneous NUMA id of the current device, for [`prefetch`](crate::prefetch).
pub fn numa_id() -> Result<i32> {
    Error::check(ffi::gmemGetNumaId())
}

/// Size of the GMEM page in bytes, the granularity of prefetch and eager free: the machine's huge page.
pub fn page_size() -> usize {
    ffi::gmemGetPageSize()
}

/// Version of the library that is loaded, "major.minor.patch".
pub fn version() -> &'static str {
    // SAFETY: never NULL; the text is a constant of the library, which is never unloaded.
    unsafe { CStr::from_ptr(ffi::gmemVersion()) }.to_str().unwrap_or_default()
}
