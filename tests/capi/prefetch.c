/* SPDX-License-Identifier: Apache-2.0 */
/* The edge table of gmemPrefetch, and that no page fault follows it. */
#include <fcntl.h>
#include <limits.h>
#include <sys/wait.h>

#include <libgmem.h>

#include "../check.h"

static size_t page; /* the GMEM page */
static size_t base; /* the kernel's page */
static int here;

static int prefetch_now(const void *start, size_t size) {
	return gmemPrefetch((unsigned long)(uintptr_t)start, size, here, NULL);
}

static void arguments_are_checked(void) {
	char *start = map_private(page, page);
	const unsigned long at = (unsigned long)(uintptr_t)start;
	CHECK_EQUAL(gmemPrefetch(0xFFFFFFFFFFFFFFFF, (size_t)-1, here, NULL), -EINVAL);
	CHECK_EQUAL(gmemPrefetch(at, (size_t)-1, here, NULL), -EINVAL);
	CHECK_EQUAL(gmemPrefetch(at, 0, here, NULL), 0);
	CHECK_EQUAL(gmemPrefetch(0, 0, here, NULL), 0);
	CHECK_EQUAL(gmemPrefetch(ULONG_MAX - base, base, here, NULL), -ENOMEM);
	const int nodes[] = {-1, -2, INT_MIN, INT_MAX, 1023, 1024, 65536};
	for (size_t i = 0; i < sizeof nodes / sizeof nodes[0]; ++i) {
		CHECK_EQUAL(gmemPrefetch(at, page, nodes[i], NULL), -EINVAL);
		CHECK(strstr(gmemLastError(), "hnid = ") != NULL);
	}
	CHECK_EQUAL(resident_pages(start, page), 0);
	munmap(start, page);
}

static void rounding_is_outward(void) {
	const size_t rows[][4] = {
		/* from, size, first page populated, pages populated */
		{0, 1, 0, 1},
		{5, 2, 0, 1},
		{0, page - 1, 0, 1},
		{0, page, 0, 1},
		{0, page + 1, 0, 2},
		{page - 1, 2, 0, 2},
		{page, 1, 1, 1},
		{page + 1, page - 1, 1, 1},
		{1, 3 * page, 0, 4},
		{0, 4 * page, 0, 4},
	};
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; ++i) {
		char *start = map_private(4 * page, page);
		CHECK_EQUAL(prefetch_now(start + rows[i][0], rows[i][1]), 0);
		CHECK_EQUAL(resident_pages(start, 4 * page), rows[i][3] * page / base);
		CHECK_EQUAL(faults_of_writing(start + rows[i][2] * page, rows[i][3] * page), 0);
		munmap(start, 4 * page);
	}
}

static void no_fault_follows_on_small_and_huge_pages(void) {
	for (int huge = 0; huge < 2; ++huge) {
		char *start = map_private(16 * page, page);
		NEED(madvise(start, 16 * page, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE) == 0 || huge);
		CHECK_EQUAL(prefetch_now(start, 16 * page), 0);
		CHECK_EQUAL(faults_of_writing(start, 16 * page), 0);
		/* Again, over what is there: contents stay. */
		memset(start, 'x', 16 * page);
		CHECK_EQUAL(prefetch_now(start + 1, 16 * page - 2), 0);
		CHECK(is_all(start, 16 * page, 'x'));
		munmap(start, 16 * page);
	}
}

static void holes_are_refused_before_anything_moves(void) {
	char *start = map_private(3 * page, page);
	NEED(munmap(start + page, page) == 0);
	CHECK_EQUAL(prefetch_now(start, 3 * page), -ENOMEM);
	CHECK(strstr(gmemLastError(), "nothing was moved") != NULL);
	CHECK_EQUAL(resident_pages(start, page), 0);
	CHECK_EQUAL(resident_pages(start + 2 * page, page), 0);
	/* A hole at the start, at the end, and everywhere. */
	CHECK_EQUAL(prefetch_now(start + page, 2 * page), -ENOMEM);
	CHECK_EQUAL(prefetch_now(start, page + base), -ENOMEM);
	CHECK_EQUAL(prefetch_now(start + page, page), -ENOMEM);
	CHECK_EQUAL(resident_pages(start, page), 0);
	/* A hole in the margin is skipped. */
	CHECK_EQUAL(prefetch_now(start + base, page - base), 0);
	CHECK_EQUAL(resident_pages(start, page), page / base);
	munmap(start, page);
	munmap(start + 2 * page, page);
}

