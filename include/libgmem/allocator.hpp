// SPDX-License-Identifier: Apache-2.0
/// @file
/// gmem_allocator<T>: libgmem's heap for the standard containers.
#pragma once

#include <cstddef>
#include <limits>
#include <new>
#include <type_traits>
#include <utility>

#include <libgmem/detail/thread_sanitizer.hpp>
#include <libgmem/error.hpp>

namespace gmem {

/// How container elements come to life when no value is given, as in std::vector<T>(n).
struct value_init {};   ///< zeros, as the standard says
struct default_init {}; ///< nothing for trivial types: the memory is not touched

/// A stateless allocator: all are equal, and containers stay the size they are.
///
/// A block of at least one GMEM page starts on a GMEM page, so prefetch() and free_eager() of it
/// lose nothing to rounding. Allocation is a direct call of the C heap: gmem_device_alloc(), so kernels of the current
/// device read the elements by their addresses, however few there are.
///
/// std::vector<T>(n) writes n zeros, and so touches every page before anyone could prefetch it. Where
/// the contents are written anyway use default_init_allocator: prefetch first, then fill.
template <class T, class Init = value_init>
class allocator {
public:
	using value_type = T;
	using is_always_equal = std::true_type;
	using propagate_on_container_move_assignment = std::true_type;
	template <class U>
	struct rebind {
		using other = allocator<U, Init>;
	};

	constexpr allocator() noexcept = default;
	template <class U>
	constexpr allocator(const allocator<U, Init> &) noexcept {} // NOLINT(*-explicit-*)

	/// @return room for n objects, aligned for T
	/// @throws std::bad_array_new_length when n * sizeof(T) does not fit, else out_of_memory
	[[nodiscard]] T *allocate(std::size_t n) {
		if (n > std::numeric_limits<std::size_t>::max() / sizeof(T)) {
			throw std::bad_array_new_length();
		}
		const std::size_t bytes = n * sizeof(T);
		void *const memory = gmem_device_alloc(alignof(T), bytes);
		if (memory == nullptr) {
			throw out_of_memory(bytes);
		}
		detail::block_allocated(memory, bytes);
		return static_cast<T *>(memory);
	}

	void deallocate(T *memory, std::size_t n) noexcept {
		detail::block_freed(memory, n * sizeof(T));
		gmem_free(memory);
	}

	template <class U, class... Args>
	void construct(U *at, Args &&...args) {
		if constexpr (sizeof...(Args) == 0 && std::is_same_v<Init, default_init>) {
			::new (static_cast<void *>(at)) U;
		} else {
			::new (static_cast<void *>(at)) U(std::forward<Args>(args)...);
		}
	}

	template <class U>
	friend constexpr bool operator==(const allocator &, const allocator<U, Init> &) noexcept {
		return true;
	}
	template <class U>
	friend constexpr bool operator!=(const allocator &, const allocator<U, Init> &) noexcept {
		return false;
	}
};

/// For buffers that are overwritten anyway: std::vector<float, gmem::default_init_allocator<float>>.
template <class T>
using default_init_allocator = allocator<T, default_init>;

} // namespace gmem

/// The name of the original library: std::vector<float, gmem_allocator<float>>.
template <class T>
using gmem_allocator = gmem::allocator<T>;
