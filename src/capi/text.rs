//! Text as C takes it.

use std::ffi::{c_char, c_int};
use std::ptr;

use crate::error::{Error, Result};

/// As snprintf(3): as much of the text as fits, with a NUL behind it; the result is the length of all of it.
///
/// # Safety
/// `buffer` may be written for `size` bytes, or `size` is 0.
pub unsafe fn give(
    buffer: *mut c_char,
    size: usize,
    text: impl FnOnce() -> Result<String>,
) -> Result<c_int> {
    if buffer.is_null() && size > 0 {
        return Err(Error::Null { argument: "buffer", wanted: "room for `size` bytes" });
    }
    let text = text()?;
    if let Some(room) = size.checked_sub(1) {
        let length = text.len().min(room);
        // SAFETY: the caller's promise; one byte is left for the NUL.
        unsafe {
            ptr::copy_nonoverlapping(text.as_ptr().cast(), buffer, length);
            buffer.add(length).write(0);
        }
    }
    Ok(c_int::try_from(text.len()).unwrap_or(c_int::MAX))
}
