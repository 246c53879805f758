/* SPDX-License-Identifier: Apache-2.0 */
/* gmemPrefetch between memory nodes: placement, migration, huge pages, contents. Needs two nodes. */
#include "nodes.h"

static void untouched_memory_is_populated_on_the_node(void) {
	for (int i = 0; i < node_count; ++i) {
		for (int huge = 0; huge < 2; ++huge) {
			char *start = map_pages(8 * page, huge);
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
			char *start = map_pages(8 * page, huge);
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

/* Lines of a file of /proc/self. */
static size_t lines_of(const char *path) {
	FILE *file = fopen(path, "re");
	size_t count = 0;
	NEED(file != NULL);
	for (int byte = fgetc(file); byte != EOF; byte = fgetc(file)) {
		count += byte == '\n';
	}
	fclose(file);
	return count;
}

/* The memory policy of the mapping that begins at `start`. */
static int has_default_policy(const char *start) {
	FILE *file = fopen("/proc/self/numa_maps", "re");
	char line[512], policy[32] = "";
	unsigned long from = 0;
	NEED(file != NULL);
	while (from != (unsigned long)(uintptr_t)start && fgets(line, sizeof line, file) != NULL) {
		sscanf(line, "%lx %31s", &from, policy);
	}
	fclose(file);
	return from == (unsigned long)(uintptr_t)start && strcmp(policy, "default") == 0;
}

/* Each GMEM page of a mapping to another node than its neighbours: the mapping stays one. */
static void a_mapping_stays_whole(void) {
	enum { PAGES = 64 };
	for (int huge = 0; huge < 2; ++huge) {
		char *start = map_pages(PAGES * page, huge);
		CHECK_EQUAL(prefetch_to(start, page, nodes[0]), 0);
		const size_t before = lines_of("/proc/self/maps");
		for (size_t i = 0; i < (size_t)2 * PAGES; ++i) { /* the second time around they are moved */
			char *at = start + i % PAGES * page;
			const int node = nodes[(i + i / PAGES) % (size_t)node_count];
			CHECK_EQUAL(prefetch_to(at + base, base, node), 0);
			CHECK_EQUAL(pages_on(at, page, node), page / base);
		}
		CHECK_EQUAL(lines_of("/proc/self/maps"), before);
		CHECK(has_default_policy(start));
		munmap(start, PAGES * page);
	}
}

int main(void) {
	need_nodes(2);
	CHECK(gmemGetNumaId() >= 0);
	untouched_memory_is_populated_on_the_node();
	pages_elsewhere_are_moved_with_their_contents();
	shared_memory_goes_to_the_node();
	no_policy_stays_behind();
	a_mapping_stays_whole();
	return checks_result("placement");
}
