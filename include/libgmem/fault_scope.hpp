// SPDX-License-Identifier: Apache-2.0
/// @file
/// gmem::fault_scope: the page faults between two points.
#pragma once

#include <cstdint>

#include <libgmem.h>
#include <libgmem/error.hpp>

namespace gmem {

/// Counts page faults as long as it lives:
///
///     gmem::prefetch(weights, node);
///     gmem::fault_scope faults;
///     compute(weights);
///     assert(faults.count() == 0);
class fault_scope {
public:
	/// See GMEM_FAULTS_THREAD and GMEM_FAULTS_PROCESS.
	enum class whose : std::uint8_t { thread = GMEM_FAULTS_THREAD, process = GMEM_FAULTS_PROCESS };

	/// @throws error when the process has neither a descriptor left nor getrusage(2)
	explicit fault_scope(whose of = whose::thread) {
		detail::throw_if_failed(gmemFaultScopeBegin(&scope_, static_cast<int>(of)));
	}
	fault_scope(const fault_scope &) = delete;
	fault_scope &operator=(const fault_scope &) = delete;
	~fault_scope() { gmemFaultScopeEnd(&scope_); }

	/// Faults so far, minor and major. To be asked by the thread that made the scope.
	/// @throws error
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
