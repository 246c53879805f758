//! Test code: a C function that panics inside the guard of the library's own functions.
#![allow(clippy::unwrap_used, reason = "it is here to panic")]

/// What a fault of the library's own would do.
#[unsafe(no_mangle)]
pub extern "C" fn panic_in_guard() -> gmem::guard::IntResult {
    gmem::guard::guard(|| {
        let nothing: Option<i32> = std::hint::black_box(None);
        Ok(nothing.unwrap())
    })
}
