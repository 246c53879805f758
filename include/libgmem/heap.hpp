// SPDX-License-Identifier: Apache-2.0
/// @file
/// gmem::heap: libgmem's heap as inference engines take an allocator.
#pragma once

#include <cerrno>
#include <cstddef>
#include <system_error>

#include <libgmem/detail/memory.hpp>
#include <libgmem/error.hpp>

namespace gmem {

/// An allocator of bytes with the members that OpenVINO's ov::Allocator and similar interfaces expect:
///
///     ov::Tensor tensor(ov::element::f32, shape, ov::Allocator(gmem::heap()));
///
/// A block of at least one GMEM page starts on a GMEM page. All instances are equal, because there is one heap. Can be
/// copied; has no state. Thread-safe.
class heap {
public:
	/// Alignment of a block for which none is given.
	static constexpr std::size_t default_alignment = alignof(std::max_align_t);

#if LIBGMEM_HAS_EXCEPTIONS
	/// Allocate a block.
	/// @param bytes     any number; 0 gives a block as well
	/// @param alignment a power of two
	/// @throws out_of_memory; std::system_error: EINVAL if `alignment` is no power of two
	[[nodiscard]] void *allocate(std::size_t bytes, std::size_t alignment = default_alignment) const {
		std::error_code ec;
		void *const memory = allocate(bytes, alignment, ec);
		if (ec == std::errc::invalid_argument) {
			throw std::system_error(ec, "gmem::heap::allocate(): alignment is no power of two; pass one");
		}
		if (memory == nullptr) {
			detail::fail_to_allocate(bytes);
		}
		return memory;
	}
#else
	/// Allocate a block; nullptr if that fails, as engines without exceptions expect.
	[[nodiscard]] void *allocate(std::size_t bytes, std::size_t alignment = default_alignment) const noexcept {
		return detail::allocate(bytes, alignment);
	}
#endif

	/// Allocate a block. A failure gives nullptr and is in `ec`, which is cleared on success.
	[[nodiscard]] void *allocate(std::size_t bytes, std::size_t alignment, std::error_code &ec) const noexcept {
		void *const memory = detail::allocate(bytes, alignment);
		ec = detail::to_error_code(memory == nullptr ? -errno : 0);
		return memory;
	}

	/// Free a block of allocate(), or nothing for nullptr.
	void deallocate(void *memory, std::size_t bytes, std::size_t = default_alignment) const noexcept {
		detail::deallocate(memory, bytes);
	}

	/// Always true: any instance frees what another one allocated.
	[[nodiscard]] bool is_equal(const heap &) const noexcept { return true; }

	/// Always true.
	friend constexpr bool operator==(const heap &, const heap &) noexcept { return true; }
	/// Always false.
	friend constexpr bool operator!=(const heap &, const heap &) noexcept { return false; }
};

} // namespace gmem
