// SPDX-License-Identifier: Apache-2.0
/// @file
/// gmem::error and gmem::out_of_memory, the exceptions of the C++ API.
#pragma once

#include <cerrno>
#include <cstddef>
#include <new>
#include <system_error>

#include <libgmem.h>

namespace gmem {

/// A failed libgmem call. code() compares with std::errc; what() contains gmemLastError().
class __attribute__((visibility("default"))) error : public std::system_error {
public:
	/// Make an exception of a C function's result.
	/// @param negative_errno the result, below zero
	explicit error(int negative_errno) : std::system_error(-negative_errno, std::generic_category(), gmemLastError()) {}
};

/// An allocation failed. It is a std::bad_alloc and not a gmem::error: with both as bases it would contain
/// std::exception twice, and `catch (const std::exception &)` would not catch it.
class __attribute__((visibility("default"))) out_of_memory : public std::bad_alloc {
public:
	/// @param bytes the size of the allocation
	explicit out_of_memory(std::size_t bytes) noexcept : bytes_(bytes) {}
	/// The bytes requested.
	[[nodiscard]] std::size_t bytes() const noexcept { return bytes_; }
	/// std::errc::not_enough_memory.
	[[nodiscard]] std::error_code code() const noexcept { return std::make_error_code(std::errc::not_enough_memory); }
	/// The failure and its remedy in words.
	[[nodiscard]] const char *what() const noexcept override {
		return "gmem::out_of_memory: the heap could not get the memory asked for; raise the limit "
			   "(ulimit -v, the memory cgroup, vm.max_map_count) or ask for less";
	}

private:
	std::size_t bytes_;
};

namespace detail {

inline void throw_if_failed(int result) {
	if (result < 0) {
		throw error(result);
	}
}

[[nodiscard]] inline std::error_code to_error_code(int result) noexcept {
	return {result < 0 ? -result : 0, std::generic_category()};
}

} // namespace detail
} // namespace gmem
