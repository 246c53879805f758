/* SPDX-License-Identifier: Apache-2.0 */
/* gmemFreeEagerFile: the pages of a file that the program has mapped leave the process and the page cache. */
#include "files.h"

static size_t page, base, bytes;
static const char path[] = "gmem-mapped-test.bin";
static int fd;

static unsigned long addr(const void *at) { return (unsigned long)(uintptr_t)at; }

/* The file mapped and read, so that the page cache has it. */
static char *mapped(int flags) {
	char *const view = map_at_page(bytes, page, PROT_READ, flags, fd);
	CHECK(has_the_files_bytes(view, 0, bytes));
	CHECK_EQUAL(cached_bytes(path), bytes);
	return view;
}

static void the_page_cache_lets_go(void) {
	const int kinds[] = {MAP_SHARED, MAP_PRIVATE};
	for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; ++i) {
		char *const view = mapped(kinds[i]);
		/* The address alone takes the pages out of this process; the page cache keeps them. */
		CHECK_EQUAL(gmemFreeEager(addr(view), bytes, NULL), 0);
		CHECK(cached_bytes(path) > bytes / 2);
		CHECK(has_the_files_bytes(view, 0, bytes));
		/* With the descriptor, both. The kernel may be busy with single pages. */
		CHECK_EQUAL(gmemFreeEagerFile(addr(view), bytes, fd, NULL), 0);
		CHECK(cached_bytes(path) <= bytes / 50);
		CHECK(has_the_files_bytes(view, 0, bytes));
		/* A part: the others stay. */
		CHECK_EQUAL(gmemFreeEagerFile(addr(view) + 1, 2 * page, fd, NULL), 0);
		CHECK(cached_bytes(path) >= bytes - page && cached_bytes(path) <= bytes - page + page / 50);
		CHECK(has_the_files_bytes(view, 0, bytes));
		CHECK_EQUAL(gmemFreeEagerFile(addr(view) + 1, page, fd, NULL), 0);
		CHECK_EQUAL(cached_bytes(path), bytes);
		munmap(view, bytes);
	}
}

/* Pages are dropped where they are in the file, not where they are in memory. */
static void offsets_are_those_of_the_mapping(void) {
	char *const whole = mapped(MAP_SHARED);
	CHECK_EQUAL(gmemFreeEager(addr(whole), bytes, NULL), 0);
	char *const view = map_at_page(4 * page, page, PROT_READ, MAP_SHARED | MAP_ANONYMOUS, -1);
	NEED(mmap(view, 2 * page, PROT_READ, MAP_SHARED | MAP_FIXED, fd, (off_t)(4 * page)) == view);
	NEED(mmap(view + 2 * page, 2 * page, PROT_READ, MAP_SHARED | MAP_FIXED, fd, (off_t)page) == view + 2 * page);
	CHECK_EQUAL(gmemFreeEagerFile(addr(view), 4 * page, fd, NULL), 0);
	const size_t few = page / base / 20;
	for (size_t i = 0; i < bytes / page; ++i) {
		const int is_dropped = i == 1 || i == 2 || i == 4 || i == 5;
		const size_t cached = resident_pages(whole + i * page, page);
		CHECK(is_dropped ? cached <= few : cached == page / base);
	}
	munmap(whole, bytes);
	munmap(view, 4 * page);
}

static void a_stream_keeps_the_order_and_the_descriptor(void) {
	char *const view = mapped(MAP_SHARED);
	gmemStream_t stream;
	NEED(gmemStreamCreate(&stream) == 0);
	const int copy = dup(fd);
	CHECK_EQUAL(gmemFreeEagerFile(addr(view), bytes, copy, stream), 0);
	close(copy);
	CHECK_EQUAL(gmemStreamSynchronize(stream), 0);
	CHECK(cached_bytes(path) <= bytes / 50);
	NEED(gmemStreamDestroy(stream) == 0);
	munmap(view, bytes);
}

static void what_is_not_the_file_is_refused(void) {
	char *const view = mapped(MAP_PRIVATE);
	const int other = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	CHECK_EQUAL(gmemFreeEagerFile(addr(view), bytes, other, NULL), -EINVAL);
	CHECK(strstr(gmemLastError(), "gmemMappingsOf") != NULL);
	close(other);
	CHECK_EQUAL(gmemFreeEagerFile(addr(view), bytes, -1, NULL), -EBADF);
	const int name_only = open(path, O_PATH | O_CLOEXEC);
	CHECK_EQUAL(gmemFreeEagerFile(addr(view), bytes, name_only, NULL), -EBADF);
	close(name_only);
	/* Other memory between the file's pages, which would be lost. */
	memset(mmap(view + page, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0), 'x', page);
	CHECK_EQUAL(gmemFreeEagerFile(addr(view), bytes, fd, NULL), -EINVAL);
	CHECK(is_all(view + page, page, 'x'));
	CHECK(cached_bytes(path) == bytes);
	/* Written pages, and pages that may be written. */
	NEED(mmap(view + page, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, fd, (off_t)page) == view + page);
	CHECK_EQUAL(gmemFreeEagerFile(addr(view), bytes, fd, NULL), -EINVAL);
	view[page] = 'y';
	NEED(mprotect(view + page, page, PROT_READ) == 0);
	CHECK_EQUAL(gmemFreeEagerFile(addr(view), bytes, fd, NULL), -EINVAL);
	CHECK(view[page] == 'y' && cached_bytes(path) == bytes);
	munmap(view, bytes);
	/* Memory that processes share is a file, too, but its bytes are nowhere else. */
	const int memory = memfd_create("gmem-test", 1 /* MFD_CLOEXEC */);
	NEED(memory >= 0 && ftruncate(memory, (off_t)page) == 0);
	char *const shared = map_at_page(page, page, PROT_READ | PROT_WRITE, MAP_SHARED, memory);
	memset(shared, 'z', page);
	CHECK_EQUAL(gmemFreeEagerFile(addr(shared), page, memory, NULL), -EINVAL);
	CHECK(is_all(shared, page, 'z'));
	munmap(shared, page);
	close(memory);
}

int main(void) {
	page = gmemGetPageSize();
	base = (size_t)sysconf(_SC_PAGESIZE);
	bytes = 8 * page;
	write_file(path, bytes);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	NEED(fd >= 0);
	the_page_cache_lets_go();
	offsets_are_those_of_the_mapping();
	a_stream_keeps_the_order_and_the_descriptor();
	what_is_not_the_file_is_refused();
	close(fd);
	NEED(unlink(path) == 0);
	return checks_result("mapped");
}
