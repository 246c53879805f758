// SPDX-License-Identifier: Apache-2.0
/// @file
/// gmem::stream (served by libgmem), gmem::external_stream (served by another executor) and gmem::stream_ref (a view of
/// either).
#pragma once

#include <cstddef>
#include <memory>
#include <system_error>
#include <utility>

#include <libgmem/detail/bridge.hpp>
#include <libgmem/detail/task.hpp>
#include <libgmem/detail/thread_sanitizer.hpp>
#include <libgmem/error.hpp>
#include <libgmem/event.hpp>

namespace gmem {

/// A view of a stream. The default is "no stream", which makes a call synchronous. Thread-safe.
class stream_ref {
public:
	/// No stream.
	constexpr stream_ref() noexcept = default;
	/// No stream.
	constexpr stream_ref(std::nullptr_t) noexcept {} // NOLINT(*-explicit-*)
	/// A view of a handle. A stream of the current device's driver can be passed by static_cast (see gmemStream_t).
	constexpr stream_ref(gmemStream_t handle) noexcept : handle_(handle) {} // NOLINT(*-explicit-*)

	/// The handle for C functions.
	[[nodiscard]] constexpr gmemStream_t get() const noexcept { return handle_; }

#if LIBGMEM_HAS_EXCEPTIONS
	/// Queue function() behind the work already there. The callable is moved into the stream and destroyed after it
	/// ran. An exception from it becomes the stream's failure (ECANCELED). It must not call pthread_exit(3).
	/// @throws error as gmemStreamLaunch(); std::bad_alloc
	template <class F>
	void launch(F &&function) const {
		detail::throw_if_failed(detail::stream_launch(address(), detail::make_task(std::forward<F>(function))));
	}

	/// Wait for all work queued so far.
	/// @throws error: the first failure since the last synchronize; what() says which call failed
	void synchronize() const { detail::throw_if_failed(wait()); }

	/// Check whether all work is done.
	/// @throws error as gmemStreamQuery()
	[[nodiscard]] bool query() const {
		bool is_done = false;
		detail::throw_if_failed(queried(is_done));
		return is_done;
	}

	/// Record an event behind the work already there.
	/// @throws error as gmemEventRecord()
	void record(const event &point) const { detail::throw_if_failed(gmemEventRecord(point.get(), handle_)); }

	/// Make later work wait for an event, which may be in another stream.
	/// @throws error as gmemStreamWaitEvent()
	void wait(const event &point) const { detail::throw_if_failed(gmemStreamWaitEvent(handle_, point.get())); }
#endif

	/// Queue as launch(function); a failure is in `ec`, which is cleared on success. Then the callable is destroyed
	/// without having run.
	template <class F>
	void launch(F &&function, std::error_code &ec) const noexcept {
		auto task = detail::try_make_task(std::forward<F>(function));
		ec = task == nullptr ? std::make_error_code(std::errc::not_enough_memory)
							 : detail::to_error_code(detail::stream_launch(address(), std::move(task)));
	}
	/// Wait for all work queued so far; its failure is in `ec`, which is cleared on success.
	void synchronize(std::error_code &ec) const noexcept { ec = detail::to_error_code(wait()); }
	/// Check whether all work is done; a failure gives false and is in `ec`, which is cleared on success.
	[[nodiscard]] bool query(std::error_code &ec) const noexcept {
		bool is_done = false;
		ec = detail::to_error_code(queried(is_done));
		return is_done;
	}
	/// Record an event behind the work already there; a failure is in `ec`, which is cleared on success.
	void record(const event &point, std::error_code &ec) const noexcept {
		ec = detail::to_error_code(gmemEventRecord(point.get(), handle_));
	}
	/// Make later work wait for an event; a failure is in `ec`, which is cleared on success.
	void wait(const event &point, std::error_code &ec) const noexcept {
		ec = detail::to_error_code(gmemStreamWaitEvent(handle_, point.get()));
	}

	/// The handle as a number.
	[[nodiscard]] std::uintptr_t address() const noexcept { return reinterpret_cast<std::uintptr_t>(handle_); }

private:
	[[nodiscard]] int queried(bool &is_done) const noexcept {
		bool is_busy = false;
		const int result = detail::unless_busy(gmemStreamQuery(handle_), is_busy);
		is_done = result == 0 && !is_busy;
		if (is_done) {
			detail::happened_before(&detail::work_done);
		}
		return result;
	}

	[[nodiscard]] int wait() const noexcept {
		const int result = gmemStreamSynchronize(handle_);
		detail::happened_before(&detail::work_done);
		return result;
	}

	gmemStream_t handle_ = nullptr;
};

namespace detail {

/// The part that both owners of streams share.
class stream_owner {
public:
	stream_owner(const stream_owner &) = delete;
	stream_owner &operator=(const stream_owner &) = delete;

	/// Give up the handle; the caller destroys it (gmemStreamDestroy()).
	[[nodiscard]] gmemStream_t release() noexcept { return std::exchange(handle_, nullptr); }

