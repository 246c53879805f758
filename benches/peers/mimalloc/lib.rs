// SPDX-License-Identifier: Apache-2.0
//! mimalloc 3 under the names of malloc.
#[macro_use]
#[path = "../malloc_family.rs"]
mod family;

malloc_family! {
    malloc => "mi_malloc"
    calloc => "mi_calloc"
    realloc => "mi_realloc"
    free => "mi_free"
    posix_memalign => "mi_posix_memalign"
    aligned_alloc => "mi_aligned_alloc"
    memalign => "mi_memalign"
    valloc => "mi_valloc"
    pvalloc => "mi_pvalloc"
    malloc_usable_size => "mi_malloc_usable_size"
}

/// Which mimalloc this is: 30302 is 3.3.2.
#[unsafe(no_mangle)]
pub extern "C" fn peer_version() -> core::ffi::c_int {
    // SAFETY: takes nothing and reads a constant.
    unsafe { libmimalloc_sys::mi_version() }
}
