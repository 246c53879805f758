//! The heap's statistics and limits, and the functions behind `malloc`.

use std::ffi::{CStr, c_char, c_int, c_void};

use super::text;
use super::versioned_struct::{VersionedOut, VersionedStruct};
use crate::error::Error;
use crate::guard::{IntResult, guard};
use crate::heap::{self, limits, profile, settings, stats};

// SAFETY: `repr(C)`, all fields are numbers, of which any bits are a value, and `size` is the first.
unsafe impl VersionedStruct for stats::Counters {}

/// # Safety
/// `out` is NULL or points to a structure whose field `size` says how many of its bytes may be written.
#[unsafe(no_mangle)]
unsafe extern "C" fn gmemHeapStats(out: *mut stats::Counters) -> IntResult {
    guard(|| {
        // SAFETY: `out` is NULL or may be written for as many bytes as its `size` says, until this call returns.
        let out = unsafe { VersionedOut::new(out, "stats->size") }?
            .ok_or(Error::Null { argument: "stats", wanted: "a gmemHeapStats_t" })?;
        out.write(&stats::read().counters);
        Ok(0)
    })
}

/// # Safety
/// `size` bytes at `buffer` may be written; `buffer` may be NULL if `size` is 0.
#[unsafe(no_mangle)]
unsafe extern "C" fn gmemHeapStatsJson(buffer: *mut c_char, size: usize) -> IntResult {
    // SAFETY: the caller lets `size` bytes at `buffer` be written.
    guard(|| unsafe { text::copy_out(buffer, size, || Ok(stats::read().to_json())) })
}

/// # Safety
/// `path` is NULL or a NUL-terminated string.
#[unsafe(no_mangle)]
unsafe extern "C" fn gmemHeapProfileDump(path: *const c_char) -> IntResult {
    guard(|| {
        if path.is_null() {
            return Err(Error::Null { argument: "path", wanted: "the path of a file" });
        }
        // SAFETY: `path` is not NULL, so it is a NUL-terminated string, which stays as it is during the call.
        profile::dump(unsafe { CStr::from_ptr(path) })?;
        Ok(0)
    })
}

#[unsafe(no_mangle)]
extern "C" fn gmemHeapSetLimits(soft: usize, hard: usize) -> IntResult {
    guard(|| {
        if soft > hard && hard != limits::NONE {
            return Err(Error::Limits { soft, hard });
        }
        limits::set(soft, hard);
        Ok(0)
    })
}

// ---- the functions behind malloc ----------------------------------------------------------------
//
// cpp/heap.cpp calls these; they are not exported. They need no guard: the allocation path neither panics nor touches a
// thread-local of Rust.

/// Whether `dlopen` keeps `RTLD_DEEPBIND`: `GMEM_DEEPBIND=keep`.
#[unsafe(no_mangle)]
extern "C" fn gmem_heap_keeps_deepbind() -> bool {
    settings::keeps_deepbind()
}

#[unsafe(no_mangle)]
extern "C" fn gmem_heap_calloc(count: usize, size: usize) -> *mut c_void {
    heap::calloc(count, size)
}

/// # Safety
/// `ptr` is NULL or a live block of this heap or of the next allocator, and nobody uses it any more.
#[unsafe(no_mangle)]
unsafe extern "C" fn gmem_heap_realloc(ptr: *mut c_void, size: usize) -> *mut c_void {
    // SAFETY: `ptr` is NULL or a live block that the caller gives up, which is what realloc(3) demands.
    unsafe { heap::realloc(ptr, size) }
}

/// # Safety
/// `ptr` is a live block of this heap or of the next allocator, and nobody uses it any more unless the call returns NULL.
#[unsafe(no_mangle)]
unsafe extern "C" fn gmem_heap_realloc_in_place(
    ptr: *mut c_void,
    alignment: usize,
    size: usize,
) -> *mut c_void {
    // SAFETY: `ptr` is a live block that the caller gives up.
    unsafe { heap::realloc_in_place(ptr, alignment, size) }
}

/// # Safety
/// `out` points to a pointer that may be written.
#[unsafe(no_mangle)]
unsafe extern "C" fn gmem_heap_posix_memalign(
    out: *mut *mut c_void,
    alignment: usize,
    size: usize,
) -> c_int {
    match heap::posix_memalign(alignment, size) {
        Ok(block) => {
            // SAFETY: the caller of posix_memalign(3) passes the address of a pointer of its own.
            unsafe { out.write(block) };
            0
        }
        Err(errno) => errno.0,
    }
}

#[unsafe(no_mangle)]
extern "C" fn gmem_heap_aligned_alloc(alignment: usize, size: usize) -> *mut c_void {
    heap::aligned_alloc(alignment, size)
}

#[unsafe(no_mangle)]
extern "C" fn gmem_heap_device_alloc(alignment: usize, size: usize) -> *mut c_void {
    heap::device_alloc(alignment, size)
}

#[unsafe(no_mangle)]
extern "C" fn gmem_heap_memalign(alignment: usize, size: usize) -> *mut c_void {
    heap::memalign(alignment, size)
}

#[unsafe(no_mangle)]
extern "C" fn gmem_heap_valloc(size: usize) -> *mut c_void {
    heap::valloc(size)
}

#[unsafe(no_mangle)]
extern "C" fn gmem_heap_pvalloc(size: usize) -> *mut c_void {
    heap::pvalloc(size)
}

/// # Safety
/// `ptr` is NULL or a live block of this heap or of the next allocator.
#[unsafe(no_mangle)]
unsafe extern "C" fn gmem_heap_usable_size(ptr: *mut c_void) -> usize {
    // SAFETY: `ptr` is NULL or a live block, so its size can be looked up.
    unsafe { heap::usable_size(ptr) }
}

/// # Safety
/// `cache` is NULL or the calling thread's.
#[unsafe(no_mangle)]
unsafe extern "C" fn gmem_heap_trim(cache: *mut heap::ThreadCache) -> usize {
    // SAFETY: cpp/heap.cpp passes the calling thread's own cache, which no other thread uses.
    unsafe { heap::trim(cache) }
}
