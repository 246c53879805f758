// SPDX-License-Identifier: Apache-2.0
//! A program whose allocator is libgmem's heap.

use std::alloc::{GlobalAlloc, Layout};
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};

use libgmem_sys::{Event, FaultScope, Gmem, Stream, ffi, free_eager, numa_id, page_size, prefetch};

#[global_allocator]
static HEAP: Gmem = Gmem;

const EINVAL: i32 = 22;

/// Four GMEM pages of a value.
fn pages_of(value: u8) -> Vec<u8> {
    vec![value; 4 * page_size()]
}

#[test]
fn a_vector_starts_on_a_gmem_page() {
    let pages = pages_of(1);
    assert_eq!(pages.as_ptr().addr() % page_size(), 0);
}

#[test]
fn blocks_have_the_size_and_alignment_of_their_layout() {
    for size in [1, 7, 8, 24, 4096, 100_000] {
        for align in [1, 2, 8, 16, 64, 4096, 1 << 16] {
            let layout = Layout::from_size_align(size, align).unwrap();
            // SAFETY: the size is not zero; the block is used within it and freed once, with its latest layout.
            unsafe {
                let block = HEAP.alloc_zeroed(layout);
                assert_eq!(block.addr() % align, 0, "{layout:?}");
                assert!(ffi::gmem_malloc_usable_size(block.cast()) >= size, "{layout:?}");
                assert_eq!(std::slice::from_raw_parts(block, size).iter().max(), Some(&0));
                block.write_bytes(7, size);
                let grown = HEAP.realloc(block, layout, 3 * size);
                assert_eq!(grown.addr() % align, 0, "{layout:?}");
                assert!(std::slice::from_raw_parts(grown, size).iter().all(|&byte| byte == 7));
                HEAP.dealloc(grown, Layout::from_size_align(3 * size, align).unwrap());
            }
        }
    }
}

#[test]
fn no_fault_follows_a_prefetch() {
    let mut pages = Vec::with_capacity(4 * page_size());
    prefetch(pages.spare_capacity_mut(), numa_id().unwrap()).unwrap();
    let faults = FaultScope::thread().unwrap();
    pages.resize(4 * page_size(), 1);
    assert_eq!(faults.count().unwrap(), 0);
}

#[test]
fn an_eager_free_releases_the_pages() {
    let mut pages = pages_of(1);
    pages.clear();
    free_eager(pages.spare_capacity_mut()).unwrap();
    let faults = FaultScope::thread().unwrap();
    pages.resize(4 * page_size(), 2);
    assert!(faults.count().unwrap() > 0);
    assert!(pages.iter().all(|&byte| byte == 2));
}

#[test]
fn an_error_names_the_argument() {
    let error = prefetch(&pages_of(1), 1 << 20).unwrap_err();
    assert_eq!(error.errno(), EINVAL);
    assert!(error.message().contains("hnid = 1048576"), "{error}");
    let error = libgmem_sys::set_device("toaster").unwrap_err();
    assert_eq!(error.errno(), EINVAL);
    assert!(error.message().contains("toaster"), "{error}");
}

#[test]
fn a_stream_keeps_the_order() {
    let stream = Stream::new().unwrap();
    let mut pages = pages_of(1);
    pages.clear();
    let range: *mut [_] = pages.spare_capacity_mut();
    let address = range.cast::<u8>().addr();
    let first_byte = Arc::new(AtomicUsize::new(usize::MAX));
    let found = Arc::clone(&first_byte);
    // SAFETY: the vector is empty, and lives until the stream is synchronized.
    unsafe { stream.free_eager(range) }.unwrap();
    stream
        .launch(move || {
            let first = std::ptr::with_exposed_provenance::<u8>(address);
            // SAFETY: the vector lives until the stream is synchronized, and its pages read as zeros by now.
            found.store(unsafe { first.read_volatile() }.into(), Ordering::Relaxed);
        })
        .unwrap();
    stream.prefetch(pages.spare_capacity_mut(), numa_id().unwrap()).unwrap();
    stream.synchronize().unwrap();
    assert!(stream.is_done().unwrap());
    assert_eq!(first_byte.load(Ordering::Relaxed), 0);
    let faults = FaultScope::thread().unwrap();
    pages.resize(4 * page_size(), 2);
    assert_eq!(faults.count().unwrap(), 0);
}

#[test]
fn an_event_holds_another_stream_back() {
    let (first, second) = (Stream::new().unwrap(), Stream::new().unwrap());
    let (event, done) = (Event::new().unwrap(), Arc::new(AtomicUsize::new(0)));
    let (go, wait) = mpsc::channel::<()>();
    let done_first = Arc::clone(&done);
    first
        .launch(move || {
            wait.recv().unwrap();
            done_first.store(1, Ordering::Relaxed);
        })
        .unwrap();
    event.record(&first).unwrap();
    second.wait(&event).unwrap();
    let (seen, see) = mpsc::channel();
    second.launch(move || seen.send(done.load(Ordering::Relaxed)).unwrap()).unwrap();
    assert!(!event.has_passed().unwrap());
    assert!(!second.is_done().unwrap());
    go.send(()).unwrap();
    assert_eq!(see.recv(), Ok(1));
    event.synchronize().unwrap();
    assert!(event.has_passed().unwrap());
}

#[test]
fn a_panic_comes_out_of_synchronize() {
    let stream = Stream::new().unwrap();
    stream.launch(|| panic::resume_unwind(Box::new("no weights"))).unwrap();
    let payload = panic::catch_unwind(AssertUnwindSafe(|| stream.synchronize())).unwrap_err();
    assert_eq!(payload.downcast_ref(), Some(&"no weights"));
    stream.launch(|| {}).unwrap();
    stream.synchronize().unwrap();
}

#[test]
fn cpp_works_on_memory_of_rust() {
    let mut values = vec![1.5f32; page_size()];
    assert_eq!(consumer::scale(&mut values, 2.0), 0, "page faults, or -1 for an exception");
    assert!(values.iter().all(|&value| value == 3.0));
}

/// With the feature `malloc`, C libraries of the program use the heap as well. Without it they do not.
#[test]
fn malloc_is_libgmems_only_with_the_feature() {
    unsafe extern "C" {
        fn malloc(size: usize) -> *mut u8;
        fn free(block: *mut u8);
    }
    // SAFETY: the block is freed once, by the function that belongs to malloc.
    unsafe {
        let block = malloc(4 * page_size());
        assert!(!block.is_null());
        assert_eq!(block.addr() % page_size() == 0, cfg!(feature = "malloc"));
        free(block);
    }
}
