// SPDX-License-Identifier: Apache-2.0
/// @file
/// gmem::streams::cuda: a stream of the CUDA runtime. Needs <cuda_runtime_api.h> and libcudart.
#pragma once

#include <cuda_runtime_api.h>

#include <libgmem/detail/cuda_stream.hpp>
#include <libgmem/stream.hpp>

namespace gmem::streams {

/// `stream` as libgmem takes it; nullptr is the default stream.
///
/// While the device "cuda" is the current one, that is the stream itself: the driver is asked to prefetch and to
/// discard in its order. On other devices libgmem's work is a host function on the stream, so choose the device before;
/// what needs "cuda" must not be registered on a stream that was wrapped without it.
///
/// CUDA's rules for host functions hold: what is launched makes no CUDA calls, and after an error of the
/// context nothing is called any more, so ask cudaStreamSynchronize() before stream_ref::synchronize(). Not for a
/// stream that is being captured, since a graph runs its functions any number of times.
[[nodiscard]] inline external_stream cuda(cudaStream_t stream) {
	return detail::cuda(stream, [](void *native, gmemHostFn fn, void *arg) {
		return static_cast<int>(cudaLaunchHostFunc(static_cast<cudaStream_t>(native), fn, arg));
	});
}

} // namespace gmem::streams
