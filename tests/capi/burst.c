/* SPDX-License-Identifier: Apache-2.0 */
/* A burst of asynchronous eager frees of neighbours: few system calls, in order, and not put off for long. */
#include <dlfcn.h>
#include <fcntl.h>
#include <sched.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <time.h>

#include <libgmem.h>

#include "../check.h"

static atomic_int calls;

/* These take the place of the C library's for the whole process. */
int madvise(void *addr, size_t length, int advice) {
	atomic_fetch_add(&calls, 1);
	return (int)syscall(SYS_madvise, addr, length, advice);
}

int munmap(void *addr, size_t length) {
	atomic_fetch_add(&calls, 1);
	return (int)syscall(SYS_munmap, addr, length);
}

int ioctl(int fd, unsigned long request, ...) {
	va_list arguments;
	va_start(arguments, request);
	void *argument = va_arg(arguments, void *);
	va_end(arguments);
	atomic_fetch_add(&calls, 1);
	return (int)syscall(SYS_ioctl, fd, request, argument);
}

/* Rust's locks wait and wake through this function, and libgmem reads its files through it. */
long syscall(long number, ...) {
	static long (*next)(long, ...);
	long a[6];
	va_list arguments;
	va_start(arguments, number);
	for (int i = 0; i < 6; ++i) {
		a[i] = va_arg(arguments, long);
	}
	va_end(arguments);
	if (next == NULL) {
		*(void **)&next = dlsym(RTLD_NEXT, "syscall");
	}
	if (number == SYS_futex || number == SYS_openat || number == SYS_read || number == SYS_close) {
		atomic_fetch_add(&calls, 1);
	}
	return next(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

enum { PAGES = 10000 };
static char *start;
static size_t page;

static unsigned long nth(size_t index) { return (unsigned long)(uintptr_t)start + index * page; }

static void a_burst_is_few_calls(gmemStream_t stream, int synchronize) {
	start[0] = start[(PAGES - 1) * page] = 'x';
	const int before = atomic_load(&calls);
	for (size_t i = 0; i < PAGES; ++i) {
		CHECK_EQUAL(gmemFreeEager(nth(i), page, stream), 0);
	}
	if (synchronize) {
		CHECK_EQUAL(gmemStreamSynchronize(stream), 0);
	} else {
		/* Done by itself, too. */
		for (volatile char *last = start + (PAGES - 1) * page; *last != 0;) {
			nanosleep(&(struct timespec){.tv_nsec = 1000 * 1000}, NULL);
		}
	}
	const int made = atomic_load(&calls) - before;
	printf("%d frees: %d system calls\n", PAGES, made);
	/* At least what finds out what is mapped, and what drops it. */
	CHECK(made >= 4 && made <= 100);
	CHECK_EQUAL(start[0], 0);
	CHECK_EQUAL(gmemStreamSynchronize(stream), 0);
}

static atomic_int seen;
static void look(void *arg) {
	(void)arg;
	atomic_store(&seen, start[0] == 0 ? 1 : 2);
}

/* Work registered behind a free runs after it, without any synchronize call. */
static void order_is_kept(gmemStream_t stream) {
	for (int i = 0; i < 100; ++i) {
		start[0] = 'x';
		atomic_store(&seen, 0);
		CHECK_EQUAL(gmemFreeEager(nth(0), page, stream), 0);
		CHECK_EQUAL(gmemStreamLaunch(stream, look, NULL), 0);
		while (!atomic_load(&seen)) {
			sched_yield();
		}
		CHECK_EQUAL(atomic_load(&seen), 1);
	}
	/* Who asks gets an answer, and in the end another one. */
	start[0] = 'x';
	CHECK_EQUAL(gmemFreeEager(nth(0), page, stream), 0);
	while (gmemStreamQuery(stream) == -EBUSY) {
		sched_yield();
	}
	CHECK_EQUAL(start[0], 0);
}

/* More threads than serve, each with a burst of its own. */
static void many_streams_at_once(void) {
	enum { STREAMS = 50, EACH = PAGES / STREAMS };
	gmemStream_t streams[STREAMS];
	for (int i = 0; i < STREAMS; ++i) {
		NEED(gmemStreamCreate(&streams[i]) == 0);
		start[(size_t)i * EACH * page] = 'x';
	}
	for (size_t i = 0; i < PAGES; ++i) {
		CHECK_EQUAL(gmemFreeEager(nth(i % STREAMS * EACH + i / STREAMS), page, streams[i % STREAMS]), 0);
	}
	for (size_t i = 0; i < STREAMS; ++i) {
		CHECK_EQUAL(gmemStreamSynchronize(streams[i]), 0);
		CHECK_EQUAL(start[i * EACH * page], 0);
		CHECK_EQUAL(gmemStreamDestroy(streams[i]), 0);
	}
}

int main(void) {
	gmemStream_t stream = NULL;
	alarm(120);
	page = gmemGetPageSize();
	start = map_at_page(PAGES * page, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);
	/* Two pages are written to; small ones are cheaper. */
	NEED(madvise(start, PAGES * page, MADV_NOHUGEPAGE) == 0);
	NEED(gmemStreamCreate(&stream) == 0);
	CHECK_EQUAL(gmemFreeEager(nth(0), page, stream), 0);
	CHECK_EQUAL(gmemStreamSynchronize(stream), 0);
	a_burst_is_few_calls(stream, 1);
	a_burst_is_few_calls(stream, 0);
	order_is_kept(stream);
	many_streams_at_once();
	CHECK_EQUAL(gmemStreamDestroy(stream), 0);
	return checks_result("burst");
}
