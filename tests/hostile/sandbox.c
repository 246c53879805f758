/* SPDX-License-Identifier: Apache-2.0 */
/* Sandboxes: a seccomp filter that refuses ioctl(2), which the library has another way for. */
#include <libgmem.h>

#include "children.h"

static size_t page, base;

static unsigned long address_of(const void *start) { return (unsigned long)(uintptr_t)start; }

static void all_verbs_work(void) {
	char *start = map_private(2 * page, page);
	CHECK_EQUAL(gmemPrefetch(address_of(start), page, gmemGetNumaId(), NULL), 0);
	CHECK_EQUAL(resident_pages(start, page), page / base);
	CHECK_EQUAL(faults_of_writing(start, page), 0);

	gmemPrefetchReport_t report = {.size = sizeof report};
	CHECK_EQUAL(gmemPrefetchEx(address_of(start), 2 * page, gmemGetNumaId(), NULL, NULL, &report), 0);
	CHECK_EQUAL(report.failed, 0);

	gmemResidency_t all = {.size = sizeof all};
	static gmemPageState_t states[1 << 14];
	CHECK_EQUAL(gmemResidency(address_of(start), 2 * page, 0, states, 1 << 14, &all), 0);
	size_t present = 0;
	for (size_t i = 0; i < all.pages; ++i) {
		present += (states[i].flags & GMEM_PAGE_RESIDENT) != 0;
	}
	CHECK_EQUAL(present, 2 * page / base);

	CHECK_EQUAL(gmemFreeEager(address_of(start), page, NULL), 0);
	CHECK_EQUAL(resident_pages(start, page), 0);
	munmap(start + page, page);
	CHECK_EQUAL(gmemPrefetch(address_of(start), 2 * page, gmemGetNumaId(), NULL), -ENOMEM);
	munmap(start, page);
}

static void without_ioctl(int error, int used_before) {
	const pid_t child = fork();
	NEED(child >= 0);
	if (child == 0) {
		checks_failed = 0;
		if (used_before) {
			all_verbs_work();
		}
		if (!refuse_call(SYS_ioctl, error)) {
			_exit(SKIPPED);
		}
		all_verbs_work();
		_exit(checks_failed != 0);
	}
	int status = 0;
	NEED(waitpid(child, &status, 0) == child);
	if (WIFEXITED(status) && WEXITSTATUS(status) == SKIPPED) {
		printf("no seccomp filter can be installed here\n");
		exit(SKIPPED);
	}
	if (status != 0) {
		fprintf(stderr, "ioctl refused with %s, %s\n", strerror(error), used_before ? "after use" : "before use");
	}
	CHECK_EQUAL(status, 0);
}

int main(void) {
	static const int errors[] = {EPERM, ENOSYS, EACCES, ENOTTY, EINVAL};
	page = gmemGetPageSize();
	base = (size_t)sysconf(_SC_PAGESIZE);
	for (size_t i = 0; i < sizeof errors / sizeof *errors; ++i) {
		without_ioctl(errors[i], 0);
		without_ioctl(errors[i], 1);
	}
	return checks_result("sandbox");
}