	/// A view of the stream.
	operator stream_ref() const noexcept { return {handle_}; } // NOLINT(*-explicit-*)
	/// The handle for C functions.
	[[nodiscard]] gmemStream_t get() const noexcept { return handle_; }

#if LIBGMEM_HAS_EXCEPTIONS
	/// @copydoc stream_ref::launch
	template <class F>
	void launch(F &&function) const {
		stream_ref(handle_).launch(std::forward<F>(function));
	}
	/// @copydoc stream_ref::synchronize
	void synchronize() const { stream_ref(handle_).synchronize(); }
	/// @copydoc stream_ref::query
	[[nodiscard]] bool query() const { return stream_ref(handle_).query(); }
	/// @copydoc stream_ref::record
	void record(const event &point) const { stream_ref(handle_).record(point); }
	/// @copydoc stream_ref::wait
	void wait(const event &point) const { stream_ref(handle_).wait(point); }
#endif
	template <class F>
	void launch(F &&function, std::error_code &ec) const noexcept {
		stream_ref(handle_).launch(std::forward<F>(function), ec);
	}
	void synchronize(std::error_code &ec) const noexcept { stream_ref(handle_).synchronize(ec); }
	[[nodiscard]] bool query(std::error_code &ec) const noexcept { return stream_ref(handle_).query(ec); }
	void record(const event &point, std::error_code &ec) const noexcept { stream_ref(handle_).record(point, ec); }
	void wait(const event &point, std::error_code &ec) const noexcept { stream_ref(handle_).wait(point, ec); }

protected:
	stream_owner() = default;
	stream_owner(stream_owner &&other) noexcept : handle_(other.release()) {}
	stream_owner &operator=(stream_owner &&) = delete;
	~stream_owner() {
		if (handle_ != nullptr) {
			gmemStreamDestroy(handle_);
		}
	}

	gmemStream_t handle_ = nullptr; // NOLINT(*-non-private-member-*)
};

} // namespace detail

/// A stream that libgmem's threads serve.
///
/// The destructor waits for the work, like std::jthread, so arrays declared before the stream outlive their use. A
/// failure that was not synchronized is ignored. release() gives the handle away instead. Movable, not copyable.
class stream : public detail::stream_owner {
public:
#if LIBGMEM_HAS_EXCEPTIONS
	/// Create a stream.
	/// @throws error: EAGAIN if no thread can be started, ENOMEM
	stream() { detail::throw_if_failed(gmemStreamCreate(&handle_)); }
#endif
	/// Create a stream. A failure gives one that must not be used, and is in `ec`, which is cleared on success.
	[[nodiscard]] static stream create(std::error_code &ec) noexcept {
		stream made(nullptr);
		ec = detail::to_error_code(gmemStreamCreate(&made.handle_));
		return made;
	}
	/// Take over what `other` owns.
	stream(stream &&other) noexcept = default;
	/// Take over what `other` owns, and release what this one owned.
	stream &operator=(stream &&other) noexcept {
		stream moved(std::move(other));
		std::swap(handle_, moved.handle_);
		return *this;
	}
	stream(const stream &) = delete;
	stream &operator=(const stream &) = delete;
	~stream() {
		if (handle_ != nullptr) {
			std::error_code ignored;
			synchronize(ignored);
		}
	}

private:
	/// No stream.
	explicit stream(std::nullptr_t) noexcept {}
};

/// A stream that another executor serves: work queued here runs there, in the executor's order. Create it with
/// <libgmem/streams/cuda.hpp> or its neighbours.
///
/// The destructor does not wait: queued work still runs when the executor reaches it. Arrays must outlive that, so call
/// synchronize() first. Movable, not copyable.
class external_stream : public detail::stream_owner {
public:
#if LIBGMEM_HAS_EXCEPTIONS
	/// Wrap an executor.
	/// @param give   passes a function to the executor (see gmemLaunchFn)
	/// @param native passed to `give`
	/// @param kept   kept alive as long as this object
	/// @throws error: EINVAL if `give` is nullptr, ENOMEM
	explicit external_stream(gmemLaunchFn give, void *native, std::shared_ptr<void> kept = {})
		: kept_(std::move(kept)) {
		detail::throw_if_failed(gmemStreamWrap(give, native, &handle_));
	}
#endif
	/// Wrap an executor without exceptions. A failure gives a stream that must not be used, and is in `ec`, which is
	/// cleared on success.
	[[nodiscard]] static external_stream create(
		gmemLaunchFn give, void *native, std::error_code &ec, std::shared_ptr<void> kept = {}) noexcept {
		external_stream made{stream_ref()};
		made.kept_ = std::move(kept);
		ec = detail::to_error_code(gmemStreamWrap(give, native, &made.handle_));
		return made;
	}
	/// Refer to a stream of the current device's driver, which keeps ownership.
	explicit external_stream(stream_ref drivers_own) noexcept { handle_ = drivers_own.get(); }
	/// Take over what `other` owns.
	external_stream(external_stream &&other) noexcept = default;
	/// Take over what `other` owns, and release what this one owned.
	external_stream &operator=(external_stream &&other) noexcept {
		external_stream moved(std::move(other));
		std::swap(handle_, moved.handle_);
		std::swap(kept_, moved.kept_);
		return *this;
	}
	external_stream(const external_stream &) = delete;
	external_stream &operator=(const external_stream &) = delete;
	~external_stream() = default;

private:
	std::shared_ptr<void> kept_{};
};

} // namespace gmem
