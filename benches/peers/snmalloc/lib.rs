// SPDX-License-Identifier: Apache-2.0
//! snmalloc under the names of malloc.
use snmalloc_sys as _;

#[macro_use]
#[path = "../malloc_family.rs"]
mod family;

malloc_family!(
    "sn_malloc",
    "sn_calloc",
    "sn_realloc",
    "sn_reallocarray",
    "sn_free",
    "sn_posix_memalign",
    "sn_aligned_alloc",
    "sn_memalign",
    "sn_valloc",
    "sn_pvalloc",
    "sn_malloc_usable_size"
);
