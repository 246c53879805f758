//! Whether the driver is on the call stack.

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::ptr;

use crate::os::dynamic;

/// Whether a function of the driver is on the call stack. Then the driver must not be called: it may hold its locks, and it
/// forbids calls from host functions.
pub fn is_called_by_the_driver() -> bool {
    let found = Cell::new(false);
    // SAFETY: `found` outlives the call, and the visitor does not unwind.
    unsafe { _Unwind_Backtrace(look_at_frame, ptr::from_ref(&found).cast_mut().cast()) };
    found.get()
}

enum UnwindContext {}

unsafe extern "C" {
    // From the unwinder, which Rust's standard library links.
    fn _Unwind_Backtrace(
        visit: extern "C" fn(*mut UnwindContext, *mut c_void) -> c_int,
        argument: *mut c_void,
    ) -> c_int;
    fn _Unwind_GetIP(context: *mut UnwindContext) -> usize;
}

extern "C" fn look_at_frame(context: *mut UnwindContext, found: *mut c_void) -> c_int {
    const GO_ON: c_int = 0;
    const STOP: c_int = 4;
    // SAFETY: the unwinder passes the frame that it has reached.
    let at = unsafe { _Unwind_GetIP(context) };
    if !dynamic::object_name(at, is_the_drivers) {
        return GO_ON;
    }
    // SAFETY: `is_called_by_the_driver` passes its `found`, which outlives the walk.
    unsafe { &*found.cast::<Cell<bool>>() }.set(true);
    STOP
}

/// Whether a library is `libcuda.so.1` or one that it loads, such as `libnvidia-ptxjitcompiler.so.1`.
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
