// SPDX-License-Identifier: Apache-2.0
/// @file
/// gmem::unique_ptr and gmem::deleter: owners of blocks of libgmem's heap.
#pragma once

#include <cstddef>
#include <memory>
#include <type_traits>

#include <libgmem/buffer.hpp>
#include <libgmem/detail/memory.hpp>

namespace gmem {

/// Frees a block of libgmem's heap, for std::unique_ptr and std::shared_ptr. Runs no destructor, so it takes trivial
/// types only. Has no state.
struct deleter {
	/// Free a block, or nothing for nullptr.
	template <class T>
	void operator()(T *memory) const noexcept {
		static_assert(std::is_void_v<T> || std::is_trivially_destructible_v<T>,
			"gmem::deleter frees memory and destroys nothing; use std::allocate_shared with a gmem_allocator");
		detail::deallocate(const_cast<std::remove_cv_t<T> *>(memory));
	}
};

/// Owns an object or, as unique_ptr<T[]>, an array of a trivial type on libgmem's heap.
template <class T>
using unique_ptr = std::unique_ptr<T, deleter>;

#if LIBGMEM_HAS_EXCEPTIONS
/// Allocate an array, as gmem::buffer<T>(n, alignment); the elements are indeterminate until written:
///
///     auto weights = gmem::make_unique_for_overwrite<float[]>(n);
///
/// @throws as gmem::buffer<T>(n, alignment)
template <class Array>
[[nodiscard]] unique_ptr<Array> make_unique_for_overwrite(std::size_t n, std::size_t alignment = 0) {
	static_assert(std::is_array_v<Array> && std::extent_v<Array> == 0, "pass an array type, such as float[]");
	return unique_ptr<Array>(buffer<std::remove_extent_t<Array>>(n, alignment).release());
}
#endif

/// Allocate an array without exceptions. A failure gives nullptr and is in `ec`, which is cleared on success.
template <class Array>
[[nodiscard]] unique_ptr<Array> make_unique_for_overwrite(
	std::size_t n, std::error_code &ec, std::size_t alignment = 0) noexcept {
	static_assert(std::is_array_v<Array> && std::extent_v<Array> == 0, "pass an array type, such as float[]");
	return unique_ptr<Array>(buffer<std::remove_extent_t<Array>>::create(n, ec, alignment).release());
}

} // namespace gmem
