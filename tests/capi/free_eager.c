/* SPDX-License-Identifier: Apache-2.0 */
/* The edge table of gmemFreeEager: each row a function. */
#include <fcntl.h>
#include <limits.h>

#include <libgmem.h>

#include "../check.h"

static size_t page; /* the GMEM page */

static int free_now(const void *start, size_t size) {
	return gmemFreeEager((unsigned long)(uintptr_t)start, size, NULL);
}

static void ranges_that_overflow_are_refused(void) {
	CHECK_EQUAL(gmemFreeEager(0xFFFFFFFFFFFFFFFF, (size_t)-1, NULL), -EINVAL);
	CHECK(strstr(gmemLastError(), "0xffffffffffffffff") != NULL);
	CHECK_EQUAL(gmemFreeEager(4096, (size_t)-1, NULL), -EINVAL);
	CHECK_EQUAL(gmemFreeEager(ULONG_MAX, 1, NULL), -EINVAL);
	CHECK_EQUAL(gmemFreeEager(ULONG_MAX, 0, NULL), 0);
	CHECK_EQUAL(gmemFreeEager(0, 0, NULL), 0);
}

/* Only whole pages inside go; every byte around them keeps its value. */
static void rounding_is_inward(void) {
	char *start = map_private(4 * page, page);
	const struct {
		size_t from, size, first, count;
	} rows[] = {
		{0, 0, 0, 0},
		{0, 1, 0, 0},
		{0, 2, 0, 0},
		{0, page - 1, 0, 0},
		{0, page, 0, 1},
		{0, page + 1, 0, 1},
		{1, page, 0, 0},
		{1, 2 * page - 1, 1, 1},
		{page - 1, page, 0, 0},
		{page - 1, page + 1, 1, 1},
		{page - 1, 2 * page + 2, 1, 2},
		{1, 4 * page - 2, 1, 2},
		{0, 4 * page, 0, 4},
	};
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; ++i) {
		memset(start, 'x', 4 * page);
		CHECK_EQUAL(free_now(start + rows[i].from, rows[i].size), 0);
		const size_t from = rows[i].first * page, to = from + rows[i].count * page;
		CHECK(is_all(start, from, 'x'));
		CHECK(is_all(start + from, to - from, 0));
		CHECK(is_all(start + to, 4 * page - to, 'x'));
	}
	munmap(start, 4 * page);
}

static unsigned random_below(unsigned limit) {
	static unsigned long long state = 88172645463325252ULL; /* xorshift64 */
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return (unsigned)(state % limit);
}

/* Any range: of what it covers the whole pages are zeros afterwards, and every other byte is what it was. */
static void no_byte_outside_the_whole_pages_changes(void) {
	enum { PAGES = 5 };
	const int fd = memfd_create("gmem-test", 1 /* MFD_CLOEXEC */);
	NEED(fd >= 0 && ftruncate(fd, (off_t)(PAGES * page)) == 0);
	char *const kinds[] = {
		map_private(PAGES * page, page), map_at_page(PAGES * page, page, PROT_READ | PROT_WRITE, MAP_SHARED, fd)};
	for (int round = 0; round < 60; ++round) {
		char *start = kinds[round % 2];
		memset(start, 'x', PAGES * page);
		size_t from = random_below(PAGES * (unsigned)page);
		size_t size = random_below((unsigned)(PAGES * page - from) + 1);
		if (round % 3 == 0) { /* near the edges of pages, where mistakes are */
			from = from / page * page + random_below(3);
			size = (size / page * page + random_below(5)) % (PAGES * page - from + 1);
		}
		CHECK_EQUAL(free_now(start + from, size), 0);
		const size_t first = (from + page - 1) / page * page, last = (from + size) / page * page;
		const size_t freed = first < last ? last - first : 0;
		CHECK(is_all(start, freed ? first : PAGES * page, 'x'));
		CHECK(is_all(start + first, freed, 0));
		CHECK(!freed || is_all(start + last, PAGES * page - last, 'x'));
	}
	munmap(kinds[0], PAGES * page);
	munmap(kinds[1], PAGES * page);
	close(fd);
}

