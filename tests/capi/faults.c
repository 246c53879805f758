/* SPDX-License-Identifier: Apache-2.0 */
/* Fault scopes: what is touched is counted, what was prefetched is not, and other threads' faults are theirs. */
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

int main(void) {
	const long long pages = (long long)(SIZE / (size_t)sysconf(_SC_PAGESIZE));
	for (int whose = GMEM_FAULTS_THREAD; whose <= GMEM_FAULTS_PROCESS; ++whose) {
		CHECK(faults_of(whose, fresh(), 0) >= pages);
	}
	CHECK(faults_of(GMEM_FAULTS_THREAD, fresh(), 1) < pages / 2);
	CHECK(faults_of(GMEM_FAULTS_PROCESS, fresh(), 1) >= pages);
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
	return checks_result("faults");
}
