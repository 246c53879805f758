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
    with_secure(&name, |value| String::from_utf8_lossy(value).into_owned())
}

/// The same without allocating: `look` is called with the value.
pub fn with_secure<R>(name: &CStr, look: impl FnOnce(&[u8]) -> R) -> Option<R> {
    // SAFETY: the name is NUL-terminated.
    let value = unsafe { secure_getenv(name.as_ptr()) };
    // SAFETY: a non-NULL result is a NUL-terminated string, which nobody changes meanwhile.
    (!value.is_null()).then(|| look(unsafe { CStr::from_ptr(value) }.to_bytes()))
}
