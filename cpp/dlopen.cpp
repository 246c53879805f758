// SPDX-License-Identifier: Apache-2.0
/// @file
/// Finds the dlopen() that cpp/dlopen.S jumps to, and the flags it lets through.

#include <atomic>

#include <dlfcn.h>

/// In the Rust core: whether GMEM_DEEPBIND=keep.
extern "C" bool gmem_heap_keeps_deepbind() noexcept;

// cpp/dlopen.S reads both by name.
extern "C" {
/// The next dlopen() in the dynamic linker's order; null before the first call.
[[gnu::visibility("hidden")]] std::atomic<void *> gmem_dlopen_next{nullptr};
/// The flags that are passed on. All but RTLD_DEEPBIND, unless GMEM_DEEPBIND=keep.
[[gnu::visibility("hidden")]] std::atomic<int> gmem_dlopen_flags{~RTLD_DEEPBIND};
}

static_assert(sizeof(gmem_dlopen_next) == sizeof(void *) && std::atomic<void *>::is_always_lock_free);
static_assert(sizeof(gmem_dlopen_flags) == sizeof(int) && std::atomic<int>::is_always_lock_free);

/// Called by dlopen() until it succeeds. Two threads may both do so: they find the same.
extern "C" [[gnu::visibility("hidden")]] void *gmem_dlopen_find() noexcept {
	if (gmem_heap_keeps_deepbind()) {
		gmem_dlopen_flags.store(~0, std::memory_order_relaxed);
	}
	void *const next = dlsym(RTLD_NEXT, "dlopen");
	gmem_dlopen_next.store(next, std::memory_order_release);
	return next;
}