static void resident_size_falls_by_exactly_the_inward_pages(void) {
	char *start = map_private(64 * page, page);
	memset(start, 'x', 64 * page);
	/* A few times for nothing, so that reading and freeing have all the memory that they need themselves. */
	for (int i = 0; i < 16; ++i) {
		CHECK_EQUAL(free_now(start, page), 0);
		(void)anonymous_bytes();
	}
	const size_t before = anonymous_bytes();
	CHECK_EQUAL(free_now(start + page + 1, 63 * page - 2), 0);
	CHECK_EQUAL(before - anonymous_bytes(), 61 * page);
	munmap(start, 64 * page);
}

static void holes_are_reported_after_freeing_the_rest(void) {
	char *start = map_private(3 * page, page);
	memset(start, 'x', 3 * page);
	NEED(munmap(start + page, page) == 0);
	CHECK_EQUAL(free_now(start, 3 * page), -ENOMEM);
	CHECK(strstr(gmemLastError(), "not") != NULL || strstr(gmemLastError(), "nothing") != NULL);
	CHECK(is_all(start, page, 0));
	CHECK(is_all(start + 2 * page, page, 0));
	munmap(start, page);
	munmap(start + 2 * page, page);
	CHECK_EQUAL(free_now(start, 3 * page), -ENOMEM);
}

static void protection_does_not_matter_for_private_memory(void) {
	char *start = map_private(2 * page, page);
	memset(start, 'x', 2 * page);
	NEED(mprotect(start, page, PROT_NONE) == 0 && mprotect(start + page, page, PROT_READ) == 0);
	CHECK_EQUAL(free_now(start, 2 * page), 0);
	NEED(mprotect(start, page, PROT_READ) == 0);
	CHECK(is_all(start, 2 * page, 0));
	munmap(start, 2 * page);
}

/* Nothing is dropped, not even the anonymous memory beside the file. */
static void files_that_may_be_written_are_refused(void) {
	const int fd = file_of(page);
	for (int i = 0; i < 2; ++i) {
		char *start = map_private(3 * page, page);
		memset(start, 'x', 3 * page);
		NEED(mmap(start + page, page, PROT_READ | PROT_WRITE, MAP_FIXED | (i ? MAP_SHARED : MAP_PRIVATE), fd, 0) ==
			 start + page);
		CHECK_EQUAL(free_now(start, 3 * page), -EINVAL);
		CHECK(strstr(gmemLastError(), "file") != NULL);
		CHECK(is_all(start, page, 'x') && is_all(start + page, page, 'f') && is_all(start + 2 * page, page, 'x'));
		/* A file in the margin is none of the call's business. */
		CHECK_EQUAL(free_now(start, page + page / 2), 0);
		CHECK(is_all(start, page, 0) && is_all(start + page, page, 'f'));
		munmap(start, 3 * page);
	}
	close(fd);
}

/* Bytes of a mapping that are in this process's page table. */
static size_t mapped_bytes(const char *start) {
	FILE *smaps = fopen("/proc/self/smaps", "re");
	char line[512];
	unsigned long from, to;
	size_t kib = 0;
	int is_here = 0;
	NEED(smaps != NULL);
	while (fgets(line, sizeof line, smaps) != NULL) {
		if (sscanf(line, "%lx-%lx ", &from, &to) == 2) {
			is_here = from <= (uintptr_t)start && (uintptr_t)start < to;
		} else if (is_here && sscanf(line, "Rss: %zu kB", &kib) == 1) {
			break;
		}
	}
	fclose(smaps);
	return kib << 10;
}

