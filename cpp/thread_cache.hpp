// SPDX-License-Identifier: Apache-2.0
/// @file
/// The way of most malloc and free calls: a block that the thread kept is given out, or a freed one is kept.
/// What is laid out here is made in src/heap/: thread_cache.rs, thread_state.rs, page_map.rs, size_class.rs.
#pragma once

#include <cstddef>
#include <cstdint>

namespace gmem::heap {

/// A stack of blocks of one size class, grows upward.
struct stack {
	void **top;
	void **bottom;
	void **limit;
	std::size_t fetch;
};

/// Number of size classes; class 0 is every block that no thread keeps, and its stack has no room.
inline constexpr std::size_t classes = 41;
inline constexpr std::size_t max_kept = 32 << 10;
inline constexpr std::size_t quantum = 16;
/// The value of gmem_heap_consult_device while the current device has none.
inline constexpr std::uint8_t no_device = 1;

struct thread_cache {
	stack stacks[classes];
	/// The GiB in which the last freed block was, and the classes of its base pages. Most often the next one is
	/// there, too, and the processor need not wait for the look-up.
	std::uintptr_t last_region;
	const std::uint8_t *last_classes;
};

/// Begins with the class of the blocks on each base page; null where the heap has nothing.
using region = std::uint8_t;
inline constexpr unsigned region_bits = 30;
inline constexpr unsigned address_bits = 48;
inline constexpr unsigned base_page_bits = 12;

/// From a thread's jemalloc state to its cache.
inline constexpr std::size_t state_bytes = 1984;

#define GMEM_HIDDEN __attribute__((visibility("hidden")))
extern "C" {
/// jemalloc's state of this thread, null before its first allocation (cpp/jemalloc). jemalloc's build puts a
/// prefix before the name.
extern GMEM_HIDDEN
	__attribute__((tls_model("global-dynamic"))) __thread void *gmem_thread_state __asm__("_rjem_je_gmem_thread_state");
extern GMEM_HIDDEN const std::uint8_t gmem_heap_class_of_size[max_kept / quantum + 1];
extern GMEM_HIDDEN region *const gmem_heap_regions[std::size_t{1} << (address_bits - region_bits)];
GMEM_HIDDEN void *gmem_heap_malloc(std::size_t size, thread_cache *cache) noexcept;
GMEM_HIDDEN void gmem_heap_free(void *block, thread_cache *cache) noexcept;
GMEM_HIDDEN void *gmem_heap_calloc(std::size_t count, std::size_t size) noexcept;
GMEM_HIDDEN void *gmem_heap_realloc(void *block, std::size_t size) noexcept;
GMEM_HIDDEN int gmem_heap_posix_memalign(void **out, std::size_t alignment, std::size_t size) noexcept;
GMEM_HIDDEN void *gmem_heap_aligned_alloc(std::size_t alignment, std::size_t size) noexcept;
/// Null where ordinary memory is to be taken.
GMEM_HIDDEN void *gmem_heap_device_alloc(std::size_t alignment, std::size_t size) noexcept;
/// Whether the current device may have memory of its own (src/heap/device_blocks.rs).
extern GMEM_HIDDEN const std::uint8_t gmem_heap_consult_device;
GMEM_HIDDEN void *gmem_heap_memalign(std::size_t alignment, std::size_t size) noexcept;
GMEM_HIDDEN void *gmem_heap_valloc(std::size_t size) noexcept;
GMEM_HIDDEN void *gmem_heap_pvalloc(std::size_t size) noexcept;
GMEM_HIDDEN std::size_t gmem_heap_usable_size(void *block) noexcept;
GMEM_HIDDEN std::size_t gmem_heap_trim(thread_cache *cache) noexcept;
}

/// The calling thread's cache, null before its first allocation.
inline thread_cache *this_thread() noexcept {
	void *state = gmem_thread_state;
	if (__builtin_expect(state == nullptr, 0)) {
		return nullptr;
	}
	return reinterpret_cast<thread_cache *>(static_cast<char *>(state) + state_bytes);
}

inline constexpr std::uintptr_t base_page_mask = (std::uintptr_t{1} << (region_bits - base_page_bits)) - 1;

inline std::size_t class_in(const region *classes, std::uintptr_t address) noexcept {
	return __atomic_load_n(&classes[(address >> base_page_bits) & base_page_mask], __ATOMIC_RELAXED);
}

/// The classes of the base pages of a GiB; null where the heap has nothing.
inline const region *classes_of(std::uintptr_t address) noexcept {
	if (__builtin_expect(address >> address_bits != 0, 0)) {
		return nullptr;
	}
	return __atomic_load_n(&gmem_heap_regions[address >> region_bits], __ATOMIC_ACQUIRE);
}

/// The size class of a block; 0 for one that no thread keeps, null and other allocators' blocks.
inline std::size_t class_of(const void *block) noexcept {
	const auto address = reinterpret_cast<std::uintptr_t>(block);
	const region *classes = classes_of(address);
	return classes != nullptr ? class_in(classes, address) : 0;
}

[[gnu::always_inline]] inline void *allocate(std::size_t size) noexcept {
	thread_cache *cache = this_thread();
	if (__builtin_expect(size <= max_kept && cache != nullptr, 1)) {
		stack &kept = cache->stacks[gmem_heap_class_of_size[(size + quantum - 1) / quantum]];
		void **top = kept.top;
		if (__builtin_expect(top != kept.bottom, 1)) {
			kept.top = --top;
			return *top;
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
		stack &kept = cache->stacks[class_in(cache->last_classes, address)];
		void **top = kept.top;
		if (__builtin_expect(top != kept.limit, 1)) {
			*top = block;
			kept.top = top + 1;
			return;
		}
	}
	gmem_heap_free(block, cache);
}

} // namespace gmem::heap
