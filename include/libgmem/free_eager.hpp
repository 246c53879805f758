// SPDX-License-Identifier: Apache-2.0
/// @file
/// gmem::free_eager and gmem::eager_free_guard: give physical memory back now.
#pragma once

#include <libgmem/detail/bridge.hpp>
#include <libgmem/range.hpp>
#include <libgmem/stream.hpp>

namespace gmem {

/// Drop the whole GMEM pages inside `what`: at once without a stream, else in the stream's order.
/// The memory stays allocated and reads as zeros afterwards. Rules and errors are those of
/// gmemFreeEager(); thread-safe.
/// @throws error
inline void free_eager(mutable_range what, stream_ref order = {}) {
	detail::throw_if_failed(detail::free_eager(what.address(), what.size_bytes(), order.address()));
}

/// The same, with the failure in `ec` (cleared on success).
inline void free_eager(mutable_range what, stream_ref order, std::error_code &ec) noexcept {
	ec = detail::to_error_code(detail::free_eager(what.address(), what.size_bytes(), order.address()));
}

/// Drops a range when the scope ends. A failure then has no one to go to and is dropped too
/// (gmemLastError() keeps it).
class [[nodiscard]] eager_free_guard {
public:
	explicit eager_free_guard(mutable_range what, stream_ref order = {}) noexcept : what_(what), order_(order) {}
	eager_free_guard(const eager_free_guard &) = delete;
	eager_free_guard &operator=(const eager_free_guard &) = delete;
	~eager_free_guard() {
		std::error_code ignored;
		free_eager(what_, order_, ignored);
	}

	/// Keep the memory after all.
	void dismiss() noexcept { what_ = {}; }

private:
	mutable_range what_;
	stream_ref order_;
};

} // namespace gmem
