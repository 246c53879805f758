// SPDX-License-Identifier: Apache-2.0
/// @file
/// gmem::prefetch: bring a range to a memory node so that accesses take no page fault.
#pragma once

#include <cerrno>
#include <cstddef>
#include <initializer_list>
#include <new>
#include <system_error>
#include <utility>

#include <libgmem/detail/batch.hpp>
#include <libgmem/device.hpp>
#include <libgmem/error.hpp>
#include <libgmem/prefetch_report.hpp>
#include <libgmem/range.hpp>
#include <libgmem/stream.hpp>

namespace gmem {

namespace detail {

/// Prefetch with a report: `start` gets the options and the report as C takes them.
template <class Start>
[[nodiscard]] int prefetch_with(prefetch_options &&options, prefetch_report &out, Start start) noexcept {
	auto *const pending = new (std::nothrow) pending_report(std::move(options));
	if (pending == nullptr) {
		return -ENOMEM;
	}
	out = prefetch_report(pending);
	return pending->begin(start);
}

[[nodiscard]] inline int prefetch(
	range what, int hnid, stream_ref order, prefetch_options &&options, prefetch_report &out) noexcept {
	return prefetch_with(std::move(options), out, [&](const gmemPrefetchOptions_t *how, gmemPrefetchReport_t *report) {
		return gmemPrefetchEx(what.address(), what.size_bytes(), hnid, order.get(), how, report);
	});
}

[[nodiscard]] inline int prefetch(
	const batch &what, int hnid, stream_ref order, prefetch_options &&options, prefetch_report &out) noexcept {
	return what.apply([&](const gmemRange_t *ranges, std::size_t count) {
		return prefetch_with(
			std::move(options), out, [&](const gmemPrefetchOptions_t *how, gmemPrefetchReport_t *report) {
				return gmemPrefetchV(ranges, count, hnid, order.get(), how, report);
			});
	});
}

#if LIBGMEM_HAS_EXCEPTIONS
template <class What>
prefetch_report prefetch_or_throw(const What &what, int hnid, stream_ref order, prefetch_options &&options) {
	prefetch_report done;
	const int result = prefetch(what, hnid, order, std::move(options), done);
	if (result < 0 && done.is_empty()) {
		// It never came to the library.
		throw out_of_memory(sizeof(pending_report));
	}
	throw_if_failed(result);
	return done;
}
#endif

template <class What>
prefetch_report prefetch_or_code(
	const What &what, int hnid, stream_ref order, std::error_code &ec, prefetch_options &&options) noexcept {
	prefetch_report done;
	ec = to_error_code(prefetch(what, hnid, order, std::move(options), done));
	return done;
}

template <class What>
prefetch_report prefetch_to_device(
	const What &what, stream_ref order, std::error_code &ec, prefetch_options &&options) noexcept {
	const int hnid = device::numa_id(ec);
	return ec ? prefetch_report() : prefetch_or_code(what, hnid, order, ec, std::move(options));
}

} // namespace detail

#if LIBGMEM_HAS_EXCEPTIONS
/// Bring `what` to memory node `hnid`: immediately without a stream, else in stream order. Thread-safe.
/// @return a report of what was done, which may be ignored
/// @throws error as gmemPrefetchEx(); out_of_memory
inline prefetch_report prefetch(range what, int hnid, stream_ref order = {}, prefetch_options options = {}) {
	return detail::prefetch_or_throw(what, hnid, order, std::move(options));
}

/// Bring `bytes` bytes from `data` on to memory node `hnid`.
/// @throws error as gmemPrefetchEx(); out_of_memory
inline prefetch_report prefetch(
	const void *data, std::size_t bytes, int hnid, stream_ref order = {}, prefetch_options options = {}) {
	return detail::prefetch_or_throw(range(data, bytes), hnid, order, std::move(options));
}

/// Bring many ranges to one node, in one call: any range of gmem::range, gmemRange_t, or std::span.
/// @return one report for all of them, which may be ignored
/// @throws error as gmemPrefetchV(); out_of_memory
template <class Batch, class = detail::if_batch<Batch>>
prefetch_report prefetch(Batch &&what, int hnid, stream_ref order = {}, prefetch_options options = {}) {
	return detail::prefetch_or_throw(detail::batch::of<range>(what), hnid, order, std::move(options));
}

/// Bring a list of ranges to one node: prefetch({a, b, c}, hnid).
/// @throws error as gmemPrefetchV(); out_of_memory
inline prefetch_report prefetch(
	std::initializer_list<range> what, int hnid, stream_ref order = {}, prefetch_options options = {}) {
	return detail::prefetch_or_throw(detail::batch::of<range>(what), hnid, order, std::move(options));
}

/// Prefetch to the current device.
/// @throws error as gmemPrefetchEx(); out_of_memory
inline prefetch_report prefetch(range what, stream_ref order = {}, prefetch_options options = {}) {
	return detail::prefetch_or_throw(what, device::numa_id(), order, std::move(options));
}

/// Prefetch many ranges to the current device.
/// @throws error as gmemPrefetchV(); out_of_memory
template <class Batch, class = detail::if_batch<Batch>>
prefetch_report prefetch(Batch &&what, stream_ref order = {}, prefetch_options options = {}) {
	return detail::prefetch_or_throw(detail::batch::of<range>(what), device::numa_id(), order, std::move(options));
}

/// Prefetch many ranges to the current device: prefetch({a, b, c}, stream).
/// @throws error as gmemPrefetchV(); out_of_memory
inline prefetch_report prefetch(
	std::initializer_list<range> what, stream_ref order = {}, prefetch_options options = {}) {
	return detail::prefetch_or_throw(detail::batch::of<range>(what), device::numa_id(), order, std::move(options));
}
#endif

/// Prefetch a range without exceptions; a failure is in `ec`, which is cleared on success.
inline prefetch_report prefetch(
	range what, int hnid, stream_ref order, std::error_code &ec, prefetch_options options = {}) noexcept {
	return detail::prefetch_or_code(what, hnid, order, ec, std::move(options));
}

/// Prefetch `bytes` bytes from `data` on without exceptions; a failure is in `ec`, which is cleared on success.
inline prefetch_report prefetch(const void *data, std::size_t bytes, int hnid, stream_ref order, std::error_code &ec,
	prefetch_options options = {}) noexcept {
	return detail::prefetch_or_code(range(data, bytes), hnid, order, ec, std::move(options));
}

/// Prefetch many ranges without exceptions; a failure is in `ec`, which is cleared on success.
template <class Batch, class = detail::if_batch<Batch>>
prefetch_report prefetch(
	Batch &&what, int hnid, stream_ref order, std::error_code &ec, prefetch_options options = {}) noexcept {
	return detail::prefetch_or_code(detail::batch::of<range>(what), hnid, order, ec, std::move(options));
}

/// Prefetch many ranges without exceptions; a failure is in `ec`, which is cleared on success.
inline prefetch_report prefetch(std::initializer_list<range> what, int hnid, stream_ref order, std::error_code &ec,
	prefetch_options options = {}) noexcept {
	return detail::prefetch_or_code(detail::batch::of<range>(what), hnid, order, ec, std::move(options));
}

/// Prefetch to the current device; a failure is in `ec`, which is cleared on success.
inline prefetch_report prefetch(
	range what, stream_ref order, std::error_code &ec, prefetch_options options = {}) noexcept {
	return detail::prefetch_to_device(what, order, ec, std::move(options));
}

/// Prefetch many ranges to the current device; a failure is in `ec`, which is cleared on success.
template <class Batch, class = detail::if_batch<Batch>>
prefetch_report prefetch(Batch &&what, stream_ref order, std::error_code &ec, prefetch_options options = {}) noexcept {
	return detail::prefetch_to_device(detail::batch::of<range>(what), order, ec, std::move(options));
}

/// Prefetch many ranges to the current device; a failure is in `ec`, which is cleared on success.
inline prefetch_report prefetch(
	std::initializer_list<range> what, stream_ref order, std::error_code &ec, prefetch_options options = {}) noexcept {
	return detail::prefetch_to_device(detail::batch::of<range>(what), order, ec, std::move(options));
}

/// Containers whose elements do not lie side by side are refused.
template <class C, class... Rest, class = detail::if_scattered<C>>
prefetch_report prefetch(C &&, Rest &&...) {
	detail::refuse_scattered<C>();
	return {};
}

#if LIBGMEM_HAS_EXCEPTIONS
/// Set the huge-page policy of the process, for prefetches that request none.
/// @throws error as gmemSetHugePolicy()
inline void set_huge_policy(huge_pages policy) { detail::throw_if_failed(gmemSetHugePolicy(static_cast<int>(policy))); }

/// Set the policy of prefetches that begin in a range, and advise the kernel.
/// @throws error as gmemSetRangeHugePolicy()
inline void set_huge_policy(range what, huge_pages policy) {
	detail::throw_if_failed(gmemSetRangeHugePolicy(what.address(), what.size_bytes(), static_cast<int>(policy)));
}
#endif

/// Set the huge-page policy of the process; a failure is in `ec`, which is cleared on success.
inline void set_huge_policy(huge_pages policy, std::error_code &ec) noexcept {
	ec = detail::to_error_code(gmemSetHugePolicy(static_cast<int>(policy)));
}

/// Set the policy of a range; a failure is in `ec`, which is cleared on success.
inline void set_huge_policy(range what, huge_pages policy, std::error_code &ec) noexcept {
	ec = detail::to_error_code(gmemSetRangeHugePolicy(what.address(), what.size_bytes(), static_cast<int>(policy)));
}

/// The policy of a prefetch that begins at `address`.
[[nodiscard]] inline huge_pages huge_policy(const void *address) noexcept {
	return static_cast<huge_pages>(gmemGetHugePolicy(reinterpret_cast<std::uintptr_t>(address)));
}

} // namespace gmem
