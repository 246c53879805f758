// SPDX-License-Identifier: Apache-2.0
/// @file
/// gmem::fault_scope: counts page faults between two points.
#pragma once

#include <cstdint>

#include <libgmem.h>
#include <libgmem/error.hpp>

namespace gmem {

/// Counts page faults during its lifetime:
///
///     gmem::prefetch(weights, node);
///     gmem::fault_scope faults;
///     compute(weights);
///     assert(faults.count() == 0);
class fault_scope {
public:
	/// Whose faults to count.
	enum class whose : std::uint8_t {
		thread = GMEM_FAULTS_THREAD,  ///< those of the calling thread
		process = GMEM_FAULTS_PROCESS ///< those of all threads
	};

	/// Start counting.
	/// @throws error if the kernel offers neither perf_event_open(2) nor getrusage(2)
	explicit fault_scope(whose of = whose::thread) {
		detail::throw_if_failed(gmemFaultScopeBegin(&scope_, static_cast<int>(of)));
	}
	fault_scope(const fault_scope &) = delete;
	fault_scope &operator=(const fault_scope &) = delete;
	~fault_scope() { gmemFaultScopeEnd(&scope_); }

	/// Minor and major faults so far. Call it on the thread that created the scope.
	/// @throws error as gmemFaultScopeCount()
	[[nodiscard]] long long count() const {
		const long long faults = gmemFaultScopeCount(&scope_);
		if (faults < 0) {
			detail::throw_if_failed(static_cast<int>(faults));
		}
		return faults;
	}

private:
	gmemFaultScope_t scope_{};
};

} // namespace gmem
