//! Text for C.

use std::ffi::{c_char, c_int};
use std::ptr;

use crate::error::{Error, Result};

/// As snprintf(3): copy as much of the text as fits, NUL-terminated, and return the length of all of it.
///
/// # Safety
/// `size` bytes at `buffer` may be written; `buffer` may be NULL if `size` is 0.
pub unsafe fn copy_out(
    buffer: *mut c_char,
    size: usize,
    text: impl FnOnce() -> Result<String>,
) -> Result<c_int> {
    if buffer.is_null() && size > 0 {
        return Err(Error::Null { argument: "buffer", wanted: "the address of `size` bytes" });
    }
    let text = text()?;
    if let Some(capacity) = size.checked_sub(1) {
        let length = text.len().min(capacity);
        // SAFETY: `length` is less than `size`, so the text and the NUL lie in the `size` bytes that may be written. The
        // text is a String of our own, which does not overlap them.
        unsafe {
            ptr::copy_nonoverlapping(text.as_ptr().cast(), buffer, length);
            buffer.add(length).write(0);
        }
    }
    Ok(c_int::try_from(text.len()).unwrap_or(c_int::MAX))
}
