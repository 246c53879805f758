// SPDX-License-Identifier: Apache-2.0
/// @file
/// Memory for benchmarks of ranges: mapped by hand, on huge pages or small ones.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include <sys/mman.h>

#include <libgmem.hpp>

namespace bench {

constexpr std::size_t gib = std::size_t{1} << 30;

/// End the program where a call that a figure rests on fails.
inline void need(int result) {
	if (result != 0) {
		std::fprintf(stderr, "%s\n", gmemLastError());
		std::exit(1);
	}
}

class mapping {
public:
	explicit mapping(std::size_t size, int advice = MADV_HUGEPAGE) : size_(size), room_(size + gmem::page_size()) {
		base_ = mmap(nullptr, room_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		if (base_ == MAP_FAILED) {
			std::perror("mmap");
			std::exit(1);
		}
		const auto at = reinterpret_cast<std::uintptr_t>(base_);
		data_ = static_cast<char *>(base_) + (-at & (gmem::page_size() - 1));
		madvise(data_, size, advice);
	}
	mapping(const mapping &) = delete;
	mapping &operator=(const mapping &) = delete;
	~mapping() { munmap(base_, room_); }
	char *data() const { return data_; }
	unsigned long address() const { return reinterpret_cast<std::uintptr_t>(data_); }
	std::size_t size() const { return size_; }
	void populate() const { need(madvise(data_, size_, MADV_POPULATE_WRITE)); }
	void drop() const { madvise(data_, size_, MADV_DONTNEED); }

private:
	std::size_t size_, room_;
	void *base_ = nullptr;
	char *data_ = nullptr;
};

/// A hypervisor takes free pages away within seconds and gives them back at a cost that has nothing
/// to do with this library and varies by a factor of ten. So before each timed run the kernel's free
/// list is filled with pages that were in use a moment ago, as on a machine of one's own.
inline void warm_free_memory() {
	const mapping pages(gib + gib / 4);
	madvise(pages.data(), pages.size(), MADV_POPULATE_WRITE);
}

} // namespace bench
