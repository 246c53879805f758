//! Whether the driver is on the call stack.

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::ptr;

use crate::os::dynamic;

/// Whether one of the driver's functions, or a thread of its own, is what led to here: it must not be called then, since
/// it may hold its locks, and calls of its own from a host function are forbidden.
pub fn is_called_by_the_driver() -> bool {
    let found = Cell::new(false);
    // SAFETY: the visitor stays within the call and does not unwind.
    unsafe { _Unwind_Backtrace(look_at_frame, ptr::from_ref(&found).cast_mut().cast()) };
    found.get()
}

enum UnwindContext {}

unsafe extern "C" {
    // From the unwinder, which Rust's standard library has with it.
    fn _Unwind_Backtrace(
        visit: extern "C" fn(*mut UnwindContext, *mut c_void) -> c_int,
        argument: *mut c_void,
    ) -> c_int;
    fn _Unwind_GetIP(context: *mut UnwindContext) -> usize;
}

extern "C" fn look_at_frame(context: *mut UnwindContext, found: *mut c_void) -> c_int {
    const GO_ON: c_int = 0;
    const STOP: c_int = 4;
    // SAFETY: a frame that the unwinder has come to.
    let at = unsafe { _Unwind_GetIP(context) };
    if !dynamic::object_name(at, is_the_drivers) {
        return GO_ON;
    }
    // SAFETY: what is_called_by_the_driver passed.
    unsafe { &*found.cast::<Cell<bool>>() }.set(true);
    STOP
}

/// `libcuda.so.1`, and what it loads: `libnvidia-ptxjitcompiler.so.1` and its like.
fn is_the_drivers(path: &[u8]) -> bool {
    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
    name.starts_with(b"libcuda.so") || name.starts_with(b"libnvidia-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_drivers_libraries_are_known_by_name() {
        assert!(is_the_drivers(b"/usr/lib/x86_64-linux-gnu/libcuda.so.580.95.05"));
        assert!(is_the_drivers(b"libnvidia-ptxjitcompiler.so.1"));
        assert!(!is_the_drivers(b"/usr/lib/libcudart.so.13") && !is_the_drivers(b""));
        assert!(!is_called_by_the_driver());
    }
}
