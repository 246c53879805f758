// SPDX-License-Identifier: Apache-2.0
/// @file
/// A C++ callable that a stream owns from launch to completion.
#pragma once

#include <exception>
#include <memory>
#include <new>
#include <stdexcept>
#include <type_traits>
#include <utility>

#include <libgmem/detail/thread_sanitizer.hpp>

namespace gmem::detail {

/// Owned by a stream, which runs it once; destroyed without running if the work is dropped.
class task {
public:
	task() = default;
	task(const task &) = delete;
	task &operator=(const task &) = delete;
	virtual ~task() = default;
	/// An exception becomes the stream's error.
	virtual void run() = 0;
};

template <class F>
class callable final : public task {
public:
	explicit callable(F function) : function_(std::move(function)) { happens_before(this); }
	callable(const callable &) = delete;
	callable &operator=(const callable &) = delete;
	~callable() override { happens_before(&work_done); }
	void run() override {
		happened_before(this);
		// It may have waited for work on another stream.
		happened_before(&work_done);
#ifdef __cpp_exceptions
		try {
			function_();
		} catch (const std::exception &) {
			throw;
		} catch (...) {
			// The core keeps what(), and terminates on an exception that has none.
			throw std::runtime_error("an exception that is not a std::exception");
		}
#else
		function_();
#endif
	}

private:
	F function_;
};

template <class F>
[[nodiscard]] std::unique_ptr<task> make_task(F &&function) {
	return std::make_unique<callable<std::decay_t<F>>>(std::forward<F>(function));
}

/// nullptr if there is no memory.
template <class F>
[[nodiscard]] std::unique_ptr<task> try_make_task(F &&function) noexcept {
	return std::unique_ptr<task>(new (std::nothrow) callable<std::decay_t<F>>(std::forward<F>(function)));
}

} // namespace gmem::detail
