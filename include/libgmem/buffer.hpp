// SPDX-License-Identifier: Apache-2.0
/// @file
/// gmem::buffer<T>: an owned, uninitialised array for weights, caches and activations.
#pragma once

#include <cerrno>
#include <cstddef>
#include <new>
#include <string>
#include <system_error>
#include <type_traits>
#include <utility>

#include <libgmem/detail/memory.hpp>
#include <libgmem/error.hpp>
#include <libgmem/free_eager.hpp>
#include <libgmem/prefetch.hpp>
#include <libgmem/range.hpp>

namespace gmem {

/// Owns n objects of a trivial type T on the libgmem heap. Construction touches nothing; the elements are indeterminate
/// until written. They start on a cache line, or as aligned as is requested; a buffer of at least 2 MiB starts on a
/// GMEM page. Movable, not copyable.
template <class T>
class buffer {
	static_assert(std::is_trivially_copyable_v<T> && std::is_trivially_destructible_v<T>,
		"gmem::buffer holds trivial types; use std::vector<T, gmem_allocator<T>>");

public:
	/// The type of the elements.
	using value_type = T;
	/// A pointer to an element.
	using iterator = T *;
	/// A pointer to an element that is only read.
	using const_iterator = const T *;

	/// An empty buffer.
	buffer() noexcept = default;
#if LIBGMEM_HAS_EXCEPTIONS
	/// Allocate n elements.
	/// @param n         number of elements
	/// @param alignment of the first one, in bytes: a power of two; 0 or a small one: a cache line
	/// @throws std::bad_array_new_length if n * sizeof(T) overflows; out_of_memory; std::system_error: EINVAL if
	/// `alignment` is no power of two
	explicit buffer(std::size_t n, std::size_t alignment = 0) {
		if (detail::is_too_long<T>(n)) {
			throw std::bad_array_new_length();
		}
		const int result = allocate(n, alignment);
		if (result == -EINVAL) {
			throw std::system_error(detail::to_error_code(result),
				"gmem::buffer: alignment = " + std::to_string(alignment) + " is no power of two; pass one, or 0");
		}
		if (result < 0) {
			throw out_of_memory(n * sizeof(T));
		}
	}
#endif
	/// A buffer of n aligned elements, without exceptions. A failure gives an empty one and is in `ec`, which is
	/// cleared on success.
	[[nodiscard]] static buffer create(std::size_t n, std::error_code &ec, std::size_t alignment = 0) noexcept {
		buffer made;
		ec = detail::to_error_code(detail::is_too_long<T>(n) ? -ENOMEM : made.allocate(n, alignment));
		return made;
	}
	/// Take over what `other` owns.
	buffer(buffer &&other) noexcept
		: data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
	/// Take over what `other` owns, and release what this one owned.
	buffer &operator=(buffer &&other) noexcept {
		buffer moved(std::move(other));
		swap(moved);
		return *this;
	}
	buffer(const buffer &) = delete;
	buffer &operator=(const buffer &) = delete;
	~buffer() { detail::deallocate(data_, size_bytes()); }

	/// Give up the elements, which the caller frees with gmem_free() or a gmem::unique_ptr<T[]>. The buffer is empty
	/// then.
	[[nodiscard]] T *release() noexcept {
		size_ = 0;
		return std::exchange(data_, nullptr);
	}

	/// Exchange two buffers.
	void swap(buffer &other) noexcept {
		std::swap(data_, other.data_);
		std::swap(size_, other.size_);
	}

	/// The first element; nullptr if empty.
	[[nodiscard]] T *data() noexcept { return data_; }
	/// The first element; nullptr if empty.
	[[nodiscard]] const T *data() const noexcept { return data_; }
	/// Number of elements.
	[[nodiscard]] std::size_t size() const noexcept { return size_; }
	/// Bytes of all elements.
	[[nodiscard]] std::size_t size_bytes() const noexcept { return size_ * sizeof(T); }
	/// Whether there are no elements.
	[[nodiscard]] bool empty() const noexcept { return size_ == 0; }
	/// Element i, which is less than size().
	[[nodiscard]] T &operator[](std::size_t i) noexcept { return data_[i]; }
	/// Element i, which is less than size().
	[[nodiscard]] const T &operator[](std::size_t i) const noexcept { return data_[i]; }
	/// Iterator to the first element.
	[[nodiscard]] T *begin() noexcept { return data_; }
	/// Iterator behind the last element.
	[[nodiscard]] T *end() noexcept { return data_ + size_; }
	/// Iterator to the first element.
	[[nodiscard]] const T *begin() const noexcept { return data_; }
	/// Iterator behind the last element.
	[[nodiscard]] const T *end() const noexcept { return data_ + size_; }

#if LIBGMEM_HAS_EXCEPTIONS
	/// Bring the elements to memory node `hnid`, as gmem::prefetch().
	/// @throws error, std::bad_alloc
	prefetch_report prefetch( // NOLINT(modernize-use-nodiscard)
		int hnid, stream_ref order = {}, prefetch_options options = {}) const {
		return gmem::prefetch(*this, hnid, order, std::move(options));
	}
	/// Release the whole GMEM pages, as gmem::free_eager(). The buffer stays allocated; released pages read as zeros.
	/// @throws error
	void free_eager(stream_ref order = {}) { gmem::free_eager(*this, order); }
#endif
	/// Prefetch as gmem::prefetch(); a failure is in `ec`, which is cleared on success.
	prefetch_report prefetch( // NOLINT(modernize-use-nodiscard)
		int hnid, stream_ref order, std::error_code &ec, prefetch_options options = {}) const noexcept {
		return gmem::prefetch(*this, hnid, order, ec, std::move(options));
	}
	/// Release as gmem::free_eager(); a failure is in `ec`, which is cleared on success.
	void free_eager(stream_ref order, std::error_code &ec) noexcept { gmem::free_eager(*this, order, ec); }

private:
	/// Allocate n elements for an empty buffer; returns a negative errno, or 0.
	[[nodiscard]] int allocate(std::size_t n, std::size_t alignment) noexcept {
		constexpr std::size_t cache_line = 64;
		constexpr std::size_t least = alignof(T) > cache_line ? alignof(T) : cache_line;
		if ((alignment & (alignment - 1)) != 0) {
			return -EINVAL;
		}
		if (n > 0) {
			data_ = static_cast<T *>(detail::allocate(n * sizeof(T), alignment > least ? alignment : least));
		}
		size_ = data_ == nullptr ? 0 : n;
		return size_ == n ? 0 : -ENOMEM;
	}

	T *data_ = nullptr;
	std::size_t size_ = 0;
};

/// Exchange two buffers.
template <class T>
void swap(buffer<T> &a, buffer<T> &b) noexcept {
	a.swap(b);
}

} // namespace gmem
