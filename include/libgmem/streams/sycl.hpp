// SPDX-License-Identifier: Apache-2.0
/// @file
/// gmem::streams::sycl: a queue of SYCL 2020. Needs <sycl/sycl.hpp> and a compiler for it.
#pragma once

#include <cerrno>
#include <system_error>
#include <utility>

#include <sycl/sycl.hpp>

#include <libgmem/stream.hpp>
#include <libgmem/streams/executor.hpp>

namespace gmem::streams {

/// Wrap a queue, which must be in order. A failure gives a stream that must not be used, and is in `ec`: EINVAL if the
/// queue is out of order. `ec` is cleared on success.
[[nodiscard]] inline external_stream sycl(::sycl::queue queue, std::error_code &ec) noexcept {
	if (!queue.is_in_order()) {
		ec = std::make_error_code(std::errc::invalid_argument);
		return external_stream(stream_ref());
	}
	auto submit = [queue = std::move(queue)](auto function) mutable {
		queue.submit([&](::sycl::handler &handler) { handler.host_task(std::move(function)); });
	};
	return executor(std::move(submit), ec);
}

#if LIBGMEM_HAS_EXCEPTIONS
/// Wrap a queue and throw on failure.
/// @throws std::system_error: EINVAL if it is out of order; error: ENOMEM
[[nodiscard]] inline external_stream sycl(::sycl::queue queue) {
	if (!queue.is_in_order()) {
		throw std::system_error(EINVAL, std::generic_category(),
			"gmem::streams::sycl: queue is out of order; make it with sycl::property::queue::in_order");
	}
	std::error_code ec;
	external_stream made = sycl(std::move(queue), ec);
	gmem::detail::throw_if_failed(ec);
	return made;
}
#endif

} // namespace gmem::streams
