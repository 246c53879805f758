// SPDX-License-Identifier: Apache-2.0
/// @file
/// Text from C functions that fill a buffer as snprintf does.
#pragma once

#include <cstddef>
#include <string>

#include <libgmem/error.hpp>

namespace gmem::detail {

/// The whole text of `write(buffer, size)`, which may be longer on the second call.
/// @throws error, std::bad_alloc
template <class Write>
[[nodiscard]] std::string text_of(Write write) {
	std::string text(std::size_t{1} << 12U, '\0');
	for (;;) {
		// The NUL goes where a string has its own.
		const int length = write(text.data(), text.size() + 1);
		throw_if_failed(length);
		const bool is_all = static_cast<std::size_t>(length) <= text.size();
		text.resize(static_cast<std::size_t>(length));
		if (is_all) {
			return text;
		}
	}
}

} // namespace gmem::detail
