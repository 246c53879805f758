/* SPDX-License-Identifier: Apache-2.0 */
/* gmemPrefetchEx: what the report says, and what the options do. */
#include <sched.h>
#include <stdatomic.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include <libgmem.h>

#include "../check.h"

static size_t page; /* the GMEM page */
static size_t base; /* the kernel's page */
static size_t huge; /* its huge page: a GMEM page, or several */
static int here;

static unsigned long address_of(const void *start) { return (unsigned long)(uintptr_t)start; }

static gmemPrefetchReport_t empty_report(void) {
	gmemPrefetchReport_t report;
	memset(&report, 0x5a, sizeof report);
	report.size = sizeof report;
	return report;
}

static gmemPrefetchOptions_t no_options(void) {
	gmemPrefetchOptions_t options;
	memset(&options, 0, sizeof options);
	options.size = sizeof options;
	return options;
}

static int prefetch(
	const void *start, size_t size, const gmemPrefetchOptions_t *options, gmemPrefetchReport_t *report) {
	return gmemPrefetchEx(address_of(start), size, here, NULL, options, report);
}

static char *map_with(size_t size, int advice) {
	char *start = map_private(size, huge);
	madvise(start, size, advice);
	return start;
}

static void what_was_done_is_counted(void) {
	char *start = map_with(4 * page, MADV_NOHUGEPAGE);
	memset(start + page, 'x', page);
	gmemPrefetchReport_t report = empty_report();
	CHECK_EQUAL(prefetch(start, 4 * page, NULL, &report), 0);
	CHECK_EQUAL(report.size, sizeof report);
	CHECK_EQUAL(report.result, 0);
	CHECK_EQUAL(report.bytes, 4 * page);
	CHECK_EQUAL(report.already_resident, page / base);
	CHECK_EQUAL(report.populated, 3 * page / base);
	CHECK_EQUAL(report.migrated, 0);
	CHECK_EQUAL(report.failed, 0);
	CHECK_EQUAL(report.first_errno, 0);
	CHECK_EQUAL(report.first_failed, 0);
	CHECK_EQUAL(report.threads, 1);
	CHECK_EQUAL(report.stalled, 0);
	CHECK(report.huge == 0 || report.huge == GMEM_UNKNOWN);
	CHECK(report.duration_ns > 0);
	CHECK(is_all(start + page, page, 'x'));

	/* Again: all of it is there. */
	CHECK_EQUAL(prefetch(start, 4 * page, NULL, &report), 0);
	CHECK_EQUAL(report.already_resident, 4 * page / base);
	CHECK_EQUAL(report.populated, 0);
	munmap(start, 4 * page);
}

/* The margin is populated and not counted. */
static void what_was_asked_for_is_counted(void) {
	char *start = map_with(2 * page, MADV_NOHUGEPAGE);
	gmemPrefetchReport_t report = empty_report();
	CHECK_EQUAL(prefetch(start + page - 1, 2, NULL, &report), 0);
	CHECK_EQUAL(report.bytes, 2);
	CHECK_EQUAL(report.populated, 2);
	CHECK_EQUAL(report.already_resident, 0);
	CHECK_EQUAL(resident_pages(start, 2 * page), 2 * page / base);
	CHECK_EQUAL(prefetch(start, 0, NULL, &report), 0);
	CHECK_EQUAL(report.bytes + report.populated + report.already_resident, 0);
	munmap(start, 2 * page);
}

static void fields_that_a_caller_does_not_know_stay_out(void) {
	char *start = map_private(page, page);
	gmemPrefetchReport_t report = empty_report();
	report.size = offsetof(gmemPrefetchReport_t, already_resident);
	CHECK_EQUAL(prefetch(start, page, NULL, &report), 0);
	CHECK_EQUAL(report.size, offsetof(gmemPrefetchReport_t, already_resident));
	CHECK_EQUAL(report.bytes, page);
	CHECK_EQUAL(report.already_resident, 0x5a5a5a5a5a5a5a5a);
	/* A later header has more. */
	struct {
		gmemPrefetchReport_t known;
		size_t more;
	} later = {empty_report(), 7};
	later.known.size = sizeof later;
	CHECK_EQUAL(prefetch(start, page, NULL, &later.known), 0);
	CHECK_EQUAL(later.known.size, sizeof later.known);
	CHECK_EQUAL(later.more, 7);

	report.size = 8;
	CHECK_EQUAL(prefetch(start, page, NULL, &report), -EINVAL);
	CHECK(strstr(gmemLastError(), "report->size = 8") != NULL);
	gmemPrefetchOptions_t options = no_options();
	options.size = 0;
	CHECK_EQUAL(prefetch(start, page, &options, NULL), -EINVAL);
	CHECK(strstr(gmemLastError(), "options->size = 0") != NULL);
	munmap(start, page);
}

