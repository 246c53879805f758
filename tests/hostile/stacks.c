/* SPDX-License-Identifier: Apache-2.0 */
/* The library's threads end in a sandbox that refuses munmap(2). The C library keeps the stacks of ended threads,
 * unmaps one if they have more than 40 MiB together, and ends the process if that is refused. */
#include <pthread.h>

#include <libgmem.h>

#include "children.h"

enum { CACHED = 39, DEPTH = 12 };

static void *nothing(void *arg) { return arg; }

/* Stacks of 39 MiB together, too small for the library's threads. */
static void fill_the_cache(void) {
	pthread_t threads[CACHED];
	pthread_attr_t attributes;
	NEED(pthread_attr_init(&attributes) == 0);
	NEED(pthread_attr_setstacksize(&attributes, (size_t)1 << 20) == 0);
	for (int i = 0; i < CACHED; ++i) {
		NEED(pthread_create(&threads[i], &attributes, nothing, NULL) == 0);
	}
	for (int i = 0; i < CACHED; ++i) {
		NEED(pthread_join(threads[i], NULL) == 0);
	}
}

static gmemStream_t streams[DEPTH];

static void wait_for_the_next(void *at) {
	const size_t next = (size_t)((gmemStream_t *)at - streams) + 1;
	if (next < DEPTH) {
		CHECK_EQUAL(gmemStreamLaunch(streams[next], wait_for_the_next, &streams[next]), 0);
		CHECK_EQUAL(gmemStreamSynchronize(streams[next]), 0);
	}
}

/* Each waits on a thread for the next, so there are more threads than needed afterwards, and some end. */
static void streams_that_wait_for_each_other(void) {
	for (int i = 0; i < DEPTH; ++i) {
		CHECK_EQUAL(gmemStreamCreate(&streams[i]), 0);
	}
	for (int round = 0; round < 5; ++round) {
		wait_for_the_next(&streams[0]);
		/* The threads end after they have reported that their work is done. */
		usleep(10000);
	}
	for (int i = 0; i < DEPTH; ++i) {
		CHECK_EQUAL(gmemStreamDestroy(streams[i]), 0);
	}
}

static void prefetches_with_helpers(void) {
	const size_t size = (size_t)128 << 20;
	char *start = map_private(size, gmemGetPageSize());
	const unsigned long addr = (unsigned long)(uintptr_t)start;
	for (int round = 0; round < 3; ++round) {
		CHECK_EQUAL(gmemPrefetch(addr, size, gmemGetNumaId(), NULL), 0);
		CHECK_EQUAL(gmemFreeEager(addr, size, NULL), 0);
	}
}

static int without_munmap(const void *error) {
	fill_the_cache();
	if (!refuse_call(SYS_munmap, *(const int *)error)) {
		return SKIPPED;
	}
	streams_that_wait_for_each_other();
	prefetches_with_helpers();
	return checks_failed != 0;
}

int main(void) {
	static const int errors[] = {EPERM, ENOSYS, EACCES};
	for (size_t i = 0; i < sizeof errors / sizeof *errors; ++i) {
		const int status = status_of_child(without_munmap, &errors[i]);
		if (status == -1) {
			printf("no seccomp filter can be installed here\n");
			return SKIPPED;
		}
		if (status != 0) {
			fprintf(stderr, "munmap refused with %s: ", strerror(errors[i]));
			describe_end(status);
			++checks_failed;
		}
	}
	return checks_result("stacks");
}
