// SPDX-License-Identifier: Apache-2.0
/// @file
/// Blocks of libgmem's heap, as the allocators and owners of the C++ API take them.
#pragma once

#include <cstddef>
#include <limits>
#include <new>

#include <libgmem/detail/thread_sanitizer.hpp>
#include <libgmem/error.hpp>

namespace gmem::detail {

/// A block of `bytes` bytes that kernels of the current device can read; nullptr with errno set if there is none.
[[nodiscard]] inline void *allocate(std::size_t bytes, std::size_t alignment) noexcept {
	void *const memory = gmem_device_alloc(alignment, bytes);
	if (memory != nullptr) {
		block_allocated(memory, bytes);
	}
	return memory;
}

inline void deallocate(void *memory, std::size_t bytes) noexcept {
	block_freed(memory, bytes);
	gmem_free(memory);
}

/// Free a block whose size the caller does not know.
inline void deallocate(void *memory) noexcept {
	// The size only serves ThreadSanitizer.
	deallocate(memory, needs_block_sizes ? gmem_malloc_usable_size(memory) : 0);
}

/// Whether n objects of T have more bytes than a size can say.
template <class T>
[[nodiscard]] constexpr bool is_too_long(std::size_t n) noexcept {
	return n > std::numeric_limits<std::size_t>::max() / sizeof(T);
}

/// Report that an allocation failed where the standard library allows no other way than an exception. Without
/// exceptions, ends the process.
[[noreturn]] inline void fail_to_allocate([[maybe_unused]] std::size_t bytes) {
#if LIBGMEM_HAS_EXCEPTIONS
	throw out_of_memory(bytes);
#else
	std::abort();
#endif
}

} // namespace gmem::detail