static void count_call(void *calls) { atomic_fetch_add((atomic_int *)calls, 1); }

static void a_failure_is_in_the_report(void) {
	char *start = map_private(3 * page, page);
	NEED(munmap(start + page, page) == 0);
	atomic_int finished = 0;
	gmemPrefetchOptions_t options = no_options();
	options.finished = count_call;
	options.finished_arg = &finished;
	gmemPrefetchReport_t report = empty_report();
	CHECK_EQUAL(prefetch(start, 3 * page, &options, &report), -ENOMEM);
	CHECK_EQUAL(report.result, -ENOMEM);
	CHECK_EQUAL(report.first_errno, ENOMEM);
	CHECK_EQUAL(report.first_failed, address_of(start));
	CHECK_EQUAL(report.populated, 0);
	/* Nobody looked at the pages. */
	CHECK_EQUAL(report.failed, GMEM_UNKNOWN);
	CHECK_EQUAL(finished, 1);
	/* Arguments too. */
	CHECK_EQUAL(gmemPrefetchEx(address_of(start), page, -1, NULL, &options, &report), -EINVAL);
	CHECK_EQUAL(report.result, -EINVAL);
	CHECK_EQUAL(finished, 2);
	CHECK_EQUAL(gmemPrefetchEx(address_of(start), page, here, &report, &options, &report), -EINVAL);
	CHECK_EQUAL(report.result, -EINVAL);
	CHECK_EQUAL(finished, 3);
	munmap(start, page);
	munmap(start + 2 * page, page);
}

static void wait_for_gate(void *gate) {
	while (!atomic_load((atomic_int *)gate)) {
		usleep(100);
	}
}

static void on_a_stream_it_is_ready_when_the_stream_has_passed(void) {
	char *start = map_with(2 * page, MADV_NOHUGEPAGE);
	gmemStream_t stream = NULL;
	NEED(gmemStreamCreate(&stream) == 0);
	atomic_int gate = 0, finished = 0;
	NEED(gmemStreamLaunch(stream, wait_for_gate, &gate) == 0);
	gmemPrefetchOptions_t options = no_options();
	options.finished = count_call;
	options.finished_arg = &finished;
	gmemPrefetchReport_t first = empty_report(), second = empty_report();
	CHECK_EQUAL(gmemPrefetchEx(address_of(start), page, here, stream, &options, &first), 0);
	CHECK_EQUAL(gmemPrefetchEx(address_of(start), 2 * page, here, stream, &options, &second), 0);
	memset(&options, 0xff, sizeof options); /* It need not outlive the call. */
	CHECK_EQUAL(first.result, -EINPROGRESS);
	CHECK_EQUAL(second.result, -EINPROGRESS);
	CHECK_EQUAL(finished, 0);
	atomic_store(&gate, 1);
	CHECK_EQUAL(gmemStreamSynchronize(stream), 0);
	CHECK_EQUAL(finished, 2);
	CHECK_EQUAL(first.result, 0);
	CHECK_EQUAL(first.populated, page / base);
	CHECK_EQUAL(second.already_resident, page / base);
	CHECK_EQUAL(second.populated, page / base);
	munmap(start, 2 * page);
	/* A failure on a stream is in the report and in the stream's error. */
	CHECK_EQUAL(gmemPrefetchEx(address_of(start), page, here, stream, NULL, &first), 0);
	CHECK_EQUAL(gmemStreamSynchronize(stream), -ENOMEM);
	CHECK_EQUAL(first.result, -ENOMEM);
	NEED(gmemStreamDestroy(stream) == 0);
}

enum { PIECES = 5 };
/* The amount of work between two looks at whether to go on: 16 MiB, or a huge page. */
static size_t piece;

static void it_can_be_cancelled_from_outside(void) {
	char *start = map_with(PIECES * piece, MADV_NOHUGEPAGE);
	atomic_int cancel = 1;
	gmemPrefetchOptions_t options = no_options();
	options.cancel = (const int *)&cancel;
	gmemPrefetchReport_t report = empty_report();
	CHECK_EQUAL(prefetch(start, PIECES * piece, &options, &report), -ECANCELED);
	CHECK(strstr(gmemLastError(), "cancelled") != NULL);
	CHECK_EQUAL(report.first_errno, ECANCELED);
	CHECK_EQUAL(resident_pages(start, PIECES * piece), 0);
	cancel = 0;
	CHECK_EQUAL(prefetch(start, PIECES * piece, &options, &report), 0);
	CHECK_EQUAL(report.populated, PIECES * piece / base);
	munmap(start, PIECES * piece);
}

