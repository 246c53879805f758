/* SPDX-License-Identifier: Apache-2.0 */
/* Fault scopes: what is touched is counted, what was prefetched is not, and other threads' faults are theirs. */
#include <fcntl.h>
#include <pthread.h>

#include <libgmem.h>

#include "../check.h"

static const size_t SIZE = (size_t)8 << 20;

static char *fresh(void) {
	char *start = map_private(SIZE, gmemGetPageSize());
	NEED(madvise(start, SIZE, MADV_NOHUGEPAGE) == 0);
	return start;
}

static void *touch(void *arg) {
	(void)faults_of_writing(arg, SIZE);
	return NULL;
}

static int is_open(int fd) { return fcntl(fd, F_GETFD) >= 0; }

/* Whatever a scope contains, only one that was begun and has not ended is read and closed. */
static void a_scope_that_is_not_open_touches_nothing(void) {
	/* Standard input has something to read. */
	int ends[2];
	char text[8];
	const int input = dup(0);
	NEED(pipe(ends) == 0 && dup2(ends[0], 0) == 0 && write(ends[1], "12345678", 8) == 8);
	for (int fill = 0; fill <= 0xff; fill += 0x11) {
		gmemFaultScope_t scope;
		memset(&scope, fill, sizeof scope);
		CHECK_EQUAL(gmemFaultScopeCount(&scope), -EBADF);
		CHECK(strstr(gmemLastError(), "gmemFaultScopeBegin()") != NULL);
		gmemFaultScopeEnd(&scope);
	}
	gmemFaultScope_t zero = {0};
	gmemFaultScopeEnd(&zero);
	CHECK(is_open(0) && read(0, text, sizeof text) == 8);
	NEED(dup2(input, 0) == 0 && close(input) == 0 && close(ends[0]) == 0 && close(ends[1]) == 0);

	/* A copy outlives the scope, and another scope or a file gets its descriptor. */
	gmemFaultScope_t scope, other;
	NEED(gmemFaultScopeBegin(&scope, GMEM_FAULTS_THREAD) == 0);
	gmemFaultScope_t copy = scope;
	gmemFaultScopeEnd(&scope);
	if (copy.counter < 0) {
		printf("note: no software counter here, so no descriptor\n");
		return;
	}
	CHECK_EQUAL(gmemFaultScopeCount(&copy), -EBADF);
	NEED(gmemFaultScopeBegin(&other, GMEM_FAULTS_THREAD) == 0);
	CHECK_EQUAL(other.counter, copy.counter);
	CHECK_EQUAL(gmemFaultScopeCount(&copy), -EBADF);
	gmemFaultScopeEnd(&copy);
	CHECK(gmemFaultScopeCount(&other) >= 0);
	/* The program takes the descriptor away. */
	NEED(close(other.counter) == 0);
	const int file = open("/dev/zero", O_RDONLY | O_CLOEXEC);
	CHECK_EQUAL(file, other.counter);
	CHECK_EQUAL(gmemFaultScopeCount(&other), -EBADF);
	gmemFaultScopeEnd(&other);
	CHECK(is_open(file));
	close(file);
}

static long long faults_of(int whose, char *start, int in_a_thread) {
	gmemFaultScope_t scope;
	CHECK_EQUAL(gmemFaultScopeBegin(&scope, whose), 0);
	if (in_a_thread) {
		pthread_t thread;
		NEED(pthread_create(&thread, NULL, touch, start) == 0);
		pthread_join(thread, NULL);
	} else {
		touch(start);
	}
	const long long count = gmemFaultScopeCount(&scope);
	gmemFaultScopeEnd(&scope);
	gmemFaultScopeEnd(&scope);
	munmap(start, SIZE);
	return count;
}

struct prefetching {
	char *start;
	gmemFaultScope_t scope;
	long long during;
};

/* Reads the scope while the prefetch goes on. */
static int count_meanwhile(size_t done, size_t total, void *arg) {
	struct prefetching *all = arg;
	all->during = gmemFaultScopeCount(&all->scope);
	return total < done;
}

/* Pages that a prefetch populates are the process's faults and not the program's, while it runs and afterwards. */
static void a_prefetch_is_not_the_program(void) {
	const size_t size = (size_t)96 << 20;
	const long long pages = (long long)(size / (size_t)sysconf(_SC_PAGESIZE));
	struct prefetching all = {map_private(size, gmemGetPageSize()), {0}, -1};
	NEED(madvise(all.start, size, MADV_NOHUGEPAGE) == 0);
	gmemFaultScope_t process;
	gmemStream_t stream;
	NEED(gmemStreamCreate(&stream) == 0);
	NEED(gmemFaultScopeBegin(&process, GMEM_FAULTS_PROCESS) == 0);
	NEED(gmemFaultScopeBegin(&all.scope, GMEM_FAULTS_PROGRAM) == 0);
	const gmemPrefetchOptions_t options = {.size = sizeof options, .progress = count_meanwhile, .progress_arg = &all};
	CHECK_EQUAL(gmemPrefetchEx((uintptr_t)all.start, size, gmemGetNumaId(), stream, &options, NULL), 0);
	CHECK_EQUAL(gmemStreamSynchronize(stream), 0);
	CHECK(all.during >= 0 && all.during < pages / 20);
	CHECK(gmemFaultScopeCount(&all.scope) < pages / 20);
	CHECK(gmemFaultScopeCount(&process) >= pages);
	touch(all.start);
	CHECK(gmemFaultScopeCount(&all.scope) < pages / 20);
	munmap(all.start, size);
	gmemFaultScopeEnd(&all.scope);
	gmemFaultScopeEnd(&process);
	NEED(gmemStreamDestroy(stream) == 0);
}

int main(void) {
	const long long pages = (long long)(SIZE / (size_t)sysconf(_SC_PAGESIZE));
	for (int whose = GMEM_FAULTS_THREAD; whose <= GMEM_FAULTS_PROGRAM; ++whose) {
		CHECK(faults_of(whose, fresh(), 0) >= pages);
	}
	CHECK(faults_of(GMEM_FAULTS_THREAD, fresh(), 1) < pages / 2);
	CHECK(faults_of(GMEM_FAULTS_PROCESS, fresh(), 1) >= pages);
	CHECK(faults_of(GMEM_FAULTS_PROGRAM, fresh(), 1) >= pages);
	a_prefetch_is_not_the_program();
	char *start = fresh();
	CHECK_EQUAL(gmemPrefetch((uintptr_t)start, SIZE, gmemGetNumaId(), NULL), 0);
	CHECK_EQUAL(faults_of(GMEM_FAULTS_THREAD, start, 0), 0);

	gmemFaultScope_t scope;
	CHECK_EQUAL(gmemFaultScopeBegin(NULL, GMEM_FAULTS_THREAD), -EINVAL);
	CHECK_EQUAL(gmemFaultScopeBegin(&scope, 7), -EINVAL);
	CHECK(strstr(gmemLastError(), "whose = 7") != NULL);
	CHECK_EQUAL(gmemFaultScopeCount(NULL), -EINVAL);
	memset(&scope, 0x7f, sizeof scope);
	CHECK_EQUAL(gmemFaultScopeCount(&scope), -EBADF);
	gmemFaultScopeEnd(NULL);
	a_scope_that_is_not_open_touches_nothing();
	return checks_result("faults");
}
