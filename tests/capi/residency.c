/* SPDX-License-Identifier: Apache-2.0 */
/* gmemResidency: each flag made true and false by real means, and the pictures of it. With more than one memory node
 * also the node of each page; with the kernel's version as argument (tools/guest.py) what that kernel must tell. */
#include <ctype.h>
#include <fcntl.h>
#include <glob.h>
#include <sys/swap.h>

#include <libgmem.h>

#include "../check.h"

enum { PAGES = 1024 };

static const unsigned ALWAYS = GMEM_PAGE_MAPPED | GMEM_PAGE_RESIDENT | GMEM_PAGE_SWAPPED | GMEM_PAGE_SHARED;
static const int POPULATE_READ = 22; /* MADV_POPULATE_READ */
static size_t base, page;
static gmemPageState_t states[1 << 16];
static gmemResidency_t all;

static void look(const void *start, size_t size, unsigned ask) {
	memset(states, 0x55, sizeof states);
	memset(&all, 0x55, sizeof all);
	all.size = sizeof all;
	CHECK_EQUAL(gmemResidency((uintptr_t)start, size, ask, states, sizeof states / sizeof *states, &all), 0);
	CHECK_EQUAL(all.size, sizeof all);
	CHECK_EQUAL(all.page_size, base);
	CHECK((all.known & ALWAYS) == ALWAYS);
	/* The numbers are those of the pages, and nothing is said that is not known. */
	size_t resident = 0;
	for (size_t i = 0; i < all.pages; ++i) {
		resident += (states[i].flags & GMEM_PAGE_RESIDENT) != 0;
		CHECK((states[i].flags & ~all.known) == 0);
		CHECK((states[i].flags & GMEM_PAGE_RESIDENT) != 0 || states[i].node == -1);
	}
	CHECK_EQUAL(resident, all.resident);
}

/* How many of the pages [first, last) have exactly these of the flags in `mask`. */
static size_t having(size_t first, size_t last, unsigned mask, unsigned flags) {
	size_t count = 0;
	for (size_t i = first; i < last; ++i) {
		count += (states[i].flags & mask) == flags;
	}
	return count;
}

static char *small_pages(size_t size) {
	char *start = map_private(size, page);
	NEED(madvise(start, size, MADV_NOHUGEPAGE) == 0);
	return start;
}

static void mapped_and_resident(void) {
	char *start = small_pages(PAGES * base);
	memset(start, 'x', 100 * base);
	look(start, PAGES * base, 0);
	CHECK(all.addr == (uintptr_t)start && all.pages == PAGES && all.mapped == PAGES && all.resident == 100);
	CHECK_EQUAL(having(0, 100, 0xffff, GMEM_PAGE_MAPPED | GMEM_PAGE_RESIDENT), 100);
	CHECK_EQUAL(having(100, PAGES, 0xffff, GMEM_PAGE_MAPPED), PAGES - 100);
	NEED(madvise(start + 10 * base, 20 * base, MADV_DONTNEED) == 0);
	NEED(munmap(start + 50 * base, 10 * base) == 0);
	look(start, PAGES * base, 0);
	CHECK_EQUAL(having(10, 30, 0xffff, GMEM_PAGE_MAPPED), 20);
	CHECK_EQUAL(having(50, 60, 0xffff, 0), 10);
	CHECK(all.mapped == PAGES - 10 && all.resident == 70);
	/* Outward to pages, and no access is a mapping like any. */
	NEED(mprotect(start + 2 * base, base, PROT_NONE) == 0);
	look(start + base + 5, base, 0);
	CHECK(all.addr == (uintptr_t)start + base && all.pages == 2 && all.resident == 2);
	/* Numbers alone, and no more states than there is room for. */
	gmemPageState_t two[3] = {{7, 7}, {7, 7}, {7, 7}};
	CHECK_EQUAL(gmemResidency((uintptr_t)start, PAGES * base, 0, two, 2, NULL), 0);
	CHECK(two[1].flags == (GMEM_PAGE_MAPPED | GMEM_PAGE_RESIDENT) && two[2].flags == 7);
	all.resident = 0;
	CHECK_EQUAL(gmemResidency((uintptr_t)start, PAGES * base, 0, NULL, 0, &all), 0);
	CHECK_EQUAL(all.resident, 70);
	munmap(start, PAGES * base);
	look(start, PAGES * base, 0);
	CHECK(all.pages == PAGES && all.mapped == 0 && having(0, PAGES, 0xffff, 0) == PAGES);
}