static int steps;
static size_t last_done;

static int cancel_after_two(size_t done, size_t total, void *arg) {
	CHECK_EQUAL(total, PIECES * piece);
	CHECK(done > last_done && done <= total);
	last_done = done;
	return ++steps == *(int *)arg;
}

static void progress_is_told_and_may_cancel(void) {
	char *start = map_with(PIECES * piece, MADV_NOHUGEPAGE);
	int end_at = 2;
	gmemPrefetchOptions_t options = no_options();
	options.threads = 1;
	options.progress = cancel_after_two;
	options.progress_arg = &end_at;
	gmemPrefetchReport_t report = empty_report();
	CHECK_EQUAL(prefetch(start, PIECES * piece, &options, &report), -ECANCELED);
	CHECK_EQUAL(report.populated, 2 * piece / base);
	CHECK_EQUAL(resident_pages(start, PIECES * piece), 2 * piece / base);
	CHECK_EQUAL(report.threads, 1);
	CHECK_EQUAL(report.failed, (PIECES - 2) * piece / base);
	CHECK_EQUAL(report.first_failed, address_of(start + 2 * piece));
	/* To the end. */
	end_at = steps = 0;
	last_done = 0;
	CHECK_EQUAL(prefetch(start, PIECES * piece, &options, &report), 0);
	CHECK_EQUAL(steps, PIECES);
	CHECK_EQUAL(last_done, PIECES * piece);
	CHECK_EQUAL(report.already_resident, 2 * piece / base);
	munmap(start, PIECES * piece);
}

static void it_ends_when_its_time_is_over(void) {
	char *start = map_with(PIECES * piece, MADV_NOHUGEPAGE);
	gmemPrefetchOptions_t options = no_options();
	options.timeout_ns = 1;
	gmemPrefetchReport_t report = empty_report();
	CHECK_EQUAL(prefetch(start, PIECES * piece, &options, &report), -ETIMEDOUT);
	CHECK(strstr(gmemLastError(), "timeout_ns = 1") != NULL);
	CHECK_EQUAL(report.populated, 0);
	CHECK_EQUAL(report.failed, PIECES * piece / base);
	CHECK_EQUAL(report.first_errno, ETIMEDOUT);
	CHECK_EQUAL(report.first_failed, address_of(start));
	/* Pages that are there already do not fail. */
	memset(start + piece, 'x', page);
	CHECK_EQUAL(prefetch(start, PIECES * piece, &options, &report), -ETIMEDOUT);
	CHECK_EQUAL(report.failed, (PIECES * piece - page) / base);
	options.timeout_ns = 600000000000ULL;
	CHECK_EQUAL(prefetch(start, PIECES * piece, &options, &report), 0);
	munmap(start, PIECES * piece);
}

static void large_ranges_are_populated_by_several_threads(void) {
	const size_t size = 16 * piece;
	cpu_set_t processors;
	NEED(sched_getaffinity(0, sizeof processors, &processors) == 0);
	char *start = map_with(size, MADV_NOHUGEPAGE);
	gmemPrefetchReport_t report = empty_report();
	CHECK_EQUAL(prefetch(start, size, NULL, &report), 0);
	if (CPU_COUNT(&processors) > 1) {
		CHECK(report.threads > 1);
	}
	CHECK((int)report.threads <= CPU_COUNT(&processors));
	CHECK_EQUAL(report.populated, size / base);
	CHECK_EQUAL(faults_of_writing(start, size), 0);
	/* Not where all of it is there. */
	gmemPrefetchOptions_t options = no_options();
	options.threads = 1;
	NEED(madvise(start, size, MADV_DONTNEED) == 0);
	CHECK_EQUAL(prefetch(start, size, &options, &report), 0);
	CHECK_EQUAL(report.threads, 1);
	munmap(start, size);
}

/* ---- huge pages ------------------------------------------------------------------------------------ */

static int system_has_huge_pages(void) {
	char mode[64] = "";
	FILE *file = fopen("/sys/kernel/mm/transparent_hugepage/enabled", "re");
	if (file != NULL) {
		NEED(fgets(mode, sizeof mode, file) != NULL);
		fclose(file);
	}
	return mode[0] != '\0' && strstr(mode, "[never]") == NULL;
}

static gmemPrefetchReport_t prefetch_huge(const char *start, size_t size, int policy, int expected) {
	gmemPrefetchOptions_t options = no_options();
	options.huge = policy;
	gmemPrefetchReport_t report = empty_report();
	CHECK_EQUAL(prefetch(start, size, &options, &report), expected);
	return report;
}

