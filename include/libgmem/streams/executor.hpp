// SPDX-License-Identifier: Apache-2.0
/// @file
/// gmem::streams::executor: anything that takes functions to run, such as asio, a thread pool, or a lambda.
#pragma once

#include <cerrno>
#include <memory>
#include <new>
#include <type_traits>
#include <utility>

#include <libgmem/stream.hpp>

namespace gmem::streams {

namespace detail {

/// A function on its way through an executor. One that is destroyed without having run tells libgmem so, or who
/// waits for it would do so for ever.
class place {
public:
	place(gmemHostFn fn, void *arg) noexcept : fn_(fn), arg_(arg) {}
	place(const place &) = delete;
	place &operator=(const place &) = delete;
	~place() {
		if (fn_ != nullptr) {
			gmemLaunchDropped(arg_);
		}
	}
	void operator()() {
		if (const gmemHostFn fn = dismiss()) {
			fn(arg_);
		}
	}
	gmemHostFn dismiss() noexcept { return std::exchange(fn_, nullptr); }

private:
	gmemHostFn fn_;
	void *arg_;
};

template <class E, class F, class = void>
struct has_execute : std::false_type {};
template <class E, class F>
struct has_execute<E, F, std::void_t<decltype(std::declval<E &>().execute(std::declval<F>()))>> : std::true_type {};

template <class E, class F, class = void>
struct has_post : std::false_type {};
template <class E, class F>
struct has_post<E, F, std::void_t<decltype(std::declval<E &>().post(std::declval<F>()))>> : std::true_type {};

/// asio's, for one, found by its argument.
template <class E, class F, class = void>
struct has_free_post : std::false_type {};
template <class E, class F>
struct has_free_post<E, F, std::void_t<decltype(post(std::declval<E &>(), std::declval<F>()))>> : std::true_type {};

template <class E, class F>
void give(E &executor, F function) {
	if constexpr (has_execute<E, F>::value) {
		executor.execute(std::move(function));
	} else if constexpr (has_post<E, F>::value) {
		executor.post(std::move(function));
	} else if constexpr (has_free_post<E, F>::value) {
		post(executor, std::move(function));
	} else {
		executor(std::move(function));
	}
}

template <class E>
int launch(void *native, gmemHostFn fn, void *arg) noexcept {
	std::shared_ptr<place> shared;
	try {
		// Shared, because many executors copy what they are given.
		shared = std::make_shared<place>(fn, arg);
		give(*static_cast<E *>(native), [shared] { (*shared)(); });
		return 0;
	} catch (const std::bad_alloc &) {
		return shared == nullptr || shared->dismiss() != nullptr ? -ENOMEM : 0;
	} catch (...) {
		// It threw: what it was given is not run, unless it has been already.
		return shared->dismiss() != nullptr ? -ECANCELED : 0;
	}
}

} // namespace detail

/// `target` as libgmem takes it: `target.execute(f)`, else `target.post(f)`, else `post(target, f)`, else `target(f)`
/// has f() called later, on any thread, or now. f may be copied and moved, and returns nothing.
///
/// An lvalue has to outlive the result, an rvalue (such as asio's executors) is moved into it. A target that runs
/// several functions at once keeps libgmem's calls in order, but not its own work around them: use a strand for that.
/// Functions that it destroys without running them become the stream's failure (ECANCELED).
template <class E>
[[nodiscard]] external_stream executor(E &&target) {
	using executor_type = std::remove_reference_t<E>;
	if constexpr (std::is_lvalue_reference_v<E>) {
		return external_stream(
			&detail::launch<executor_type>, const_cast<std::remove_const_t<executor_type> *>(&target));
	} else {
		auto kept = std::make_shared<executor_type>(std::forward<E>(target));
		void *native = kept.get();
		return external_stream(&detail::launch<executor_type>, native, std::move(kept));
	}
}

} // namespace gmem::streams
