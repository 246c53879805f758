// SPDX-License-Identifier: Apache-2.0
/// @file
/// gmem::streams::hip: a stream of HIP. Needs <hip/hip_runtime_api.h> and a libamdhip64 with hipLaunchHostFunc
/// (ROCm 5.2 declares it but lacks it).
#pragma once

#include <hip/hip_runtime_api.h>

#include <libgmem/stream.hpp>

namespace gmem::streams {

/// Wrap a stream; nullptr is the default stream. Launched functions must not call HIP.
[[nodiscard]] inline external_stream hip(hipStream_t stream) {
	return external_stream(
		[](void *native, gmemHostFn fn, void *arg) {
			return static_cast<int>(hipLaunchHostFunc(static_cast<hipStream_t>(native), fn, arg));
		},
		stream);
}

} // namespace gmem::streams
