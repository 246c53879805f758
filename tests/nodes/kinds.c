/* SPDX-License-Identifier: Apache-2.0 */
/* gmemPrefetch between memory nodes, of each kind of memory. Needs two nodes. */
#include "nodes.h"

/* To each node and back to the first, at each step all of it, without a fault, and as it was. */
static void goes_around(char *start, size_t size, int writable) {
	for (int i = 0; i <= node_count; ++i) {
		const int node = nodes[i % node_count];
		CHECK_EQUAL(prefetch_to(start, size, node), 0);
		CHECK_EQUAL(pages_on(start, size, node), size / base);
		CHECK_EQUAL(writable ? faults_of_writing(start, size) : faults_of_reading(start, size), 0);
		CHECK(is_filled(start, size, 1));
	}
}

static void memory_of_a_memfd(void) {
	const int fd = memfd_create("nodes", MFD_CLOEXEC);
	NEED(fd >= 0 && ftruncate(fd, (off_t)(4 * page)) == 0);
	char *start = map_at_page(4 * page, page, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
	fill(start, 4 * page, 1);
	goes_around(start, 4 * page, 1);
	munmap(start, 4 * page);
	/* Through a mapping that may not write, and after the one that wrote. */
	start = map_at_page(4 * page, page, PROT_READ, MAP_SHARED, fd);
	goes_around(start, 4 * page, 0);
	munmap(start, 4 * page);
	close(fd);
}

static void shared_anonymous_memory(void) {
	char *start = map_at_page(4 * page, page, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1);
	fill(start, 4 * page, 1);
	goes_around(start, 4 * page, 1);
	munmap(start, 4 * page);
}

static void locked_memory(void) {
	for (int huge = 0; huge < 2; ++huge) {
		char *start = map_pages(2 * page, huge);
		fill(start, 2 * page, 1);
		NEED(mlock(start, 2 * page) == 0);
		goes_around(start, 2 * page, 1);
		CHECK_EQUAL(huge_kib(start), huge && kernel_huge_page() == page ? 2 * page >> 10 : 0);
		munmap(start, 2 * page);
	}
}

static void memory_that_is_only_read(void) {
	for (int huge = 0; huge < 2; ++huge) {
		char *start = map_pages(2 * page, huge);
		fill(start, 2 * page, 1);
		NEED(mprotect(start, 2 * page, PROT_READ) == 0);
		goes_around(start, 2 * page, 0);
		CHECK_EQUAL(huge_kib(start), huge && kernel_huge_page() == page ? 2 * page >> 10 : 0);
		munmap(start, 2 * page);
	}
}

static void a_file_that_is_only_read(void) {
	char path[] = "/tmp/gmem-nodes-XXXXXX";
	const int fd = mkostemp(path, O_CLOEXEC);
	char *words = (char *)malloc(2 * page);
	NEED(fd >= 0 && words != NULL && unlink(path) == 0);
	fill(words, 2 * page, 1);
	NEED(write(fd, words, 2 * page) == (ssize_t)(2 * page) && fsync(fd) == 0);
	free(words);
	char *start = map_at_page(2 * page, page, PROT_READ, MAP_PRIVATE, fd);
	goes_around(start, 2 * page, 0);
	munmap(start, 2 * page);
	close(fd);
}

static void hugetlb_pages(void) {
	char *start = (char *)mmap(
		NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB_2MB | MAP_NORESERVE, -1, 0);
	for (int i = 0; i < node_count; ++i) {
		char pool[96];
		snprintf(pool, sizeof pool, "/sys/devices/system/node/node%d/hugepages/hugepages-%zukB/free_hugepages",
			nodes[i], page >> 10);
		if (start == MAP_FAILED || read_number(pool, "") < 2) {
			printf("hugetlb pages are not tested: there are none on node %d\n", nodes[i]);
			return;
		}
	}
	/* Not there yet: on the node from the beginning. */
	CHECK_EQUAL(prefetch_to(start, 2 * page, nodes[node_count - 1]), 0);
	CHECK_EQUAL(pages_on(start, 2 * page, nodes[node_count - 1]), 2 * page / base);
	fill(start, 2 * page, 1);
	goes_around(start, 2 * page, 1);
	munmap(start, 2 * page);
}

/* The parent of a test: waits for the byte, or for the end, of its child. */
static int wait_for(const int *from) {
	char byte;
	return read(from[0], &byte, 1) == 1;
}

static void tell(const int *to) { NEED(write(to[1], "!", 1) == 1); }

/* After a fork, writable memory is copied by whoever prefetches first: each has its own where it asked for it. */
static void memory_shared_by_a_fork_until_written(void) {
	for (int huge = 0; huge < 2; ++huge) {
		char *start = map_pages(4 * page, huge);
		CHECK_EQUAL(prefetch_to(start, 4 * page, nodes[0]), 0);
		fill(start, 4 * page, 1);
		int up[2], down[2];
		NEED(pipe(up) == 0 && pipe(down) == 0);
		const pid_t child = fork();
		NEED(child >= 0);
		if (child == 0) {
			close(down[1]);
			checks_failed = 0;
			(void)faults_of_writing(start, 0); /* the child has yet to map the program's own pages */
			CHECK_EQUAL(prefetch_to(start, 4 * page, nodes[1]), 0);
			CHECK_EQUAL(pages_on(start, 4 * page, nodes[1]), 4 * page / base);
			CHECK_EQUAL(faults_of_writing(start, 4 * page), 0);
			CHECK(is_filled(start, 4 * page, 1));
			fill(start, 4 * page, 2);
			tell(up);
			wait_for(down);
			CHECK_EQUAL(pages_on(start, 4 * page, nodes[1]), 4 * page / base);
			CHECK(is_filled(start, 4 * page, 2));
			_exit(checks_failed != 0);
		}
		close(up[1]);
		CHECK(wait_for(up));
		CHECK_EQUAL(pages_on(start, 4 * page, nodes[0]), 4 * page / base);
		(void)faults_of_writing(start, 0); /* the fork has made the stack copy-on-write here, too */
		CHECK_EQUAL(prefetch_to(start, 4 * page, nodes[node_count - 1]), 0);
		CHECK_EQUAL(pages_on(start, 4 * page, nodes[node_count - 1]), 4 * page / base);
		CHECK_EQUAL(faults_of_writing(start, 4 * page), 0);
		CHECK(is_filled(start, 4 * page, 1));
		tell(down);
		int status = -1;
		NEED(waitpid(child, &status, 0) == child);
		CHECK_EQUAL(status, 0);
		close(up[0]);
		close(down[0]);
		close(down[1]);
		munmap(start, 4 * page);
	}
}

/* A page that two processes have mapped stays where it is, and the report says so. It moves once one of them has ended.
 */
static void memory_that_two_processes_have(void) {
	for (int shared = 0; shared < 2; ++shared) {
		char *start = shared ? map_at_page(2 * page, page, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1)
							 : map_pages(2 * page, 0);
		CHECK_EQUAL(prefetch_to(start, 2 * page, nodes[0]), 0);
		fill(start, 2 * page, 1);
		if (!shared) {
			NEED(mprotect(start, 2 * page, PROT_READ) == 0); /* so that nobody gets a copy */
		}
		int up[2], down[2];
		NEED(pipe(up) == 0 && pipe(down) == 0);
		const pid_t child = fork();
		NEED(child >= 0);
		if (child == 0) {
			close(down[1]);
			const int intact = is_filled(start, 2 * page, 1); /* and mapped here, too */
			tell(up);
			wait_for(down);
			_exit(!intact || !is_filled(start, 2 * page, 1));
		}
		CHECK(wait_for(up));
		CHECK_EQUAL(prefetch_to(start, 2 * page, nodes[1]), -EBUSY);
		CHECK(strstr(gmemLastError(), "shared") != NULL);
		CHECK_EQUAL(pages_on(start, 2 * page, nodes[0]), 2 * page / base);
		CHECK(is_filled(start, 2 * page, 1));
		/* Where it is already is fine. */
		CHECK_EQUAL(prefetch_to(start, 2 * page, nodes[0]), 0);
		tell(down);
		int status = -1;
		NEED(waitpid(child, &status, 0) == child);
		CHECK_EQUAL(status, 0);
		goes_around(start, 2 * page, shared);
		for (int i = 0; i < 2; ++i) {
			close(up[i]);
			close(down[i]);
		}
		munmap(start, 2 * page);
	}
}

int main(void) {
	need_nodes(2);
	memory_of_a_memfd();
	shared_anonymous_memory();
	locked_memory();
	memory_that_is_only_read();
	a_file_that_is_only_read();
	hugetlb_pages();
	memory_shared_by_a_fork_until_written();
	memory_that_two_processes_have();
	return checks_result("kinds");
}
