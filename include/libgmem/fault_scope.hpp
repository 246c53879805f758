// SPDX-License-Identifier: Apache-2.0
/// @file
/// gmem::fault_scope: counts page faults between two points.
#pragma once

#include <cstdint>
#include <system_error>

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
		thread = GMEM_FAULTS_THREAD,   ///< those of the calling thread
		process = GMEM_FAULTS_PROCESS, ///< those of all threads
		program = GMEM_FAULTS_PROGRAM  ///< those of all threads, less what libgmem populates to prefetch
	};

#if LIBGMEM_HAS_EXCEPTIONS
	/// Start counting.
	/// @throws error if the kernel offers neither perf_event_open(2) nor getrusage(2)
	explicit fault_scope(whose of = whose::thread) {
		detail::throw_if_failed(gmemFaultScopeBegin(&scope_, static_cast<int>(of)));
	}
#endif
	/// Start counting. A failure gives a scope that counts nothing, and is in `ec`, which is cleared on success.
	[[nodiscard]] static fault_scope create(std::error_code &ec, whose of = whose::thread) noexcept {
		return fault_scope(of, ec);
	}
	fault_scope(const fault_scope &) = delete;
	fault_scope &operator=(const fault_scope &) = delete;
	~fault_scope() { gmemFaultScopeEnd(&scope_); }

#if LIBGMEM_HAS_EXCEPTIONS
	/// Minor and major faults so far. A thread's scope is read on the thread that created it.
	/// @throws error as gmemFaultScopeCount()
	[[nodiscard]] long long count() const {
		const long long faults = gmemFaultScopeCount(&scope_);
		if (faults < 0) {
			detail::throw_if_failed(static_cast<int>(faults));
		}
		return faults - before_;
	}

	/// Count from here on.
	/// @throws error as gmemFaultScopeCount()
	void reset() { before_ += count(); }
#endif
	/// Count without exceptions; a failure gives a negative number and is in `ec`, which is cleared on success.
	[[nodiscard]] long long count(std::error_code &ec) const noexcept {
		const long long faults = gmemFaultScopeCount(&scope_);
		ec = detail::to_error_code(faults < 0 ? static_cast<int>(faults) : 0);
		return ec ? faults : faults - before_;
	}

	/// Count from here on; a failure changes nothing and is in `ec`, which is cleared on success.
	void reset(std::error_code &ec) noexcept {
		const long long faults = count(ec);
		before_ += ec ? 0 : faults;
	}

private:
	fault_scope(whose of, std::error_code &ec) noexcept {
		ec = detail::to_error_code(gmemFaultScopeBegin(&scope_, static_cast<int>(of)));
	}

	gmemFaultScope_t scope_{};
	/// Faults before the last reset().
	long long before_ = 0;
};

} // namespace gmem
