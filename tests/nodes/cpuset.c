/* SPDX-License-Identifier: Apache-2.0 */
/* gmemPrefetch in a control group that may not use each node (cpuset.mems): refused before anything is moved. */
#include "nodes.h"

static int forbidden;

static void is_refused(const char *start, size_t size) {
	CHECK_EQUAL(prefetch_to(start, size, forbidden), -EACCES);
	if (strstr(gmemLastError(), "cpuset") == NULL) {
		fprintf(stderr, "the message does not name the cpuset: %s\n", gmemLastError());
		++checks_failed;
	}
}

static void pages_stay_where_they_are(int huge) {
	char *start = map_pages(4 * page, huge);
	is_refused(start, 4 * page);
	CHECK_EQUAL(resident_pages(start, 4 * page), 0);
	/* To those that are allowed as ever, untouched memory and what is moved. */
	CHECK_EQUAL(prefetch_to(start, 4 * page, nodes[0]), 0);
	CHECK_EQUAL(pages_on(start, 4 * page, nodes[0]), 4 * page / base);
	fill(start, 4 * page, 1);
	CHECK_EQUAL(prefetch_to(start, 4 * page, nodes[1]), 0);
	CHECK_EQUAL(pages_on(start, 4 * page, nodes[1]), 4 * page / base);
	is_refused(start, 4 * page);
	CHECK_EQUAL(pages_on(start, 4 * page, nodes[1]), 4 * page / base);
	CHECK(is_filled(start, 4 * page, 1));
	munmap(start, 4 * page);
}

static void in_order_on_a_stream(void) {
	char *start = map_pages(page, 0);
	gmemStream_t stream = NULL;
	NEED(gmemStreamCreate(&stream) == 0);
	CHECK_EQUAL(gmemPrefetch((unsigned long)(uintptr_t)start, page, forbidden, stream), 0);
	CHECK_EQUAL(gmemStreamSynchronize(stream), -EACCES);
	CHECK(strstr(gmemLastError(), "cpuset") != NULL);
	CHECK_EQUAL(resident_pages(start, page), 0);
	CHECK_EQUAL(gmemStreamDestroy(stream), 0);
	munmap(start, page);
}

/* The allowed nodes are read anew by each call. */
static void follows_the_cpuset(const char *cgroup) {
	char *start = map_pages(page, 0);
	fill(start, page, 1);
	NEED(write_cgroup(cgroup, "cpuset.mems", "0-2") == 0);
	CHECK_EQUAL(prefetch_to(start, page, forbidden), 0);
	CHECK_EQUAL(pages_on(start, page, forbidden), page / base);
	/* The kernel takes its pages away from the node that it may use no more. */
	NEED(write_cgroup(cgroup, "cpuset.mems", "0-1") == 0);
	is_refused(start, page);
	CHECK_EQUAL(prefetch_to(start, page, nodes[0]), 0);
	CHECK_EQUAL(pages_on(start, page, nodes[0]), page / base);
	CHECK(is_filled(start, page, 1));
	munmap(start, page);
}

static void in_a_cpuset(const char *cgroup) {
	NEED(write_cgroup(cgroup, "cpuset.mems", "0-1") == 0);
	pages_stay_where_they_are(0);
	pages_stay_where_they_are(1);
	in_order_on_a_stream();
	follows_the_cpuset(cgroup);
}

int main(void) {
	need_virtual_machine();
	forbidden = nodes[2];
	in_cgroup("cpuset", in_a_cpuset);
	return checks_result("cpuset");
}
