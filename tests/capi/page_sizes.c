/* SPDX-License-Identifier: Apache-2.0 */
/* The GMEM page has 2 MiB whatever the kernel's pages are: what that means for base pages of 4, 16 and 64 KiB, whose
 * huge pages have 2, 32 and 512 MiB. */
#include <fcntl.h>

#include <libgmem.h>

#include "../check.h"

static size_t page, base, huge;

static int prefetch(const char *start, size_t size) {
	return gmemPrefetch((unsigned long)(uintptr_t)start, size, gmemGetNumaId(), NULL);
}

static int free_eager(const char *start, size_t size) {
	return gmemFreeEager((unsigned long)(uintptr_t)start, size, NULL);
}

/* Of small pages, so that none comes or goes with its neighbours. */
static char *map_small(size_t size) {
	char *start = map_private(size, page);
	madvise(start, size, MADV_NOHUGEPAGE);
	return start;
}

static void sizes(void) {
	CHECK_EQUAL(page, 2 << 20);
	gmemTopology_t machine = {.size = sizeof machine};
	CHECK(gmemTopology(&machine, NULL, 0, 0) > 0);
	CHECK_EQUAL(machine.base_page, base);
	CHECK_EQUAL(machine.gmem_page, page);
	CHECK_EQUAL(page % base, 0);
	CHECK_EQUAL(huge % page, 0);
	printf("base pages %zu KiB, GMEM page %zu KiB, huge pages %zu KiB\n", base >> 10, page >> 10, huge >> 10);
}

static void prefetch_brings_whole_pages_and_leaves_no_fault(void) {
	char *start = map_small(6 * page);
	/* From the last byte of a page to the first of the next but one: three pages. */
	CHECK_EQUAL(prefetch(start + 2 * page - 1, page + 2), 0);
	CHECK_EQUAL(faults_of_writing(start + page, 3 * page), 0);
	CHECK_EQUAL(resident_pages(start, page), 0);
	CHECK_EQUAL(resident_pages(start + page, 3 * page), 3 * page / base);
	CHECK_EQUAL(resident_pages(start + 4 * page, 2 * page), 0);
	munmap(start, 6 * page);
}

static void free_eager_drops_whole_pages_and_no_byte_more(void) {
	char *start = map_small(6 * page);
	memset(start, 'x', 6 * page);
	/* All but a byte at either end, then a base page more on either side. */
	CHECK_EQUAL(free_eager(start + page + 1, 4 * page - 2), 0);
	CHECK_EQUAL(resident_pages(start, 2 * page), 2 * page / base);
	CHECK_EQUAL(resident_pages(start + 2 * page, 2 * page), 0);
	CHECK_EQUAL(resident_pages(start + 4 * page, 2 * page), 2 * page / base);
	CHECK_EQUAL(free_eager(start + page - base, 4 * page + 2 * base), 0);
	CHECK_EQUAL(resident_pages(start, 6 * page), 2 * page / base);
	CHECK(is_all(start, page, 'x') && is_all(start + page, 4 * page, 0) && is_all(start + 5 * page, page, 'x'));
	munmap(start, 6 * page);
}

static void whole_huge_pages_have_no_fault_either(void) {
	char *start = map_private(huge, huge);
	madvise(start, huge, MADV_HUGEPAGE);
	CHECK_EQUAL(prefetch(start, huge), 0);
	CHECK_EQUAL(faults_of_writing(start, huge), 0);
	munmap(start, huge);
}

/* 1 or 0: whether the frame of an address belongs to a transparent huge page; -1 where only root learns that. */
static int is_in_huge_frame(const char *at) {
	enum { THP = 22 };
	uint64_t entry = 0, flags = 0;
	const int map = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	const int frames = open("/proc/kpageflags", O_RDONLY | O_CLOEXEC);
	int answer = -1;
	if (map >= 0 && frames >= 0 && pread(map, &entry, 8, (off_t)((uintptr_t)at / base * 8)) == 8) {
		const uint64_t frame = entry & (((uint64_t)1 << 55) - 1);
		if (frame != 0 && pread(frames, &flags, 8, (off_t)(frame * 8)) == 8) {
			answer = (int)(flags >> THP & 1);
		}
	}
	close(map);
	close(frames);
	return answer;
}

/* A part of a huge page goes back, too: the kernel would otherwise keep its memory until it runs short. */
static void part_of_a_huge_page_goes_back(void) {
	if (huge == page) {
		return; /* a huge page has no GMEM page as a part */
	}
	char *start = map_private(huge, huge);
	madvise(start, huge, MADV_HUGEPAGE);
	memset(start, 'x', huge);
	if (is_in_huge_frame(start) != 1) {
		printf("note: no page of %zu MiB to take a part of\n", huge >> 20);
	} else {
		CHECK_EQUAL(free_eager(start + page, page), 0);
		CHECK_EQUAL(resident_pages(start, huge), (huge - page) / base);
		CHECK_EQUAL(is_in_huge_frame(start), 0);
		CHECK_EQUAL(is_in_huge_frame(start + huge - 1), 0);
		CHECK(is_all(start, page, 'x') && is_all(start + page, page, 0) &&
			  is_all(start + 2 * page, huge - 2 * page, 'x'));
		CHECK_EQUAL(prefetch(start + page, page), 0);
		CHECK_EQUAL(faults_of_writing(start, huge), 0);
	}
	munmap(start, huge);
}

int main(void) {
	page = gmemGetPageSize();
	base = (size_t)sysconf(_SC_PAGESIZE);
	huge = kernel_huge_page();
	sizes();
	prefetch_brings_whole_pages_and_leaves_no_fault();
	free_eager_drops_whole_pages_and_no_byte_more();
	whole_huge_pages_have_no_fault_either();
	part_of_a_huge_page_goes_back();
	return checks_result("page_sizes");
}