/* Two huge pages and half a one of small pages. */
static void huge(void) {
	char *start = map_private(3 * page, page);
	const size_t per_page = page / base;
	NEED(madvise(start, 3 * page, MADV_NOHUGEPAGE) == 0);
	memset(start + 2 * page, 'x', page / 2);
	NEED(madvise(start, 2 * page, MADV_HUGEPAGE) == 0);
	memset(start, 'x', 2 * page);
	look(start, 3 * page, 0);
	CHECK((all.known & GMEM_PAGE_HUGE) != 0);
	if (all.huge != 2 * per_page) {
		printf("note: huge pages were not to be had: %zu of %zu\n", all.huge, 2 * per_page);
	}
	CHECK(all.huge % per_page == 0 && all.resident == 2 * per_page + per_page / 2);
	CHECK_EQUAL(having(2 * per_page, 3 * per_page, GMEM_PAGE_HUGE, 0), per_page);
	/* From the midst of one to the midst of the other. */
	const size_t both = all.huge;
	look(start + page / 2, page, 0);
	CHECK(both != 2 * per_page || having(0, per_page, GMEM_PAGE_HUGE, GMEM_PAGE_HUGE) == per_page);
	/* Small again. */
	NEED(madvise(start + base, base, MADV_DONTNEED) == 0);
	look(start, page, 0);
	CHECK((all.known & GMEM_PAGE_HUGE) != 0 && all.huge == 0 && all.resident == per_page - 1);
	munmap(start, 3 * page);

	start = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB_2MB, -1, 0);
	if (start != MAP_FAILED) {
		*start = 1;
		look(start, page, 0);
		CHECK_EQUAL(having(0, per_page, 0xffff, GMEM_PAGE_MAPPED | GMEM_PAGE_RESIDENT | GMEM_PAGE_HUGE), per_page);
		munmap(start, page);
	}
}

static void shared(void) {
	const int fd = memfd_create("residency", MFD_CLOEXEC);
	NEED(fd >= 0 && ftruncate(fd, (off_t)(8 * base)) == 0);
	char *start = map_at_page(8 * base, page, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
	memset(start, 'x', 4 * base);
	look(start, 8 * base, 0);
	const unsigned flags = GMEM_PAGE_MAPPED | GMEM_PAGE_RESIDENT | GMEM_PAGE_SHARED;
	CHECK(having(0, 4, 0xffff, flags) == 4 && having(4, 8, 0xffff, GMEM_PAGE_MAPPED) == 4);
	munmap(start, 8 * base);
	/* A private mapping has the file's pages until it writes. */
	start = map_at_page(4 * base, page, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd);
	(void)faults_of_reading(start, 4 * base);
	start[base] = 'y';
	look(start, 4 * base, 0);
	CHECK(having(0, 4, 0xffff, flags) == 3 && having(1, 2, GMEM_PAGE_SHARED, 0) == 1);
	munmap(start, 4 * base);
	close(fd);
}

static void zero(void) {
	char *start = small_pages(16 * base);
	NEED(madvise(start, 8 * base, POPULATE_READ) == 0);
	memset(start + 8 * base, 0, 8 * base);
	look(start, 16 * base, 0);
	CHECK_EQUAL(all.resident, 16);
	if ((all.known & GMEM_PAGE_ZERO) != 0) {
		CHECK(having(0, 8, GMEM_PAGE_ZERO, GMEM_PAGE_ZERO) == 8 && having(8, 16, GMEM_PAGE_ZERO, 0) == 8);
	}
	munmap(start, 16 * base);
}

/* A swap file of its own, or the swap space that is there. Returns why not. */
static const char *make_swap(const char *path) {
	enum { SIZE = 16 << 20 };
	gmemTopology_t machine = {.size = sizeof machine};
	NEED(gmemTopology(&machine, NULL, 0, 0) > 0);
	if (machine.swap_free > SIZE) {
		return NULL;
	}
	if (geteuid() != 0) {
		return "no swap space, and only root may add some";
	}
	const int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600);
	if (fd < 0) {
		return "no swap space, and no file for it can be made here";
	}
	char *block = calloc(1, SIZE);
	NEED(block != NULL);
	/* The header, version 1: at 1024 version, last page, bad pages; the signature ends the first page. */
	const unsigned header[3] = {1, (unsigned)(SIZE / base) - 1, 0};
	memcpy(block + 1024, header, sizeof header);
	memcpy(block + base - 10, "SWAPSPACE2", 10);
	const int written = write(fd, block, SIZE) == SIZE && fsync(fd) == 0;
	free(block);
	close(fd);
	return written && swapon(path, 0) == 0 ? NULL : "no swap space, and the file system takes no swap file";
}

