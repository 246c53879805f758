// SPDX-License-Identifier: Apache-2.0
/// @file
/// gmem::range and gmem::mutable_range: bytes to prefetch, and bytes to release.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

namespace gmem {
namespace detail {

/// Anything with data() and size() over contiguous elements: vector, span, array, string, buffer.
template <class C>
using element_of = std::remove_pointer_t<decltype(std::declval<C &>().data())>;

template <class C>
using if_contiguous = std::enable_if_t<std::is_pointer_v<decltype(std::declval<C &>().data())> &&
									   std::is_convertible_v<decltype(std::declval<C &>().size()), std::size_t>>;

} // namespace detail

/// Writable bytes, for free_eager(). Does not own them.
class mutable_range {
public:
	/// An empty range.
	constexpr mutable_range() noexcept = default;
	/// `bytes` bytes from `data` on.
	mutable_range(void *data, std::size_t bytes) noexcept : data_(data), bytes_(bytes) {}

	/// The elements of a contiguous container, not its spare capacity.
	template <class C, class = detail::if_contiguous<C>,
		class = std::enable_if_t<!std::is_const_v<detail::element_of<C>>>>
	mutable_range(C &&container) noexcept // NOLINT(*-forwarding-reference-overload, *-explicit-*)
		: data_(container.data()), bytes_(container.size() * sizeof(detail::element_of<C>)) {}

	/// The first byte.
	[[nodiscard]] void *data() const noexcept { return data_; }
	/// Number of bytes.
	[[nodiscard]] std::size_t size_bytes() const noexcept { return bytes_; }
	/// The first byte as a number, as C functions take it.
	[[nodiscard]] std::uintptr_t address() const noexcept { return reinterpret_cast<std::uintptr_t>(data_); }

private:
	void *data_ = nullptr;
	std::size_t bytes_ = 0;
};

/// Bytes that are read or moved, for prefetch(). Does not own them.
class range {
public:
	/// An empty range.
	constexpr range() noexcept = default;
	/// `bytes` bytes from `data` on.
	range(const void *data, std::size_t bytes) noexcept : data_(data), bytes_(bytes) {}
	/// Writable bytes can be read as well.
	range(mutable_range other) noexcept // NOLINT(*-explicit-*)
		: data_(other.data()), bytes_(other.size_bytes()) {}

	/// The elements of a contiguous container, not its spare capacity.
	template <class C, class = detail::if_contiguous<C>>
	range(C &&container) noexcept // NOLINT(*-forwarding-reference-overload, *-explicit-*)
		: data_(container.data()), bytes_(container.size() * sizeof(detail::element_of<C>)) {}

	/// The first byte.
	[[nodiscard]] const void *data() const noexcept { return data_; }
	/// Number of bytes.
	[[nodiscard]] std::size_t size_bytes() const noexcept { return bytes_; }
	/// The first byte as a number, as C functions take it.
	[[nodiscard]] std::uintptr_t address() const noexcept { return reinterpret_cast<std::uintptr_t>(data_); }

private:
	const void *data_ = nullptr;
	std::size_t bytes_ = 0;
};

} // namespace gmem
