/* SPDX-License-Identifier: Apache-2.0 */
/* gmemFreeEagerV and gmemPrefetchV: the union of many ranges, before it is rounded. */
#include <limits.h>
#include <stdatomic.h>
#include <stddef.h>

#include <libgmem.h>

#include "../check.h"

static size_t page; /* the GMEM page */
static size_t base; /* the kernel's page */
static int here;

static gmemRange_t range(const char *start, size_t size) {
	return (gmemRange_t){(unsigned long)(uintptr_t)start, size};
}

static gmemFreeReport_t empty_report(void) {
	gmemFreeReport_t report;
	memset(&report, 0x5a, sizeof report);
	report.size = sizeof report;
	return report;
}

/* Tensors of 256 KiB to 8 MiB side by side in an arena: all whole pages of the arena come back, in any order of the
 * tensors. Each by itself would release few pages. */
static void neighbours_are_released_together(gmemStream_t stream) {
	const size_t arena = (size_t)256 << 20, first = page / 2 + 4096;
	char *start = map_private(arena, page);
	for (size_t size = (size_t)256 << 10; size <= (size_t)8 << 20; size *= 2) {
		static gmemRange_t tensors[1024];
		size_t count = 0, alone = 0;
		for (size_t at = first; at + size <= arena; at += size) {
			tensors[count++] = range(start + at, size);
			const size_t from = (at + page - 1) / page * page, to = (at + size) / page * page;
			alone += to > from ? to - from : 0;
		}
		const size_t bytes = count * size, whole = (first + bytes) / page * page - page;
		for (size_t i = 0; i + 1 < count; i += 2) {
			const gmemRange_t kept = tensors[i];
			tensors[i] = tensors[count - 1 - i];
			tensors[count - 1 - i] = kept;
		}
		CHECK_EQUAL(gmemPrefetch((uintptr_t)start, arena, here, NULL), 0);
		CHECK_EQUAL(resident_pages(start, arena), arena / base);
		memset(start, 'x', first);
		start[first + bytes - 1] = 'y';
		gmemFreeReport_t report = empty_report();
		CHECK_EQUAL(gmemFreeEagerV(tensors, count, stream, &report), 0);
		if (stream != NULL) {
			CHECK_EQUAL(gmemStreamSynchronize(stream), 0);
		}
		CHECK_EQUAL(resident_pages(start, arena), (arena - whole) / base);
		CHECK_EQUAL(report.size, sizeof report);
		CHECK_EQUAL(report.result, 0);
		CHECK_EQUAL(report.blocks, 1);
		CHECK_EQUAL(report.bytes, bytes);
		CHECK_EQUAL(report.freed, whole);
		CHECK_EQUAL(report.lost, bytes - whole);
		CHECK(is_all(start, first, 'x'));
		CHECK(start[first + bytes - 1] == ((first + bytes) % page == 0 ? 0 : 'y'));
		printf("%4zu KiB a tensor: %zu of %zu MiB released, %zu if each by itself\n", size >> 10, report.freed >> 20,
			bytes >> 20, alone >> 20);
	}
	munmap(start, arena);
}

static void gaps_and_overlaps(void) {
	char *start = map_private(6 * page, page);
	memset(start, 'x', 6 * page);
	/* Overlapping, doubled, contained, empty; one byte is missing at the end of page 3. */
	const gmemRange_t ranges[] = {range(start + 2 * page - 1, page + 2), range(start + 7, 2 * page), range(start, 8),
		range(start, 8), range(start + 100, 100), range(start + 3 * page, page - 1), range(start + 4 * page, page),
		range(NULL, 0), range((char *)ULONG_MAX, 0)};
	gmemFreeReport_t report = empty_report();
	CHECK_EQUAL(gmemFreeEagerV(ranges, sizeof ranges / sizeof *ranges, NULL, &report), 0);
	CHECK_EQUAL(report.blocks, 2);
	CHECK_EQUAL(report.bytes, 5 * page - 1);
	CHECK_EQUAL(report.freed, 4 * page);
	CHECK_EQUAL(report.lost, page - 1);
	CHECK(is_all(start, 3 * page, 0));
	CHECK(is_all(start + 3 * page, page, 'x'));
	CHECK(is_all(start + 4 * page, page, 0));
	CHECK(is_all(start + 5 * page, page, 'x'));
	munmap(start, 6 * page);
}

