// SPDX-License-Identifier: Apache-2.0
/// @file
/// gmem::streams::sycl: a queue of SYCL 2020. Needs <sycl/sycl.hpp> and a compiler for it.
#pragma once

#include <memory>

#include <sycl/sycl.hpp>

#include <libgmem/stream.hpp>
#include <libgmem/streams/executor.hpp>

namespace gmem::streams {

/// Wrap a queue, which must be in order.
/// @throws std::system_error: EINVAL if it is not
[[nodiscard]] inline external_stream sycl(::sycl::queue queue) {
	if (!queue.is_in_order()) {
		throw std::system_error(EINVAL, std::generic_category(),
			"gmem::streams::sycl: queue is out of order; make it with sycl::property::queue::in_order");
	}
	return executor([queue = std::move(queue)](auto function) mutable {
		queue.submit([&](::sycl::handler &handler) { handler.host_task(std::move(function)); });
	});
}

} // namespace gmem::streams
