/* SPDX-License-Identifier: Apache-2.0 */
/* A prefetch in a memory control group: what does not fit is refused, where the kernel would kill the process. */
#include <linux/magic.h>
#include <sys/vfs.h>
#include <sys/wait.h>

#include <libgmem.h>

#include "memory_group.h"

enum { MIB = 1 << 20, LIMIT = 96 };

static struct memory_group group;

static unsigned long address_of(const void *start) { return (unsigned long)(uintptr_t)start; }

static int prefetch(char *start, size_t size) { return gmemPrefetch(address_of(start), size, gmemGetNumaId(), NULL); }

static char *map_mib(size_t mib) { return map_private(mib * MIB, gmemGetPageSize()); }

static void refuses_what_does_not_fit(void) {
	char *large = map_mib(4 * LIMIT);
	CHECK_EQUAL(prefetch(large, (size_t)4 * LIMIT * MIB), -ENOMEM);
	CHECK(strstr(gmemLastError(), "cgroup") != NULL);
	CHECK_EQUAL(resident_pages(large, (size_t)4 * LIMIT * MIB), 0);
	CHECK_EQUAL(prefetch(large, (size_t)48 * MIB), 0);
	/* A second prefetch of the range needs no more memory. */
	CHECK_EQUAL(prefetch(large, (size_t)48 * MIB), 0);
	/* Small steps end in an error, too. */
	int result = 0;
	size_t at = 48;
	for (; at < (size_t)4 * LIMIT && result == 0; at += 4) {
		result = prefetch(large + at * MIB, (size_t)4 * MIB);
	}
	CHECK_EQUAL(result, -ENOMEM);
	CHECK(at > 72 && at <= LIMIT + 4);
	munmap(large, (size_t)4 * LIMIT * MIB);
}

/* The kernel drops clean pages of files before it kills. */
static void clean_cache_counts_as_free(void) {
	struct statfs system;
	const int file = file_of((size_t)64 * MIB);
	NEED(fstatfs(file, &system) == 0);
	if (system.f_type == TMPFS_MAGIC || system.f_type == RAMFS_MAGIC) {
		/* Pages of files in memory are never clean. */
		close(file);
		return;
	}
	NEED(fsync(file) == 0);
	char *start = map_mib(64);
	/* The kernel updates its counts every two seconds. */
	int result = -ENOMEM;
	for (int i = 0; i < 50 && result == -ENOMEM; ++i) {
		result = prefetch(start, (size_t)64 * MIB);
		usleep(100000);
	}
	CHECK_EQUAL(result, 0);
	munmap(start, (size_t)64 * MIB);
	close(file);
}

static void in_the_group(void (*test)(void)) {
	const pid_t child = fork();
	NEED(child >= 0);
	if (child == 0) {
		checks_failed = 0;
		enter_memory_group(&group);
		test();
		_exit(checks_failed != 0);
	}
	int status = 0;
	NEED(waitpid(child, &status, 0) == child);
	CHECK_EQUAL(status, 0);
}

int main(void) {
	if (!make_memory_group(&group, (size_t)LIMIT * MIB)) {
		printf("no memory control group can be made here: %s\n", strerror(errno));
		return SKIPPED;
	}
	in_the_group(refuses_what_does_not_fit);
	in_the_group(clean_cache_counts_as_free);
	remove_memory_group(&group);
	return checks_result("memory_group");
}
