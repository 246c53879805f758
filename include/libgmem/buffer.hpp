// SPDX-License-Identifier: Apache-2.0
/// @file
/// gmem::buffer<T>: an owned, uninitialised array for weights, caches and activations.
#pragma once

#include <cstddef>
#include <limits>
#include <new>
#include <type_traits>
#include <utility>

#include <libgmem/detail/thread_sanitizer.hpp>
#include <libgmem/error.hpp>
#include <libgmem/free_eager.hpp>
#include <libgmem/prefetch.hpp>
#include <libgmem/range.hpp>

namespace gmem {

/// n objects of a trivial type T on the libgmem heap. The elements hold no defined values until
/// written; nothing is touched on construction. Movable, not copyable.
template <class T>
class buffer {
	static_assert(std::is_trivially_copyable_v<T> && std::is_trivially_destructible_v<T>,
		"gmem::buffer holds trivial types; use std::vector<T, gmem_allocator<T>>");

public:
	using value_type = T;
	using iterator = T *;
	using const_iterator = const T *;

	buffer() noexcept = default;
	/// @throws std::bad_array_new_length, out_of_memory
	explicit buffer(std::size_t n) : data_(allocate(n)), size_(n) {}
	buffer(buffer &&other) noexcept
		: data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
	buffer &operator=(buffer &&other) noexcept {
		buffer moved(std::move(other));
		swap(moved);
		return *this;
	}
	buffer(const buffer &) = delete;
	buffer &operator=(const buffer &) = delete;
	~buffer() {
		detail::block_freed(data_, size_bytes());
		gmem_free(data_);
	}

	void swap(buffer &other) noexcept {
		std::swap(data_, other.data_);
		std::swap(size_, other.size_);
	}

	[[nodiscard]] T *data() noexcept { return data_; }
	[[nodiscard]] const T *data() const noexcept { return data_; }
	[[nodiscard]] std::size_t size() const noexcept { return size_; }
	[[nodiscard]] std::size_t size_bytes() const noexcept { return size_ * sizeof(T); }
	[[nodiscard]] bool empty() const noexcept { return size_ == 0; }
	[[nodiscard]] T &operator[](std::size_t i) noexcept { return data_[i]; }
	[[nodiscard]] const T &operator[](std::size_t i) const noexcept { return data_[i]; }
	[[nodiscard]] T *begin() noexcept { return data_; }
	[[nodiscard]] T *end() noexcept { return data_ + size_; }
	[[nodiscard]] const T *begin() const noexcept { return data_; }
	[[nodiscard]] const T *end() const noexcept { return data_ + size_; }

	/// @copydoc gmem::prefetch(range, int, stream_ref, prefetch_options)
	receipt prefetch( // NOLINT(modernize-use-nodiscard)
		int hnid, stream_ref order = {}, prefetch_options options = {}) const {
		return gmem::prefetch(*this, hnid, order, std::move(options));
	}
	/// Drop the contents; the buffer stays allocated and reads as zeros where whole pages went.
	/// @copydoc gmem::free_eager(mutable_range, stream_ref)
	void free_eager(stream_ref order = {}) { gmem::free_eager(*this, order); }

private:
	[[nodiscard]] static T *allocate(std::size_t n) {
		if (n == 0) {
			return nullptr;
		}
		if (n > std::numeric_limits<std::size_t>::max() / sizeof(T)) {
			throw std::bad_array_new_length();
		}
		constexpr std::size_t cache_line = 64;
		constexpr std::size_t alignment = alignof(T) > cache_line ? alignof(T) : cache_line;
		void *memory = gmem_device_alloc(alignment, n * sizeof(T));
		if (memory == nullptr) {
			throw out_of_memory(n * sizeof(T));
		}
		detail::block_allocated(memory, n * sizeof(T));
		return static_cast<T *>(memory);
	}

	T *data_ = nullptr;
	std::size_t size_ = 0;
};

template <class T>
void swap(buffer<T> &a, buffer<T> &b) noexcept {
	a.swap(b);
}

} // namespace gmem
