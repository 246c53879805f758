// SPDX-License-Identifier: Apache-2.0
//! The C functions that this crate uses, as `<libgmem.h>` declares and documents them.
#![allow(
    non_camel_case_types,
    missing_docs,
    reason = "names and documentation are those of libgmem.h"
)]

use std::ffi::{c_char, c_int, c_longlong, c_ulong, c_ulonglong, c_void};

#[repr(C)]
pub struct gmemStream {
    _private: [u8; 0],
}
pub type gmemStream_t = *mut gmemStream;

#[repr(C)]
pub struct gmemEvent {
    _private: [u8; 0],
}
pub type gmemEvent_t = *mut gmemEvent;

pub type gmemHostFn = Option<unsafe extern "C" fn(arg: *mut c_void)>;
pub type gmemLaunchFn =
    Option<unsafe extern "C" fn(native: *mut c_void, f: gmemHostFn, arg: *mut c_void) -> c_int>;

pub const GMEM_FAULTS_THREAD: c_int = 0;
pub const GMEM_FAULTS_PROCESS: c_int = 1;
pub const GMEM_FAULTS_PROGRAM: c_int = 2;

#[repr(C)]
pub struct gmemFaultScope_t {
    pub counter: c_int,
    pub is_process: c_int,
    pub before: c_ulonglong,
}

unsafe extern "C" {
    // Ranges.
    pub fn gmemFreeEager(addr: c_ulong, size: usize, stream: *mut c_void) -> c_int;
    pub fn gmemPrefetch(addr: c_ulong, size: usize, hnid: c_int, stream: *mut c_void) -> c_int;
    pub safe fn gmemGetNumaId() -> c_int;
    pub safe fn gmemGetPageSize() -> usize;

    // Page faults.
    pub fn gmemFaultScopeBegin(scope: *mut gmemFaultScope_t, whose: c_int) -> c_int;
    pub fn gmemFaultScopeCount(scope: *const gmemFaultScope_t) -> c_longlong;
    pub fn gmemFaultScopeEnd(scope: *mut gmemFaultScope_t);

    // Errors, version, device.
    pub safe fn gmemLastError() -> *const c_char;
    pub safe fn gmemVersion() -> *const c_char;
    pub fn gmemSetDevice(name: *const c_char) -> c_int;
    pub safe fn gmemGetDevice() -> *const c_char;

    // Streams.
    pub fn gmemStreamCreate(stream: *mut gmemStream_t) -> c_int;
    pub fn gmemStreamLaunch(stream: gmemStream_t, f: gmemHostFn, arg: *mut c_void) -> c_int;
    pub fn gmemStreamQuery(stream: gmemStream_t) -> c_int;
    pub fn gmemStreamSynchronize(stream: gmemStream_t) -> c_int;
    pub fn gmemStreamDestroy(stream: gmemStream_t) -> c_int;
    pub fn gmemStreamWrap(
        launch: gmemLaunchFn,
        native: *mut c_void,
        stream: *mut gmemStream_t,
    ) -> c_int;
    pub fn gmemStreamWaitEvent(stream: gmemStream_t, event: gmemEvent_t) -> c_int;
    pub fn gmemLaunchDropped(arg: *mut c_void);

    // Events.
    pub fn gmemEventCreate(event: *mut gmemEvent_t) -> c_int;
    pub fn gmemEventRecord(event: gmemEvent_t, stream: gmemStream_t) -> c_int;
    pub fn gmemEventQuery(event: gmemEvent_t) -> c_int;
    pub fn gmemEventSynchronize(event: gmemEvent_t) -> c_int;
    pub fn gmemEventDestroy(event: gmemEvent_t) -> c_int;

    // The heap.
    pub safe fn gmem_malloc(size: usize) -> *mut c_void;
    pub safe fn gmem_calloc(count: usize, size: usize) -> *mut c_void;
    pub fn gmem_realloc(ptr: *mut c_void, size: usize) -> *mut c_void;
    pub fn gmem_free(ptr: *mut c_void);
    pub safe fn gmem_aligned_alloc(alignment: usize, size: usize) -> *mut c_void;
    pub fn gmem_malloc_usable_size(ptr: *mut c_void) -> usize;
    pub safe fn gmemHeapTrim() -> usize;
    pub safe fn gmemHeapSetLimits(soft: usize, hard: usize) -> c_int;
}
