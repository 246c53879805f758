/* SPDX-License-Identifier: Apache-2.0 */
/* gmemModelOpen and its like: the bytes of a file by prefetch and eager free, in each mode, and every kind of bad file.
 */
#include <sys/wait.h>

#include "files.h"

enum { MODES = 2 };
static const int modes[MODES] = {GMEM_MODEL_SHARED, GMEM_MODEL_PRIVATE};

static size_t page, base;
static int node;
/* Nine GMEM pages and a bit: it ends on no page. */
static size_t bytes;
static const char path[] = "gmem-model-test.bin";

static unsigned long addr(const void *at) { return (unsigned long)(uintptr_t)at; }

static gmemPrefetchReport_t prefetch_with_report(const char *at, size_t size, int expected) {
	gmemPrefetchReport_t report = {.size = sizeof report};
	CHECK_EQUAL(gmemPrefetchEx(addr(at), size, node, NULL, NULL, &report), expected);
	CHECK_EQUAL(report.result, expected);
	return report;
}

/* The page cache keeps nothing but single pages that the kernel was busy with. */
static void the_files_bytes_come_any_number_of_times(void) {
	for (int i = 0; i < MODES; ++i) {
		gmemModel_t model = open_model(path, modes[i]);
		const gmemModelInfo_t info = info_of(model);
		const char *const data = info.data;
		CHECK(info.mode == modes[i] && info.bytes == bytes && (uintptr_t)data % page == 0);
		CHECK(info.loaded == 0 && info.read == 0 && strlen(info.reason) > 0);
		for (int round = 0; round < 2; ++round) {
			const gmemPrefetchReport_t report = prefetch_with_report(data, bytes, 0);
			CHECK_EQUAL(report.bytes, bytes);
			CHECK_EQUAL(report.populated + report.already_resident + report.failed, (bytes + base - 1) / base);
			/* Pages of the page cache are the kernel's: it may reclaim some at any time. */
			if (modes[i] == GMEM_MODEL_PRIVATE) {
				CHECK_EQUAL(report.failed, 0);
				CHECK_EQUAL(report.populated, (bytes + base - 1) / base);
				CHECK(cached_bytes(path) <= bytes / 50);
				CHECK_EQUAL(info_of(model).loaded, 10 * page);
				CHECK_EQUAL(info_of(model).read, (size_t)(round + 1) * bytes);
			}
			if (FAULTS_ARE_THE_TESTS && modes[i] == GMEM_MODEL_PRIVATE) {
				CHECK_EQUAL(faults_of_reading(data, bytes), 0);
			}
			CHECK(has_the_files_bytes(data, 0, bytes));
			/* Twice is once. */
			const gmemPrefetchReport_t again = prefetch_with_report(data, bytes, 0);
			CHECK(again.populated == 0 || modes[i] == GMEM_MODEL_SHARED);
			/* The last page counts as whole. */
			CHECK_EQUAL(gmemFreeEager(addr(data), bytes, NULL), 0);
			CHECK_EQUAL(info_of(model).loaded, 0);
			CHECK(cached_bytes(path) <= bytes / 50);
		}
		/* Not prefetched: the bytes are right all the same. */
		CHECK(has_the_files_bytes(data, 3 * page - 5, 3 * page + 5));
		CHECK(has_the_files_bytes(data, bytes - 9, bytes));
		CHECK_EQUAL(gmemModelClose(model), 0);
		CHECK_EQUAL(gmemModelClose(model), -EINVAL);
	}
}