static void swapped(void) {
	static const char path[] = "gmem-test-swap";
	const char *why_not = make_swap(path);
	if (why_not != NULL) {
		printf("note: swapped pages are not tested: %s\n", why_not);
	} else {
		char *start = small_pages(64 * base);
		memset(start, 'x', 64 * base);
		/* Pages just touched wait in a batch before the kernel puts them on its lists. */
		size_t out = 0;
		for (int i = 0; i < 100 && out < 32; ++i) {
			NEED(madvise(start, 32 * base, 21 /* MADV_PAGEOUT */) == 0);
			look(start, 64 * base, 0);
			out = having(0, 32, 0xffff, GMEM_PAGE_MAPPED | GMEM_PAGE_SWAPPED);
		}
		CHECK_EQUAL(out, 32);
		CHECK(all.swapped == 32 && having(32, 64, GMEM_PAGE_SWAPPED, 0) == 32);
		CHECK(is_all(start, 64 * base, 'x'));
		look(start, 64 * base, 0);
		CHECK(all.swapped == 0 && all.resident == 64);
		munmap(start, 64 * base);
	}
	swapoff(path);
	unlink(path);
}

/* Puts pages that wait for it onto the kernel's lists. */
static void drain(void) {
	FILE *file = fopen("/proc/sys/vm/compact_memory", "we");
	if (file != NULL) {
		fputs("1\n", file);
		fclose(file);
	}
}

static void hot(void) {
	char *start = small_pages(128 * base);
	memset(start, 'x', 128 * base);
	drain();
	NEED(madvise(start, 64 * base, POPULATE_READ) == 0 && madvise(start, 64 * base, POPULATE_READ) == 0);
	look(start, 128 * base, GMEM_ASK_HOT);
	if ((all.known & GMEM_PAGE_HOT) == 0) {
		CHECK(geteuid() != 0);
		printf("note: hot pages are not tested: only root may see page frames\n");
	} else {
		CHECK_EQUAL(having(0, 64, GMEM_PAGE_HOT, GMEM_PAGE_HOT), 64);
		CHECK_EQUAL(having(64, 128, GMEM_PAGE_HOT, 0), 64);
		CHECK_EQUAL(all.hot, 64);
	}
	look(start, 128 * base, 0);
	CHECK((all.known & GMEM_PAGE_HOT) == 0 && all.hot == 0);
	munmap(start, 128 * base);
}

/* Small and huge pages of private memory, and shared memory, on each node. */
static void nodes_are_those_of_the_pages(int must_have_three) {
	gmemNode_t nodes[16];
	const int count = gmemTopology(NULL, nodes, 16, sizeof *nodes);
	NEED(count > 0 && count <= 16 && (!must_have_three || count == 3));
	const size_t per_page = page / base, size = (size_t)count * page;
	for (int kind = 0; kind < 3; ++kind) {
		const int flags = MAP_ANONYMOUS | (kind == 2 ? MAP_SHARED : MAP_PRIVATE);
		char *start = map_at_page(size, page, PROT_READ | PROT_WRITE, flags, -1);
		NEED(madvise(start, size, kind == 1 ? MADV_HUGEPAGE : MADV_NOHUGEPAGE) == 0);
		for (int i = 0; i < count; ++i) {
			CHECK_EQUAL(gmemPrefetch((uintptr_t)start + (size_t)i * page, page, nodes[i].node, NULL), 0);
		}
		memset(start, 'x', size);
		look(start, size, 0);
		CHECK((all.known & GMEM_KNOWS_NODE) != 0 && all.resident == all.pages);
		for (size_t i = 0; i < all.pages; ++i) {
			CHECK_EQUAL(states[i].node, nodes[i / per_page].node);
		}
		CHECK(kind != 1 || !must_have_three || all.huge == (kernel_huge_page() == page ? all.pages : 0));
		munmap(start, size);
	}
}

/* The whole text of one of the writers. */
static char *text_of(int (*write_it)(const gmemResidency_t *, const gmemPageState_t *, char *, size_t)) {
	const int length = write_it(&all, states, NULL, 0);
	NEED(length > 0);
	char *text = malloc((size_t)length + 1);
	NEED(text != NULL);
	memset(text, 'x', (size_t)length + 1);
	CHECK_EQUAL(write_it(&all, states, text, 10), length);
	CHECK_EQUAL(strlen(text), 9);
	CHECK_EQUAL(write_it(&all, states, text, (size_t)length + 1), length);
	CHECK_EQUAL(strlen(text), length);
	return text;
}

