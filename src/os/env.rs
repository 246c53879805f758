//! Environment variables, unless the program runs with raised privileges.

use std::ffi::{CStr, CString, c_char};

unsafe extern "C" {
    // The libc crate does not declare it.
    fn secure_getenv(name: *const c_char) -> *const c_char;
}

/// An environment variable; `None` if it is not set, or if the program runs set-user-id, set-group-id or with file
/// capabilities (`secure_getenv(3)`).
pub fn secure(name: &str) -> Option<String> {
    let name = CString::new(name).ok()?;
    with_secure(&name, |value| String::from_utf8_lossy(value).into_owned())
}

/// Call `look` with the value of an environment variable, under the conditions of [`secure`]. Does not allocate.
pub fn with_secure<R>(name: &CStr, look: impl FnOnce(&[u8]) -> R) -> Option<R> {
    // SAFETY: the name is NUL-terminated.
    let value = unsafe { secure_getenv(name.as_ptr()) };
    // SAFETY: a result that is not NULL is a NUL-terminated string. It lives until the program changes the environment, which
    // POSIX forbids while another thread may read it.
    (!value.is_null()).then(|| look(unsafe { CStr::from_ptr(value) }.to_bytes()))
}

/// The address of the program's own headers, which lie at its beginning.
pub fn program_headers() -> usize {
    // SAFETY: getauxval has no conditions.
    unsafe { libc::getauxval(libc::AT_PHDR) as usize }
}

/// A number that the kernel chose at random for this program.
pub fn random_number() -> usize {
    // SAFETY: getauxval has no conditions. The address is 0 or that of 16 random bytes, which stay as long as the process.
    unsafe {
        let address = libc::getauxval(libc::AT_RANDOM) as usize;
        let bytes = std::ptr::with_exposed_provenance::<usize>(address);
        if bytes.is_null() { 0 } else { bytes.read_unaligned() }
    }
}
