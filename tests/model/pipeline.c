/* SPDX-License-Identifier: Apache-2.0 */
/* gmemPipelineCreate and its like: the order of prefetches and releases, the budget, and failures. */
#include <sys/wait.h>

#include "files.h"

enum { PARTS = 12 };
static size_t page, base, bytes, length;
static int node;
static const char path[] = "gmem-pipeline-test.bin";
static gmemModel_t model;
static const char *data;
/* Their edges lie on no page, so neighbours share the page between them. */
static gmemRange_t parts[PARTS];

static gmemPipelineOptions_t options(size_t budget, unsigned look_ahead, int order, void *stream) {
	const gmemPipelineOptions_t all = {sizeof all, budget, look_ahead, order, node, stream};
	return all;
}

static gmemPipeline_t create(gmemPipelineOptions_t how) {
	gmemPipeline_t pipeline = NULL;
	if (gmemPipelineCreate(parts, PARTS, &how, &pipeline) != 0) {
		fprintf(stderr, "%s\n", gmemLastError());
		exit(1);
	}
	return pipeline;
}

static gmemPipelineReport_t report_of(gmemPipeline_t pipeline) {
	gmemPipelineReport_t report = {.size = sizeof report};
	NEED(gmemPipelineGetReport(pipeline, &report) == 0);
	return report;
}

static int has_its_bytes(size_t i) {
	const size_t offset = (size_t)(parts[i].addr - (uintptr_t)data);
	return has_the_files_bytes(data, offset, offset + parts[i].size);
}

/* The use of a part: no fault, and the file's bytes. */
static void use(size_t i) {
	if (FAULTS_ARE_THE_TESTS) {
		CHECK_EQUAL(faults_of_reading((const char *)(uintptr_t)parts[i].addr, parts[i].size), 0);
	}
	CHECK(has_its_bytes(i));
}

static size_t loaded(void) { return info_of(model).loaded; }

static void a_sequence_stays_within_its_budget(void) {
	const size_t budget = 16 * page;
	gmemPipeline_t pipeline = create(options(budget, 2, GMEM_PIPELINE_SEQUENCE, NULL));
	for (size_t i = 0; i < PARTS; ++i) {
		CHECK_EQUAL(gmemPipelineWant(pipeline, i), 0);
		CHECK(loaded() <= budget);
		use(i);
		CHECK_EQUAL(gmemPipelineDone(pipeline, i), 0);
	}
	const gmemPipelineReport_t report = report_of(pipeline);
	CHECK(report.wants == PARTS && report.prefetches == PARTS && report.drops == PARTS);
	CHECK(report.bytes == PARTS * length && report.peak <= budget && report.waits <= PARTS);
	CHECK_EQUAL(gmemPipelineDestroy(pipeline), 0);
	/* The pages between neighbours are gone, too. */
	CHECK_EQUAL(loaded(), 0);
	CHECK_EQUAL(gmemPipelineDestroy(pipeline), -EINVAL);
}

static void a_cycle_keeps_what_fits(void) {
	const size_t budget = 40 * page;
	gmemPipeline_t pipeline = create(options(budget, 1, GMEM_PIPELINE_CYCLE, NULL));
	enum { ROUNDS = 4 };
	for (size_t i = 0; i < ROUNDS * PARTS; ++i) {
		CHECK_EQUAL(gmemPipelineWant(pipeline, i % PARTS), 0);
		CHECK(loaded() <= budget);
		use(i % PARTS);
		CHECK_EQUAL(gmemPipelineDone(pipeline, i % PARTS), 0);
	}
	/* Least recently used would fetch each part in each round. Five pages of 12 * 5 stay out: the one that is used last
	 * goes. */
	CHECK(report_of(pipeline).prefetches < ROUNDS * PARTS * 2 / 3);
	CHECK_EQUAL(gmemPipelineDestroy(pipeline), 0);
	CHECK_EQUAL(loaded(), 0);
}

