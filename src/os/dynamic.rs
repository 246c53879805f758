//! The dynamic linker: what other libraries of the process have.

use std::ffi::{CStr, c_void};
use std::ptr::NonNull;

/// A function of the next library that has one of this name, seen from this one; `None` where there is none but
/// this library's own.
pub fn next_symbol(name: &CStr) -> Option<*mut c_void> {
    // SAFETY: the name is NUL-terminated. RTLD_NEXT begins behind the object that this code is in.
    let next = unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr()) };
    if let Some(next) = NonNull::new(next) {
        return Some(next.as_ptr());
    }
    // A library that was dlopened has the process's own before it.
    // SAFETY: as above.
    let first = NonNull::new(unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) })?;
    (object_of(first.as_ptr()) != object_of(next_symbol as *mut c_void)).then_some(first.as_ptr())
}

/// Where the object that an address lies in begins.
fn object_of(address: *mut c_void) -> Option<usize> {
    let mut info = std::mem::MaybeUninit::<libc::Dl_info>::uninit();
    // SAFETY: on success the whole structure is written.
    unsafe {
        (libc::dladdr(address, info.as_mut_ptr()) != 0).then(|| info.assume_init().dli_fbase.addr())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_the_c_library_has_and_nothing_else() {
        assert!(next_symbol(c"free").is_some());
        assert!(next_symbol(c"no_such_function_anywhere").is_none());
    }
}
