// SPDX-License-Identifier: Apache-2.0
/// @file
/// gmem::streams::cuda: a stream of the CUDA runtime. Needs <cuda_runtime_api.h> and libcudart.
#pragma once

#include <system_error>

#include <cuda_runtime_api.h>

#include <libgmem/detail/cuda_stream.hpp>
#include <libgmem/stream.hpp>

namespace gmem::streams {

namespace detail {

inline int launch_cuda(void *native, gmemHostFn fn, void *arg) noexcept {
	return static_cast<int>(cudaLaunchHostFunc(static_cast<cudaStream_t>(native), fn, arg));
}

} // namespace detail

/// Wrap a stream; nullptr is the default stream.
///
/// On the device "cuda" the result refers to the stream itself, and the driver prefetches and discards in its order. On
/// other devices libgmem's work is a host function on the stream. So select the device first: work that needs "cuda"
/// must not be queued on a stream that was wrapped without it.
///
/// CUDA's rules for host functions apply: launched functions must not call CUDA. After an error of the context nothing
/// is called any more, so call cudaStreamSynchronize() before stream_ref::synchronize(). A stream that is being
/// captured is not supported, because a graph runs its functions any number of times.
///
/// A failure gives a stream that must not be used, and is in `ec`, which is cleared on success.
[[nodiscard]] inline external_stream cuda(cudaStream_t stream, std::error_code &ec) noexcept {
	return detail::cuda(stream, detail::launch_cuda, ec);
}

#if LIBGMEM_HAS_EXCEPTIONS
/// Wrap a stream and throw on failure.
/// @throws error: ENOMEM
[[nodiscard]] inline external_stream cuda(cudaStream_t stream) { return detail::cuda(stream, detail::launch_cuda); }
#endif

} // namespace gmem::streams