static void parts_need_not_be_aligned(void) {
	gmemModel_t model = open_model(path, GMEM_MODEL_PRIVATE);
	const char *const data = info_of(model).data;
	gmemRange_t part;
	CHECK_EQUAL(gmemModelRange(model, page + 3, 1, &part), 0);
	CHECK(part.addr == addr(data) + page + 3 && part.size == 1);
	CHECK_EQUAL(prefetch_with_report((const char *)(uintptr_t)part.addr, part.size, 0).populated, 1);
	CHECK_EQUAL(info_of(model).loaded, page);
	/* Across a page's edge: one of the two is there. */
	CHECK_EQUAL(gmemModelRange(model, 2 * page - 1, 2, &part), 0);
	CHECK_EQUAL(prefetch_with_report((const char *)(uintptr_t)part.addr, part.size, 0).populated, 1);
	CHECK_EQUAL(info_of(model).loaded, 2 * page);
	/* A range without a whole page frees nothing; the last page is whole. */
	CHECK_EQUAL(gmemFreeEager(addr(data) + page + 1, page, NULL), 0);
	CHECK_EQUAL(info_of(model).loaded, 2 * page);
	CHECK_EQUAL(gmemModelRange(model, bytes - 1, 1, &part), 0);
	CHECK_EQUAL(gmemPrefetch(part.addr, part.size, node, NULL), 0);
	CHECK_EQUAL(info_of(model).loaded, 3 * page);
	CHECK_EQUAL(gmemModelRange(model, 9 * page, bytes - 9 * page, &part), 0);
	gmemFreeReport_t freed = {.size = sizeof freed};
	CHECK_EQUAL(gmemFreeEagerV(&part, 1, NULL, &freed), 0);
	CHECK_EQUAL(freed.freed, bytes - 9 * page);
	CHECK_EQUAL(freed.freed + freed.lost, freed.bytes);
	CHECK_EQUAL(info_of(model).loaded, 2 * page);
	CHECK(has_the_files_bytes(data, 0, bytes));
	/* Outside the file. */
	CHECK_EQUAL(gmemModelRange(model, bytes, 0, &part), 0);
	CHECK_EQUAL(gmemModelRange(model, bytes, 1, &part), -EINVAL);
	CHECK_EQUAL(gmemModelRange(model, (size_t)-1, 2, &part), -EINVAL);
	CHECK(strstr(gmemLastError(), path) != NULL);
	CHECK_EQUAL(gmemModelRange(model, 0, 1, NULL), -EINVAL);
	CHECK_EQUAL(gmemModelClose(model), 0);
}

/* Other memory in the same call. */
static void a_batch_may_hold_a_model_and_other_memory(void) {
	gmemModel_t model = open_model(path, GMEM_MODEL_PRIVATE);
	const char *const data = info_of(model).data;
	char *memory = map_private(2 * page, page);
	memset(memory, 'x', 2 * page);
	const gmemRange_t ranges[] = {{addr(memory), 2 * page}, {addr(data), 2 * page}};
	CHECK_EQUAL(gmemPrefetchV(ranges, 2, node, NULL, NULL, NULL), 0);
	CHECK_EQUAL(info_of(model).loaded, 2 * page);
	CHECK_EQUAL(gmemFreeEagerV(ranges, 2, NULL, NULL), 0);
	CHECK(is_all(memory, 2 * page, 0) && has_the_files_bytes(data, 0, 2 * page));
	CHECK_EQUAL(info_of(model).loaded, 0);
	munmap(memory, 2 * page);
	CHECK_EQUAL(gmemModelClose(model), 0);
}

static void a_stream_keeps_the_order(void) {
	for (int i = 0; i < MODES; ++i) {
		gmemModel_t model = open_model(path, modes[i]);
		const char *const data = info_of(model).data;
		gmemStream_t stream;
		NEED(gmemStreamCreate(&stream) == 0);
		gmemPrefetchReport_t report = {.size = sizeof report};
		CHECK_EQUAL(gmemPrefetch(addr(data), bytes, node, stream), 0);
		CHECK_EQUAL(gmemFreeEager(addr(data), 4 * page, stream), 0);
		CHECK_EQUAL(gmemFreeEager(addr(data) + 4 * page, bytes - 4 * page, stream), 0);
		CHECK_EQUAL(gmemPrefetchEx(addr(data) + page, 2 * page, node, stream, NULL, &report), 0);
		CHECK_EQUAL(gmemStreamSynchronize(stream), 0);
		CHECK_EQUAL(report.result, 0);
		if (modes[i] == GMEM_MODEL_PRIVATE) {
			CHECK_EQUAL(info_of(model).loaded, 2 * page);
		}
		CHECK(has_the_files_bytes(data, 0, bytes));
		NEED(gmemStreamDestroy(stream) == 0);
		CHECK_EQUAL(gmemModelClose(model), 0);
	}
}

static int stop_after_first(size_t done, size_t total, void *arg) {
	size_t *const seen = arg;
	CHECK(done >= seen[0] && done <= total);
	seen[0] = done;
	seen[1] = total;
	return done > 0;
}

