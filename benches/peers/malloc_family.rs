// SPDX-License-Identifier: Apache-2.0
//! `malloc_family!`: exports the C library's names of malloc, each a single jump to the peer's function.
//!
//! C++'s operators need no names here, because those of libstdc++ call malloc.

macro_rules! malloc_family {
    ($malloc:literal, $calloc:literal, $realloc:literal, $reallocarray:literal, $free:literal,
     $posix_memalign:literal, $aligned_alloc:literal, $memalign:literal, $valloc:literal,
     $pvalloc:literal, $malloc_usable_size:literal) => {
        malloc_family! { @jump
            malloc($malloc; size: usize) -> *mut c_void;
            calloc($calloc; count: usize, size: usize) -> *mut c_void;
            realloc($realloc; block: *mut c_void, size: usize) -> *mut c_void;
            reallocarray($reallocarray; block: *mut c_void, count: usize, size: usize) -> *mut c_void;
            free($free; block: *mut c_void) -> ();
            posix_memalign($posix_memalign; block: *mut *mut c_void, align: usize, size: usize) -> c_int;
            aligned_alloc($aligned_alloc; align: usize, size: usize) -> *mut c_void;
            memalign($memalign; align: usize, size: usize) -> *mut c_void;
            valloc($valloc; size: usize) -> *mut c_void;
            pvalloc($pvalloc; size: usize) -> *mut c_void;
            malloc_usable_size($malloc_usable_size; block: *mut c_void) -> usize;
        }
    };
    (@jump $($name:ident($peer:literal; $($argument:ident: $type:ty),*) -> $result:ty;)*) => {
        use core::ffi::{c_int, c_void};
        $(
            /// # Safety
            /// As the C library's function of this name.
            #[unsafe(no_mangle)]
            pub unsafe extern "C" fn $name($($argument: $type),*) -> $result {
                unsafe extern "C" {
                    #[link_name = $peer]
                    fn peer($($argument: $type),*) -> $result;
                }
                // SAFETY: the caller's promise is the one that the peer asks for.
                unsafe { peer($($argument),*) }
            }
        )*
    };
}
