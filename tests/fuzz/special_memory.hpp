// SPDX-License-Identifier: Apache-2.0
/// @file
/// Kinds of memory that few programs have, for the fuzzer: guard pages, sealed memory, memory behind a protection key,
/// and memory whose page faults the program serves. Each says whether this kernel and this processor have it.
#pragma once

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <thread>

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace special {

/// Guard pages (Linux 6.13): any access ends in a SIGSEGV, although the memory is mapped.
inline bool set_guard(void *start, std::size_t bytes, bool guarded) {
	constexpr int guard_install = 102, guard_remove = 103;
	return madvise(start, bytes, guarded ? guard_install : guard_remove) == 0;
}

/// mseal(2) (Linux 6.10): nothing unmaps, replaces or protects the memory again.
inline bool seal(void *start, std::size_t bytes) {
	constexpr long mseal_number = 462;
	return syscall(mseal_number, start, bytes, 0UL) == 0;
}

/// A protection key that forbids this thread every access; -1 where the processor has none.
inline int forbidding_key() {
	static const int key = pkey_alloc(0, PKEY_DISABLE_ACCESS);
	return key;
}

/// A monitor of a userfaultfd(2), which serves each missing page as zeros.
class zero_server {
public:
	zero_server() : descriptor_(static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC))) {
		uffdio_api api{};
		api.api = UFFD_API;
		if (descriptor_ >= 0 && ioctl(descriptor_, UFFDIO_API, &api) == 0) {
			// It serves until the process ends.
			std::thread([this] { serve(); }).detach();
			works_ = true;
		}
	}

	/// Serve the faults of a mapping from now on, until it is unmapped.
	[[nodiscard]] bool take(void *start, std::size_t bytes) const {
		uffdio_register range{};
		range.range.start = reinterpret_cast<unsigned long>(start);
		range.range.len = bytes;
		range.mode = UFFDIO_REGISTER_MODE_MISSING;
		return works_ && ioctl(descriptor_, UFFDIO_REGISTER, &range) == 0;
	}

private:
	void serve() const {
		const auto base = static_cast<unsigned long long>(sysconf(_SC_PAGESIZE));
		uffd_msg message{};
		while (read(descriptor_, &message, sizeof message) == static_cast<ssize_t>(sizeof message)) {
			uffdio_zeropage zero{};
			zero.range.start = message.arg.pagefault.address & ~(base - 1);
			zero.range.len = base;
			// EAGAIN: the mappings are being changed. EEXIST: the page is there by now.
			while (ioctl(descriptor_, UFFDIO_ZEROPAGE, &zero) != 0 && errno == EAGAIN) {
			}
		}
	}

	int descriptor_;
	bool works_ = false;
};

} // namespace special
