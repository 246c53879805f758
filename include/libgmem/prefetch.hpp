// SPDX-License-Identifier: Apache-2.0
/// @file
/// gmem::prefetch: bring a range to a memory node so that no page fault follows.
#pragma once

#include <libgmem/detail/bridge.hpp>
#include <libgmem/device.hpp>
#include <libgmem/range.hpp>
#include <libgmem/stream.hpp>

namespace gmem {

/// Bring `what` to memory node `hnid`: at once without a stream, else in the stream's order.
/// Rules and errors are those of gmemPrefetch(); thread-safe.
/// @throws error
inline void prefetch(range what, int hnid, stream_ref order = {}) {
	detail::throw_if_failed(detail::prefetch(what.address(), what.size_bytes(), hnid, order.address()));
}

/// The same, with the failure in `ec` (cleared on success).
inline void prefetch(range what, int hnid, stream_ref order, std::error_code &ec) noexcept {
	ec = detail::to_error_code(detail::prefetch(what.address(), what.size_bytes(), hnid, order.address()));
}

/// To the current device.
inline void prefetch(range what, stream_ref order = {}) { prefetch(what, device::numa_id(), order); }

} // namespace gmem
