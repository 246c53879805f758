// SPDX-License-Identifier: Apache-2.0
/// @file
/// Streams that the current device's driver orders itself.
#pragma once

#include <cstring>

#include <libgmem/stream.hpp>

namespace gmem::streams::detail {

/// Whether CUDA's streams are the current device's own.
[[nodiscard]] inline bool cuda_is_current() noexcept {
	const char *const name = gmemGetDevice();
	return name != nullptr && std::strcmp(name, "cuda") == 0;
}

/// A stream of the driver's.
[[nodiscard]] inline wrapped_stream as_it_is(void *stream) noexcept {
	return wrapped_stream(stream_ref(static_cast<gmemStream_t>(stream)));
}

} // namespace gmem::streams::detail