static void a_load_can_be_ended(void) {
	gmemModel_t model = open_model(path, GMEM_MODEL_PRIVATE);
	const char *const data = info_of(model).data;
	const int cancel = 1;
	size_t seen[2] = {0, 0};
	gmemPrefetchReport_t report = {.size = sizeof report};
	gmemPrefetchOptions_t options = {.size = sizeof options, .cancel = &cancel};
	CHECK_EQUAL(gmemPrefetchEx(addr(data), bytes, node, NULL, &options, &report), -ECANCELED);
	CHECK_EQUAL(report.failed, (bytes + base - 1) / base);
	CHECK_EQUAL(info_of(model).loaded, 0);
	options = (gmemPrefetchOptions_t){.size = sizeof options, .timeout_ns = 1};
	CHECK_EQUAL(gmemPrefetchEx(addr(data), bytes, node, NULL, &options, &report), -ETIMEDOUT);
	options = (gmemPrefetchOptions_t){
		.size = sizeof options, .threads = 1, .progress = stop_after_first, .progress_arg = seen};
	CHECK_EQUAL(gmemPrefetchEx(addr(data), bytes, node, NULL, &options, &report), -ECANCELED);
	CHECK(seen[0] > 0 && seen[0] < seen[1] && seen[1] == (bytes + base - 1) / base * base);
	CHECK_EQUAL(report.populated * base, seen[0]);
	CHECK_EQUAL(report.populated + report.failed, seen[1] / base);
	CHECK_EQUAL(info_of(model).loaded, seen[0]);
	CHECK(has_the_files_bytes(data, 0, bytes));
	/* The rest. */
	CHECK_EQUAL(prefetch_with_report(data, bytes, 0).already_resident * base, seen[0]);
	CHECK_EQUAL(gmemModelClose(model), 0);
}

/* ---- files that change ---------------------------------------------------------------------------- */