static void off_takes_base_pages(void) {
	char *start = map_with(4 * page, MADV_HUGEPAGE);
	const gmemPrefetchReport_t report = prefetch_huge(start, 4 * page, GMEM_HUGE_OFF, 0);
	CHECK(report.huge == 0 || report.huge == GMEM_UNKNOWN);
	CHECK_EQUAL(report.fallen_back, 0);
	CHECK_EQUAL(faults_of_writing(start, 4 * page), 0);
	munmap(start, 4 * page);
}

static void prefer_takes_huge_pages_where_there_are_some(void) {
	const size_t size = huge > 8 * page ? huge : 8 * page;
	char *start = map_private(size, huge);
	const gmemPrefetchReport_t report = prefetch_huge(start, size, GMEM_HUGE_PREFER, 0);
	if (report.huge != GMEM_UNKNOWN) {
		CHECK_EQUAL(report.huge + report.fallen_back, size / page);
		CHECK(report.huge > 0 || !system_has_huge_pages());
	}
	munmap(start, size);
}

/* Small pages that the call was to make huge: when it returns, no page moves any more. */
static long faults_after_prefer(char *start, size_t size) {
	enum { TOUCHES = 20 };
	long faults = 0;
	memset(start, 'x', size);
	for (int policy = GMEM_HUGE_PREFER; policy >= GMEM_HUGE_AS_IS; policy -= GMEM_HUGE_PREFER) {
		prefetch_huge(start, size, policy, 0);
		for (int touch = 0; touch < TOUCHES; ++touch) {
			faults += faults_of_writing(start, size);
		}
	}
	CHECK(is_all(start, size, 'x'));
	munmap(start, size);
	return faults;
}

static void prefer_leaves_no_fault_behind(void) {
	enum { ROUNDS = 100 };
	const size_t size = 4 * page;
	long private = 0, shared = 0;
	for (int round = 0; round < ROUNDS; ++round) {
		private += faults_after_prefer(map_with(size, MADV_NOHUGEPAGE), size);
		const int memory = (int)syscall(SYS_memfd_create, "shared", 0);
		NEED(memory >= 0 && ftruncate(memory, (off_t)size) == 0);
		shared += faults_after_prefer(map_at_page(size, page, PROT_READ | PROT_WRITE, MAP_SHARED, memory), size);
		close(memory);
	}
	CHECK_EQUAL(private, 0);
	CHECK_EQUAL(shared, 0);
}

static void require_takes_huge_pages_throughout(void) {
	/* Half of it is there, on base pages. */
	const size_t size = huge > 8 * page ? huge : 8 * page;
	char *start = map_private(size, huge);
	madvise(start, size, MADV_NOHUGEPAGE);
	memset(start, 'x', size / 2);
	gmemPrefetchOptions_t options = no_options();
	options.huge = GMEM_HUGE_REQUIRE;
	gmemPrefetchReport_t report = empty_report();
	const int result = prefetch(start, size, &options, &report);
	if (result == -EOPNOTSUPP) {
		printf("note: no huge pages can be required here: %s\n", gmemLastError());
	} else if (result == -ENOMEM) {
		printf("note: %s\n", gmemLastError());
		CHECK_EQUAL(resident_pages(start, size), size / 2 / base);
	} else {
		CHECK_EQUAL(result, 0);
		CHECK(report.huge == size / page || report.huge == GMEM_UNKNOWN);
		CHECK(is_all(start, size / 2, 'x'));
		CHECK_EQUAL(faults_of_writing(start, size), 0);
	}
	munmap(start, size);
}

static void what_cannot_be_huge_is_refused_untouched(void) {
	const int fd = file_of(2 * page);
	char *file = map_at_page(2 * page, page, PROT_READ, MAP_PRIVATE, fd);
	prefetch_huge(file, 2 * page, GMEM_HUGE_REQUIRE, -EOPNOTSUPP);
	CHECK(strstr(gmemLastError(), "maps a file") != NULL);
	munmap(file, 2 * page);
	close(fd);

	char *start = map_private(2 * huge, huge);
	if (prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) == 0) {
		prefetch_huge(start, 2 * huge, GMEM_HUGE_REQUIRE, -EOPNOTSUPP);
		CHECK(strstr(gmemLastError(), system_has_huge_pages() ? "PR_SET_THP_DISABLE" : "echo madvise") != NULL);
		CHECK_EQUAL(resident_pages(start, 2 * huge), 0);
		NEED(prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0) == 0);
	}
	munmap(start, 2 * huge);
	/* A range without a whole huge page has none to require. */
	start = map_at_page(page - base, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	CHECK_EQUAL(prefetch_huge(start, page - base, GMEM_HUGE_REQUIRE, 0).huge % GMEM_UNKNOWN, 0);
	munmap(start, page - base);
}

