//! Test code: a C function that panics inside the guard of the library's own functions.
#![allow(clippy::unwrap_used, reason = "it is here to panic")]

/// A panic, as a bug in the library would cause.
#[unsafe(no_mangle)]
pub extern "C" fn panic_in_guard() -> gmem::guard::IntResult {
    gmem::guard::guard(|| {
        let nothing: Option<i32> = std::hint::black_box(None);
        Ok(nothing.unwrap())
    })
}
