// SPDX-License-Identifier: Apache-2.0
/// @file
/// gmem::free_eager and gmem::eager_free_guard: return physical memory to the kernel.
#pragma once

#include <libgmem/detail/bridge.hpp>
#include <libgmem/range.hpp>
#include <libgmem/stream.hpp>

namespace gmem {

/// Release the whole GMEM pages inside `what`: immediately without a stream, else in stream order. The memory stays
/// allocated and reads as zeros. Thread-safe.
/// @throws error as gmemFreeEager()
inline void free_eager(mutable_range what, stream_ref order = {}) {
	detail::throw_if_failed(detail::free_eager(what.address(), what.size_bytes(), order.address()));
}

/// Release as above; a failure is in `ec`, which is cleared on success.
inline void free_eager(mutable_range what, stream_ref order, std::error_code &ec) noexcept {
	ec = detail::to_error_code(detail::free_eager(what.address(), what.size_bytes(), order.address()));
}

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
