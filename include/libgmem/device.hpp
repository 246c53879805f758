// SPDX-License-Identifier: Apache-2.0
/// @file
/// gmem::device: which device is current, and where its memory is.
#pragma once

#include <cstddef>

#include <libgmem/error.hpp>

namespace gmem {

/// The process's current device; all members are static because there is exactly one.
class device {
public:
	device() = delete;

	/// @return its name, "host" unless configured otherwise
	/// @throws error when GMEM_DEVICE names a device that does not exist (EINVAL) or cannot be used (ENODEV)
	[[nodiscard]] static const char *current() {
		static_cast<void>(numa_id());
		return gmemGetDevice();
	}

	/// @throws error (EINVAL) naming the devices there are, or (ENODEV) what the device lacks
	static void set_current(const char *name) { detail::throw_if_failed(gmemSetDevice(name)); }

	/// @return the heterogeneous NUMA id to prefetch to
	/// @throws error when there is no device
	[[nodiscard]] static int numa_id() {
		const int id = gmemGetNumaId();
		detail::throw_if_failed(id);
		return id;
	}

	/// @return the driver's own object that the device's memory belongs to (see gmemGetDeviceContext()); may be NULL
	/// @throws error when there is no device
	[[nodiscard]] static void *context() {
		static_cast<void>(numa_id());
		return gmemGetDeviceContext();
	}
};

/// @return bytes in a GMEM page: the granularity of prefetch() and free_eager()
[[nodiscard]] inline std::size_t page_size() noexcept { return gmemGetPageSize(); }

} // namespace gmem
