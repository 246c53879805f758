// SPDX-License-Identifier: Apache-2.0
//! The C++ half of the program.

use libgmem_sys as _;

unsafe extern "C" {
    fn consumer_scale(values: *mut f32, count: usize, factor: f32) -> i64;
}

/// Multiplies each value, in C++ and behind a prefetch. Returns the page faults that this took, or -1 for a failure.
pub fn scale(values: &mut [f32], factor: f32) -> i64 {
    // SAFETY: the pointer and the count are those of a slice that nobody else uses during the call.
    unsafe { consumer_scale(values.as_mut_ptr(), values.len(), factor) }
}
