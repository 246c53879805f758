/* SPDX-License-Identifier: Apache-2.0 */
/* A thread that serves page faults (userfaultfd(2)) prefetches memory of its own, on a GMEM page that it shares with
 * memory that it serves. The call must not wait for the thread that makes it. */
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

#include <libgmem.h>

#include "children.h"

static size_t page, base;
static int uffd;

static unsigned long address_of(const void *start) { return (unsigned long)(uintptr_t)start; }

/* It serves the process that opens it, so each test has its own. */
static int open_userfaultfd(void) {
	struct uffdio_api api = {.api = UFFD_API};
	uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
	return uffd >= 0 && ioctl(uffd, UFFDIO_API, &api) == 0;
}

static int serve(char *start, size_t size, unsigned long long mode) {
	struct uffdio_register range = {.range = {address_of(start), size}, .mode = mode};
	return ioctl(uffd, UFFDIO_REGISTER, &range) == 0;
}

/* Two GMEM pages: served memory, the thread's own in the middle, and served memory again. */
static char *map_served_on_both_sides(void) {
	char *start = map_private(2 * page, page);
	NEED(open_userfaultfd());
	NEED(madvise(start, 2 * page, MADV_NOHUGEPAGE) == 0);
	NEED(serve(start, page / 2, UFFDIO_REGISTER_MODE_MISSING));
	NEED(serve(start + page + page / 2, page / 2, UFFDIO_REGISTER_MODE_MISSING));
	return start;
}

/* What is not served is margin as before. */
static void own_memory_and_its_margin_are_there(const char *start) {
	CHECK_EQUAL(resident_pages(start, page / 2), 0);
	CHECK_EQUAL(resident_pages(start + page / 2, page), page / base);
	CHECK_EQUAL(resident_pages(start + page + page / 2, page / 2), 0);
}

static int missing_pages_are_no_margin(const void *with_report) {
	char *start = map_served_on_both_sides();
	const unsigned long own = address_of(start) + page - base;
	gmemPrefetchReport_t report = {.size = sizeof report};
	for (int again = 0; again < 2; ++again) {
		CHECK_EQUAL(with_report != NULL ? gmemPrefetchEx(own, 2 * base, gmemGetNumaId(), NULL, NULL, &report)
										: gmemPrefetch(own, 2 * base, gmemGetNumaId(), NULL),
			0);
		own_memory_and_its_margin_are_there(start);
	}
	return checks_failed != 0;
}

static int write_protected_pages_are_no_margin(const void *unused) {
	char *start = map_private(page, page);
	(void)unused;
	NEED(open_userfaultfd());
	NEED(madvise(start, page, MADV_NOHUGEPAGE) == 0);
	memset(start, 'x', page / 2);
	if (!serve(start, page / 2, UFFDIO_REGISTER_MODE_WP)) {
		return SKIPPED;
	}
	struct uffdio_writeprotect protect = {{address_of(start), page / 2}, UFFDIO_WRITEPROTECT_MODE_WP};
	NEED(ioctl(uffd, UFFDIO_WRITEPROTECT, &protect) == 0);
	CHECK_EQUAL(gmemPrefetch(address_of(start) + page / 2, base, gmemGetNumaId(), NULL), 0);
	CHECK_EQUAL(resident_pages(start + page / 2, page / 2), page / 2 / base);
	return checks_failed != 0;
}

/* Nobody serves it any longer. */
static int memory_that_was_served_is_margin(const void *unused) {
	char *start = map_served_on_both_sides();
	(void)unused;
	close(uffd);
	CHECK_EQUAL(gmemPrefetch(address_of(start) + page - base, 2 * base, gmemGetNumaId(), NULL), 0);
	CHECK_EQUAL(resident_pages(start, 2 * page), 2 * page / base);
	return checks_failed != 0;
}

int main(void) {
	static const char with_report;
	static const struct {
		int (*test)(const void *);
		const void *argument;
	} tests[] = {
		{missing_pages_are_no_margin, NULL},
		{missing_pages_are_no_margin, &with_report},
		{write_protected_pages_are_no_margin, NULL},
		{memory_that_was_served_is_margin, NULL},
	};
	page = gmemGetPageSize();
	base = (size_t)sysconf(_SC_PAGESIZE);
	if (!open_userfaultfd()) {
		printf("no userfaultfd here: %s (vm.unprivileged_userfaultfd)\n", strerror(errno));
		return SKIPPED;
	}
	close(uffd);
	for (size_t i = 0; i < sizeof tests / sizeof *tests; ++i) {
		const int status = status_of_child(tests[i].test, tests[i].argument);
		if (status != 0 && status != -1) {
			fprintf(stderr, "test %zu ", i);
			describe_end(status);
			++checks_failed;
		}
	}
	return checks_result("userfaultfd");
}
