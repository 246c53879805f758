/* SPDX-License-Identifier: Apache-2.0 */
/* gmemPrefetch between memory nodes: placement, migration, huge pages, contents. Needs two nodes. */
#include <sys/syscall.h>

#include <libgmem.h>

#include "../check.h"

static size_t page; /* the GMEM page */
static size_t base; /* the kernel's page */
static int nodes[1024], node_count;

static void find_nodes(void) {
	char text[4096];
	FILE *file = fopen("/sys/devices/system/node/has_memory", "re");
	if (file == NULL || fgets(text, sizeof text, file) == NULL) {
		return;
	}
	fclose(file);
	for (char *part = strtok(text, ",\n"); part != NULL; part = strtok(NULL, ",\n")) {
		int first = 0, last = 0;
		const int found = sscanf(part, "%d-%d", &first, &last);
		for (int node = first; node <= (found == 2 ? last : first); ++node) {
			nodes[node_count++] = node;
		}
	}
}

/* Base pages of a range that lie on `node`. */
static size_t pages_on(char *start, size_t size, int node) {
	const size_t count = size / base;
	void **pages = (void **)calloc(count, sizeof *pages);
	int *status = (int *)calloc(count, sizeof *status);
	size_t found = 0;
	NEED(pages != NULL && status != NULL);
	for (size_t i = 0; i < count; ++i) {
		pages[i] = start + i * base;
	}
	NEED(syscall(SYS_move_pages, 0, count, pages, NULL, status, 0) == 0);
	for (size_t i = 0; i < count; ++i) {
		found += status[i] == node;
	}
	free(pages);
	free(status);
	return found;
}

/* Huge pages behind the mapping that begins at `start`, in KiB. */
static size_t huge_kib(const char *start) {
	FILE *smaps = fopen("/proc/self/smaps", "re");
	char line[512];
	int inside = 0;
	size_t kib = 0;
	NEED(smaps != NULL);
	while (fgets(line, sizeof line, smaps) != NULL) {
		unsigned long from, to;
		if (sscanf(line, "%lx-%lx ", &from, &to) == 2) {
			inside = from <= (unsigned long)(uintptr_t)start && (unsigned long)(uintptr_t)start < to;
		} else if (inside && sscanf(line, "AnonHugePages: %zu kB", &kib) == 1) {
			break;
		}
	}
	fclose(smaps);
	return kib;
}

static int prefetch_to(char *start, size_t size, int node) {
	return gmemPrefetch((unsigned long)(uintptr_t)start, size, node, NULL);
}

static void untouched_memory_is_populated_on_the_node(void) {
	for (int i = 0; i < node_count; ++i) {
		for (int huge = 0; huge < 2; ++huge) {
			char *start = map_private(8 * page, page);
			madvise(start, 8 * page, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
			CHECK_EQUAL(prefetch_to(start, 8 * page, nodes[i]), 0);
			CHECK_EQUAL(pages_on(start, 8 * page, nodes[i]), 8 * page / base);
			CHECK_EQUAL(faults_of_writing(start, 8 * page), 0);
			munmap(start, 8 * page);
		}
	}
}

static void pages_elsewhere_are_moved_with_their_contents(void) {
	for (int i = 0; i < node_count; ++i) {
		for (int huge = 0; huge < 2; ++huge) {
			char *start = map_private(8 * page, page);
			madvise(start, 8 * page, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
			CHECK_EQUAL(prefetch_to(start, 8 * page, nodes[i]), 0);
			memset(start, 'x', 8 * page);
			const size_t huge_before = huge_kib(start);
			const int target = nodes[(i + 1) % node_count];
			/* The middle only, and unaligned: whole GMEM pages move, their neighbours stay. */
			CHECK_EQUAL(prefetch_to(start + 2 * page + 5, 3 * page, target), 0);
			CHECK_EQUAL(pages_on(start, 2 * page, nodes[i]), 2 * page / base);
			CHECK_EQUAL(pages_on(start + 2 * page, 4 * page, target), 4 * page / base);
			CHECK_EQUAL(pages_on(start + 6 * page, 2 * page, nodes[i]), 2 * page / base);
			CHECK_EQUAL(prefetch_to(start, 8 * page, target), 0);
			CHECK_EQUAL(pages_on(start, 8 * page, target), 8 * page / base);
			CHECK_EQUAL(faults_of_writing(start, 8 * page), 0);
			CHECK(is_all(start, 8 * page, 'x'));
			CHECK_EQUAL(huge_kib(start), huge_before);
			munmap(start, 8 * page);
		}
	}
}

static void shared_memory_goes_to_the_node(void) {
	char *start = map_at_page(4 * page, page, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1);
	for (int i = 0; i < node_count; ++i) {
		CHECK_EQUAL(prefetch_to(start, 4 * page, nodes[i]), 0);
		CHECK_EQUAL(pages_on(start, 4 * page, nodes[i]), 4 * page / base);
		memset(start, 'x', 4 * page);
	}
	munmap(start, 4 * page);
}

/* Neither the mapping nor the thread keeps a policy. */
static void no_policy_stays_behind(void) {
	char *start = map_private(4 * page, page);
	CHECK_EQUAL(prefetch_to(start, page, nodes[node_count - 1]), 0);
	int mode = -1;
	NEED(syscall(SYS_get_mempolicy, &mode, NULL, 0, NULL, 0) == 0);
	CHECK_EQUAL(mode, 0);
	NEED(syscall(SYS_get_mempolicy, &mode, NULL, 0, start, 2 /* MPOL_F_ADDR */) == 0);
	CHECK_EQUAL(mode, 0);
	munmap(start, 4 * page);
}

/* Automatic NUMA balancing moves pages behind the test and takes hint faults. Returns whether it is off;
 * it is turned on again at exit. */
static const char balancing[] = "/proc/sys/kernel/numa_balancing";
static int balancing_before;

static int write_balancing(int value) {
	FILE *file = fopen(balancing, "we");
	if (file == NULL) {
		return 0;
	}
	fprintf(file, "%d\n", value);
	return fclose(file) == 0;
}

static void restore_balancing(void) { write_balancing(balancing_before); }

static int stop_balancing(void) {
	FILE *file = fopen(balancing, "re");
	if (file == NULL) {
		return 1;
	}
	const int found = fscanf(file, "%d", &balancing_before);
	fclose(file);
	if (found != 1 || balancing_before == 0) {
		return 1;
	}
	atexit(restore_balancing);
	return write_balancing(0);
}

int main(void) {
	page = gmemGetPageSize();
	base = (size_t)sysconf(_SC_PAGESIZE);
	find_nodes();
	if (node_count < 2) {
		printf("one memory node here; run it in a machine with two or more\n");
		return SKIPPED;
	}
	if (!stop_balancing()) {
		printf("kernel.numa_balancing is on and only root may turn it off\n");
		return SKIPPED;
	}
	CHECK(gmemGetNumaId() >= 0);
	untouched_memory_is_populated_on_the_node();
	pages_elsewhere_are_moved_with_their_contents();
	shared_memory_goes_to_the_node();
	no_policy_stays_behind();
	return checks_result("nodes");
}
