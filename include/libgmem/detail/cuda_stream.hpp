// SPDX-License-Identifier: Apache-2.0
/// @file
/// The part that both CUDA adapters share.
#pragma once

#include <cstdint>
#include <cstring>
#include <system_error>

#include <libgmem/stream.hpp>

namespace gmem::streams::detail {

/// Refer to the stream itself if "cuda" is the current device, where CUDA's NULL needs another name; else wrap it.
/// A failure is in `ec`, which is cleared on success.
[[nodiscard]] inline external_stream cuda(void *stream, gmemLaunchFn launch, std::error_code &ec) noexcept {
	const char *const device = gmemGetDevice();
	if (device == nullptr || std::strcmp(device, "cuda") != 0) {
		return external_stream::create(launch, stream, ec);
	}
	ec.clear();
	if (stream == nullptr) {
#ifdef CUDA_API_PER_THREAD_DEFAULT_STREAM
		constexpr std::uintptr_t by_default = 2; // CU_STREAM_PER_THREAD
#else
		constexpr std::uintptr_t by_default = 1; // CU_STREAM_LEGACY
#endif
		stream = reinterpret_cast<void *>(by_default);
	}
	return external_stream(stream_ref(static_cast<gmemStream_t>(stream)));
}

#if LIBGMEM_HAS_EXCEPTIONS
[[nodiscard]] inline external_stream cuda(void *stream, gmemLaunchFn launch) {
	std::error_code ec;
	external_stream made = cuda(stream, launch, ec);
	gmem::detail::throw_if_failed(ec);
	return made;
}
#endif

} // namespace gmem::streams::detail
