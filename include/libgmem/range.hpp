// SPDX-License-Identifier: Apache-2.0
/// @file
/// gmem::range and gmem::mutable_range: the bytes that a verb is about.
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

/// Bytes that may be written: what free_eager() takes. Does not own them.
class mutable_range {
public:
	constexpr mutable_range() noexcept = default;
	mutable_range(void *data, std::size_t bytes) noexcept : data_(data), bytes_(bytes) {}

	/// The elements of a contiguous container, not its spare capacity.
	template <class C, class = detail::if_contiguous<C>,
		class = std::enable_if_t<!std::is_const_v<detail::element_of<C>>>>
	mutable_range(C &&container) noexcept // NOLINT(*-forwarding-reference-overload, *-explicit-*)
		: data_(container.data()), bytes_(container.size() * sizeof(detail::element_of<C>)) {}

	[[nodiscard]] void *data() const noexcept { return data_; }
	[[nodiscard]] std::size_t size_bytes() const noexcept { return bytes_; }
	[[nodiscard]] std::uintptr_t address() const noexcept { return reinterpret_cast<std::uintptr_t>(data_); }

private:
	void *data_ = nullptr;
	std::size_t bytes_ = 0;
};

/// Bytes that are only read or moved: what prefetch() takes. Does not own them.
class range {
public:
	constexpr range() noexcept = default;
	range(const void *data, std::size_t bytes) noexcept : data_(data), bytes_(bytes) {}
	range(mutable_range other) noexcept // NOLINT(*-explicit-*)
		: data_(other.data()), bytes_(other.size_bytes()) {}

	/// The elements of a contiguous container, not its spare capacity.
	template <class C, class = detail::if_contiguous<C>>
	range(C &&container) noexcept // NOLINT(*-forwarding-reference-overload, *-explicit-*)
		: data_(container.data()), bytes_(container.size() * sizeof(detail::element_of<C>)) {}

	[[nodiscard]] const void *data() const noexcept { return data_; }
	[[nodiscard]] std::size_t size_bytes() const noexcept { return bytes_; }
	[[nodiscard]] std::uintptr_t address() const noexcept { return reinterpret_cast<std::uintptr_t>(data_); }

private:
	const void *data_ = nullptr;
	std::size_t bytes_ = 0;
};

} // namespace gmem
