// SPDX-License-Identifier: Apache-2.0
/// @file
/// gmem::event: a place in a stream that other streams and threads wait for.
#pragma once

#include <system_error>
#include <utility>

#include <libgmem/detail/thread_sanitizer.hpp>
#include <libgmem/error.hpp>

namespace gmem {

/// stream.record(event) puts it behind the work already there, other.wait(event) has another stream wait for that. It
/// may be recorded again and again; each call means the latest recording, and one never recorded has passed.
/// Destroying it disturbs nobody who waits.
class event {
public:
	/// @throws error (ENOMEM)
	event() { detail::throw_if_failed(gmemEventCreate(&handle_)); }
	event(event &&other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
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

	/// Wait until the work ahead of it is done. A failure of that work stays with its stream.
	/// @throws error
	void synchronize() const { detail::throw_if_failed(synchronized()); }
	void synchronize(std::error_code &ec) const noexcept { ec = detail::to_error_code(synchronized()); }

	/// @return whether that work is done
	[[nodiscard]] bool query() const {
		const int result = gmemEventQuery(handle_);
		if (result == -EBUSY) {
			return false;
		}
		detail::throw_if_failed(result);
		detail::happened_before(&detail::work_done);
		return true;
	}

	[[nodiscard]] gmemEvent_t get() const noexcept { return handle_; }

private:
	[[nodiscard]] int synchronized() const noexcept {
		const int result = gmemEventSynchronize(handle_);
		detail::happened_before(&detail::work_done);
		return result;
	}

	gmemEvent_t handle_ = nullptr;
};

} // namespace gmem
