// SPDX-License-Identifier: Apache-2.0
// C++ of a Rust program, on memory that Rust allocated.
#include <cstddef>
#include <exception>

#include <libgmem.hpp>

/// Multiplies each value on a stream, behind a prefetch of all of them. Returns the page faults of the work, or -1.
extern "C" long long consumer_scale(float *values, std::size_t count, float factor) noexcept {
	try {
		long long faults = 0;
		gmem::stream stream;
		gmem::prefetch({values, count}, gmem::device::numa_id(), stream);
		stream.launch([&] {
			const gmem::fault_scope scope;
			for (std::size_t i = 0; i < count; ++i) {
				values[i] *= factor;
			}
			faults = scope.count();
		});
		stream.synchronize();
		return faults;
	} catch (const std::exception &) {
		return -1;
	}
}
