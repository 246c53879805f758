// SPDX-License-Identifier: Apache-2.0
/// @file
/// gmem::streams::cuda_driver: a stream of the CUDA driver. Needs <cuda.h> and libcuda.
#pragma once

#include <system_error>

#include <cuda.h>

#include <libgmem/detail/cuda_stream.hpp>
#include <libgmem/stream.hpp>

namespace gmem::streams {

namespace detail {

inline int launch_cuda_driver(void *native, gmemHostFn fn, void *arg) noexcept {
	return static_cast<int>(cuLaunchHostFunc(static_cast<CUstream>(native), fn, arg));
}

} // namespace detail

/// Wrap a stream; the rules of gmem::streams::cuda() apply.
///
/// A failure gives a stream that must not be used, and is in `ec`, which is cleared on success.
[[nodiscard]] inline external_stream cuda_driver(CUstream stream, std::error_code &ec) noexcept {
	return detail::cuda(stream, detail::launch_cuda_driver, ec);
}

#if LIBGMEM_HAS_EXCEPTIONS
/// Wrap a stream and throw on failure.
/// @throws error: ENOMEM
[[nodiscard]] inline external_stream cuda_driver(CUstream stream) {
	return detail::cuda(stream, detail::launch_cuda_driver);
}
#endif

} // namespace gmem::streams
