/* SPDX-License-Identifier: Apache-2.0 */
/* Constants that the C++, C and Rust sides of the heap share. This file is their only source: src/build.rs turns each
 * line into a Rust constant (src/heap/constants.rs), without the prefix. Values are plain decimal numbers. */
#ifndef LIBGMEM_HEAP_CONSTANTS_H
#define LIBGMEM_HEAP_CONSTANTS_H

/* Size classes of the blocks that threads cache, with two more: 0 for what is no block of the heap, and the last one for blocks
 * that no thread caches. */
#define GMEM_HEAP_CLASSES 42
/* Bytes of the largest block that threads cache. */
#define GMEM_HEAP_MAX_CACHED 32768
/* All sizes of a class are multiples of it; every block is aligned to it. */
#define GMEM_HEAP_QUANTUM 16
/* Bytes of a stack of cached blocks. */
#define GMEM_HEAP_STACK_BYTES 32
/* One region of the page map describes 1 GiB. */
#define GMEM_HEAP_REGION_BITS 30
/* Bits of an address in user space, without the 57-bit addresses that mmap(2) gives only on request. */
#define GMEM_HEAP_ADDRESS_BITS 48
/* The smallest base page of any Linux. */
#define GMEM_HEAP_BASE_PAGE_BITS 12
/* Space for jemalloc's state of a thread (tsd_t), in front of the thread's cache. */
#define GMEM_HEAP_STATE_BYTES 3008
/* gmem_heap_may_have_device_memory while the current device has no memory of its own. */
#define GMEM_HEAP_NO_DEVICE 1

#endif
