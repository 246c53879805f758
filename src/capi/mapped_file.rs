//! `gmemMappingsOf`: where a file lies in memory.

use std::ffi::{CStr, c_char, c_int, c_ulong};

use crate::error::Error;
use crate::guard::{IntResult, guard};
use crate::os::mapped_file::mappings_of;

/// `gmemMapping_t` of `libgmem.h`.
#[repr(C)]
struct Mapping {
    addr: c_ulong,
    size: usize,
    offset: u64,
    writable: c_int,
    shared: c_int,
}

/// # Safety
/// `path` is NULL or a NUL-terminated string. `count` mappings at `mappings` may be written; `mappings` may be NULL if `count`
/// is 0.
#[unsafe(no_mangle)]
unsafe extern "C" fn gmemMappingsOf(
    path: *const c_char,
    mappings: *mut Mapping,
    count: usize,
) -> IntResult {
    guard(|| {
        if path.is_null() {
            return Err(Error::Null { argument: "path", wanted: "the path of a file" });
        }
        if mappings.is_null() && count > 0 {
            return Err(Error::Null {
                argument: "mappings",
                wanted: "the address of `count` mappings",
            });
        }
        // SAFETY: `path` is not NULL, so it is a NUL-terminated string, which stays as it is during the call.
        let path = unsafe { CStr::from_ptr(path) };
        let found = mappings_of(path).map_err(|errno| Error::NoSuchFile {
            path: path.to_string_lossy().into_owned(),
            errno,
        })?;
        for (index, mapped) in found.iter().take(count).enumerate() {
            // SAFETY: `index` is less than `count`, and `count` mappings may be written.
            unsafe {
                mappings.add(index).write(Mapping {
                    addr: mapped.range.start() as c_ulong,
                    size: mapped.range.len(),
                    offset: mapped.offset,
                    writable: mapped.write.into(),
                    shared: mapped.shared.into(),
                });
            }
        }
        Ok(c_int::try_from(found.len()).unwrap_or(c_int::MAX))
    })
}
