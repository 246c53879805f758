// SPDX-License-Identifier: Apache-2.0
//! A program with an allocator of its own, an ordinary jemalloc, next to the one inside libgmem.
//!
//! Linking is half of the test: a jemalloc whose mmap is renamed would miss the page source, which libgmem does
//! not export.
#![cfg(test)]

use std::ptr::with_exposed_provenance_mut;
use std::thread;

use libgmem_sys::{FaultScope, ffi, numa_id, page_size, prefetch};
use tikv_jemallocator::Jemalloc;

#[global_allocator]
static OWN: Jemalloc = Jemalloc;

#[test]
fn no_fault_follows_a_prefetch_of_its_memory() {
    let mut pages = Vec::with_capacity(4 * page_size());
    prefetch(pages.spare_capacity_mut(), numa_id().unwrap()).unwrap();
    let faults = FaultScope::thread().unwrap();
    pages.resize(4 * page_size(), 1u8);
    assert_eq!(faults.count().unwrap(), 0);
}

#[test]
fn blocks_of_both_allocators_pass_between_threads() {
    let threads = [1u8, 2, 3, 4].map(|number| {
        thread::spawn(move || {
            let own = vec![number; 100_000];
            let libgmems = ffi::gmem_malloc(own.len());
            assert!(!libgmems.is_null());
            // SAFETY: the block is that large, and this thread alone uses it.
            unsafe { libgmems.write_bytes(number, own.len()) };
            (own, libgmems.expose_provenance())
        })
    });
    for thread in threads {
        let (own, libgmems) = thread.join().unwrap();
        let libgmems = with_exposed_provenance_mut::<u8>(libgmems);
        // SAFETY: the thread that wrote the block has ended.
        let bytes = unsafe { std::slice::from_raw_parts(libgmems, own.len()) };
        assert_eq!(bytes, own);
        // SAFETY: a live block of gmem_malloc, freed once and not used afterwards.
        unsafe { ffi::gmem_free(libgmems.cast()) };
    }
}
