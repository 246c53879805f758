// SPDX-License-Identifier: Apache-2.0
//! mimalloc 3 under the names of malloc.
#[macro_use]
#[path = "../malloc_family.rs"]
mod family;

malloc_family!(
    "mi_malloc",
    "mi_calloc",
    "mi_realloc",
    "mi_reallocarray",
    "mi_free",
    "mi_posix_memalign",
    "mi_aligned_alloc",
    "mi_memalign",
    "mi_valloc",
    "mi_pvalloc",
    "mi_malloc_usable_size"
);

/// Which mimalloc this is: 30302 is 3.3.2.
#[unsafe(no_mangle)]
pub extern "C" fn peer_version() -> c_int {
    // SAFETY: takes nothing and reads a constant.
    unsafe { libmimalloc_sys::mi_version() }
}
