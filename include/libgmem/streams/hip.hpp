// SPDX-License-Identifier: Apache-2.0
/// @file
/// gmem::streams::hip: a stream of HIP. Needs <hip/hip_runtime_api.h> and a libamdhip64 with hipLaunchHostFunc
/// (ROCm 5.2 declares it but lacks it).
#pragma once

#include <system_error>

#include <hip/hip_runtime_api.h>

#include <libgmem/stream.hpp>

namespace gmem::streams {

namespace detail {

inline int launch_hip(void *native, gmemHostFn fn, void *arg) noexcept {
	return static_cast<int>(hipLaunchHostFunc(static_cast<hipStream_t>(native), fn, arg));
}

} // namespace detail

/// Wrap a stream; nullptr is the default stream. Launched functions must not call HIP.
///
/// A failure gives a stream that must not be used, and is in `ec`, which is cleared on success.
[[nodiscard]] inline external_stream hip(hipStream_t stream, std::error_code &ec) noexcept {
	return external_stream::create(detail::launch_hip, stream, ec);
}

#if LIBGMEM_HAS_EXCEPTIONS
/// Wrap a stream and throw on failure.
/// @throws error: ENOMEM
[[nodiscard]] inline external_stream hip(hipStream_t stream) { return external_stream(detail::launch_hip, stream); }
#endif

} // namespace gmem::streams
