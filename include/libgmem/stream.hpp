// SPDX-License-Identifier: Apache-2.0
/// @file
/// gmem::stream (libgmem's own), gmem::external_stream (an executor's) and gmem::stream_ref (a view of either): the
/// order in which work happens.
#pragma once

#include <memory>
#include <system_error>
#include <utility>

#include <libgmem/detail/bridge.hpp>
#include <libgmem/detail/task.hpp>
#include <libgmem/detail/thread_sanitizer.hpp>
#include <libgmem/error.hpp>
#include <libgmem/event.hpp>

namespace gmem {

/// A view of a stream; the default one is "no stream", which makes a call synchronous.
class stream_ref {
public:
	constexpr stream_ref() noexcept = default;
	constexpr stream_ref(std::nullptr_t) noexcept {} // NOLINT(*-explicit-*)
	/// Also of a stream of the current device's driver, as C takes it (see gmemStream_t), by static_cast.
	constexpr stream_ref(gmemStream_t handle) noexcept : handle_(handle) {} // NOLINT(*-explicit-*)

	[[nodiscard]] constexpr gmemStream_t get() const noexcept { return handle_; }

	/// Run function() once, behind the work already there. The callable is moved into the stream
	/// and destroyed after it ran; an exception from it is the stream's error. It must not call pthread_exit.
	/// @throws error (EINVAL) for no stream or a destroyed one, std::bad_alloc
	template <class F>
	void launch(F &&function) const {
		detail::throw_if_failed(detail::stream_launch(address(), detail::make_task(std::forward<F>(function))));
	}

	/// Wait for everything registered so far.
	/// @throws error: the first failure since the last synchronize, and what failed
	void synchronize() const { detail::throw_if_failed(wait()); }
	void synchronize(std::error_code &ec) const noexcept { ec = detail::to_error_code(wait()); }

	/// @return whether all work is done
	/// @throws error (EINVAL) for no stream or a destroyed one
	[[nodiscard]] bool query() const {
		const int result = gmemStreamQuery(handle_);
		if (result == -EBUSY) {
			return false;
		}
		detail::throw_if_failed(result);
		detail::happened_before(&detail::work_done);
		return true;
	}

	/// From now on `place` is the place behind the work already there.
	/// @throws error (EINVAL) for no stream or a destroyed one
	void record(const event &place) const { detail::throw_if_failed(gmemEventRecord(place.get(), handle_)); }

	/// What is registered from now on waits for `place`, which may lie in another stream.
	/// @throws error (EINVAL) for no stream or a destroyed one
	void wait(const event &place) const { detail::throw_if_failed(gmemStreamWaitEvent(handle_, place.get())); }

	[[nodiscard]] std::uintptr_t address() const noexcept { return reinterpret_cast<std::uintptr_t>(handle_); }

private:
	[[nodiscard]] int wait() const noexcept {
		const int result = gmemStreamSynchronize(handle_);
		detail::happened_before(&detail::work_done);
		return result;
	}

	gmemStream_t handle_ = nullptr;
};

namespace detail {

/// What the two owners of streams have in common.
class stream_owner {
public:
	stream_owner(const stream_owner &) = delete;
	stream_owner &operator=(const stream_owner &) = delete;

	/// @return the handle, which is the caller's from now on (gmemStreamDestroy())
	[[nodiscard]] gmemStream_t release() noexcept { return std::exchange(handle_, nullptr); }

	operator stream_ref() const noexcept { return {handle_}; } // NOLINT(*-explicit-*)
	[[nodiscard]] gmemStream_t get() const noexcept { return handle_; }

	/// @copydoc stream_ref::launch
	template <class F>
	void launch(F &&function) const {
		stream_ref(handle_).launch(std::forward<F>(function));
	}
	/// @copydoc stream_ref::synchronize
	void synchronize() const { stream_ref(handle_).synchronize(); }
	void synchronize(std::error_code &ec) const noexcept { stream_ref(handle_).synchronize(ec); }
	/// @copydoc stream_ref::query
	[[nodiscard]] bool query() const { return stream_ref(handle_).query(); }
	/// @copydoc stream_ref::record
	void record(const event &place) const { stream_ref(handle_).record(place); }
	/// @copydoc stream_ref::wait
	void wait(const event &place) const { stream_ref(handle_).wait(place); }

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

/// A stream of libgmem's own.
///
/// Destroying it waits for the work on it, as std::jthread does, so that arrays declared before the
/// stream outlive what it does with them. A failure not yet synchronized is dropped then. release()
/// gives the handle away instead.
class stream : public detail::stream_owner {
public:
	/// @throws error (EAGAIN) when no thread can be started
	stream() { detail::throw_if_failed(gmemStreamCreate(&handle_)); }
	stream(stream &&other) noexcept = default;
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
};

/// A stream of somebody else's executor: what is registered here runs there, among the executor's own work.
/// <libgmem/streams/cuda.hpp> and its neighbours make them.
///
/// Destroying it does not wait, because the executor runs on: what is registered runs when the executor comes to
/// it, so the executor is what arrays have to outlive, or synchronize() first.
class external_stream : public detail::stream_owner {
public:
	/// @param give gives `native` a function (see gmemLaunchFn)
	/// @param kept lives as long as this object
	/// @throws error (EINVAL) for no function
	explicit external_stream(gmemLaunchFn give, void *native, std::shared_ptr<void> kept = {})
		: kept_(std::move(kept)) {
		detail::throw_if_failed(gmemStreamWrap(give, native, &handle_));
	}
	/// A stream of the current device's driver, as it is: the driver stays its owner.
	explicit external_stream(stream_ref drivers_own) noexcept { handle_ = drivers_own.get(); }
	external_stream(external_stream &&other) noexcept = default;
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
	std::shared_ptr<void> kept_;
};

} // namespace gmem