static void experts_come_when_they_are_wanted(void) {
	gmemPipeline_t pipeline = create(options(16 * page, 0, GMEM_PIPELINE_ANY, NULL));
	CHECK_EQUAL(report_of(pipeline).prefetches, 0);
	CHECK_EQUAL(gmemPipelineSoon(pipeline, 7), 0);
	CHECK_EQUAL(gmemPipelineWant(pipeline, 3), 0);
	CHECK_EQUAL(gmemPipelineWant(pipeline, 7), 0);
	CHECK_EQUAL(report_of(pipeline).prefetches, 2);
	use(3);
	use(7);
	CHECK_EQUAL(gmemPipelineDone(pipeline, 3), 0);
	CHECK_EQUAL(gmemPipelineDone(pipeline, 7), 0);
	/* Still there. */
	CHECK_EQUAL(gmemPipelineWant(pipeline, 3), 0);
	CHECK_EQUAL(report_of(pipeline).prefetches, 2);
	CHECK_EQUAL(gmemPipelineWant(pipeline, 0), 0);
	CHECK_EQUAL(gmemPipelineWant(pipeline, 11), 0);
	/* 7 was used least recently of what is not in use. */
	CHECK_EQUAL(report_of(pipeline).drops, 1);
	/* All that is in memory is in use, so nothing else fits. */
	CHECK_EQUAL(gmemPipelineWant(pipeline, 5), -ENOMEM);
	CHECK(strstr(gmemLastError(), "budget") != NULL);
	CHECK_EQUAL(gmemPipelineSoon(pipeline, 5), 0);
	CHECK_EQUAL(gmemPipelineDone(pipeline, 5), -EINVAL);
	CHECK_EQUAL(gmemPipelineDone(pipeline, 0), 0);
	CHECK_EQUAL(gmemPipelineWant(pipeline, 5), 0);
	use(5);
	use(3);
	CHECK_EQUAL(gmemPipelineDestroy(pipeline), 0);
	/* What is in use stays. */
	CHECK(loaded() > 0);
	use(5);
	CHECK_EQUAL(gmemFreeEager((unsigned long)(uintptr_t)data, bytes, NULL), 0);
}

/* Everything is registered before the stream begins: the order comes from the stream alone. */
static int gate;
static size_t used;
static void wait_for_gate(void *arg) {
	(void)arg;
	while (__atomic_load_n(&gate, __ATOMIC_ACQUIRE) == 0) {
		usleep(100);
	}
}
static void use_next(void *arg) {
	use((size_t)(uintptr_t)arg);
	++used;
}

static void a_stream_uses_what_is_there(void) {
	gmemStream_t stream;
	NEED(gmemStreamCreate(&stream) == 0);
	CHECK_EQUAL(gmemStreamLaunch(stream, wait_for_gate, NULL), 0);
	gmemPipeline_t pipeline = create(options(16 * page, 2, GMEM_PIPELINE_SEQUENCE, stream));
	for (size_t i = 0; i < PARTS; ++i) {
		CHECK_EQUAL(gmemPipelineWant(pipeline, i), 0);
		CHECK_EQUAL(gmemStreamLaunch(stream, use_next, (void *)(uintptr_t)i), 0);
		CHECK_EQUAL(gmemPipelineDone(pipeline, i), 0);
	}
	CHECK(loaded() <= 16 * page && used == 0);
	__atomic_store_n(&gate, 1, __ATOMIC_RELEASE);
	CHECK_EQUAL(gmemStreamSynchronize(stream), 0);
	CHECK_EQUAL(used, PARTS);
	CHECK_EQUAL(report_of(pipeline).wants, PARTS);
	CHECK_EQUAL(gmemPipelineDestroy(pipeline), 0);
	NEED(gmemStreamDestroy(stream) == 0);
}

static void a_failure_reaches_the_user(void) {
	const char *const own = "gmem-pipeline-truncated.bin";
	write_file(own, 8 * page);
	gmemModel_t short_model = open_model(own, GMEM_MODEL_PRIVATE);
	gmemRange_t halves[2];
	NEED(gmemModelRange(short_model, 0, 4 * page, &halves[0]) == 0);
	NEED(gmemModelRange(short_model, 4 * page, 4 * page, &halves[1]) == 0);
	NEED(truncate(own, (off_t)(4 * page)) == 0);
	for (int i = 0; i < 2; ++i) {
		gmemStream_t stream = NULL;
		NEED(i == 0 || gmemStreamCreate(&stream) == 0);
		gmemPipelineOptions_t how = options(8 * page, 1, GMEM_PIPELINE_CYCLE, stream);
		gmemPipeline_t pipeline = NULL;
		CHECK_EQUAL(gmemPipelineCreate(halves, 2, &how, &pipeline), 0);
		CHECK_EQUAL(gmemPipelineWant(pipeline, 0), 0);
		if (stream == NULL) {
			CHECK_EQUAL(gmemPipelineWant(pipeline, 1), -EFAULT);
			CHECK(strstr(gmemLastError(), own) != NULL);
			/* It is tried again. */
			write_file(own, 8 * page);
			CHECK_EQUAL(gmemPipelineWant(pipeline, 1), 0);
			CHECK_EQUAL(gmemPipelineDone(pipeline, 1), 0);
			NEED(truncate(own, (off_t)(4 * page)) == 0);
		} else {
			CHECK_EQUAL(gmemPipelineWant(pipeline, 1), 0);
			CHECK_EQUAL(gmemStreamSynchronize(stream), -EFAULT);
			NEED(gmemStreamDestroy(stream) == 0);
		}
		/* The models stay open as long as there is work on them. */
		if (i == 1) {
			CHECK_EQUAL(gmemModelClose(short_model), 0);
		}
		CHECK_EQUAL(gmemPipelineDestroy(pipeline), 0);
	}
	NEED(unlink(own) == 0);
}