/* The pages leave the process's memory, and the file's bytes come back. */
static void clean_pages_of_a_read_only_file_are_released(void) {
	const int fd = file_of(4 * page);
	for (int i = 0; i < 3; ++i) {
		char *start = map_at_page(4 * page, page, PROT_READ, i == 0 ? MAP_SHARED : MAP_PRIVATE, fd);
		if (i == 2 && mlock(start, 4 * page) != 0) {
			munmap(start, 4 * page);
			break;
		}
		CHECK(is_all(start, 4 * page, 'f'));
		CHECK_EQUAL(mapped_bytes(start), 4 * page);
		CHECK_EQUAL(free_now(start + 1, 4 * page - 2), 0);
		CHECK_EQUAL(mapped_bytes(start), 2 * page);
		CHECK_EQUAL(free_now(start, 4 * page), 0);
		CHECK_EQUAL(mapped_bytes(start), 0);
		CHECK(is_all(start, 4 * page, 'f'));
		munmap(start, 4 * page);
	}
	/* Beside other memory, and with a hole behind it. */
	char *start = map_private(5 * page, page);
	memset(start, 'x', 5 * page);
	NEED(mmap(start + page, 2 * page, PROT_READ, MAP_FIXED | MAP_PRIVATE, fd, 0) == start + page);
	CHECK(start[page] == 'f');
	CHECK_EQUAL(free_now(start, 4 * page), 0);
	CHECK(is_all(start, page, 0) && is_all(start + page, 2 * page, 'f') && is_all(start + 3 * page, page, 0));
	CHECK(start[4 * page] == 'x');
	NEED(munmap(start + 3 * page, page) == 0);
	CHECK_EQUAL(free_now(start + page, 3 * page), -ENOMEM);
	munmap(start, 5 * page);
	close(fd);
}

/* Pages that were written before the mapping became read-only are nowhere else. */
static void written_pages_of_a_read_only_file_are_kept(void) {
	enum { PAGES = 4 };
	const size_t base = (size_t)sysconf(_SC_PAGESIZE);
	const int fd = file_of(PAGES * page);
	/* One base page, at each end; and more than a GMEM page. */
	const size_t written[][2] = {{page, base}, {3 * page - base, base}, {page - base, page + 2 * base}};
	for (size_t i = 0; i < sizeof written / sizeof written[0]; ++i) {
		char *start = map_private((PAGES + 1) * page, page);
		memset(start, 'x', (PAGES + 1) * page);
		char *file = start + page;
		NEED(mmap(file, PAGES * page, PROT_READ | PROT_WRITE, MAP_FIXED | MAP_PRIVATE, fd, 0) == file);
		memset(file + written[i][0], 'w', written[i][1]);
		NEED(mprotect(file, PAGES * page, PROT_READ) == 0);
		CHECK(is_all(file, written[i][0], 'f'));
		const size_t before = mapped_bytes(file);
		CHECK_EQUAL(free_now(start, (PAGES + 1) * page), -EINVAL);
		CHECK(strstr(gmemLastError(), "written") != NULL);
		CHECK_EQUAL(mapped_bytes(file), before);
		CHECK(is_all(start, page, 'x') && is_all(file + written[i][0], written[i][1], 'w'));
		/* The whole pages without a copy are released. */
		CHECK_EQUAL(free_now(file + 3 * page, page), 0);
		CHECK(is_all(file + 3 * page, page, 'f') && is_all(file + written[i][0], written[i][1], 'w'));
		/* In a batch nothing is released either. */
		const gmemRange_t both[] = {{(uintptr_t)start, page}, {(uintptr_t)(file + page), 2 * page}};
		CHECK_EQUAL(gmemFreeEagerV(both, 2, NULL, NULL), -EINVAL);
		CHECK(is_all(start, page, 'x'));
		munmap(start, (PAGES + 1) * page);
	}
	close(fd);
}