static void pictures(void) {
	char *start = small_pages(2 * page);
	memset(start, 'x', page / 2);
	NEED(munmap(start + page, page / 2) == 0);
	look(start, 2 * page, 0);
	const size_t per_page = page / base;
	char expected[256];

	char *text = text_of(gmemResidencyText);
	snprintf(expected, sizeof expected, "%#lx, %zu pages of %zu KiB: %zu mapped, %zu resident", all.addr, all.pages,
		base >> 10, all.mapped, all.resident);
	CHECK(strncmp(text, expected, strlen(expected)) == 0);
	const char digit = (char)('0' + states[0].node);
	char strip[66];
	memset(strip, digit, 32);
	snprintf(strip + 32, sizeof strip - 32, "%.32s|", "................................");
	CHECK(strstr(text, strip) != NULL);
	snprintf(strip, sizeof strip, "|%32s%.32s", "", "................................");
	CHECK(strstr(text, strip) != NULL);
	free(text);

	text = text_of(gmemResidencyJson);
	snprintf(expected, sizeof expected,
		"{\"addr\":%lu,\"page_size\":%zu,\"pages\":%zu,\"known\":[\"mapped\",\"resident\",", all.addr, base, all.pages);
	CHECK(strncmp(text, expected, strlen(expected)) == 0);
	snprintf(expected, sizeof expected,
		"\"runs\":[{\"first\":0,\"pages\":%zu,\"node\":%d,\"flags\":[\"mapped\",\"resident\"]},", per_page / 2,
		states[0].node);
	CHECK(strstr(text, expected) != NULL && strcmp(text + strlen(text) - 3, "}]}") == 0);
	CHECK(strstr(text, ",\"hot\":null,") != NULL);
	free(text);

	text = text_of(gmemResidencySvg);
	CHECK(strncmp(text, "<svg xmlns=\"http://www.w3.org/2000/svg\" ", 40) == 0);
	CHECK(strcmp(text + strlen(text) - 7, "</svg>\n") == 0 && strstr(text, "Not known: ") != NULL);
	free(text);
	munmap(start, 2 * page);

	/* Nothing at all. */
	look(start, 0, 0);
	CHECK_EQUAL(all.pages, 0);
	CHECK(gmemResidencyText(&all, NULL, NULL, 0) > 0 && gmemResidencySvg(&all, NULL, NULL, 0) > 0);
}

/* Registers of a device are no memory of a node. Returns whether there is a device to be had. */
static int devices_are_mapped_only(void) {
	glob_t files;
	int found = 0;
	NEED(glob("/sys/bus/pci/devices/*/resource[0-9]", 0, NULL, &files) != GLOB_NOSPACE);
	for (size_t i = 0; i < files.gl_pathc; ++i) {
		const int fd = open(files.gl_pathv[i], O_RDWR | O_CLOEXEC);
		char *start = fd < 0 ? MAP_FAILED : mmap(NULL, base, PROT_READ, MAP_SHARED, fd, 0);
		if (start != MAP_FAILED) {
			look(start, base, 0);
			CHECK_EQUAL(having(0, 1, 0xffff, GMEM_PAGE_MAPPED), 1);
			munmap(start, base);
			found = 1;
		}
		if (fd >= 0) {
			close(fd);
		}
	}
	globfree(&files);
	return found;
}

static void wrong_arguments_are_refused(void) {
	gmemResidency_t some = {.size = sizeof some};
	CHECK_EQUAL(gmemResidency(4096, SIZE_MAX, 0, NULL, 0, &some), -EINVAL);
	CHECK_EQUAL(gmemResidency(0, base, 2, NULL, 0, &some), -EINVAL);
	CHECK(strstr(gmemLastError(), "ask = 0x2") != NULL);
	CHECK_EQUAL(gmemResidency(0, base, 0, NULL, 1, &some), -EINVAL);
	CHECK_EQUAL(gmemResidency(0, base, 0, NULL, 0, NULL), 0);
	some.size = 4;
	CHECK_EQUAL(gmemResidency(0, base, 0, NULL, 0, &some), -EINVAL);
	CHECK(strstr(gmemLastError(), "summary->size = 4") != NULL);
	/* As much as there is room for; not enough for a text of it. */
	memset(&some, 0x55, sizeof some);
	some.size = offsetof(gmemResidency_t, pages);
	CHECK_EQUAL(gmemResidency(0, base, 0, NULL, 0, &some), 0);
	CHECK(some.size == offsetof(gmemResidency_t, pages) && some.page_size == base && some.pages == 0x5555555555555555);
	CHECK_EQUAL(gmemResidencyText(&some, states, NULL, 0), -EINVAL);
	some.size = sizeof some;
	CHECK_EQUAL(gmemResidency(0, base, 0, NULL, 0, &some), 0);
	CHECK_EQUAL(gmemResidencyText(NULL, states, NULL, 0), -EINVAL);
	CHECK_EQUAL(gmemResidencyJson(&some, NULL, NULL, 0), -EINVAL);
	CHECK_EQUAL(gmemResidencySvg(&some, states, NULL, 1), -EINVAL);
	/* The ends of the address space are only not mapped. */
	look((void *)0, 2 * base, 0);
	CHECK_EQUAL(all.mapped, 0);
	look((void *)(UINTPTR_MAX - 4 * base + 1), 4 * base - 1, 0);
	CHECK_EQUAL(all.mapped, 0);
}

