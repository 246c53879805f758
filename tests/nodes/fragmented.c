/* SPDX-License-Identifier: Apache-2.0 */
/* gmemPrefetchEx where a node has memory and no huge pages: free memory in pieces, between pages that cannot be moved.
 * It takes a node apart, so it runs in a virtual machine. */
#include "nodes.h"

enum { SIZE_MIB = 80, APART_KIB = 64 };
static const size_t size = (size_t)SIZE_MIB << 20, apart = (size_t)APART_KIB << 10;
static int node;

/* Take nearly all of the node, and give it back but for a locked page every so often. */
static char *take_apart(size_t *taken) {
	*taken = (free_bytes(node) - ((size_t)16 << 20)) / page * page;
	char *start = map_pages(*taken, 0);
	unsigned long mask = 1ul << node;
	NEED(syscall(SYS_mbind, start, *taken, 1 /* MPOL_PREFERRED */, &mask, 8 * sizeof mask, 0) == 0);
	memset(start, 'f', *taken);
	for (size_t at = 0; at < *taken; at += apart) {
		NEED(mlock(start + at, base) == 0);
		NEED(madvise(start + at + base, apart - base, MADV_DONTNEED) == 0);
	}
	return start;
}

static gmemPrefetchReport_t prefetch_huge(char *start, int policy, int expected) {
	gmemPrefetchOptions_t options = {.size = sizeof options, .huge = policy};
	gmemPrefetchReport_t report = {.size = sizeof report};
	CHECK_EQUAL(gmemPrefetchEx((unsigned long)(uintptr_t)start, size, node, NULL, &options, &report), expected);
	return report;
}

static void required_huge_pages_are_missed_beforehand(void) {
	char *start = map_pages(size, 0);
	memset(start, 'x', page);
	const size_t resident = resident_pages(start, size);
	prefetch_huge(start, GMEM_HUGE_REQUIRE, -ENOMEM);
	CHECK(strstr(gmemLastError(), "are missing on node") != NULL && strstr(gmemLastError(), "compact_memory") != NULL);
	CHECK_EQUAL(resident_pages(start, size), resident);
	munmap(start, size);
}

static void preferred_ones_fall_back_and_come_later(char *pieces, size_t taken) {
	char *start = map_pages(size, 1);
	const gmemPrefetchReport_t report = prefetch_huge(start, GMEM_HUGE_PREFER, 0);
	CHECK_EQUAL(report.populated, size / base);
	CHECK(report.fallen_back > 0);
	CHECK(report.huge == GMEM_UNKNOWN || report.huge + report.fallen_back == size / page);
	printf("stalled: %d, huge pages: %zu KiB\n", report.stalled, huge_kib(start));
	CHECK_EQUAL(pages_on(start, size, node), size / base);
	memset(start, 'x', size);

	/* With room for huge pages again, they are made behind the program's back. */
	munmap(pieces, taken);
	prefetch_huge(start, GMEM_HUGE_PREFER, 0);
	for (int wait = 0; wait < 300 && huge_kib(start) != size >> 10; ++wait) {
		usleep(100 * 1000);
		if (wait % 50 == 49) {
			/* The kernel had refused some, perhaps because it was moving their pages just then. */
			prefetch_huge(start, GMEM_HUGE_PREFER, 0);
		}
	}
	CHECK_EQUAL(huge_kib(start), size >> 10);
	CHECK(is_all(start, size, 'x'));
	CHECK_EQUAL(pages_on(start, size, node), size / base);
	munmap(start, size);
}

int main(void) {
	need_virtual_machine();
	node = nodes[0];
	NEED(write_file("/proc/sys/vm/compact_unevictable_allowed", "0") == 0);
	size_t taken = 0;
	char *pieces = take_apart(&taken);
	required_huge_pages_are_missed_beforehand();
	preferred_ones_fall_back_and_come_later(pieces, taken);
	NEED(write_file("/proc/sys/vm/compact_unevictable_allowed", "1") == 0);
	return checks_result("fragmented");
}