static void shared_memory_is_freed_for_everyone(void) {
	const int fds[] = {-1, memfd_create("gmem-test", MFD_CLOEXEC)};
	NEED(fds[1] >= 0 && ftruncate(fds[1], (off_t)(3 * page)) == 0);
	for (int i = 0; i < 2; ++i) {
		const int flags = MAP_SHARED | (fds[i] < 0 ? MAP_ANONYMOUS : 0);
		char *start = map_at_page(3 * page, page, PROT_READ | PROT_WRITE, flags, fds[i]);
		memset(start, 'x', 3 * page);
		CHECK_EQUAL(free_now(start + 1, 3 * page - 2), 0);
		CHECK(is_all(start, page, 'x') && is_all(start + page, page, 0) && is_all(start + 2 * page, page, 'x'));
		munmap(start, 3 * page);
	}
	/* The other view of the file sees the zeros too. */
	char *view = map_at_page(3 * page, page, PROT_READ, MAP_SHARED, fds[1]);
	CHECK(is_all(view + page, page, 0) && view[0] == 'x');
	CHECK_EQUAL(free_now(view, 3 * page), -EACCES);
	CHECK(view[0] == 'x');
	munmap(view, 3 * page);
	/* A private view is a file to the kernel: dropping it would bring the file's bytes back. */
	view = map_at_page(3 * page, page, PROT_READ | PROT_WRITE, MAP_PRIVATE, fds[1]);
	CHECK_EQUAL(free_now(view, 3 * page), -EINVAL);
	munmap(view, 3 * page);
	close(fds[1]);
}

static void locked_memory_is_freed(void) {
	char *start = map_private(3 * page, page);
	memset(start, 'x', 3 * page);
	if (mlock(start + page, page) != 0) {
		fprintf(stderr, "note: no memory could be locked here: %s\n", strerror(errno));
		munmap(start, 3 * page);
		return;
	}
	CHECK_EQUAL(free_now(start, 3 * page), 0);
	CHECK(is_all(start, 3 * page, 0));
	munmap(start, 3 * page);

	/* Of shared memory the kernel does not release what is locked. */
	start = map_at_page(page, page, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1);
	memset(start, 'x', page);
	NEED(mlock(start, page) == 0);
	CHECK_EQUAL(free_now(start, page), -EINVAL);
	CHECK(strstr(gmemLastError(), "munlock(2)") != NULL && is_all(start, page, 'x'));
	NEED(munlock(start, page) == 0);
	CHECK_EQUAL(free_now(start, page), 0);
	CHECK(is_all(start, page, 0));
	munmap(start, page);
}

static void hugetlb_memory_is_freed(void) {
	char *start =
		(char *)mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB_2MB, -1, 0);
	if (start == MAP_FAILED) {
		fprintf(stderr, "note: no hugetlb pages here (vm.nr_hugepages)\n");
		return;
	}
	memset(start, 'x', 2 * page);
	CHECK_EQUAL(free_now(start, 2 * page), 0);
	CHECK(is_all(start, 2 * page, 0));
	munmap(start, 2 * page);
}

static void unknown_streams_are_refused(void) {
	gmemStream_t destroyed;
	int object = 0;
	NEED(gmemStreamCreate(&destroyed) == 0 && gmemStreamDestroy(destroyed) == 0);
	void *const streams[] = {destroyed, &object, (void *)1, (void *)2, (void *)(uintptr_t)-1};
	char *start = map_private(page, page);
	memset(start, 'x', page);
	for (size_t i = 0; i < sizeof streams / sizeof streams[0]; ++i) {
		CHECK_EQUAL(gmemFreeEager((unsigned long)(uintptr_t)start, page, streams[i]), -EINVAL);
		CHECK(strstr(gmemLastError(), "stream = ") != NULL);
	}
	CHECK(is_all(start, page, 'x'));
	munmap(start, page);
}

int main(void) {
	page = gmemGetPageSize();
	CHECK(page >= 4096 && (page & (page - 1)) == 0);
	ranges_that_overflow_are_refused();
	rounding_is_inward();
	no_byte_outside_the_whole_pages_changes();
	resident_size_falls_by_exactly_the_inward_pages();
	holes_are_reported_after_freeing_the_rest();
	protection_does_not_matter_for_private_memory();
	files_that_may_be_written_are_refused();
	clean_pages_of_a_read_only_file_are_released();
	written_pages_of_a_read_only_file_are_kept();
	shared_memory_is_freed_for_everyone();
	locked_memory_is_freed();
	hugetlb_memory_is_freed();
	unknown_streams_are_refused();
	return checks_result("free_eager");
}
