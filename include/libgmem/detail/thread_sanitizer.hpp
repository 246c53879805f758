// SPDX-License-Identifier: Apache-2.0
/// @file
/// Tells ThreadSanitizer what a stream orders: it does not see the synchronization inside the library, and would
/// report races between a callable and the code around its launch. Nothing in other builds.
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

/// What happened before this call happens before a happened_before() of the same address that follows it.
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

/// Stands for the end of all work on all streams: coarser than what is so, and never wrong about a race it reports.
inline char work_done;

} // namespace gmem::detail

#undef LIBGMEM_THREAD_SANITIZER