static void a_policy_holds_for_a_range_and_for_the_process(void) {
	char *start = map_with(2 * page, MADV_HUGEPAGE);
	const unsigned long at = address_of(start);
	CHECK_EQUAL(gmemSetHugePolicy(4), -EINVAL);
	CHECK(strstr(gmemLastError(), "policy = 4") != NULL);
	CHECK_EQUAL(gmemSetRangeHugePolicy(at, page, -1), -EINVAL);
	CHECK_EQUAL(gmemSetRangeHugePolicy(at, (size_t)-1, GMEM_HUGE_OFF), -EINVAL);
	prefetch_huge(start, page, 17, -EINVAL);

	CHECK_EQUAL(gmemSetHugePolicy(GMEM_HUGE_PREFER), 0);
	CHECK_EQUAL(gmemGetHugePolicy(at), GMEM_HUGE_PREFER);
	CHECK_EQUAL(gmemSetRangeHugePolicy(at + page, page, GMEM_HUGE_OFF), 0);
	CHECK_EQUAL(gmemGetHugePolicy(at + page - 1), GMEM_HUGE_PREFER);
	CHECK_EQUAL(gmemGetHugePolicy(at + page), GMEM_HUGE_OFF);
	CHECK_EQUAL(gmemGetHugePolicy(at + 2 * page), GMEM_HUGE_PREFER);
	const gmemPrefetchReport_t small = prefetch_huge(start + page, page, GMEM_HUGE_AS_IS, 0);
	CHECK(small.huge == 0 || small.huge == GMEM_UNKNOWN);
	const gmemPrefetchReport_t large = prefetch_huge(start, page, GMEM_HUGE_AS_IS, 0);
	/* A GMEM page that is only a part of a huge page need not be huge. */
	CHECK(large.huge == GMEM_UNKNOWN || large.huge + large.fallen_back == (huge == page ? 1 : 0));
	CHECK_EQUAL(gmemSetRangeHugePolicy(at, 2 * page, GMEM_HUGE_AS_IS), 0);
	CHECK_EQUAL(gmemSetHugePolicy(GMEM_HUGE_AS_IS), 0);
	CHECK_EQUAL(gmemGetHugePolicy(at + page), GMEM_HUGE_AS_IS);
	munmap(start, 2 * page);
}

/* More than there is, refused before the kernel ends processes for it. */
static void what_the_machine_has_no_room_for_is_refused(void) {
	const size_t size = (size_t)1 << 44;
	char *start = (char *)mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (start == MAP_FAILED) {
		printf("note: no 16 TiB of addresses here: %s\n", strerror(errno));
		return;
	}
	gmemPrefetchReport_t report = empty_report();
	CHECK_EQUAL(prefetch(start, size, NULL, &report), -ENOMEM);
	CHECK(strstr(gmemLastError(), "nothing was moved") != NULL);
	CHECK_EQUAL(report.populated, 0);
	CHECK_EQUAL(resident_pages(start, 64 * page), 0);
	munmap(start, size);
}

int main(void) {
	page = gmemGetPageSize();
	base = (size_t)sysconf(_SC_PAGESIZE);
	here = gmemGetNumaId();
	huge = kernel_huge_page();
	piece = huge > (size_t)16 << 20 ? huge : (size_t)16 << 20;
	what_was_done_is_counted();
	what_was_asked_for_is_counted();
	fields_that_a_caller_does_not_know_stay_out();
	a_failure_is_in_the_report();
	on_a_stream_it_is_ready_when_the_stream_has_passed();
	if (huge <= (size_t)32 << 20) {
		it_can_be_cancelled_from_outside();
		progress_is_told_and_may_cancel();
		it_ends_when_its_time_is_over();
		large_ranges_are_populated_by_several_threads();
	} else {
		printf("note: pieces of %zu MiB, of which these tests would need several GiB\n", piece >> 20);
	}
	off_takes_base_pages();
	prefer_takes_huge_pages_where_there_are_some();
	prefer_leaves_no_fault_behind();
	require_takes_huge_pages_throughout();
	what_cannot_be_huge_is_refused_untouched();
	a_policy_holds_for_a_range_and_for_the_process();
	what_the_machine_has_no_room_for_is_refused();
	return checks_result("reports");
}
