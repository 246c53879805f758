// SPDX-License-Identifier: Apache-2.0
/// @file
/// gmem::event: a point in a stream that other streams and threads wait for.
#pragma once

#include <cstddef>
#include <system_error>
#include <utility>

#include <libgmem/detail/thread_sanitizer.hpp>
#include <libgmem/error.hpp>

namespace gmem {

/// A point in a stream. stream.record(event) puts it behind the work already there; other.wait(event) makes another
/// stream wait for it. It may be recorded repeatedly; each call uses the latest recording. An event that was never
/// recorded has passed. Streams and threads that wait for it keep waiting when it is destroyed. Movable, not copyable.
class event {
public:
#if LIBGMEM_HAS_EXCEPTIONS
	/// Create an event.
	/// @throws error: ENOMEM
	event() { detail::throw_if_failed(gmemEventCreate(&handle_)); }
#endif
	/// Create an event. A failure gives one that must not be used, and is in `ec`, which is cleared on success.
	[[nodiscard]] static event create(std::error_code &ec) noexcept {
		event made(nullptr);
		ec = detail::to_error_code(gmemEventCreate(&made.handle_));
		return made;
	}
	/// Take over what `other` owns.
	event(event &&other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
	/// Take over what `other` owns, and release what this one owned.
	event &operator=(event &&other) noexcept {
		event moved(std::move(other));
		std::swap(handle_, moved.handle_);
		return *this;
	}
	event(const event &) = delete;
	event &operator=(const event &) = delete;
	~event() {
		if (handle_ != nullptr) {
			gmemEventDestroy(handle_);
		}
	}

#if LIBGMEM_HAS_EXCEPTIONS
	/// Wait until the earlier work is done. A failure of that work stays with its stream.
	/// @throws error as gmemEventSynchronize()
	void synchronize() const { detail::throw_if_failed(synchronized()); }
#endif
	/// Wait without exceptions; a failure is in `ec`, which is cleared on success.
	void synchronize(std::error_code &ec) const noexcept { ec = detail::to_error_code(synchronized()); }

#if LIBGMEM_HAS_EXCEPTIONS
	/// Check whether the earlier work is done.
	/// @throws error as gmemEventQuery()
	[[nodiscard]] bool query() const {
		bool is_done = false;
		detail::throw_if_failed(queried(is_done));
		return is_done;
	}
#endif
	/// Check without exceptions; a failure gives false and is in `ec`, which is cleared on success.
	[[nodiscard]] bool query(std::error_code &ec) const noexcept {
		bool is_done = false;
		ec = detail::to_error_code(queried(is_done));
		return is_done;
	}

	/// The handle for C functions.
	[[nodiscard]] gmemEvent_t get() const noexcept { return handle_; }

private:
	/// No event.
	explicit event(std::nullptr_t) noexcept {}

	[[nodiscard]] int queried(bool &is_done) const noexcept {
		bool is_busy = false;
		const int result = detail::unless_busy(gmemEventQuery(handle_), is_busy);
		is_done = result == 0 && !is_busy;
		if (is_done) {
			detail::happened_before(&detail::work_done);
		}
		return result;
	}

	[[nodiscard]] int synchronized() const noexcept {
		const int result = gmemEventSynchronize(handle_);
		detail::happened_before(&detail::work_done);
		return result;
	}

	gmemEvent_t handle_ = nullptr;
};

} // namespace gmem