/* The margin of a prefetch of the middle may hold anything, and only ordinary memory is populated. */
static void foreign_memory_in_the_margin_is_left_alone(void) {
	const int fd = file_of(page);
	char *start = map_private(page, page);
	const size_t part = page / 4;
	char *file = start, *asked = start + part, *shared = start + 2 * part, *none = start + 3 * part;
	NEED(mmap(file, part, PROT_READ | PROT_WRITE, MAP_FIXED | MAP_PRIVATE, fd, 0) == file);
	NEED(mmap(shared, part, PROT_READ | PROT_WRITE, MAP_FIXED | MAP_SHARED | MAP_ANONYMOUS, -1, 0) == shared);
	NEED(mprotect(none, part, PROT_NONE) == 0);
	CHECK_EQUAL(prefetch_now(asked + base, base), 0);
	CHECK_EQUAL(resident_pages(asked, part), part / base);
	CHECK_EQUAL(resident_pages(shared, part), 0);
	CHECK(faults_of_writing(file, part) > 0);
	munmap(start, page);
	close(fd);
}

/* A guard page fails in the margin, which is nobody's business, and inside the range, which is. */
static void guard_pages_count_inside_the_range_only(void) {
	enum { GUARD_INSTALL = 102 }; /* MADV_GUARD_INSTALL of Linux 6.13; glibc 2.36 has no name for it */
	char *start = map_private(page, page);
	if (madvise(start + page / 2, base, GUARD_INSTALL) == 0) {
		CHECK_EQUAL(prefetch_now(start, base), 0);
		CHECK_EQUAL(faults_of_writing(start, base), 0);
		CHECK_EQUAL(prefetch_now(start, page), -EFAULT);
		CHECK(strstr(gmemLastError(), "guard page") != NULL);
	}
	munmap(start, page);
}

static void inaccessible_memory_is_refused(void) {
	char *start = map_private(2 * page, page);
	NEED(mprotect(start + page, page, PROT_NONE) == 0);
	CHECK_EQUAL(prefetch_now(start, 2 * page), -EACCES);
	CHECK(strstr(gmemLastError(), "PROT_NONE") != NULL);
	CHECK_EQUAL(resident_pages(start, page), 0);
	munmap(start, 2 * page);
}

static void read_only_memory_takes_no_fault_when_read(void) {
	char *start = map_private(2 * page, page);
	NEED(mprotect(start, 2 * page, PROT_READ) == 0);
	CHECK_EQUAL(prefetch_now(start, 2 * page), 0);
	CHECK_EQUAL(faults_of_reading(start, 2 * page), 0);
	munmap(start, 2 * page);
}

static void file_mappings_take_no_fault(void) {
	const int fd = file_of(4 * page);
	const struct {
		int protection, flags;
	} rows[] = {{PROT_READ, MAP_PRIVATE}, {PROT_READ, MAP_SHARED}, {PROT_READ | PROT_WRITE, MAP_PRIVATE},
		{PROT_READ | PROT_WRITE, MAP_SHARED}};
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; ++i) {
		char *start = map_at_page(4 * page, page, rows[i].protection, rows[i].flags, fd);
		CHECK_EQUAL(prefetch_now(start, 4 * page), 0);
		CHECK_EQUAL(
			rows[i].protection & PROT_WRITE ? faults_of_writing(start, 4 * page) : faults_of_reading(start, 4 * page),
			0);
		CHECK(is_all(start, 4 * page, 'f'));
		munmap(start, 4 * page);
	}
	/* Beyond the end of the file an access would be a SIGBUS; the call says so instead. */
	NEED(ftruncate(fd, (off_t)page) == 0);
	char *start = map_at_page(4 * page, page, PROT_READ, MAP_SHARED, fd);
	CHECK_EQUAL(prefetch_now(start, 4 * page), -EFAULT);
	CHECK(strstr(gmemLastError(), "end of its file") != NULL);
	munmap(start, 4 * page);
	close(fd);
}

static void shared_memory_takes_no_fault(void) {
	const int fds[] = {-1, memfd_create("gmem-test", MFD_CLOEXEC)};
	NEED(fds[1] >= 0 && ftruncate(fds[1], (off_t)(4 * page)) == 0);
	for (int i = 0; i < 2; ++i) {
		const int flags = MAP_SHARED | (fds[i] < 0 ? MAP_ANONYMOUS : 0);
		char *start = map_at_page(4 * page, page, PROT_READ | PROT_WRITE, flags, fds[i]);
		CHECK_EQUAL(prefetch_now(start, 4 * page), 0);
		CHECK_EQUAL(faults_of_writing(start, 4 * page), 0);
		munmap(start, 4 * page);
	}
	close(fds[1]);
}

