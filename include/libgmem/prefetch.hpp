// SPDX-License-Identifier: Apache-2.0
/// @file
/// gmem::prefetch: bring a range to a memory node so that accesses take no page fault.
#pragma once

#include <new>

#include <libgmem/device.hpp>
#include <libgmem/prefetch_report.hpp>
#include <libgmem/range.hpp>
#include <libgmem/stream.hpp>

namespace gmem {

namespace detail {

[[nodiscard]] inline int prefetch(
	range what, int hnid, stream_ref order, prefetch_options &&options, prefetch_report &out) {
	auto pending = std::make_shared<pending_report>(std::move(options));
	out = prefetch_report(pending);
	pending_report &state = *pending;
	return state.begin(std::move(pending), what.address(), what.size_bytes(), hnid, order.get());
}

} // namespace detail

/// Bring `what` to memory node `hnid`: immediately without a stream, else in stream order. Thread-safe.
/// @return a report of what was done, which may be ignored
/// @throws error as gmemPrefetchEx(); std::bad_alloc
inline prefetch_report prefetch(range what, int hnid, stream_ref order = {}, prefetch_options options = {}) {
	prefetch_report done;
	detail::throw_if_failed(detail::prefetch(what, hnid, order, std::move(options), done));
	return done;
}

/// Prefetch as above; a failure is in `ec`, which is cleared on success.
inline prefetch_report prefetch(range what, int hnid, stream_ref order,
	std::error_code &ec, // NOLINT(bugprone-exception-escape)
	prefetch_options options = {}) noexcept {
	prefetch_report done;
	try {
		ec = detail::to_error_code(detail::prefetch(what, hnid, order, std::move(options), done));
	} catch (const std::bad_alloc &) {
		ec = std::make_error_code(std::errc::not_enough_memory);
	}
	return done;
}

/// Prefetch to the current device.
/// @throws error as gmemPrefetchEx(); std::bad_alloc
inline prefetch_report prefetch(range what, stream_ref order = {}) { return prefetch(what, device::numa_id(), order); }

/// Set the huge-page policy of the process, for prefetches that request none.
/// @throws error as gmemSetHugePolicy()
inline void set_huge_policy(huge_pages policy) { detail::throw_if_failed(gmemSetHugePolicy(static_cast<int>(policy))); }

/// Set the policy of prefetches that begin in a range, and advise the kernel.
/// @throws error as gmemSetRangeHugePolicy()
inline void set_huge_policy(range what, huge_pages policy) {
	detail::throw_if_failed(gmemSetRangeHugePolicy(what.address(), what.size_bytes(), static_cast<int>(policy)));
}

/// The policy of a prefetch that begins at `address`.
[[nodiscard]] inline huge_pages huge_policy(const void *address) noexcept {
	return static_cast<huge_pages>(gmemGetHugePolicy(reinterpret_cast<std::uintptr_t>(address)));
}

} // namespace gmem