static void a_child_has_no_pipelines(void) {
	gmemPipeline_t pipeline = create(options(24 * page, 3, GMEM_PIPELINE_CYCLE, NULL));
	for (int i = 0; i < 20; ++i) {
		CHECK_EQUAL(gmemPipelineWant(pipeline, (size_t)i % PARTS), 0);
		const pid_t child = fork();
		NEED(child >= 0);
		if (child == 0) {
			checks_failed = 0;
			CHECK_EQUAL(gmemPipelineWant(pipeline, 0), -EINVAL);
			CHECK_EQUAL(gmemPipelineDestroy(pipeline), -EINVAL);
			/* The model is its own, in whatever state the fork found it. */
			CHECK(has_the_files_bytes(data, 0, bytes));
			CHECK_EQUAL(gmemPrefetch((unsigned long)(uintptr_t)data, bytes, node, NULL), 0);
			CHECK(has_the_files_bytes(data, 0, bytes));
			CHECK_EQUAL(gmemFreeEager((unsigned long)(uintptr_t)data, bytes, NULL), 0);
			_exit(checks_failed != 0);
		}
		/* The child's calls reach pages that both have, so the kernel may unmap one here for a moment. */
		CHECK(has_its_bytes((size_t)i % PARTS));
		CHECK_EQUAL(gmemPipelineDone(pipeline, (size_t)i % PARTS), 0);
		int status = 0;
		NEED(waitpid(child, &status, 0) == child);
		CHECK_EQUAL(status, 0);
	}
	CHECK_EQUAL(gmemPipelineDestroy(pipeline), 0);
}

static void wrong_arguments_are_refused(void) {
	gmemPipelineOptions_t how = options(16 * page, 2, GMEM_PIPELINE_SEQUENCE, NULL);
	gmemPipeline_t pipeline = NULL;
	CHECK_EQUAL(gmemPipelineCreate(NULL, 1, &how, &pipeline), -EINVAL);
	CHECK_EQUAL(gmemPipelineCreate(parts, PARTS, NULL, &pipeline), -EINVAL);
	CHECK_EQUAL(gmemPipelineCreate(parts, PARTS, &how, NULL), -EINVAL);
	char *memory = map_private(page, page);
	const gmemRange_t not_a_model = {(unsigned long)(uintptr_t)memory, page};
	CHECK_EQUAL(gmemPipelineCreate(&not_a_model, 1, &how, &pipeline), -EINVAL);
	CHECK(strstr(gmemLastError(), "ranges[0]") != NULL);
	munmap(memory, page);
	how.budget = page;
	CHECK_EQUAL(gmemPipelineCreate(parts, PARTS, &how, &pipeline), -EINVAL);
	how = options(16 * page, 2, 5, NULL);
	CHECK_EQUAL(gmemPipelineCreate(parts, PARTS, &how, &pipeline), -EINVAL);
	how = options(16 * page, 2, 0, (void *)16);
	CHECK_EQUAL(gmemPipelineCreate(parts, PARTS, &how, &pipeline), -EINVAL);
	how = options(16 * page, 2, 0, NULL);
	how.hnid = -1;
	CHECK_EQUAL(gmemPipelineCreate(parts, PARTS, &how, &pipeline), -EINVAL);
	CHECK(pipeline == NULL);
	/* No parts are a pipeline, too. */
	how.hnid = node;
	CHECK_EQUAL(gmemPipelineCreate(NULL, 0, &how, &pipeline), 0);
	CHECK_EQUAL(gmemPipelineWant(pipeline, 0), -EINVAL);
	CHECK_EQUAL(gmemPipelineSoon(pipeline, 0), -EINVAL);
	CHECK_EQUAL(gmemPipelineDone(pipeline, 0), -EINVAL);
	CHECK_EQUAL(gmemPipelineGetReport(pipeline, NULL), -EINVAL);
	CHECK_EQUAL(gmemPipelineDestroy(pipeline), 0);
	CHECK_EQUAL(gmemPipelineWant(pipeline, 0), -EINVAL);
	CHECK_EQUAL(gmemPipelineDestroy(NULL), -EINVAL);
}

int main(void) {
	page = gmemGetPageSize();
	base = (size_t)sysconf(_SC_PAGESIZE);
	node = gmemGetNumaId();
	length = 4 * page - 1000;
	bytes = PARTS * length;
	write_file(path, bytes);
	model = open_model(path, GMEM_MODEL_PRIVATE);
	data = info_of(model).data;
	for (size_t i = 0; i < PARTS; ++i) {
		NEED(gmemModelRange(model, i * length, length, &parts[i]) == 0);
	}
	a_sequence_stays_within_its_budget();
	a_cycle_keeps_what_fits();
	experts_come_when_they_are_wanted();
	a_stream_uses_what_is_there();
	a_failure_reaches_the_user();
	a_child_has_no_pipelines();
	wrong_arguments_are_refused();
	CHECK_EQUAL(gmemModelClose(model), 0);
	NEED(unlink(path) == 0);
	return checks_result("pipeline");
}
