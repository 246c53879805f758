// SPDX-License-Identifier: Apache-2.0
/// @file
/// gmem::free_eager, gmem::free_scope and gmem::eager_free_guard: return physical memory to the kernel.
#pragma once

#include <cstddef>
#include <initializer_list>
#include <system_error>

#include <libgmem/detail/batch.hpp>
#include <libgmem/detail/bridge.hpp>
#include <libgmem/error.hpp>
#include <libgmem/range.hpp>
#include <libgmem/stream.hpp>

namespace gmem {

namespace detail {

[[nodiscard]] inline int free_eager(const batch &what, stream_ref order, gmemFreeReport_t *report) noexcept {
	return what.apply([&](const gmemRange_t *ranges, std::size_t count) {
		return gmemFreeEagerV(ranges, count, order.get(), report);
	});
}

#if LIBGMEM_HAS_EXCEPTIONS
inline void free_eager_or_throw(const batch &what, stream_ref order, gmemFreeReport_t *report) {
	if (!what.is_complete()) {
		throw out_of_memory(what.size() * sizeof(gmemRange_t));
	}
	throw_if_failed(free_eager(what, order, report));
}
#endif

} // namespace detail

#if LIBGMEM_HAS_EXCEPTIONS
/// Release the whole GMEM pages inside `what`: immediately without a stream, else in stream order. The memory stays
/// allocated and reads as zeros. Thread-safe.
/// @throws error as gmemFreeEager()
inline void free_eager(mutable_range what, stream_ref order = {}) {
	detail::throw_if_failed(detail::free_eager(what.address(), what.size_bytes(), order.address()));
}

/// Release the whole GMEM pages inside the union of many ranges, in one call: any range of gmem::mutable_range,
/// gmemRange_t, or std::span. Neighbours that hold no whole page by themselves are released together.
/// @param what   the ranges
/// @param order  the stream, if any
/// @param report filled as gmemFreeEagerV() says, unless nullptr; must stay valid until the work is done
/// @throws error as gmemFreeEagerV(); out_of_memory
template <class Batch, class = detail::if_batch<Batch>>
void free_eager(Batch &&what, stream_ref order = {}, gmemFreeReport_t *report = nullptr) {
	detail::free_eager_or_throw(detail::batch::of<mutable_range>(what), order, report);
}

/// Release a list of ranges: free_eager({a, b, c}, stream).
/// @throws error as gmemFreeEagerV(); out_of_memory
inline void free_eager(
	std::initializer_list<mutable_range> what, stream_ref order = {}, gmemFreeReport_t *report = nullptr) {
	detail::free_eager_or_throw(detail::batch::of<mutable_range>(what), order, report);
}
#endif

/// Release a range without exceptions; a failure is in `ec`, which is cleared on success.
inline void free_eager(mutable_range what, stream_ref order, std::error_code &ec) noexcept {
	ec = detail::to_error_code(detail::free_eager(what.address(), what.size_bytes(), order.address()));
}

/// Release many ranges without exceptions; a failure is in `ec`, which is cleared on success.
template <class Batch, class = detail::if_batch<Batch>>
void free_eager(Batch &&what, stream_ref order, std::error_code &ec, gmemFreeReport_t *report = nullptr) noexcept {
	ec = detail::to_error_code(detail::free_eager(detail::batch::of<mutable_range>(what), order, report));
}

/// Release many ranges without exceptions; a failure is in `ec`, which is cleared on success.
inline void free_eager(std::initializer_list<mutable_range> what, stream_ref order, std::error_code &ec,
	gmemFreeReport_t *report = nullptr) noexcept {
	ec = detail::to_error_code(detail::free_eager(detail::batch::of<mutable_range>(what), order, report));
}

/// Containers whose elements do not lie side by side are refused.
template <class C, class... Rest, class = detail::if_scattered<C>>
void free_eager(C &&, Rest &&...) {
	detail::refuse_scattered<C>();
}

/// Gathers ranges, and releases all of them in one call when it is flushed:
///
///     gmem::free_scope layers(stream);
///     for (tensor &t : model) {
///         layers.add({t.data, t.bytes});
///     }
///     layers.flush();
///
/// A range that was added must be neither read nor written until it is flushed: its contents are given up. The
/// destructor flushes; a failure is ignored then, and gmemLastError() keeps its text. For one thread at a time.
class free_scope {
public:
	/// Gather ranges, to be released in the order of a stream if one is given.
	explicit free_scope(stream_ref order = {}) noexcept : order_(order) {}
	free_scope(const free_scope &) = delete;
	free_scope &operator=(const free_scope &) = delete;
	~free_scope() {
		std::error_code ignored;
		flush(ignored);
	}

#if LIBGMEM_HAS_EXCEPTIONS
	/// Add a range.
	/// @throws out_of_memory if there is none for the list of ranges
	void add(mutable_range what) {
		if (!gather(what)) {
			throw out_of_memory(sizeof(gmemRange_t));
		}
	}

	/// Release what was added. The scope is empty then, after a failure as well.
	/// @param report filled as gmemFreeEagerV() says, unless nullptr; must stay valid until the work is done
	/// @throws error as gmemFreeEagerV(); out_of_memory
	void flush(gmemFreeReport_t *report = nullptr) { detail::throw_if_failed(release(report)); }
#endif

	/// Add a range; a failure leaves it out and is in `ec`, which is cleared on success.
	void add(mutable_range what, std::error_code &ec) noexcept {
		ec = detail::to_error_code(gather(what) ? 0 : -ENOMEM);
	}

	/// Release what was added; a failure is in `ec`, which is cleared on success.
	void flush(std::error_code &ec, gmemFreeReport_t *report = nullptr) noexcept {
		ec = detail::to_error_code(release(report));
	}

	/// Number of ranges that wait to be released.
	[[nodiscard]] std::size_t size() const noexcept { return ranges_.size(); }
	/// Release none of what was added.
	void dismiss() noexcept { ranges_.clear(); }

private:
	[[nodiscard]] bool gather(mutable_range what) noexcept {
		return ranges_.try_add({what.address(), what.size_bytes()});
	}

	[[nodiscard]] int release(gmemFreeReport_t *report) noexcept {
		const int result = detail::free_eager(ranges_, order_, report);
		ranges_.clear();
		return result;
	}

	detail::batch ranges_{};
	stream_ref order_;
};

/// Releases a range at the end of a scope. A failure is ignored; gmemLastError() keeps its text.
class [[nodiscard]] eager_free_guard {
public:
	/// Release `what` on destruction, in the order of a stream if one is given.
	explicit eager_free_guard(mutable_range what, stream_ref order = {}) noexcept : what_(what), order_(order) {}
	eager_free_guard(const eager_free_guard &) = delete;
	eager_free_guard &operator=(const eager_free_guard &) = delete;
	~eager_free_guard() {
		std::error_code ignored;
		free_eager(what_, order_, ignored);
	}

	/// Release nothing on destruction.
	void dismiss() noexcept { what_ = {}; }

private:
	mutable_range what_;
	stream_ref order_;
};

} // namespace gmem
