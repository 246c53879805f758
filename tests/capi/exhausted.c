/* SPDX-License-Identifier: Apache-2.0 */
/* A process without memory, or without threads: every call is an error or works, and none ends it. */
#include <sys/wait.h>

#include <libgmem.h>

#include "../check.h"

static char *range;
static size_t page;
static gmemStream_t stream;
static gmemPageState_t many_runs[1 << 21];

static void nothing(void *arg) { (void)arg; }

static unsigned long at(void) { return (unsigned long)(uintptr_t)range; }

static void refused_calls_say_why(void) {
	CHECK_EQUAL(gmemPrefetch(at(), page, -1, NULL), -EINVAL);
	CHECK(strstr(gmemLastError(), "hnid = -1") != NULL);
}

static void ranges_still_work(void) {
	CHECK_EQUAL(gmemFreeEager(at(), page, NULL), 0);
	CHECK_EQUAL(range[0], 0);
	CHECK_EQUAL(gmemPrefetch(at(), page, gmemGetNumaId(), NULL), 0);
}

static void seeing_ends_in_enomem_or_works(void) {
	gmemTopology_t machine = {.size = sizeof machine};
	gmemNode_t node;
	const int nodes = gmemTopology(&machine, &node, 1, sizeof node);
	CHECK(nodes >= 1 || nodes == -ENOMEM);
	static gmemPageState_t states[1 << 14];
	gmemResidency_t all = {.size = sizeof all};
	const int result = gmemResidency(at(), page, GMEM_ASK_HOT, states, 1 << 14, &all);
	CHECK(result == 0 || result == -ENOMEM);
	/* A residency map taken before memory ran out can still be printed. */
	all.pages = 1 << 14;
	all.page_size = (size_t)sysconf(_SC_PAGESIZE);
	for (size_t i = 0; i < all.pages; i += 2) {
		states[i].flags = GMEM_PAGE_MAPPED;
	}
	CHECK_EQUAL(gmemResidencyJson(&all, states, NULL, 0), -ENOMEM);
	CHECK(strstr(gmemLastError(), "no memory") != NULL);
	const int text = gmemResidencyText(&all, states, NULL, 0), picture = gmemResidencySvg(&all, states, NULL, 0);
	CHECK((text > 0 || text == -ENOMEM) && (picture > 0 || picture == -ENOMEM));
	CHECK(gmemTopologyJson(NULL, 0) > 0 || nodes == -ENOMEM);
}

/* As many runs as pages, each of which would fail by itself to get memory: the first failure ends the call. */
static void text_of_many_runs_ends_soon(void) {
	gmemResidency_t all = {.size = sizeof all, .pages = 1 << 21, .page_size = (size_t)sysconf(_SC_PAGESIZE)};
	CHECK_EQUAL(gmemResidencyJson(&all, many_runs, NULL, 0), -ENOMEM);
}

static void launching_ends_in_enomem(void) {
	int result = 0;
	for (int i = 0; i < 200000 && result == 0; ++i) {
		result = gmemStreamLaunch(stream, nothing, NULL);
	}
	CHECK(result == 0 || result == -ENOMEM);
	CHECK_EQUAL(gmemStreamSynchronize(stream), 0);
}

/* Each event stays what it was where it cannot be recorded. */
static void recording_ends_in_enomem(void) {
	gmemEvent_t event = NULL;
	int result = 0, created = 0;
	for (int i = 0; i < 200000 && result == 0; ++i) {
		result = gmemEventCreate(&event);
		created += result == 0;
		if (result == 0) {
			const int recorded = gmemEventRecord(event, stream);
			CHECK(recorded == 0 || recorded == -ENOMEM);
			const int waited = gmemStreamWaitEvent(stream, event);
			CHECK(waited == 0 || waited == -ENOMEM);
			CHECK_EQUAL(gmemEventSynchronize(event), 0);
		}
	}
	CHECK(result == 0 || result == -ENOMEM);
	CHECK_EQUAL(gmemStreamSynchronize(stream), 0);
}

/* A failure on a stream is reported without memory, too. */
static void failures_are_kept(void) {
	CHECK_EQUAL(gmemPrefetch(64 * page, page, gmemGetNumaId(), stream), 0);
	CHECK_EQUAL(gmemStreamSynchronize(stream), -ENOMEM);
	CHECK(strstr(gmemLastError(), "gmemPrefetch") != NULL);
}

static void creating_ends_in_an_error(void) {
	int result = 0;
	for (int i = 0; i < 100000 && result == 0; ++i) {
		gmemStream_t another;
		result = gmemStreamCreate(&another);
	}
	CHECK(result == -ENOMEM || result == -EAGAIN);
}

/* Both heaps, ours and the process's, and every size. */
static void use_up_all_memory(void) {
	const struct rlimit none = {1 << 20, 1 << 20};
	NEED(setrlimit(RLIMIT_AS, &none) == 0);
	for (size_t size = (size_t)1 << 24; size >= 8; size /= 2) {
		while (gmem_malloc(size) != NULL) {
		}
		while (malloc(size) != NULL) {
		}
	}
}

static void in_a_process_without_memory(void (*test)(void)) {
	const pid_t child = fork();
	NEED(child >= 0);
	if (child == 0) {
		alarm(200); /* ends a hang, on a busy machine, too */
		checks_failed = 0;
		NEED(gmemStreamCreate(&stream) == 0);
		CHECK_EQUAL(gmemStreamLaunch(stream, nothing, NULL), 0);
		CHECK_EQUAL(gmemStreamSynchronize(stream), 0);
		use_up_all_memory();
		test();
		_exit(checks_failed != 0);
	}
	int status = 1;
	NEED(waitpid(child, &status, 0) == child);
	CHECK_EQUAL(status, 0);
}

int main(void) {
	page = gmemGetPageSize();
	range = map_private(page, page);
	range[0] = 'x';
	in_a_process_without_memory(refused_calls_say_why);
	in_a_process_without_memory(ranges_still_work);
	in_a_process_without_memory(seeing_ends_in_enomem_or_works);
	for (size_t i = 0; i < sizeof many_runs / sizeof *many_runs; i += 2) {
		many_runs[i].flags = GMEM_PAGE_MAPPED;
	}
	in_a_process_without_memory(text_of_many_runs_ends_soon);
	in_a_process_without_memory(launching_ends_in_enomem);
	in_a_process_without_memory(recording_ends_in_enomem);
	in_a_process_without_memory(failures_are_kept);
	in_a_process_without_memory(creating_ends_in_an_error);
	return checks_result("exhausted");
}
