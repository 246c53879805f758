// SPDX-License-Identifier: Apache-2.0
/// @file
/// Tells ThreadSanitizer what a stream and the heap order. It does not see the synchronization inside the library, and
/// would report races between a callable and the code around its launch, or between a thread that frees a block and
/// another one that gets the same memory. Does nothing in other builds.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__SANITIZE_THREAD__)
#define LIBGMEM_THREAD_SANITIZER
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define LIBGMEM_THREAD_SANITIZER
#endif
#endif

#ifdef LIBGMEM_THREAD_SANITIZER
extern "C" void __tsan_acquire(void *address); // NOLINT(bugprone-reserved-identifier)
extern "C" void __tsan_release(void *address); // NOLINT(bugprone-reserved-identifier)
#endif

namespace gmem::detail {

/// Whether block_freed() makes use of the size.
#ifdef LIBGMEM_THREAD_SANITIZER
inline constexpr bool needs_block_sizes = true;
#else
inline constexpr bool needs_block_sizes = false;
#endif

/// Everything before this call happens before a later happened_before() of the same address.
inline void happens_before([[maybe_unused]] void *address) noexcept {
#ifdef LIBGMEM_THREAD_SANITIZER
	__tsan_release(address);
#endif
}

inline void happened_before([[maybe_unused]] void *address) noexcept {
#ifdef LIBGMEM_THREAD_SANITIZER
	__tsan_acquire(address);
#endif
}

/// A thread may get memory that another thread freed. The heap orders the two. Memory moves between blocks inside
/// pieces of 2 MiB, so each piece has its own clock.
template <class Tell>
void each_heap_page(
	[[maybe_unused]] void *block, [[maybe_unused]] std::size_t size, [[maybe_unused]] Tell tell) noexcept {
#ifdef LIBGMEM_THREAD_SANITIZER
	constexpr std::uintptr_t heap_page = std::uintptr_t{2} << 20U;
	const auto address = reinterpret_cast<std::uintptr_t>(block);
	for (std::uintptr_t page = address & ~(heap_page - 1); block != nullptr && page < address + size;
		page += heap_page) {
		tell(reinterpret_cast<void *>(page));
	}
#endif
}
/// Call it with a block before it is freed.
inline void block_freed(void *block, std::size_t size) noexcept { each_heap_page(block, size, happens_before); }
/// Call it with a block that was allocated.
inline void block_allocated(void *block, std::size_t size) noexcept { each_heap_page(block, size, happened_before); }

/// The end of all work on all streams: coarser than the truth, so some races are missed, but none is invented.
inline char work_done;

} // namespace gmem::detail

#undef LIBGMEM_THREAD_SANITIZER