/* Numbers that no range has: refused, and no crash, whatever the pages' states. */
static void nonsense_is_refused(void) {
	static int (*const writers[])(const gmemResidency_t *, const gmemPageState_t *, char *, size_t) = {
		gmemResidencyText, gmemResidencyJson, gmemResidencySvg};
	gmemResidency_t good = {.size = sizeof good};
	CHECK_EQUAL(gmemResidency((uintptr_t)states, sizeof states, 0, states, 16, &good), 0);
	good.pages = 16;
	const size_t sizes[] = {0, 3, base + 1, SIZE_MAX};
	const size_t counts[] = {SIZE_MAX, SIZE_MAX / 2, SIZE_MAX / base + 2};
	for (size_t writer = 0; writer < sizeof writers / sizeof *writers; ++writer) {
		for (size_t i = 0; i < sizeof sizes / sizeof *sizes; ++i) {
			gmemResidency_t bad = good;
			bad.page_size = sizes[i];
			CHECK_EQUAL(writers[writer](&bad, states, NULL, 0), -EINVAL);
			CHECK(strstr(gmemLastError(), "summary->page_size") != NULL);
		}
		for (size_t i = 0; i < sizeof counts / sizeof *counts; ++i) {
			gmemResidency_t bad = good;
			bad.pages = counts[i];
			CHECK_EQUAL(writers[writer](&bad, states, NULL, 0), -EINVAL);
			CHECK(strstr(gmemLastError(), "summary->pages") != NULL);
		}
		gmemResidency_t bad = good;
		bad.addr += 1;
		CHECK_EQUAL(writers[writer](&bad, states, NULL, 0), -EINVAL);
		CHECK(strstr(gmemLastError(), "summary->addr") != NULL);
		/* Odd, but possible. */
		const size_t possible[] = {1, 512, page, (size_t)1 << 63};
		for (size_t i = 0; i < sizeof possible / sizeof *possible; ++i) {
			gmemResidency_t odd = good;
			odd.page_size = possible[i];
			odd.addr = 0;
			odd.pages = possible[i] == (size_t)1 << 63 ? 2 : 16;
			for (int fill = 0; fill <= 0xff; fill += 0x11) {
				memset(states, fill, 16 * sizeof *states);
				CHECK(writers[writer](&odd, states, NULL, 0) > 0);
			}
		}
		/* Flags that contradict each other. */
		for (unsigned flags = 0; flags < 1 << 16; flags += 1 + flags / 8) {
			for (size_t i = 0; i < 16; ++i) {
				states[i].node = (short)(flags * i);
				states[i].flags = (unsigned short)(flags * (i % 3));
			}
			CHECK(writers[writer](&good, states, NULL, 0) > 0);
		}
	}
	gmemNode_t node;
	CHECK_EQUAL(gmemTopology(NULL, &node, SIZE_MAX / 4, sizeof node), -EINVAL);
	CHECK_EQUAL(gmemTopology(NULL, &node, 1, SIZE_MAX), -EINVAL);
}

int main(int count, char **arguments) {
	base = (size_t)sysconf(_SC_PAGESIZE);
	page = gmemGetPageSize();
	if (count > 1) {
		look(states, 1, GMEM_ASK_HOT);
		CHECK((all.known & GMEM_PAGE_HOT) != 0);
		CHECK_EQUAL((all.known & GMEM_PAGE_ZERO) != 0, strcmp(arguments[1], "6.1") != 0);
	}
	mapped_and_resident();
	huge();
	shared();
	zero();
	hot();
	nodes_are_those_of_the_pages(count > 1);
	pictures();
	wrong_arguments_are_refused();
	nonsense_is_refused();
#ifdef __x86_64__
	/* QEMU's machine has a controller for disks. */
	CHECK(devices_are_mapped_only() || count == 1);
#else
	devices_are_mapped_only();
#endif
	swapped();
	return checks_result("residency");
}
