// SPDX-License-Identifier: Apache-2.0
/// @file
/// gmem::range and gmem::mutable_range: bytes to prefetch, and bytes to release.
#pragma once

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <string_view>
#include <type_traits>
#include <utility>
#if __cplusplus >= 202002L
#include <span>
#endif

#include <libgmem.h>

namespace gmem {

class range;
class mutable_range;

namespace detail {

/// Anything with data() and size() over contiguous elements: vector, span, array, string, buffer.
template <class C>
using element_of = std::remove_pointer_t<decltype(std::declval<C &>().data())>;

template <class C>
using if_contiguous = std::enable_if_t<std::is_pointer_v<decltype(std::declval<C &>().data())> &&
									   std::is_convertible_v<decltype(std::declval<C &>().size()), std::size_t>>;

/// Whether values of a type stand for memory elsewhere, without owning it.
template <class T>
struct is_view : std::false_type {};
template <>
struct is_view<range> : std::true_type {};
template <>
struct is_view<mutable_range> : std::true_type {};
template <>
struct is_view<gmemRange_t> : std::true_type {};
template <class Char, class Traits>
struct is_view<std::basic_string_view<Char, Traits>> : std::true_type {};
#if __cplusplus >= 202002L
template <class T, std::size_t N>
struct is_view<std::span<T, N>> : std::true_type {};
#endif

/// Whether C is a range of ranges, such as std::vector<gmem::range> or std::list<gmem::mutable_range>.
template <class C, class = void>
struct is_batch : std::false_type {};
template <class C>
struct is_batch<C, std::void_t<decltype(*std::begin(std::declval<C &>())), decltype(std::end(std::declval<C &>()))>>
	: is_view<std::remove_cv_t<std::remove_reference_t<decltype(*std::begin(std::declval<C &>()))>>> {};

template <class C>
using if_batch = std::enable_if_t<is_batch<std::remove_reference_t<C>>::value>;

/// Whether C has elements that do not lie side by side, such as std::list, std::map and std::vector<bool>.
template <class C, class = void>
struct has_data : std::false_type {};
template <class C>
struct has_data<C, if_contiguous<C>> : std::true_type {};
template <class C, class = void>
struct is_scattered : std::false_type {};
template <class C>
struct is_scattered<C, std::void_t<decltype(std::begin(std::declval<C &>())), decltype(std::end(std::declval<C &>()))>>
	: std::bool_constant<!has_data<C>::value && !is_batch<C>::value && !std::is_array_v<C>> {};

template <class C>
using if_scattered = std::enable_if_t<is_scattered<std::remove_reference_t<C>>::value>;

/// Refuses elements whose own bytes are not what is meant.
template <class T>
constexpr void check_type() noexcept {
	static_assert(!is_view<std::remove_cv_t<T>>::value,
		"this is a range of ranges, a batch: pass it to gmem::prefetch() or gmem::free_eager() as it is");
	static_assert(std::is_trivially_destructible_v<T>,
		"the elements own other memory, which would not be reached: pass a range of gmem::range, one for each "
		"element's "
		"memory, or gmem::range(c.data(), c.size() * sizeof *c.data()) for the elements themselves");
}

template <class C>
constexpr void check_elements() noexcept {
	check_type<element_of<C>>();
}

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
		: data_(container.data()), bytes_(container.size() * sizeof(detail::element_of<C>)) {
		detail::check_elements<C>();
	}

	/// The elements of a C array.
	template <class T, std::size_t N, class = std::enable_if_t<!std::is_const_v<T>>>
	mutable_range(T (&array)[N]) noexcept // NOLINT(*-explicit-*, *-avoid-c-arrays)
		: data_(array), bytes_(sizeof array) {
		detail::check_type<T>();
	}

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
		: data_(container.data()), bytes_(container.size() * sizeof(detail::element_of<C>)) {
		detail::check_elements<C>();
	}

	/// The elements of a C array.
	template <class T, std::size_t N>
	range(const T (&array)[N]) noexcept // NOLINT(*-explicit-*, *-avoid-c-arrays)
		: data_(array), bytes_(sizeof array) {
		detail::check_type<T>();
	}

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
