// SPDX-License-Identifier: Apache-2.0
/// @file
/// co_await for gmem::prefetch(). Needs C++20; not part of <libgmem.hpp>.
#pragma once

#include <coroutine>
#include <utility>

#include <libgmem/prefetch.hpp>

namespace gmem {

namespace detail {

/// Resumes a coroutine when a report is ready.
class report_awaiter : private pending_report::waiter {
public:
	explicit report_awaiter(prefetch_report report) noexcept : waiter{&resume}, report_(std::move(report)) {}

	[[nodiscard]] bool await_ready() const { return report_.ready(); }
	[[nodiscard]] bool await_suspend(std::coroutine_handle<> caller) {
		caller_ = caller;
		return report_.pending()->add(*this);
	}
	[[nodiscard]] prefetch_report await_resume() noexcept { return std::move(report_); }

private:
	static void resume(waiter *self) noexcept { static_cast<report_awaiter *>(self)->caller_.resume(); }

	prefetch_report report_;
	std::coroutine_handle<> caller_{};
};

} // namespace detail

/// Suspend until a prefetch is done, without blocking a thread:
///
///     const gmem::prefetch_report done = co_await gmem::prefetch(weights, node, stream);
///     if (done.result()) { ... }
///
/// The coroutine resumes on the thread that did the work, which serves the stream: it must not wait for that stream
/// before it suspends again. A prefetch without a stream does not suspend. If the process exits or forks before the
/// work is done, the coroutine is never resumed.
[[nodiscard]] inline detail::report_awaiter operator co_await(prefetch_report report) noexcept {
	return detail::report_awaiter(std::move(report));
}

} // namespace gmem