static void locked_memory_takes_no_fault(void) {
	char *start = map_private(page, page);
	if (mlock2(start, page, MLOCK_ONFAULT) == 0) {
		CHECK_EQUAL(prefetch_now(start, page), 0);
		CHECK_EQUAL(faults_of_writing(start, page), 0);
	}
	munmap(start, page);
}

static void hugetlb_memory_takes_no_fault(void) {
	char *start =
		(char *)mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB_2MB, -1, 0);
	if (start == MAP_FAILED) {
		fprintf(stderr, "note: no hugetlb pages here (vm.nr_hugepages)\n");
		return;
	}
	CHECK_EQUAL(prefetch_now(start, 2 * page), 0);
	CHECK_EQUAL(faults_of_writing(start, 2 * page), 0);
	munmap(start, 2 * page);
}

/* More than the pool has, mapped without setting pages aside: an error, and no signal. */
static void more_than_the_hugetlb_pool_has_is_refused(void) {
	const size_t size = (size_t)1 << 40;
	const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB_2MB | MAP_NORESERVE;
	char *start = (char *)mmap(NULL, size, PROT_READ | PROT_WRITE, flags, -1, 0);
	if (start == MAP_FAILED) {
		fprintf(stderr, "note: no hugetlb mapping here: %s\n", strerror(errno));
		return;
	}
	CHECK_EQUAL(prefetch_now(start, size) < 0, 1);
	CHECK(strstr(gmemLastError(), "vm.nr_hugepages") != NULL);
	munmap(start, size);
}

/* After fork both share every page until one writes; prefetch breaks that for its caller. */
static void copy_on_write_after_fork_takes_no_fault(void) {
	char *start = map_private(2 * page, page);
	NEED(madvise(start, 2 * page, MADV_NOHUGEPAGE) == 0);
	memset(start, 'p', 2 * page);
	const pid_t child = fork();
	NEED(child >= 0);
	if (child == 0) {
		CHECK_EQUAL(prefetch_now(start, 2 * page), 0);
		CHECK_EQUAL(faults_of_writing(start, 2 * page), 0);
		CHECK(is_all(start, 2 * page, 'p'));
		_exit(checks_failed != 0);
	}
	int status = 1;
	NEED(waitpid(child, &status, 0) == child);
	CHECK_EQUAL(status, 0);
	munmap(start, 2 * page);
}

static void no_policy_stays_behind(void) {
	char *start = map_private(2 * page, page);
	char line[1024];
	CHECK_EQUAL(prefetch_now(start, 2 * page), 0);
	FILE *numa_maps = fopen("/proc/self/numa_maps", "re");
	if (numa_maps != NULL) {
		while (fgets(line, sizeof line, numa_maps) != NULL) {
			if (strtoul(line, NULL, 16) == (unsigned long)(uintptr_t)start) {
				CHECK(strstr(line, " default ") != NULL);
			}
		}
		fclose(numa_maps);
	}
	munmap(start, 2 * page);
}

static void unknown_streams_are_refused(void) {
	gmemStream_t destroyed;
	int object = 0;
	NEED(gmemStreamCreate(&destroyed) == 0 && gmemStreamDestroy(destroyed) == 0);
	void *const streams[] = {destroyed, &object, (void *)1, (void *)2, (void *)(uintptr_t)-1};
	char *start = map_private(page, page);
	for (size_t i = 0; i < sizeof streams / sizeof streams[0]; ++i) {
		CHECK_EQUAL(gmemPrefetch((unsigned long)(uintptr_t)start, page, here, streams[i]), -EINVAL);
		CHECK_EQUAL(gmemPrefetch((unsigned long)(uintptr_t)start, 0, here, streams[i]), -EINVAL);
	}
	CHECK_EQUAL(resident_pages(start, page), 0);
	munmap(start, page);
}

int main(void) {
	page = gmemGetPageSize();
	base = (size_t)sysconf(_SC_PAGESIZE);
	here = gmemGetNumaId();
	CHECK(here >= 0);
	arguments_are_checked();
	rounding_is_outward();
	no_fault_follows_on_small_and_huge_pages();
	holes_are_refused_before_anything_moves();
	foreign_memory_in_the_margin_is_left_alone();
	guard_pages_count_inside_the_range_only();
	inaccessible_memory_is_refused();
	read_only_memory_takes_no_fault_when_read();
	file_mappings_take_no_fault();
	shared_memory_takes_no_fault();
	locked_memory_takes_no_fault();
	hugetlb_memory_takes_no_fault();
	more_than_the_hugetlb_pool_has_is_refused();
	copy_on_write_after_fork_takes_no_fault();
	no_policy_stays_behind();
	unknown_streams_are_refused();
	return checks_result("prefetch");
}
