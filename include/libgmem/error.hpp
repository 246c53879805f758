// SPDX-License-Identifier: Apache-2.0
/// @file
/// gmem::error and gmem::out_of_memory, the exceptions of the C++ API.
///
/// Each operation that can fail has two forms: one throws, and a `noexcept` one has a std::error_code, which is cleared
/// on success. Constructors that can fail have a factory create() with a std::error_code. Without exceptions
/// (-fno-exceptions) the throwing forms are not declared. Only where the standard library demands one, in
/// gmem::allocator, does the call end the process then, as that of std::allocator does.
#pragma once

#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <new>
#include <system_error>

#include <libgmem.h>

/// 1 if the translation unit has exceptions, else 0.
#ifdef __cpp_exceptions
#define LIBGMEM_HAS_EXCEPTIONS 1
#else
#define LIBGMEM_HAS_EXCEPTIONS 0
#endif

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

#if LIBGMEM_HAS_EXCEPTIONS
inline void throw_if_failed(int result) {
	if (result < 0) {
		throw error(result);
	}
}
inline void throw_if_failed(const std::error_code &ec) { throw_if_failed(-ec.value()); }
#endif

[[nodiscard]] inline std::error_code to_error_code(int result) noexcept {
	return {result < 0 ? -result : 0, std::generic_category()};
}

/// Call `function`; std::bad_alloc from it becomes an error code. Other exceptions end the process.
template <class F>
void without_bad_alloc(std::error_code &ec, F function) noexcept {
#if LIBGMEM_HAS_EXCEPTIONS
	try {
		function();
	} catch (const std::bad_alloc &) {
		ec = std::make_error_code(std::errc::not_enough_memory);
	}
#else
	static_cast<void>(ec);
	function();
#endif
}

/// Whether there is memory for a standard container of `bytes`. Asked where there are no exceptions, because the
/// container would end the process; with exceptions it reports that itself.
[[nodiscard]] inline bool may_allocate([[maybe_unused]] std::size_t bytes) noexcept {
#if LIBGMEM_HAS_EXCEPTIONS
	return true;
#else
	// Volatile, or the compiler could leave out the pair of calls.
	void *volatile probe = ::operator new(bytes, std::nothrow);
	const bool has_memory = probe != nullptr;
	::operator delete(probe);
	return has_memory;
#endif
}

/// -EBUSY is an answer and no failure: sets `busy`, and returns the failures.
[[nodiscard]] inline int unless_busy(int result, bool &busy) noexcept {
	busy = result == -EBUSY;
	return busy ? 0 : result;
}

} // namespace detail
} // namespace gmem