static void arguments_are_checked(void) {
	char *start = map_private(2 * page, page);
	memset(start, 'x', 2 * page);
	gmemFreeReport_t report = empty_report();
	CHECK_EQUAL(gmemFreeEagerV(NULL, 0, NULL, &report), 0);
	CHECK_EQUAL(report.result, 0);
	CHECK_EQUAL(report.bytes + report.freed + report.lost + report.blocks, 0);
	CHECK_EQUAL(gmemFreeEagerV(NULL, 1, NULL, NULL), -EINVAL);
	CHECK(strstr(gmemLastError(), "ranges is NULL") != NULL);
	CHECK_EQUAL(gmemPrefetchV(NULL, 0, here, NULL, NULL, NULL), 0);
	CHECK_EQUAL(gmemPrefetchV(NULL, 1, here, NULL, NULL, NULL), -EINVAL);
	CHECK(strstr(gmemLastError(), "ranges is NULL") != NULL);

	/* A range that overflows: nothing is done, and the message says which it is. */
	const gmemRange_t overflow[] = {range(start, page), range((char *)ULONG_MAX, 1)};
	CHECK_EQUAL(gmemFreeEagerV(overflow, 2, NULL, &report), -EINVAL);
	CHECK(strstr(gmemLastError(), "ranges[1]") != NULL);
	CHECK_EQUAL(report.result, -EINVAL);
	CHECK_EQUAL(report.freed, 0);
	CHECK_EQUAL(gmemPrefetchV(overflow, 2, here, NULL, NULL, NULL), -EINVAL);
	CHECK(strstr(gmemLastError(), "ranges[1]") != NULL);
	CHECK(is_all(start, 2 * page, 'x'));

	/* More ranges than memory. */
	CHECK_EQUAL(gmemFreeEagerV(overflow, SIZE_MAX, NULL, NULL), -EINVAL);
	CHECK_EQUAL(gmemFreeEagerV(overflow, SIZE_MAX / 4, NULL, NULL), -EINVAL);
	CHECK_EQUAL(gmemFreeEagerV(overflow, SIZE_MAX / 64, NULL, NULL), -ENOMEM);
	CHECK_EQUAL(gmemPrefetchV(overflow, SIZE_MAX, here, NULL, NULL, NULL), -EINVAL);
	CHECK_EQUAL(gmemPrefetchV(overflow, SIZE_MAX / 64, here, NULL, NULL, NULL), -ENOMEM);

	gmemStream_t unknown = (gmemStream_t)16; /* NOLINT(performance-no-int-to-ptr) */
	CHECK_EQUAL(gmemFreeEagerV(overflow, 1, unknown, &report), -EINVAL);
	CHECK_EQUAL(report.result, -EINVAL);
	CHECK_EQUAL(gmemPrefetchV(overflow, 1, -1, NULL, NULL, NULL), -EINVAL);
	CHECK(is_all(start, 2 * page, 'x'));

	report.size = 8;
	CHECK_EQUAL(gmemFreeEagerV(overflow, 1, NULL, &report), -EINVAL);
	CHECK(strstr(gmemLastError(), "report->size = 8") != NULL);
	CHECK(is_all(start, 2 * page, 'x'));
	report = empty_report();
	report.size = offsetof(gmemFreeReport_t, freed);
	CHECK_EQUAL(gmemFreeEagerV(overflow, 1, NULL, &report), 0);
	CHECK_EQUAL(report.size, offsetof(gmemFreeReport_t, freed));
	CHECK_EQUAL(report.bytes, page);
	CHECK_EQUAL(report.freed, 0x5a5a5a5a5a5a5a5a);
	CHECK(is_all(start, page, 0));
	munmap(start, 2 * page);
}

