//! The environment, where it may be trusted.

use std::ffi::{CStr, CString, c_char};

unsafe extern "C" {
    // glibc and musl have it; the libc crate does not.
    fn secure_getenv(name: *const c_char) -> *const c_char;
}

/// A variable of the environment; `None` where it is unset or the program runs setuid, setgid or
/// with file capabilities (`secure_getenv(3)`).
pub fn secure(name: &str) -> Option<String> {
    let name = CString::new(name).ok()?;
    // SAFETY: the name is NUL-terminated; the value is copied before anyone could change it.
    let value = unsafe { secure_getenv(name.as_ptr()) };
    if value.is_null() {
        return None;
    }
    // SAFETY: a non-NULL result is a NUL-terminated string.
    Some(unsafe { CStr::from_ptr(value) }.to_string_lossy().into_owned())
}
