/* SPDX-License-Identifier: Apache-2.0 */
/* Both verbs on memory whose page faults the program itself serves: userfaultfd(2). */
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

#include <libgmem.h>

#include "../check.h"

static size_t page; /* the GMEM page */
static size_t base; /* the kernel's page */
static int uffd;
static char *source; /* a page of 'u', which the monitor serves */
static atomic_long served, removed;

/* Serves each fault with a page of 'u', and counts the bytes that are said to be removed. */
static void *monitor(void *arg) {
	struct uffd_msg message;
	while (read(uffd, &message, sizeof message) == (ssize_t)sizeof message) {
		if (message.event == UFFD_EVENT_REMOVE) {
			atomic_fetch_add(&removed, (long)(message.arg.remove.end - message.arg.remove.start));
			continue;
		}
		struct uffdio_copy copy = {0};
		copy.dst = message.arg.pagefault.address & ~((unsigned long long)base - 1);
		copy.src = (unsigned long)(uintptr_t)source;
		copy.len = base;
		atomic_fetch_add(&served, 1); /* before the one who waits goes on */
		CHECK_EQUAL(ioctl(uffd, UFFDIO_COPY, &copy), 0);
	}
	return arg;
}

static char *map_served(size_t size, unsigned long long mode) {
	char *start = map_private(size, page);
	madvise(start, size, MADV_NOHUGEPAGE);
	struct uffdio_register range = {0};
	range.range.start = (unsigned long)(uintptr_t)start;
	range.range.len = size;
	range.mode = mode;
	NEED(ioctl(uffd, UFFDIO_REGISTER, &range) == 0);
	return start;
}

static unsigned long address_of(const void *start) { return (unsigned long)(uintptr_t)start; }

static void the_monitor_fills_what_is_prefetched(void) {
	char *start = map_served(2 * page, UFFDIO_REGISTER_MODE_MISSING);
	served = 0;
	CHECK_EQUAL(gmemPrefetch(address_of(start), page, gmemGetNumaId(), NULL), 0);
	CHECK_EQUAL(served, page / base);
	CHECK_EQUAL(faults_of_writing(start, page), 0);
	CHECK(is_all(start, page, 'u'));
	CHECK_EQUAL(resident_pages(start + page, page), 0);
	munmap(start, 2 * page);
}

static void the_monitor_is_told_what_is_freed_and_asked_again(void) {
	char *start = map_served(3 * page, UFFDIO_REGISTER_MODE_MISSING);
	CHECK_EQUAL(gmemPrefetch(address_of(start), 3 * page, gmemGetNumaId(), NULL), 0);
	memset(start, 'x', 3 * page);
	served = removed = 0;
	/* Unaligned: the whole page in the middle goes. */
	CHECK_EQUAL(gmemFreeEager(address_of(start) + 1, 3 * page - 2, NULL), 0);
	/* The call waits until the monitor has read that, not until it has counted it. */
	for (int wait = 0; wait < 5000 && removed == 0; ++wait) {
		usleep(1000);
	}
	CHECK_EQUAL(removed, page);
	CHECK_EQUAL(resident_pages(start, 3 * page), 2 * page / base);
	CHECK(is_all(start, page, 'x') && is_all(start + 2 * page, page, 'x'));
	CHECK_EQUAL(served, 0);
	CHECK(is_all(start + page, page, 'u'));
	CHECK_EQUAL(served, page / base);
	munmap(start, 3 * page);
}

static void write_protected_memory_is_freed(void) {
	char *start = map_served(page, UFFDIO_REGISTER_MODE_WP);
	memset(start, 'x', page);
	CHECK_EQUAL(gmemFreeEager(address_of(start), page, NULL), 0);
	CHECK_EQUAL(resident_pages(start, page), 0);
	CHECK(is_all(start, page, 0));
	munmap(start, page);
}

int main(void) {
	page = gmemGetPageSize();
	base = (size_t)sysconf(_SC_PAGESIZE);
	source = map_private(base, base);
	memset(source, 'u', base);
	uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
	if (uffd < 0) {
		printf("no userfaultfd here: %s (vm.unprivileged_userfaultfd)\n", strerror(errno));
		return SKIPPED;
	}
	struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_EVENT_REMOVE};
	NEED(ioctl(uffd, UFFDIO_API, &api) == 0);
	pthread_t thread;
	NEED(pthread_create(&thread, NULL, monitor, NULL) == 0);
	the_monitor_fills_what_is_prefetched();
	the_monitor_is_told_what_is_freed_and_asked_again();
	write_protected_memory_is_freed();
	return checks_result("userfaultfd");
}
