/* SPDX-License-Identifier: Apache-2.0 */
/* gmemPrefetch where a slower tier lies below: what was demoted comes back, and what was prefetched is demoted last.
 * It changes system-wide settings, so it runs in a virtual machine (guest.py --tiers). */
#include "nodes.h"

enum { SIZE_MIB = 16 };
static const size_t size = (size_t)SIZE_MIB << 20;

/* Ask the kernel to take memory from the group, a little at a time, until no more than `enough` pages are left. */
static void reclaim_until(const char *cgroup, size_t (*left)(void), size_t enough) {
	for (int step = 0; step < 100 && left() > enough; ++step) {
		const int result = write_cgroup(cgroup, "memory.reclaim", "2M");
		NEED(result == 0 || result == -EAGAIN);
	}
	CHECK(left() <= enough);
}

static char *a, *b;

static size_t left_of_a(void) { return pages_on(a, size, nodes[0]); }

static size_t left_of_both(void) { return left_of_a() + pages_on(b, size, nodes[0]); }

static void what_was_demoted_comes_back(const char *cgroup) {
	for (int huge = 0; huge < 2; ++huge) {
		a = map_pages(size, huge);
		CHECK_EQUAL(prefetch_to(a, size, nodes[0]), 0);
		fill(a, size, 1);
		NEED(madvise(a, size, 20 /* MADV_COLD */) == 0);
		reclaim_until(cgroup, left_of_a, size / base / 2);
		CHECK(pages_on(a, size, nodes[2]) >= size / base / 2);
		CHECK_EQUAL(prefetch_to(a, size, nodes[0]), 0);
		CHECK_EQUAL(pages_on(a, size, nodes[0]), size / base);
		CHECK_EQUAL(faults_of_writing(a, size), 0);
		CHECK(is_filled(a, size, 1));
		CHECK_EQUAL(huge_kib(a), huge ? size >> 10 : 0);
		munmap(a, size);
	}
}

/* Two regions of one age, of which one is prefetched to the node where it lies: the kernel takes the other. Forgotten
 * since long: neither was used for so long that both are next to go; else they have only not been used of late. */
static void what_was_prefetched_is_demoted_last(const char *cgroup, int huge, int forgotten) {
	a = map_pages(size, huge);
	b = map_pages(size, huge);
	for (size_t at = 0; at < size; at += page) {
		CHECK_EQUAL(prefetch_to(a + at, page, nodes[0]), 0);
		CHECK_EQUAL(prefetch_to(b + at, page, nodes[0]), 0);
		memset(a + at, 'a', page);
		memset(b + at, 'b', page);
	}
	NEED(write_file("/proc/sys/vm/compact_memory", "1") == 0); /* pages in per-CPU batches get to their lists */
	NEED(write_file("/proc/self/clear_refs", "1") == 0);
	if (forgotten) {
		NEED(madvise(a, size, 20 /* MADV_COLD */) == 0 && madvise(b, size, 20) == 0);
		NEED(write_file("/proc/sys/vm/compact_memory", "1") == 0);
	}
	CHECK_EQUAL(prefetch_to(a, size, nodes[0]), 0);
	reclaim_until(cgroup, left_of_both, size / base * 6 / 5); /* it takes more than what is asked for */
	const size_t of_a = left_of_a() * 100 / (size / base);
	const size_t of_b = pages_on(b, size, nodes[0]) * 100 / (size / base);
	printf("%s pages, %s: of the prefetched %zu %% stay, of the others %zu %%\n", huge ? "huge" : "small",
		forgotten ? "forgotten" : "idle", of_a, of_b);
	CHECK(of_a >= 90);
	CHECK(of_b <= 30);
	CHECK(is_all(a, size, 'a') && is_all(b, size, 'b'));
	munmap(a, size);
	munmap(b, size);
}

static void small_and_idle(const char *cgroup) { what_was_prefetched_is_demoted_last(cgroup, 0, 0); }
static void small_and_forgotten(const char *cgroup) { what_was_prefetched_is_demoted_last(cgroup, 0, 1); }
static void huge_and_idle(const char *cgroup) { what_was_prefetched_is_demoted_last(cgroup, 1, 0); }
static void huge_and_forgotten(const char *cgroup) { what_was_prefetched_is_demoted_last(cgroup, 1, 1); }

static void with_lru(const char *generations) {
	NEED(write_file("/sys/kernel/mm/lru_gen/enabled", generations) == 0);
	printf("lru_gen: %s\n", generations);
	in_cgroup("small_and_idle", small_and_idle);
	in_cgroup("small_and_forgotten", small_and_forgotten);
	in_cgroup("huge_and_forgotten", huge_and_forgotten);
	/* With generations, huge pages have no mark but their age: those of one age that are not old are alike. */
	if (strcmp(generations, "n") == 0) {
		in_cgroup("huge_and_idle", huge_and_idle);
	}
}

int main(void) {
	need_virtual_machine();
	if (read_number("/sys/devices/virtual/memory_tiering/memory_tier4/nodelist", "") < 0 ||
		write_file("/sys/kernel/mm/numa/demotion_enabled", "1") != 0) {
		printf("there is no demotion here\n");
		return SKIPPED;
	}
	in_cgroup("demoted", what_was_demoted_comes_back);
	with_lru("y");
	with_lru("n");
	return checks_result("tiers");
}
