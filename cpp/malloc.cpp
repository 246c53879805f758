// SPDX-License-Identifier: Apache-2.0
/// @file
/// The heap under the names of POSIX, C and C++. Linked into the flavours that interpose (libgmem.so and libgmem.a),
/// not into libgmem_api.so. The set is complete: a program must not get malloc() from here and free() from elsewhere.
///
/// Compiled with -fno-builtin: the compiler would turn malloc() and memset() into calloc().

#include <climits>
#include <cstddef>
#include <new>

#include <malloc.h>

#include <libgmem.h>

#include "thread_cache.hpp"

namespace heap = gmem::heap;

namespace {

gmemHeapStats_t stats() {
	gmemHeapStats_t stats{};
	stats.size = sizeof stats;
	if (gmemHeapStats(&stats) != 0) {
		stats = {};
	}
	return stats;
}

int as_int(std::size_t value) { return value > INT_MAX ? INT_MAX : static_cast<int>(value); }

} // namespace

extern "C" {

void *malloc(std::size_t size) noexcept { return heap::allocate(size); }
void *calloc(std::size_t count, std::size_t size) noexcept { return gmem_calloc(count, size); }
void *realloc(void *ptr, std::size_t size) noexcept { return gmem_realloc(ptr, size); }
void *reallocarray(void *ptr, std::size_t count, std::size_t size) noexcept {
	return gmem_reallocarray(ptr, count, size);
}
void free(void *ptr) noexcept { heap::release(ptr); }
void cfree(void *ptr) noexcept { heap::release(ptr); }
void free_sized(void *ptr, std::size_t) noexcept { heap::release(ptr); }
void free_aligned_sized(void *ptr, std::size_t, std::size_t) noexcept { heap::release(ptr); }
int posix_memalign(void **out, std::size_t alignment, std::size_t size) noexcept {
	return gmem_posix_memalign(out, alignment, size);
}
void *aligned_alloc(std::size_t alignment, std::size_t size) noexcept { return gmem_aligned_alloc(alignment, size); }
void *memalign(std::size_t alignment, std::size_t size) noexcept { return gmem_memalign(alignment, size); }
void *valloc(std::size_t size) noexcept { return gmem_valloc(size); }
void *pvalloc(std::size_t size) noexcept { return gmem_pvalloc(size); }
std::size_t malloc_usable_size(void *ptr) noexcept { return gmem_malloc_usable_size(ptr); }
int malloc_trim(std::size_t pad) noexcept { return gmem_malloc_trim(pad); }

/// glibc's parameters tune glibc's heap. Each known one is accepted and changes nothing.
int mallopt(int parameter, int) noexcept {
	switch (parameter) {
	case M_MXFAST:
	case M_TRIM_THRESHOLD:
	case M_TOP_PAD:
	case M_MMAP_THRESHOLD:
	case M_MMAP_MAX:
	case M_CHECK_ACTION:
	case M_PERTURB:
	case M_ARENA_TEST:
	case M_ARENA_MAX: return 1;
	default: return 0;
	}
}

// New in glibc 2.33; older headers lack the type.
#ifdef __GLIBC_PREREQ
#if __GLIBC_PREREQ(2, 33)
struct mallinfo2 mallinfo2() noexcept {
	const gmemHeapStats_t now = stats();
	struct mallinfo2 info{};
	info.arena = now.mapped;
	info.uordblks = now.live;
	info.fordblks = now.idle;
	info.keepcost = now.idle;
	return info;
}
#endif
#endif

struct mallinfo mallinfo() noexcept {
	const gmemHeapStats_t now = stats();
	struct mallinfo info{};
	info.arena = as_int(now.mapped);
	info.uordblks = as_int(now.live);
	info.fordblks = as_int(now.idle);
	info.keepcost = as_int(now.idle);
	return info;
}

} // extern "C"

namespace {

/// Try again until the new-handler gives up ([new.delete.single]).
template <class Attempt>
void *with_new_handler(Attempt attempt) {
	for (;;) {
		if (void *block = attempt()) {
			return block;
		}
		std::new_handler handler = std::get_new_handler();
		if (handler == nullptr) {
			throw std::bad_alloc();
		}
		handler();
	}
}

[[gnu::cold, gnu::noinline]] void *retry(std::size_t size) {
	return with_new_handler([size] { return heap::allocate(size); });
}

void *allocate(std::size_t size) {
	void *block = heap::allocate(size);
	return block != nullptr ? block : retry(size);
}

void *allocate(std::size_t size, std::align_val_t alignment) {
	return with_new_handler([=] { return gmem_aligned_alloc(static_cast<std::size_t>(alignment), size); });
}

/// The nothrow forms still call the new-handler, which may throw bad_alloc to give up.
template <class... Alignment>
void *allocate_or_null(std::size_t size, Alignment... alignment) noexcept {
	try {
		return allocate(size, alignment...);
	} catch (const std::bad_alloc &) {
		return nullptr;
	}
}

} // namespace

// clang-format off
void *operator new(std::size_t size) { return allocate(size); }
void *operator new[](std::size_t size) { return allocate(size); }
void *operator new(std::size_t size, const std::nothrow_t &) noexcept { return allocate_or_null(size); }
void *operator new[](std::size_t size, const std::nothrow_t &) noexcept { return allocate_or_null(size); }
void *operator new(std::size_t size, std::align_val_t alignment) { return allocate(size, alignment); }
void *operator new[](std::size_t size, std::align_val_t alignment) { return allocate(size, alignment); }
void *operator new(std::size_t size, std::align_val_t alignment, const std::nothrow_t &) noexcept { return allocate_or_null(size, alignment); }
void *operator new[](std::size_t size, std::align_val_t alignment, const std::nothrow_t &) noexcept { return allocate_or_null(size, alignment); }

void operator delete(void *ptr) noexcept { heap::release(ptr); }
void operator delete[](void *ptr) noexcept { heap::release(ptr); }
void operator delete(void *ptr, const std::nothrow_t &) noexcept { heap::release(ptr); }
void operator delete[](void *ptr, const std::nothrow_t &) noexcept { heap::release(ptr); }
void operator delete(void *ptr, std::size_t) noexcept { heap::release(ptr); }
void operator delete[](void *ptr, std::size_t) noexcept { heap::release(ptr); }
void operator delete(void *ptr, std::align_val_t) noexcept { heap::release(ptr); }
void operator delete[](void *ptr, std::align_val_t) noexcept { heap::release(ptr); }
void operator delete(void *ptr, std::align_val_t, const std::nothrow_t &) noexcept { heap::release(ptr); }
void operator delete[](void *ptr, std::align_val_t, const std::nothrow_t &) noexcept { heap::release(ptr); }
void operator delete(void *ptr, std::size_t, std::align_val_t) noexcept { heap::release(ptr); }
void operator delete[](void *ptr, std::size_t, std::align_val_t) noexcept { heap::release(ptr); }
// clang-format on
