// SPDX-License-Identifier: Apache-2.0
//! snmalloc under the names of malloc.
use snmalloc_sys as _;

#[macro_use]
#[path = "../malloc_family.rs"]
mod family;

malloc_family! {
    malloc => "sn_malloc"
    calloc => "sn_calloc"
    realloc => "sn_realloc"
    free => "sn_free"
    posix_memalign => "sn_posix_memalign"
    aligned_alloc => "sn_aligned_alloc"
    memalign => "sn_memalign"
    valloc => "sn_valloc"
    pvalloc => "sn_pvalloc"
    malloc_usable_size => "sn_malloc_usable_size"
}
