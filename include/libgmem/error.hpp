// SPDX-License-Identifier: Apache-2.0
/// @file
/// gmem::error and gmem::out_of_memory: what the throwing half of the C++ API throws.
#pragma once

#include <cerrno>
#include <cstddef>
#include <new>
#include <system_error>

#include <libgmem.h>

namespace gmem {

/// A libgmem call that failed: code() compares with std::errc, what() is gmemLastError().
class __attribute__((visibility("default"))) error : public std::system_error {
public:
	/// @param negative_errno the result of a C call, below zero
	explicit error(int negative_errno) : std::system_error(-negative_errno, std::generic_category(), gmemLastError()) {}
};

/// Memory that could not be had. It is a std::bad_alloc and not a gmem::error, because a class with
/// both as bases would hold std::exception twice, and `catch (const std::exception &)` would miss it.
class __attribute__((visibility("default"))) out_of_memory : public std::bad_alloc {
public:
	explicit out_of_memory(std::size_t bytes) noexcept : bytes_(bytes) {}
	/// @return the bytes asked for
	[[nodiscard]] std::size_t bytes() const noexcept { return bytes_; }
	[[nodiscard]] std::error_code code() const noexcept { return std::make_error_code(std::errc::not_enough_memory); }
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
