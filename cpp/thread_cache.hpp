// SPDX-License-Identifier: Apache-2.0
/// @file
/// The fast path of malloc and free: pop a block that the thread has cached, or push a freed one. src/heap/ defines the
/// data: thread_cache.rs, thread_state.rs, page_map.rs, size_class.rs. heap_constants.h has the constants of both
/// sides.
#pragma once

#include <cstddef>
#include <cstdint>

#include "heap_constants.h"

namespace gmem::heap {

/// A stack of cached blocks of one size class; it grows upward.
struct stack {
	void **top;
	void **bottom;
	void **limit;
	std::uint16_t fetch;
	std::uint16_t seen;
	/// Bits that are 0 in the addresses of all blocks of the class.
	std::uint16_t misaligned;
	bool ran_empty;
};
static_assert(
	sizeof(stack) == GMEM_HEAP_STACK_BYTES && offsetof(stack, limit) == 16 && offsetof(stack, misaligned) == 28);

/// Class 0 stands for what is no block of the heap, and the last one for blocks that no thread caches; their stacks
/// have no capacity.
inline constexpr std::size_t classes = GMEM_HEAP_CLASSES;
inline constexpr std::size_t uncached = classes - 1;
inline constexpr std::size_t max_cached = GMEM_HEAP_MAX_CACHED;
inline constexpr std::size_t quantum = GMEM_HEAP_QUANTUM;
/// The value of gmem_heap_may_have_device_memory while the current device has no memory of its own.
inline constexpr std::uint8_t no_device = GMEM_HEAP_NO_DEVICE;

struct thread_cache {
	stack stacks[classes];
	/// The GiB that held the last freed block, and the classes of its base pages. The next block is mostly in the same
	/// GiB, and then the processor need not wait for the look-up.
	std::uintptr_t last_region;
	const std::uint8_t *last_classes;
};
static_assert(offsetof(thread_cache, last_region) == classes * GMEM_HEAP_STACK_BYTES);
static_assert(offsetof(thread_cache, last_classes) == classes * GMEM_HEAP_STACK_BYTES + 8);

/// A region of the page map begins with the class of the blocks on each base page.
using region = std::uint8_t;
inline constexpr unsigned region_bits = GMEM_HEAP_REGION_BITS;
inline constexpr unsigned address_bits = GMEM_HEAP_ADDRESS_BITS;
inline constexpr unsigned base_page_bits = GMEM_HEAP_BASE_PAGE_BITS;

/// From a thread's jemalloc state to its cache.
inline constexpr std::size_t state_bytes = GMEM_HEAP_STATE_BYTES;
static_assert(state_bytes % 64 == 0, "state and cache begin on cache lines");

#define GMEM_HIDDEN __attribute__((visibility("hidden")))
/// A fixed offset takes a fifth off a pair of malloc and free on x86-64. It makes the loader find room for all thread-local
/// variables of the library, which are few, when it is dlopened. Elsewhere TLS descriptors need no such room.
#ifdef __x86_64__
#define GMEM_TLS_MODEL "initial-exec"
#else
#define GMEM_TLS_MODEL "global-dynamic"
#endif
extern "C" {
/// jemalloc's state of this thread, null before its first allocation (cpp/jemalloc). jemalloc's build adds the prefix.
extern GMEM_HIDDEN
	__attribute__((tls_model(GMEM_TLS_MODEL))) __thread void *gmem_thread_state __asm__("_rjem_je_gmem_thread_state");
extern GMEM_HIDDEN const std::uint8_t gmem_heap_class_of_size[max_cached / quantum + 1];
extern GMEM_HIDDEN region *const gmem_heap_regions[std::size_t{1} << (address_bits - region_bits)];
GMEM_HIDDEN void *gmem_heap_malloc(std::size_t size, thread_cache *cache) noexcept;
GMEM_HIDDEN void gmem_heap_free(void *block, thread_cache *cache) noexcept;
/// A cached block begins with this number, combined with its address (src/heap/corruption.rs).
extern GMEM_HIDDEN const std::size_t gmem_heap_mark;
GMEM_HIDDEN void *gmem_heap_calloc(std::size_t count, std::size_t size) noexcept;
GMEM_HIDDEN void *gmem_heap_realloc(void *block, std::size_t size) noexcept;
/// Null where the caller has to copy the block.
GMEM_HIDDEN void *gmem_heap_realloc_in_place(void *block, std::size_t alignment, std::size_t size) noexcept;
GMEM_HIDDEN int gmem_heap_posix_memalign(void **out, std::size_t alignment, std::size_t size) noexcept;
GMEM_HIDDEN void *gmem_heap_aligned_alloc(std::size_t alignment, std::size_t size) noexcept;
/// Null where the caller has to use ordinary memory.
GMEM_HIDDEN void *gmem_heap_device_alloc(std::size_t alignment, std::size_t size) noexcept;
/// Whether the current device may have memory of its own (src/heap/device_blocks.rs).
extern GMEM_HIDDEN const std::uint8_t gmem_heap_may_have_device_memory;
GMEM_HIDDEN void *gmem_heap_memalign(std::size_t alignment, std::size_t size) noexcept;
GMEM_HIDDEN void *gmem_heap_valloc(std::size_t size) noexcept;
GMEM_HIDDEN void *gmem_heap_pvalloc(std::size_t size) noexcept;
GMEM_HIDDEN std::size_t gmem_heap_usable_size(void *block) noexcept;
GMEM_HIDDEN std::size_t gmem_heap_trim(thread_cache *cache) noexcept;
#ifdef LIBGMEM_CHECKED_HEAP
GMEM_HIDDEN void gmem_heap_check_in(void *block, std::size_t size_class, const thread_cache *owner) noexcept;
GMEM_HIDDEN void gmem_heap_check_out(void *block, std::size_t size_class, const thread_cache *owner) noexcept;
#endif
}

/// A block comes into a cache or leaves it. Only a checked heap looks (src/heap/checked.rs).
inline void check_in([[maybe_unused]] void *block, [[maybe_unused]] std::size_t size_class,
	[[maybe_unused]] const thread_cache *owner) noexcept {
#ifdef LIBGMEM_CHECKED_HEAP
	gmem_heap_check_in(block, size_class, owner);
#endif
}
inline void check_out([[maybe_unused]] void *block, [[maybe_unused]] std::size_t size_class,
	[[maybe_unused]] const thread_cache *owner) noexcept {
#ifdef LIBGMEM_CHECKED_HEAP
	gmem_heap_check_out(block, size_class, owner);
#endif
}

/// The first word of a cached block. `free` finds a block that is free already by it. A checked heap has marks of its
/// own.
inline std::size_t mark_of(const void *block) noexcept {
	return __atomic_load_n(&gmem_heap_mark, __ATOMIC_RELAXED) ^ reinterpret_cast<std::uintptr_t>(block);
}
inline void set_mark([[maybe_unused]] void *block, [[maybe_unused]] std::size_t mark) noexcept {
#ifndef LIBGMEM_CHECKED_HEAP
	*static_cast<std::size_t *>(block) = mark;
#endif
}

/// The calling thread's cache, null before its first allocation.
inline thread_cache *this_thread() noexcept {
	void *state = gmem_thread_state;
	if (__builtin_expect(state == nullptr, 0)) {
		return nullptr;
	}
	return reinterpret_cast<thread_cache *>(static_cast<char *>(state) + state_bytes);
}

/// Whether the calling thread caches blocks of a class. It does not while it ends, or if the heap is hardened.
inline bool caches(std::size_t size_class) noexcept {
	const thread_cache *cache = this_thread();
	return cache != nullptr && cache->stacks[size_class].limit != nullptr;
}

inline constexpr std::uintptr_t base_page_mask = (std::uintptr_t{1} << (region_bits - base_page_bits)) - 1;

inline std::size_t class_in(const region *classes, std::uintptr_t address) noexcept {
	return __atomic_load_n(&classes[(address >> base_page_bits) & base_page_mask], __ATOMIC_RELAXED);
}

/// The classes of the base pages of a GiB; null where the heap owns nothing.
inline const region *classes_of(std::uintptr_t address) noexcept {
	if (__builtin_expect(address >> address_bits != 0, 0)) {
		return nullptr;
	}
	return __atomic_load_n(&gmem_heap_regions[address >> region_bits], __ATOMIC_ACQUIRE);
}

/// The size class of a block; 0 for a block that no thread caches, for null, and for other allocators' blocks.
inline std::size_t class_of(const void *block) noexcept {
	const auto address = reinterpret_cast<std::uintptr_t>(block);
	const region *classes = classes_of(address);
	return classes != nullptr ? class_in(classes, address) : 0;
}

[[gnu::always_inline]] inline void *allocate(std::size_t size) noexcept {
	thread_cache *cache = this_thread();
	if (__builtin_expect(size <= max_cached && cache != nullptr, 1)) {
		const std::size_t size_class = gmem_heap_class_of_size[(size + quantum - 1) / quantum];
		stack &cached = cache->stacks[size_class];
		void **top = cached.top;
		if (__builtin_expect(top != cached.bottom, 1)) {
			cached.top = --top;
			void *block = *top;
			check_out(block, size_class, cache);
			set_mark(block, 0);
			return block;
		}
	}
	return gmem_heap_malloc(size, cache);
}

[[gnu::always_inline]] inline void release(void *block) noexcept {
	thread_cache *cache = this_thread();
	if (__builtin_expect(cache != nullptr, 1)) {
		const auto address = reinterpret_cast<std::uintptr_t>(block);
		if (__builtin_expect(address >> region_bits != cache->last_region, 0)) {
			const region *classes = classes_of(address);
			if (classes == nullptr) {
				return gmem_heap_free(block, cache);
			}
			cache->last_region = address >> region_bits;
			cache->last_classes = classes;
		}
		const std::size_t size_class = class_in(cache->last_classes, address);
		stack &cached = cache->stacks[size_class];
		void **top = cached.top;
		if (__builtin_expect(top != cached.limit, 1)) {
			const std::size_t mark = mark_of(block);
			if (__builtin_expect((address & cached.misaligned) == 0 && *static_cast<std::size_t *>(block) != mark, 1)) {
				check_in(block, size_class, cache);
				set_mark(block, mark);
				*top = block;
				cached.top = top + 1;
				return;
			}
		}
	}
	gmem_heap_free(block, cache);
}

} // namespace gmem::heap
