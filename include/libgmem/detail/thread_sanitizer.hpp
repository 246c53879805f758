// SPDX-License-Identifier: Apache-2.0
/// @file
/// Tells ThreadSanitizer what a stream orders. It does not see the synchronization inside the library, and would report
/// races between a callable and the code around its launch. Does nothing in other builds.
#pragma once

#if defined(__SANITIZE_THREAD__)
#define LIBGMEM_THREAD_SANITIZER
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define LIBGMEM_THREAD_SANITIZER
#endif
#endif

#ifdef LIBGMEM_THREAD_SANITIZER
extern "C" void __tsan_acquire(void *address); // NOLINT(bugprone-reserved-identifier)
extern "C" void __tsan_release(void *address); // NOLINT(bugprone-reserved-identifier)
#endif

namespace gmem::detail {

/// Everything before this call happens before a later happened_before() of the same address.
inline void happens_before([[maybe_unused]] void *address) noexcept {
#ifdef LIBGMEM_THREAD_SANITIZER
	__tsan_release(address);
#endif
}

inline void happened_before([[maybe_unused]] void *address) noexcept {
#ifdef LIBGMEM_THREAD_SANITIZER
	__tsan_acquire(address);
#endif
}

/// The end of all work on all streams: coarser than the truth, so some races are missed, but none is invented.
inline char work_done;

} // namespace gmem::detail

#undef LIBGMEM_THREAD_SANITIZER
