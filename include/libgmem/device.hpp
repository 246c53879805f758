// SPDX-License-Identifier: Apache-2.0
/// @file
/// gmem::device: the current device and its memory.
#pragma once

#include <cstddef>
#include <system_error>

#include <libgmem/error.hpp>

namespace gmem {

/// The current device of the process. All members are static, because there is exactly one. Thread-safe.
class device {
public:
	device() = delete;

#if LIBGMEM_HAS_EXCEPTIONS
	/// Its name; never "auto".
	/// @throws error: EINVAL if GMEM_DEVICE names no device, ENODEV if the device cannot be used
	[[nodiscard]] static const char *current() {
		static_cast<void>(numa_id());
		return gmemGetDevice();
	}

	/// Select a device by name, as gmemSetDevice().
	/// @throws error: EINVAL with the names of all devices, or ENODEV with what is missing
	static void set_current(const char *name) { detail::throw_if_failed(gmemSetDevice(name)); }

	/// Its heterogeneous NUMA id, for prefetch().
	/// @throws error: EINVAL, ENODEV, EACCES as gmemGetNumaId()
	[[nodiscard]] static int numa_id() {
		const int id = gmemGetNumaId();
		detail::throw_if_failed(id);
		return id;
	}

	/// The driver's context that its memory belongs to, as gmemGetDeviceContext(); may be nullptr.
	/// @throws error as numa_id()
	[[nodiscard]] static void *context() {
		static_cast<void>(numa_id());
		return gmemGetDeviceContext();
	}
#endif

	/// Its name; a failure gives nullptr and is in `ec`, which is cleared on success.
	[[nodiscard]] static const char *current(std::error_code &ec) noexcept {
		return numa_id(ec) < 0 ? nullptr : gmemGetDevice();
	}
	/// Select a device by name; a failure is in `ec`, which is cleared on success.
	static void set_current(const char *name, std::error_code &ec) noexcept {
		ec = detail::to_error_code(gmemSetDevice(name));
	}
	/// Its heterogeneous NUMA id; a failure gives a negative number and is in `ec`, which is cleared on success.
	[[nodiscard]] static int numa_id(std::error_code &ec) noexcept {
		const int id = gmemGetNumaId();
		ec = detail::to_error_code(id);
		return id;
	}
	/// The driver's context; a failure gives nullptr and is in `ec`, which is cleared on success.
	[[nodiscard]] static void *context(std::error_code &ec) noexcept {
		return numa_id(ec) < 0 ? nullptr : gmemGetDeviceContext();
	}
};

/// Bytes in a GMEM page, the granularity of prefetch() and free_eager().
[[nodiscard]] inline std::size_t page_size() noexcept { return gmemGetPageSize(); }

} // namespace gmem
