// SPDX-License-Identifier: Apache-2.0
/// @file
/// gmem::streams::cuda_driver: a stream of the CUDA driver. Needs <cuda.h> and libcuda.
#pragma once

#include <cuda.h>

#include <libgmem/detail/cuda_stream.hpp>
#include <libgmem/stream.hpp>

namespace gmem::streams {

/// Wrap a stream; the rules of gmem::streams::cuda() apply.
[[nodiscard]] inline external_stream cuda_driver(CUstream stream) {
	return detail::cuda(stream, [](void *native, gmemHostFn fn, void *arg) {
		return static_cast<int>(cuLaunchHostFunc(static_cast<CUstream>(native), fn, arg));
	});
}

} // namespace gmem::streams
