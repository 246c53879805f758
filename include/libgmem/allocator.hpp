// SPDX-License-Identifier: Apache-2.0
/// @file
/// gmem_allocator<T>: libgmem's heap for the standard containers.
#pragma once

#include <cstddef>
#include <new>
#include <type_traits>
#include <utility>

#include <libgmem/detail/memory.hpp>
#include <libgmem/error.hpp>

namespace gmem {

/// Value-initialise elements that are given no value, as in std::vector<T>(n): zeros, as the standard requires.
struct value_init {};
/// Default-initialise them: trivial types stay unwritten, and the memory is not touched.
struct default_init {};

/// A stateless allocator: all instances are equal, and containers keep their size.
///
/// A block of at least one GMEM page starts on a GMEM page, so prefetch() and free_eager() cover it completely. Memory
/// comes from gmem_device_alloc(): kernels of the current device can read the elements by their addresses, however few
/// there are. Thread-safe.
///
/// std::vector<T>(n) writes n zeros and so touches every page before you can prefetch it. If the contents are
/// overwritten anyway, use default_init_allocator: prefetch first, then fill.
template <class T, class Init = value_init>
class allocator {
public:
	/// The type of the elements.
	using value_type = T;
	/// Any instance frees what another one allocated.
	using is_always_equal = std::true_type;
	/// Containers move without copying.
	using propagate_on_container_move_assignment = std::true_type;
	/// This allocator for another type.
	template <class U>
	struct rebind {
		/// The allocator for U.
		using other = allocator<U, Init>;
	};

	/// Needs no arguments, because there is no state.
	constexpr allocator() noexcept = default;
	/// Convert from an allocator for another type.
	template <class U>
	constexpr allocator(const allocator<U, Init> &) noexcept {} // NOLINT(*-explicit-*)

	/// Allocate memory for n objects, aligned for T.
	/// Containers cannot do without the memory, so a failure ends the process where there are no exceptions.
	/// @throws std::bad_array_new_length if n * sizeof(T) overflows; out_of_memory
	[[nodiscard]] T *allocate(std::size_t n) {
#if LIBGMEM_HAS_EXCEPTIONS
		if (detail::is_too_long<T>(n)) {
			throw std::bad_array_new_length();
		}
#endif
		std::error_code ec;
		T *const memory = allocate(n, ec);
		if (memory == nullptr) {
			detail::fail_to_allocate(n * sizeof(T));
		}
		return memory;
	}

	/// Allocate without exceptions. A failure gives nullptr and is in `ec`, which is cleared on success.
	[[nodiscard]] T *allocate(std::size_t n, std::error_code &ec) noexcept {
		void *const memory = detail::is_too_long<T>(n) ? nullptr : detail::allocate(n * sizeof(T), alignof(T));
		ec = detail::to_error_code(memory == nullptr ? -ENOMEM : 0);
		return static_cast<T *>(memory);
	}

	/// Free what allocate() returned.
	void deallocate(T *memory, std::size_t n) noexcept { detail::deallocate(memory, n * sizeof(T)); }

	/// Construct an object; without arguments as Init says.
	template <class U, class... Args>
	void construct(U *at, Args &&...args) {
		if constexpr (sizeof...(Args) == 0 && std::is_same_v<Init, default_init>) {
			::new (static_cast<void *>(at)) U;
		} else {
			::new (static_cast<void *>(at)) U(std::forward<Args>(args)...);
		}
	}

	/// Always true.
	template <class U>
	friend constexpr bool operator==(const allocator &, const allocator<U, Init> &) noexcept {
		return true;
	}
	/// Always false.
	template <class U>
	friend constexpr bool operator!=(const allocator &, const allocator<U, Init> &) noexcept {
		return false;
	}
};

/// An allocator for memory that is overwritten anyway: std::vector<float, gmem::default_init_allocator<float>>.
template <class T>
using default_init_allocator = allocator<T, default_init>;

/// Another name of allocator<T>, the one that the original library uses.
template <class T>
using gmem_allocator = allocator<T>;

} // namespace gmem

// The original library has the name outside the namespace: std::vector<float, gmem_allocator<float>>.
using gmem::gmem_allocator;