static void what_was_loaded_outlives_the_file(void) {
	const char *const own = "gmem-model-changing.bin";
	for (int i = 0; i < MODES; ++i) {
		write_file(own, 4 * page);
		gmemModel_t model = open_model(own, modes[i]);
		const char *const data = info_of(model).data;
		/* Replaced by another file, and deleted: the model keeps the file that it opened. */
		NEED(rename(own, "gmem-model-old.bin") == 0 && unlink("gmem-model-old.bin") == 0);
		const int fd = open(own, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
		NEED(fd >= 0 && write(fd, "other", 5) == 5);
		close(fd);
		CHECK_EQUAL(gmemPrefetch(addr(data), 4 * page, node, NULL), 0);
		CHECK(has_the_files_bytes(data, 0, 4 * page));
		CHECK_EQUAL(gmemModelClose(model), 0);

		/* Grown: the size is that of the moment it was opened. Truncated: the error says how far it reaches. */
		write_file(own, 3 * page + 100);
		model = open_model(own, modes[i]);
		const char *const grown = info_of(model).data;
		NEED(truncate(own, (off_t)(6 * page)) == 0);
		CHECK_EQUAL(info_of(model).bytes, 3 * page + 100);
		CHECK_EQUAL(gmemPrefetch(addr(grown), 3 * page + 100, node, NULL), 0);
		CHECK(has_the_files_bytes(grown, 0, 3 * page + 100));
		CHECK_EQUAL(gmemFreeEager(addr(grown) + 2 * page, page + 100, NULL), 0);
		NEED(truncate(own, (off_t)(2 * page + 4 * base)) == 0);
		const gmemPrefetchReport_t report = prefetch_with_report(grown, 3 * page + 100, -EFAULT);
		CHECK(report.first_errno == EFAULT && report.failed > 0);
		CHECK(report.first_failed >= addr(grown) + 2 * page && report.first_failed < addr(grown) + 3 * page);
		CHECK(strstr(gmemLastError(), own) != NULL && strstr(gmemLastError(), "ends at byte") != NULL);
		CHECK(has_the_files_bytes(grown, 0, 2 * page));
		CHECK_EQUAL(gmemModelClose(model), 0);
	}

	/* Private memory stays when the file goes: no SIGBUS. */
	write_file(own, 4 * page);
	gmemModel_t model = open_model(own, GMEM_MODEL_PRIVATE);
	const char *const data = info_of(model).data;
	CHECK_EQUAL(gmemPrefetch(addr(data), 4 * page, node, NULL), 0);
	NEED(truncate(own, 0) == 0);
	CHECK(has_the_files_bytes(data, 0, 4 * page));
	CHECK_EQUAL(gmemPrefetch(addr(data), 4 * page, node, NULL), 0);
	CHECK_EQUAL(gmemModelClose(model), 0);
	NEED(unlink(own) == 0);
}

static void a_lost_descriptor_is_recognized(void) {
	gmemModel_t model = open_model(path, GMEM_MODEL_PRIVATE);
	const char *const data = info_of(model).data;
	CHECK_EQUAL(gmemPrefetch(addr(data), page, node, NULL), 0);
	const pid_t child = fork();
	NEED(child >= 0);
	if (child == 0) {
		checks_failed = 0;
		/* A child has its parent's models. */
		CHECK(has_the_files_bytes(data, 0, bytes));
		CHECK_EQUAL(gmemPrefetch(addr(data), bytes, node, NULL), 0);
		CHECK_EQUAL(gmemFreeEager(addr(data), bytes, NULL), 0);
		/* It closes all descriptors, and opens others under their numbers. */
		for (int fd = 3; fd < 1024; ++fd) {
			close(fd);
		}
		const int other = open("/proc/version", O_RDONLY | O_CLOEXEC);
		for (int fd = 512; fd < 600; ++fd) {
			NEED(dup2(other, fd) == fd);
		}
		CHECK_EQUAL(gmemPrefetch(addr(data), bytes, node, NULL), -EBADF);
		CHECK(strstr(gmemLastError(), "descriptor") != NULL);
		CHECK_EQUAL(gmemModelClose(model), 0);
		/* The program's own descriptors stay open. */
		for (int fd = 512; fd < 600; ++fd) {
			CHECK(fcntl(fd, F_GETFD) >= 0);
		}
		_exit(checks_failed != 0);
	}
	int status = 0;
	NEED(waitpid(child, &status, 0) == child);
	CHECK_EQUAL(status, 0);
	CHECK_EQUAL(info_of(model).loaded, page);
	CHECK_EQUAL(gmemModelClose(model), 0);
}

/* ---- files that are none --------------------------------------------------------------------------- */

static void what_is_no_file_of_weights_is_refused(void) {
	gmemModel_t model = NULL;
	NEED(mkfifo("gmem-model-pipe", 0600) == 0);
	const struct {
		const char *path;
		int expected;
	} files[] = {{NULL, -EINVAL}, {"/", -EISDIR}, {"gmem-model-pipe", -EINVAL}, {"/dev/null", -EINVAL},
		{"/proc/version", -EINVAL}, {"/sys/kernel/mm/transparent_hugepage/enabled", -EINVAL}, {"no/such/file", -ENOENT},
		{"", -ENOENT}};
	for (size_t i = 0; i < sizeof files / sizeof files[0]; ++i) {
		CHECK_EQUAL(gmemModelOpen(files[i].path, NULL, &model), files[i].expected);
		CHECK(model == NULL);
		CHECK(files[i].path == NULL || strstr(gmemLastError(), files[i].path) != NULL);
	}
	NEED(unlink("gmem-model-pipe") == 0);
	if (geteuid() != 0) {
		NEED(chmod(path, 0) == 0);
		CHECK_EQUAL(gmemModelOpen(path, NULL, &model), -EACCES);
		NEED(chmod(path, 0600) == 0);
	}
	CHECK_EQUAL(gmemModelOpen(path, NULL, NULL), -EINVAL);
	gmemModelOptions_t options = {sizeof options, 7, 0, 0, 0};
	CHECK_EQUAL(gmemModelOpen(path, &options, &model), -EINVAL);
	options = (gmemModelOptions_t){sizeof options, 0, 9, 0, 0};
	CHECK_EQUAL(gmemModelOpen(path, &options, &model), -EINVAL);
	options = (gmemModelOptions_t){1, 0, 0, 0, 0};
	CHECK_EQUAL(gmemModelOpen(path, &options, &model), -EINVAL);
	gmemModelInfo_t info = {.size = sizeof info};
	CHECK_EQUAL(gmemModelGetInfo((gmemModel_t)16, &info), -EINVAL);
	CHECK_EQUAL(gmemModelGetInfo(NULL, &info), -EINVAL);
	CHECK_EQUAL(gmemModelClose(NULL), -EINVAL);
}

static void small_and_empty_files_are_models_too(void) {
	const char *const own = "gmem-model-small.bin";
	const size_t sizes[] = {0, 1, 4095, 4096, 4097, page - 1, page, page + 1};
	for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; ++i) {
		write_file(own, sizes[i]);
		for (int mode = GMEM_MODEL_AUTOMATIC; mode <= GMEM_MODEL_PRIVATE; ++mode) {
			gmemModel_t model = open_model(own, mode);
			const gmemModelInfo_t info = info_of(model);
			CHECK_EQUAL(info.bytes, sizes[i]);
			CHECK((info.data == NULL) == (sizes[i] == 0));
			CHECK_EQUAL(gmemPrefetch(addr(info.data), info.bytes, node, NULL), 0);
			CHECK(has_the_files_bytes(info.data, 0, info.bytes));
			CHECK_EQUAL(gmemFreeEager(addr(info.data), info.bytes, NULL), 0);
			CHECK_EQUAL(info_of(model).loaded, 0);
			CHECK(has_the_files_bytes(info.data, 0, info.bytes));
			CHECK_EQUAL(gmemModelClose(model), 0);
		}
	}
	NEED(unlink(own) == 0);
}

