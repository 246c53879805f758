// SPDX-License-Identifier: Apache-2.0
/// @file
/// gmem::streams::cuda: a stream of the CUDA runtime. Needs <cuda_runtime_api.h> and libcudart.
#pragma once

#include <cuda_runtime_api.h>

#include <libgmem/stream.hpp>

namespace gmem::streams {

/// `stream` as libgmem takes it; nullptr is the default stream.
///
/// CUDA's rules for host functions hold: what is launched makes no CUDA calls, and after an error of the
/// context nothing is called any more, so ask cudaStreamSynchronize() before stream_ref::synchronize(). Not for a
/// stream that is being captured, since a graph runs its functions any number of times.
[[nodiscard]] inline wrapped_stream cuda(cudaStream_t stream) {
	return wrapped_stream(
		[](void *native, gmemHostFn fn, void *arg) {
			return static_cast<int>(cudaLaunchHostFunc(static_cast<cudaStream_t>(native), fn, arg));
		},
		stream);
}

} // namespace gmem::streams
