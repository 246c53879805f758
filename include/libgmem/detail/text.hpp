// SPDX-License-Identifier: Apache-2.0
/// @file
/// Text from C functions that fill a buffer as snprintf does.
#pragma once

#include <cstddef>
#include <string>
#include <system_error>

#include <libgmem/error.hpp>

namespace gmem::detail {

/// Put the whole text of `write(buffer, size)` into `text`; it may be longer on the second call. Returns 0, or the
/// negative errno of `write`.
template <class Write>
[[nodiscard]] int fill_text(Write write, std::string &text) {
	text.resize(std::size_t{1} << 12U);
	for (;;) {
		// The NUL goes where a string has its own.
		const int length = write(text.data(), text.size() + 1);
		const bool is_all = length < 0 || static_cast<std::size_t>(length) <= text.size();
		text.resize(length < 0 ? 0 : static_cast<std::size_t>(length));
		if (is_all) {
			return length < 0 ? length : 0;
		}
	}
}

#if LIBGMEM_HAS_EXCEPTIONS
/// @throws error, std::bad_alloc
template <class Write>
[[nodiscard]] std::string text_of(Write write) {
	std::string text;
	throw_if_failed(fill_text(write, text));
	return text;
}
#endif

template <class Write>
[[nodiscard]] std::string text_of(Write write, std::error_code &ec) noexcept {
	std::string text;
	ec.clear();
	without_bad_alloc(ec, [&] { ec = to_error_code(fill_text(write, text)); });
	return text;
}

} // namespace gmem::detail
