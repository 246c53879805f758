/* SPDX-License-Identifier: Apache-2.0 */
/* Replaces jemalloc 5.3.1's header of this name, because it comes first on the include path. jemalloc's thread-local
 * data, 2 kB, would keep a shared library from being dlopened in the initial-exec model; in any other model each malloc
 * pays for __tls_get_addr. Here the thread-local is one pointer, and src/heap/thread_state.rs provides what it points
 * to. Every file of jemalloc includes this header before anything that depends on jemalloc's configuration, so the
 * configuration is adjusted here as well. tsd.h and tsd.c expect the functions below. */
#ifdef JEMALLOC_INTERNAL_TSD_TLS_H
#error This file should be included only once, by tsd.h.
#endif
#define JEMALLOC_INTERNAL_TSD_TLS_H

#include "jemalloc/internal/jemalloc_preamble.h"
/* No settings from /etc/_rjem_malloc.conf. */
#undef JEMALLOC_CONFIG_FILE
#include "jemalloc/internal/tsd_internals.h"
#include "jemalloc/internal/tsd_types.h"

#include "../../../heap_constants.h"

/* The number of processors comes from sysconf(), which src/heap/pages.rs answers: it decides how many arenas there are. */
#undef CPU_COUNT

/* Where the kernel does not overcommit, jemalloc announces each range that it begins or ceases to use. The page source
 * (src/heap/pages.rs) needs that, so jemalloc must not ask /proc whether the kernel overcommits. */
#undef JEMALLOC_PROC_SYS_VM_OVERCOMMIT_MEMORY

/* jemalloc reads its settings from GMEM_MALLOC_CONF. */
#undef JEMALLOC_CPREFIX
#define JEMALLOC_CPREFIX "GMEM_"

/* tsd.c defines tsd_tls with it, which is the initial value of each thread's state. */
#define JEMALLOC_TSD_TYPE_ATTR(type) type

/* The thread's cache follows right behind its state. */
_Static_assert(sizeof(tsd_t) <= GMEM_HEAP_STATE_BYTES,
	"jemalloc's tsd_t does not fit: raise GMEM_HEAP_STATE_BYTES in cpp/heap_constants.h (a multiple of 64)");
_Static_assert(_Alignof(tsd_t) <= 64, "src/heap/thread_state.rs aligns a thread's state to 64 bytes");

extern tsd_t tsd_tls;
extern pthread_key_t tsd_tsd;
extern bool tsd_booted;

/* Every file of jemalloc defines it; the linker merges weak definitions into one. */
__attribute__((weak, visibility("hidden"), tls_model("global-dynamic"))) __thread tsd_t *gmem_thread_state;

extern void *gmem_thread_state_claim(const void *initial, size_t size, bool (*is_over)(const void *));

/* Whether the thread's destructors have run. Once the thread is gone as well, nobody uses its state. */
static inline bool gmem_thread_state_is_over(const void *state) {
	return tsd_state_get((tsd_t *)(uintptr_t)state) >= tsd_state_purgatory;
}

static inline __attribute__((cold, noinline)) tsd_t *gmem_thread_state_first_use(void) {
	gmem_thread_state = (tsd_t *)gmem_thread_state_claim(&tsd_tls, sizeof(tsd_t), gmem_thread_state_is_over);
	return gmem_thread_state;
}

JEMALLOC_ALWAYS_INLINE bool tsd_boot0(void) {
	if (pthread_key_create(&tsd_tsd, &tsd_cleanup) != 0) {
		return true;
	}
	tsd_booted = true;
	return false;
}

JEMALLOC_ALWAYS_INLINE void tsd_boot1(void) {}

JEMALLOC_ALWAYS_INLINE bool tsd_boot(void) { return tsd_boot0(); }

JEMALLOC_ALWAYS_INLINE bool tsd_booted_get(void) { return tsd_booted; }

JEMALLOC_ALWAYS_INLINE bool tsd_get_allocates(void) { return false; }

JEMALLOC_ALWAYS_INLINE tsd_t *tsd_get(bool init) {
	(void)init;
	tsd_t *state = gmem_thread_state;
	return likely(state != NULL) ? state : gmem_thread_state_first_use();
}

/* Registers the destructor for the calling thread. */
JEMALLOC_ALWAYS_INLINE void tsd_set(tsd_t *state) {
	assert(tsd_booted);
	assert(state == gmem_thread_state);
	if (pthread_setspecific(tsd_tsd, state) != 0) {
		malloc_write("<jemalloc>: Error setting tsd.\n");
		if (opt_abort) {
			abort();
		}
	}
}
