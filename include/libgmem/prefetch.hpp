// SPDX-License-Identifier: Apache-2.0
/// @file
/// gmem::prefetch: bring a range to a memory node so that no page fault follows.
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

/// Bring `what` to memory node `hnid`: at once without a stream, else in the stream's order.
/// Rules and errors are those of gmemPrefetchEx(); thread-safe.
/// @return what was done; need not be looked at
/// @throws error, std::bad_alloc
inline prefetch_report prefetch(range what, int hnid, stream_ref order = {}, prefetch_options options = {}) {
	prefetch_report done;
	detail::throw_if_failed(detail::prefetch(what, hnid, order, std::move(options), done));
	return done;
}

/// The same, with the failure in `ec` (cleared on success).
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

/// To the current device.
inline prefetch_report prefetch(range what, stream_ref order = {}) { return prefetch(what, device::numa_id(), order); }

/// Huge pages or not, for prefetches that ask for nothing of their own.
/// @throws error
inline void set_huge_policy(huge_pages policy) { detail::throw_if_failed(gmemSetHugePolicy(static_cast<int>(policy))); }

/// The same for what begins in a range, which the kernel is told at once; see gmemSetRangeHugePolicy().
/// @throws error
inline void set_huge_policy(range of, huge_pages policy) {
	detail::throw_if_failed(gmemSetRangeHugePolicy(of.address(), of.size_bytes(), static_cast<int>(policy)));
}

/// What holds for a prefetch that begins at `address`.
[[nodiscard]] inline huge_pages huge_policy(const void *address) noexcept {
	return static_cast<huge_pages>(gmemGetHugePolicy(reinterpret_cast<std::uintptr_t>(address)));
}

} // namespace gmem
