// SPDX-License-Identifier: Apache-2.0
/// @file
/// gmem::streams::hip: a stream of HIP. Needs <hip/hip_runtime_api.h> and a libamdhip64 with hipLaunchHostFunc
/// (ROCm 5.2 declares it and does not have it).
#pragma once

#include <hip/hip_runtime_api.h>

#include <libgmem/stream.hpp>

namespace gmem::streams {

/// `stream` as libgmem takes it; nullptr is the default stream. What is launched makes no HIP calls.
[[nodiscard]] inline external_stream hip(hipStream_t stream) {
	return external_stream(
		[](void *native, gmemHostFn fn, void *arg) {
			return static_cast<int>(hipLaunchHostFunc(static_cast<hipStream_t>(native), fn, arg));
		},
		stream);
}

} // namespace gmem::streams