/* Memory file systems have no copy to avoid. */
static void the_mode_is_chosen(void) {
	const char *const own = "/dev/shm/gmem-model-test.bin";
	write_file(own, 3 * page);
	gmemModel_t model = open_model(own, GMEM_MODEL_AUTOMATIC);
	CHECK_EQUAL(info_of(model).mode, GMEM_MODEL_SHARED);
	CHECK_EQUAL(gmemPrefetch(addr(info_of(model).data), 3 * page, node, NULL), 0);
	CHECK(has_the_files_bytes(info_of(model).data, 0, 3 * page));
	CHECK_EQUAL(gmemFreeEager(addr(info_of(model).data), 3 * page, NULL), 0);
	CHECK(has_the_files_bytes(info_of(model).data, 0, 3 * page));
	CHECK_EQUAL(gmemModelClose(model), 0);
	model = open_model(own, GMEM_MODEL_PRIVATE);
	CHECK_EQUAL(info_of(model).direct, 0);
	CHECK_EQUAL(gmemPrefetch(addr(info_of(model).data), 3 * page, node, NULL), 0);
	CHECK_EQUAL(info_of(model).loaded, 3 * page);
	CHECK(has_the_files_bytes(info_of(model).data, 0, 3 * page));
	CHECK_EQUAL(gmemModelClose(model), 0);
	NEED(unlink(own) == 0);

	/* What the page cache has is used. */
	model = open_model(path, GMEM_MODEL_SHARED);
	CHECK_EQUAL(gmemPrefetch(addr(info_of(model).data), bytes, node, NULL), 0);
	gmemModel_t cached = open_model(path, GMEM_MODEL_AUTOMATIC);
	CHECK_EQUAL(info_of(cached).mode, GMEM_MODEL_SHARED);
	CHECK_EQUAL(gmemModelClose(cached), 0);
	CHECK_EQUAL(gmemFreeEager(addr(info_of(model).data), bytes, NULL), 0);
	CHECK_EQUAL(gmemModelClose(model), 0);
	model = open_model(path, GMEM_MODEL_AUTOMATIC);
	const gmemModelInfo_t info = info_of(model);
	CHECK(info.mode == (info.direct ? GMEM_MODEL_PRIVATE : GMEM_MODEL_SHARED) || strstr(info.reason, "huge") != NULL);
	CHECK(cached_bytes(path) <= bytes / 50);
	CHECK_EQUAL(gmemModelClose(model), 0);
}

static void many_models_may_be_open(void) {
	enum { MANY = 300 };
	static gmemModel_t models[MANY];
	for (int i = 0; i < MANY; ++i) {
		models[i] = open_model(path, GMEM_MODEL_PRIVATE);
		CHECK_EQUAL(gmemPrefetch(addr(info_of(models[i]).data), 1, node, NULL), 0);
	}
	for (int i = 0; i < MANY; ++i) {
		CHECK_EQUAL(info_of(models[i]).loaded, page);
		CHECK_EQUAL(gmemModelClose(models[i]), 0);
	}
}

int main(void) {
	page = gmemGetPageSize();
	base = (size_t)sysconf(_SC_PAGESIZE);
	node = gmemGetNumaId();
	bytes = 9 * page + 12345;
	write_file(path, bytes);
	the_files_bytes_come_any_number_of_times();
	parts_need_not_be_aligned();
	a_batch_may_hold_a_model_and_other_memory();
	a_stream_keeps_the_order();
	a_load_can_be_ended();
	what_was_loaded_outlives_the_file();
	a_lost_descriptor_is_recognized();
	what_is_no_file_of_weights_is_refused();
	small_and_empty_files_are_models_too();
	the_mode_is_chosen();
	many_models_may_be_open();
	NEED(unlink(path) == 0);
	return checks_result("model");
}
