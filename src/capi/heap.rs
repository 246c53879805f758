//! The heap's statistics and limits, and the functions behind `malloc`.

use std::ffi::{c_char, c_int, c_void};

use super::text;
use super::versioned_struct::{VersionedOut, VersionedStruct};
use crate::error::Error;
use crate::guard::{IntResult, guard};
use crate::heap::{self, limits, stats};

/// `gmemHeapStats_t` of `libgmem.h`.
#[repr(C)]
#[derive(Clone, Copy)]
struct HeapStats {
    size: usize,
    live: usize,
    idle: usize,
    metadata: usize,
    retained: usize,
    mapped: usize,
    resident: usize,
    huge: usize,
    released: usize,
    soft_limit: usize,
    hard_limit: usize,
    refused: usize,
    foreign_blocks: usize,
    arenas: usize,
    device_live: usize,
    device_idle: usize,
    device_refused: usize,
}
// SAFETY: `repr(C)`, all fields are numbers, of which any bits are a value, and `size` is the first.
unsafe impl VersionedStruct for HeapStats {}

/// # Safety
/// `out` is NULL or points to a structure whose field `size` says how many of its bytes may be written.
#[unsafe(no_mangle)]
unsafe extern "C" fn gmemHeapStats(out: *mut HeapStats) -> IntResult {
    guard(|| {
        // SAFETY: `out` is NULL or may be written for as many bytes as its `size` says, until this call returns.
        let out = unsafe { VersionedOut::new(out, "stats->size") }?
            .ok_or(Error::Null { argument: "stats", wanted: "a gmemHeapStats_t" })?;
        let stats = stats::read();
        out.write(&HeapStats {
            size: size_of::<HeapStats>(),
            live: stats.live,
            idle: stats.idle,
            metadata: stats.metadata,
            retained: stats.retained,
            mapped: stats.mapped,
            resident: stats.resident,
            huge: stats.huge,
            released: stats.given_back,
            soft_limit: stats.soft_limit,
            hard_limit: stats.hard_limit,
            refused: stats.refused,
            foreign_blocks: stats.foreign,
            arenas: stats.arenas.len(),
            device_live: stats.device_live,
            device_idle: stats.device_idle,
            device_refused: stats.device_refused,
        });
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
