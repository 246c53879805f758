// SPDX-License-Identifier: Apache-2.0
/// @file
/// The heap's functions under the gmem_* names, which every flavour has.
///
/// Compiled with -fno-builtin: the compiler would turn malloc() and memset() into calloc().

#include <cerrno>
#include <climits>
#include <cstring>

#include <libgmem.h>

#include "thread_cache.hpp"

namespace heap = gmem::heap;

namespace {

/// The new block of `size` bytes with the bytes of `old`, which is freed; or null, and `old` stays.
void *copied(void *old, void *block, size_t size) noexcept {
	if (block != nullptr) {
		const size_t old_size = heap::gmem_heap_usable_size(old);
		std::memcpy(block, old, size < old_size ? size : old_size);
		heap::release(old);
	}
	return block;
}

} // namespace

extern "C" {

void *gmem_malloc(size_t size) noexcept { return heap::allocate(size); }

void gmem_free(void *ptr) noexcept { heap::release(ptr); }
// The page map knows the class, so the size is not needed.
void gmem_free_sized(void *ptr, size_t) noexcept { heap::release(ptr); }
void gmem_free_aligned_sized(void *ptr, size_t, size_t) noexcept { heap::release(ptr); }

void *gmem_calloc(size_t count, size_t size) noexcept {
	size_t bytes = 0;
	if (__builtin_mul_overflow(count, size, &bytes) || bytes > heap::max_cached) {
		// Fresh memory from the kernel need not be cleared.
		return heap::gmem_heap_calloc(count, size);
	}
	void *block = heap::allocate(bytes);
	return block != nullptr ? std::memset(block, 0, bytes) : nullptr;
}

void *gmem_realloc(void *ptr, size_t size) noexcept {
	if (ptr == nullptr) {
		return heap::allocate(size);
	}
	if (size == 0) {
		// C23 leaves this undefined; glibc frees.
		heap::release(ptr);
		return nullptr;
	}
	const size_t old_class = heap::class_of(ptr);
	if (old_class == 0 || old_class == heap::uncached || size > heap::max_cached || !heap::caches(old_class)) {
		return heap::gmem_heap_realloc(ptr, size);
	}
	if (heap::gmem_heap_class_of_size[(size + heap::quantum - 1) / heap::quantum] == old_class) {
		return ptr;
	}
	return copied(ptr, heap::allocate(size), size);
}

void *gmem_reallocarray(void *ptr, size_t count, size_t size) noexcept {
	size_t bytes = 0;
	if (__builtin_mul_overflow(count, size, &bytes)) {
		errno = ENOMEM;
		return nullptr;
	}
	return gmem_realloc(ptr, bytes);
}

int gmem_posix_memalign(void **out, size_t alignment, size_t size) noexcept {
	return heap::gmem_heap_posix_memalign(out, alignment, size);
}
void *gmem_aligned_alloc(size_t alignment, size_t size) noexcept {
	return heap::gmem_heap_aligned_alloc(alignment, size);
}
void *gmem_aligned_realloc(void *ptr, size_t alignment, size_t size) noexcept {
	if (alignment == 0 || (alignment & (alignment - 1)) != 0) {
		errno = EINVAL;
		return nullptr;
	}
	if (ptr == nullptr) {
		return heap::gmem_heap_aligned_alloc(alignment, size);
	}
	if (size == 0) {
		heap::release(ptr);
		return nullptr;
	}
	void *block = heap::gmem_heap_realloc_in_place(ptr, alignment, size);
	return block != nullptr ? block : copied(ptr, heap::gmem_heap_aligned_alloc(alignment, size), size);
}
void *gmem_device_alloc(size_t alignment, size_t size) noexcept {
	if (__builtin_expect(
			__atomic_load_n(&heap::gmem_heap_may_have_device_memory, __ATOMIC_RELAXED) != heap::no_device, 0)) {
		if (void *block = heap::gmem_heap_device_alloc(alignment, size)) {
			return block;
		}
	}
	return alignment <= heap::quantum && (alignment & (alignment - 1)) == 0 && alignment != 0
			   ? heap::allocate(size)
			   : heap::gmem_heap_aligned_alloc(alignment, size);
}
void *gmem_memalign(size_t alignment, size_t size) noexcept { return heap::gmem_heap_memalign(alignment, size); }
void *gmem_valloc(size_t size) noexcept { return heap::gmem_heap_valloc(size); }
void *gmem_pvalloc(size_t size) noexcept { return heap::gmem_heap_pvalloc(size); }
size_t gmem_malloc_usable_size(void *ptr) noexcept { return heap::gmem_heap_usable_size(ptr); }
int gmem_malloc_trim(size_t) noexcept { return heap::gmem_heap_trim(heap::this_thread()) > 0 ? 1 : 0; }
size_t gmemHeapTrim(void) noexcept { return heap::gmem_heap_trim(heap::this_thread()); }

} // extern "C"
