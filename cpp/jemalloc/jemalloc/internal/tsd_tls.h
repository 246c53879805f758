/* SPDX-License-Identifier: Apache-2.0 */
/* Takes the place of jemalloc 5.3.1's header of this name (it is found first), because a shared library
 * with 2 kB of initial-exec thread-local data cannot be dlopened, and with any other model each malloc
 * pays for __tls_get_addr. Here the thread-local is one pointer; what it points to comes from
 * src/heap/thread_state.rs. It is also included by every file of jemalloc's, before anything that depends on its
 * configuration, and so the place to change that. The functions are those that tsd.h and tsd.c expect of this file. */
#ifdef JEMALLOC_INTERNAL_TSD_TLS_H
#error This file should be included only once, by tsd.h.
#endif
#define JEMALLOC_INTERNAL_TSD_TLS_H

#include "jemalloc/internal/jemalloc_preamble.h"
/* No settings from /etc/_rjem_malloc.conf. */
#undef JEMALLOC_CONFIG_FILE
#include "jemalloc/internal/tsd_internals.h"
#include "jemalloc/internal/tsd_types.h"

/* jemalloc is to say when it begins to use memory and when it ends, as it does where the kernel does not
 * overcommit: then it does not ask /proc, and the page source (src/heap/pages.rs) is told. */
#undef JEMALLOC_PROC_SYS_VM_OVERCOMMIT_MEMORY

/* Its settings are in GMEM_MALLOC_CONF. */
#undef JEMALLOC_CPREFIX
#define JEMALLOC_CPREFIX "GMEM_"

/* What tsd.c defines with it, tsd_tls, is no thread's state but what each thread's begins as. */
#define JEMALLOC_TSD_TYPE_ATTR(type) type

extern tsd_t tsd_tls;
extern pthread_key_t tsd_tsd;
extern bool tsd_booted;

/* One variable in spite of many files: weak definitions are merged. */
__attribute__((weak, visibility("hidden"), tls_model("global-dynamic"))) __thread tsd_t *gmem_thread_state;

extern void *gmem_thread_state_claim(const void *initial, size_t size, bool (*is_over)(const void *));

/* Whether the thread's destructors have run: its state is used no more once the thread is gone. */
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