/* A part that must not be released keeps all others, before and behind it; a hole keeps none. */
static void refusals_and_holes(void) {
	char *start = map_private(5 * page, page);
	memset(start, 'x', 5 * page);
	const int fd = file_of(page);
	NEED(mmap(start + 2 * page, page, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == start + 2 * page);
	const gmemRange_t ranges[] = {range(start, page), range(start + 2 * page, page), range(start + 4 * page, page)};
	gmemFreeReport_t report = empty_report();
	CHECK_EQUAL(gmemFreeEagerV(ranges, 3, NULL, &report), -EINVAL);
	CHECK_EQUAL(report.result, -EINVAL);
	CHECK_EQUAL(report.bytes, 3 * page);
	CHECK_EQUAL(report.freed, 0);
	CHECK_EQUAL(report.lost, 0);
	CHECK(is_all(start, page, 'x') && is_all(start + 4 * page, page, 'x') && is_all(start + 2 * page, page, 'f'));
	close(fd);

	NEED(munmap(start + 2 * page, page) == 0);
	CHECK_EQUAL(gmemPrefetchV(ranges, 3, here, NULL, NULL, NULL), -ENOMEM);
	CHECK_EQUAL(gmemFreeEagerV(ranges, 3, NULL, &report), -ENOMEM);
	CHECK_EQUAL(report.result, -ENOMEM);
	CHECK_EQUAL(report.freed, 2 * page);
	CHECK(is_all(start, page, 0) && is_all(start + 4 * page, page, 0));
	munmap(start, 2 * page);
	munmap(start + 3 * page, 2 * page);
}

static void wait_for_gate(void *gate) {
	while (!atomic_load((atomic_int *)gate)) {
		usleep(100);
	}
}

/* One piece of work, in order, with a report once it is done. The array may be gone by then. */
static void on_a_stream(gmemStream_t stream) {
	char *start = map_private(4 * page, page);
	memset(start, 'x', 4 * page);
	atomic_int gate = 0;
	gmemRange_t ranges[] = {range(start + page / 2, page), range(start + page + page / 2, page)};
	gmemFreeReport_t report = empty_report();
	gmemPrefetchReport_t populated = {.size = sizeof populated};
	CHECK_EQUAL(gmemStreamLaunch(stream, wait_for_gate, &gate), 0);
	CHECK_EQUAL(gmemFreeEagerV(ranges, 2, stream, &report), 0);
	CHECK_EQUAL(gmemPrefetchV(ranges, 2, here, stream, NULL, &populated), 0);
	memset(ranges, 0, sizeof ranges);
	CHECK_EQUAL(report.result, -EINPROGRESS);
	CHECK_EQUAL(populated.result, -EINPROGRESS);
	CHECK(is_all(start, 4 * page, 'x'));
	atomic_store(&gate, 1);
	CHECK_EQUAL(gmemStreamSynchronize(stream), 0);
	CHECK_EQUAL(report.result, 0);
	CHECK_EQUAL(report.freed, page);
	CHECK_EQUAL(report.lost, page);
	CHECK_EQUAL(populated.result, 0);
	CHECK_EQUAL(populated.populated, page / base);
	CHECK(is_all(start, page, 'x') && is_all(start + page, page, 0) && is_all(start + 2 * page, 2 * page, 'x'));

	/* A failure is in the report, and surfaces when the stream is synchronized. */
	NEED(munmap(start + page, page) == 0);
	const gmemRange_t hole = range(start, 3 * page);
	CHECK_EQUAL(gmemFreeEagerV(&hole, 1, stream, &report), 0);
	CHECK_EQUAL(gmemStreamSynchronize(stream), -ENOMEM);
	CHECK_EQUAL(report.result, -ENOMEM);
	CHECK(is_all(start, page, 0) && is_all(start + 2 * page, page, 0) && is_all(start + 3 * page, page, 'x'));
	munmap(start, page);
	munmap(start + 2 * page, 2 * page);
}

static size_t last_done, last_total;
static int keep_progress(size_t done, size_t total, void *arg) {
	(void)arg;
	CHECK(done >= last_done && done <= total);
	last_done = done;
	last_total = total;
	return 0;
}
static int stop(size_t done, size_t total, void *arg) {
	(void)arg;
	return done < total;
}

static void prefetched_together(void) {
	const size_t block = (size_t)20 << 20;
	char *start = map_private(4 * block, page);
	NEED(madvise(start, 4 * block, MADV_NOHUGEPAGE) == 0);
	const gmemRange_t ranges[] = {range(start + 2 * block, block), range(start, block / 2),
		range(start + block / 2, block / 2), range(start, base)};
	gmemPrefetchOptions_t options = {.size = sizeof options, .progress = stop};
	gmemPrefetchReport_t report = {.size = sizeof report};
	CHECK_EQUAL(gmemPrefetchV(ranges, 4, here, NULL, &options, &report), -ECANCELED);
	CHECK_EQUAL(report.bytes, 2 * block);
	CHECK(report.populated > 0 && report.failed >= block / base);
	CHECK_EQUAL(report.populated + report.already_resident + report.failed, 2 * block / base);

	options.progress = keep_progress;
	CHECK_EQUAL(gmemPrefetchV(ranges, 4, here, NULL, &options, &report), 0);
	CHECK_EQUAL(report.result, 0);
	CHECK_EQUAL(report.bytes, 2 * block);
	CHECK_EQUAL(report.populated + report.already_resident, 2 * block / base);
	CHECK_EQUAL(report.failed, 0);
	CHECK_EQUAL(last_done, 2 * block);
	CHECK_EQUAL(last_total, 2 * block);
	CHECK_EQUAL(faults_of_writing(start, block) + faults_of_writing(start + 2 * block, block), 0);
	CHECK_EQUAL(resident_pages(start, 4 * block), 2 * block / base);
	munmap(start, 4 * block);
}

int main(void) {
	gmemStream_t stream = NULL;
	alarm(120);
	page = gmemGetPageSize();
	base = (size_t)sysconf(_SC_PAGESIZE);
	here = gmemGetNumaId();
	NEED(gmemStreamCreate(&stream) == 0);
	neighbours_are_released_together(NULL);
	neighbours_are_released_together(stream);
	gaps_and_overlaps();
	arguments_are_checked();
	refusals_and_holes();
	on_a_stream(stream);
	prefetched_together();
	CHECK_EQUAL(gmemStreamDestroy(stream), 0);
	return checks_result("batch");
}
