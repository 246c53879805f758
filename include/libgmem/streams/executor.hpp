// SPDX-License-Identifier: Apache-2.0
/// @file
/// gmem::streams::executor: anything that runs functions, such as asio, a thread pool, or a lambda.
#pragma once

#include <cerrno>
#include <memory>
#include <new>
#include <system_error>
#include <type_traits>
#include <utility>

#include <libgmem/stream.hpp>

namespace gmem::streams {

namespace detail {

/// A function on its way through an executor. If it is destroyed without having run, it tells libgmem; otherwise its
/// waiters would wait forever.
class ticket {
public:
	ticket(gmemHostFn fn, void *arg) noexcept : fn_(fn), arg_(arg) {}
	ticket(const ticket &) = delete;
	ticket &operator=(const ticket &) = delete;
	~ticket() {
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

/// A free function found by its argument, such as asio's.
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
	std::shared_ptr<ticket> shared;
#if LIBGMEM_HAS_EXCEPTIONS
	try {
		// Shared, because many executors copy functions.
		shared = std::make_shared<ticket>(fn, arg);
		give(*static_cast<E *>(native), [shared] { (*shared)(); });
		return 0;
	} catch (const std::bad_alloc &) {
		return shared == nullptr || shared->dismiss() != nullptr ? -ENOMEM : 0;
	} catch (...) {
		// It threw, so the function is not run, unless it has been already.
		return shared->dismiss() != nullptr ? -ECANCELED : 0;
	}
#else
	if (!gmem::detail::may_allocate(2 * sizeof(ticket))) {
		return -ENOMEM;
	}
	shared = std::make_shared<ticket>(fn, arg);
	give(*static_cast<E *>(native), [shared] { (*shared)(); });
	return 0;
#endif
}

} // namespace detail

/// Wrap an executor: `target.execute(f)`, else `target.post(f)`, else `post(target, f)`, else `target(f)` must call
/// f(), now or later, on any thread. f can be copied and moved, and returns nothing.
///
/// An lvalue must outlive the result; an rvalue (such as asio's executors) is moved into it. If a target runs several
/// functions concurrently, libgmem's calls stay in order, but the target's own work around them does not: use a strand.
/// A function that is destroyed without having run becomes the stream's failure (ECANCELED).
///
/// A failure gives a stream that must not be used, and is in `ec`, which is cleared on success.
template <class E>
[[nodiscard]] external_stream executor(E &&target, std::error_code &ec) noexcept {
	using executor_type = std::remove_reference_t<E>;
	if constexpr (std::is_lvalue_reference_v<E>) {
		return external_stream::create(
			&detail::launch<executor_type>, const_cast<std::remove_const_t<executor_type> *>(&target), ec);
	} else {
		std::shared_ptr<executor_type> kept;
		ec = gmem::detail::may_allocate(2 * sizeof(executor_type) + sizeof(void *))
				 ? std::error_code()
				 : std::make_error_code(std::errc::not_enough_memory);
		if (!ec) {
			gmem::detail::without_bad_alloc(
				ec, [&] { kept = std::make_shared<executor_type>(std::forward<E>(target)); });
		}
		void *native = kept.get();
		return ec ? external_stream(stream_ref())
				  : external_stream::create(&detail::launch<executor_type>, native, ec, std::move(kept));
	}
}

#if LIBGMEM_HAS_EXCEPTIONS
/// Wrap an executor and throw on failure.
/// @throws error: ENOMEM
template <class E>
[[nodiscard]] external_stream executor(E &&target) {
	std::error_code ec;
	external_stream made = executor(std::forward<E>(target), ec);
	gmem::detail::throw_if_failed(ec);
	return made;
}
#endif

} // namespace gmem::streams
