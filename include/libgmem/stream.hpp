// SPDX-License-Identifier: Apache-2.0
/// @file
/// gmem::stream (owning) and gmem::stream_ref (a view): the order in which work happens.
#pragma once

#include <system_error>
#include <utility>

#include <libgmem/detail/bridge.hpp>
#include <libgmem/detail/task.hpp>
#include <libgmem/detail/thread_sanitizer.hpp>
#include <libgmem/error.hpp>

namespace gmem {

/// A view of a stream; the default one is "no stream", which makes a call synchronous.
class stream_ref {
public:
	constexpr stream_ref() noexcept = default;
	constexpr stream_ref(std::nullptr_t) noexcept {}                        // NOLINT(*-explicit-*)
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

	[[nodiscard]] std::uintptr_t address() const noexcept { return reinterpret_cast<std::uintptr_t>(handle_); }

private:
	[[nodiscard]] int wait() const noexcept {
		const int result = gmemStreamSynchronize(handle_);
		detail::happened_before(&detail::work_done);
		return result;
	}

	gmemStream_t handle_ = nullptr;
};

/// A stream of libgmem's own.
///
/// Destroying it waits for the work on it, as std::jthread does, so that arrays declared before the
/// stream outlive what it does with them. A failure not yet synchronized is dropped then. release()
/// gives the handle away instead.
class stream {
public:
	/// @throws error (EAGAIN) when no thread can be started
	stream() { detail::throw_if_failed(gmemStreamCreate(&handle_)); }
	stream(stream &&other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
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
			gmemStreamDestroy(handle_);
		}
	}

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

private:
	gmemStream_t handle_ = nullptr;
};

} // namespace gmem
