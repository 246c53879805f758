/* SPDX-License-Identifier: Apache-2.0 */
/* A table of calls with every exported function in at least one cell, for tests that make all of them in some state of
 * the process. A function that is exported and has no cell fails such a test. */
#ifndef GMEM_TESTS_CELLS_H
#define GMEM_TESTS_CELLS_H

#include <dlfcn.h>
#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/syscall.h>

#include <libgmem.h>

#include "../check.h"

/* Set in a cell that did not do its work: the line. Printing would be a cancellation point. */
static atomic_int failed_line;

#define EXPECT(condition)                                                                                              \
	do {                                                                                                               \
		if (!(condition)) {                                                                                            \
			atomic_store(&failed_line, __LINE__);                                                                      \
		}                                                                                                              \
	} while (0)

/* Whether a call, which begins with the name of the function, may fail with this errno in the state of the process. A
 * call of the heap is "malloc" and fails with ENOMEM. NULL where none may. */
static int (*may_fail)(const char *call, int error);

static int is_refusal(long result, const char *call) {
	if (result >= 0 || may_fail == NULL || !may_fail(call, (int)-result)) {
		return 0;
	}
	EXPECT(gmemLastError()[0] != '\0');
	return 1;
}

/* A call that succeeds with a result of 0 or more, or is refused where the state of the process permits that; then the
 * cell ends. */
#define WORKS(call)                                                                                                    \
	do {                                                                                                               \
		const long result = (call);                                                                                    \
		if (result < 0) {                                                                                              \
			EXPECT(is_refusal(result, #call));                                                                         \
			return;                                                                                                    \
		}                                                                                                              \
	} while (0)

/* Blocks of each kind: kept by the thread, by jemalloc, and one with pages of its own. */
static const size_t SIZES[] = {24, 100000, (size_t)5 << 20};
enum { KINDS = 3 };

/* The arguments of each cell, created again before each. */
static size_t page, size;
static char *range;
/* Large enough for several threads. */
static char *much_range;
#define MUCH ((size_t)50 << 20)
static gmemStream_t stream, external;
static gmemEvent_t event;
static void *ticket;
/* The test's own file, and where it is mapped. */
static int program_file;
static const char *program;

static unsigned long address(void) { return (unsigned long)(uintptr_t)range; }

static void add_one(void *counter) { atomic_fetch_add((atomic_int *)counter, 1); }

static int keep_ticket(void *native, gmemHostFn fn, void *arg) {
	(void)fn;
	*(void **)native = arg;
	return 0;
}

static int run_now(void *native, gmemHostFn fn, void *arg) {
	(void)native;
	fn(arg);
	return 0;
}

/* The GMEM page, without a call of the library: the cells are its first calls. */
static size_t huge_page(void) {
	size_t bytes = (size_t)2 << 20;
	FILE *file = fopen("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size", "re");
	if (file != NULL) {
		NEED(fscanf(file, "%zu", &bytes) == 1);
		fclose(file);
	}
	return bytes;
}

/* Without a call of the library. */
static void set_up_range(void) {
	page = huge_page();
	size = 4 * page;
	range = map_private(size, page);
	memset(range, 'x', page);
	much_range = map_private(MUCH, page);
	program_file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	program = mmap(NULL, 2 * page, PROT_READ, MAP_PRIVATE, program_file, 0);
	NEED(program != MAP_FAILED);
}

/* In a cell that uses them; a state may also begin with them. */
#define WITH_STREAM()                                                                                                  \
	do {                                                                                                               \
		if (stream == NULL) {                                                                                          \
			WORKS(gmemStreamCreate(&stream));                                                                          \
			WORKS(gmemEventCreate(&event));                                                                            \
		}                                                                                                              \
	} while (0)

/* ---- one cell for each function ------------------------------------------------------------------ */

static void prefetch(void) {
	WORKS(gmemPrefetch(address(), size, gmemGetNumaId(), NULL));
	EXPECT(faults_of_writing(range, size) == 0);
}
static void prefetch_in_order(void) {
	WITH_STREAM();
	WORKS(gmemPrefetch(address(), size, gmemGetNumaId(), stream));
	WORKS(gmemStreamSynchronize(stream));
	EXPECT(faults_of_writing(range, size) == 0);
}
static void prefetch_with_report(void) {
	gmemPrefetchOptions_t options = {.size = sizeof options, .huge = GMEM_HUGE_PREFER};
	gmemPrefetchReport_t report = {.size = sizeof report};
	WORKS(gmemPrefetchEx(address(), size, gmemGetNumaId(), NULL, &options, &report));
	EXPECT(report.result == 0 && report.failed == 0 && report.bytes == size);
}
static void prefetch_of_much(void) {
	WORKS(gmemPrefetchEx((uintptr_t)much_range, MUCH, gmemGetNumaId(), NULL, NULL, NULL));
	EXPECT(faults_of_writing(much_range, MUCH) == 0);
	WORKS(gmemFreeEager((uintptr_t)much_range, MUCH, NULL));
}
static void free_eager(void) {
	memset(range, 'x', page);
	WORKS(gmemFreeEager(address(), size, NULL));
	EXPECT(range[0] == 0);
}
static void batches(void) {
	WITH_STREAM();
	const gmemRange_t halves[] = {{address(), size / 2}, {address() + size / 2, size / 2}};
	gmemPrefetchReport_t report = {.size = sizeof report};
	gmemFreeReport_t freed = {.size = sizeof freed};
	WORKS(gmemPrefetchV(halves, 2, gmemGetNumaId(), NULL, NULL, &report));
	EXPECT(report.result == 0 && report.bytes == size);
	WORKS(gmemFreeEagerV(halves, 2, NULL, &freed));
	EXPECT(freed.result == 0 && freed.freed == size);
	WORKS(gmemFreeEagerV(halves, 2, stream, &freed));
	WORKS(gmemStreamSynchronize(stream));
}
int gmemFreeEager_cxx(size_t addr, size_t bytes, size_t on) __asm__("_ZN4gmem6detail10free_eagerEmmm");
static void free_eager_from_cxx(void) {
	memset(range, 'x', page);
	WORKS(gmemFreeEager_cxx(address(), size, 0));
	EXPECT(range[0] == 0);
}
static void models(void) {
	enum { MODES = 3 };
	for (int mode = 0; mode < MODES; ++mode) {
		const gmemModelOptions_t options = {sizeof options, mode, 0, 0, 0};
		gmemModelInfo_t info = {.size = sizeof info};
		gmemModel_t model = NULL;
		gmemRange_t part = {0, 0};
		WORKS(gmemModelOpen("/proc/self/exe", &options, &model));
		WORKS(gmemModelGetInfo(model, &info));
		WORKS(gmemModelRange(model, 0, info.bytes, &part));
		WORKS(gmemPrefetch(part.addr, part.size, gmemGetNumaId(), NULL));
		/* Each ELF file begins with these bytes. */
		EXPECT(memcmp(info.data, "\177ELF", 4) == 0);
		WORKS(gmemFreeEager(part.addr, part.size, NULL));
		WORKS(gmemModelClose(model));
	}
}
static void pipelines(void) {
	const gmemPipelineOptions_t options = {
		.size = sizeof options, .budget = 64 * page, .hnid = gmemGetNumaId(), .order = GMEM_PIPELINE_ANY};
	gmemPipelineReport_t report = {.size = sizeof report};
	gmemPipeline_t pipeline = NULL;
	gmemModel_t model = NULL;
	gmemRange_t part = {0, 0};
	WORKS(gmemModelOpen("/proc/self/exe", NULL, &model));
	WORKS(gmemModelRange(model, 0, 4096, &part));
	WORKS(gmemPipelineCreate(&part, 1, &options, &pipeline));
	WORKS(gmemPipelineSoon(pipeline, 0));
	WORKS(gmemPipelineWant(pipeline, 0));
	WORKS(gmemPipelineDone(pipeline, 0));
	WORKS(gmemPipelineGetReport(pipeline, &report));
	EXPECT(report.wants == 1);
	WORKS(gmemPipelineDestroy(pipeline));
	WORKS(gmemModelClose(model));
}
static void open_library(void) {
	void *program = dlopen(NULL, RTLD_LAZY | RTLD_DEEPBIND);
	EXPECT(program != NULL && dlclose(program) == 0);
}
static void numa_id(void) { WORKS(gmemGetNumaId()); }
static void page_size(void) { EXPECT(gmemGetPageSize() == page); }
static void policies(void) {
	WORKS(gmemSetHugePolicy(GMEM_HUGE_PREFER));
	WORKS(gmemSetRangeHugePolicy(address(), size, GMEM_HUGE_OFF));
	EXPECT(gmemGetHugePolicy(address()) == GMEM_HUGE_OFF);
	EXPECT(gmemGetHugePolicy(address() + size) == GMEM_HUGE_PREFER);
}
static void fault_scopes(void) {
	for (int whose = GMEM_FAULTS_THREAD; whose <= GMEM_FAULTS_PROCESS; ++whose) {
		gmemFaultScope_t scope;
		WORKS(gmemFaultScopeBegin(&scope, whose));
		WORKS(gmemFaultScopeCount(&scope));
		gmemFaultScopeEnd(&scope);
		EXPECT(gmemFaultScopeCount(&scope) == -EBADF);
	}
}
static void topology(void) {
	gmemTopology_t machine = {.size = sizeof machine};
	WORKS(gmemTopology(&machine, NULL, 0, sizeof(gmemNode_t)));
	EXPECT(machine.gmem_page == page);
}
static void topology_texts(void) {
	char text[64];
	WORKS(gmemTopologyText(text, sizeof text));
	WORKS(gmemTopologyJson(text, sizeof text));
}
static void distance(void) { WORKS(gmemNodeDistance(gmemGetNumaId(), gmemGetNumaId())); }
static void residency(void) {
	gmemPageState_t state;
	gmemResidency_t summary = {.size = sizeof summary};
	WORKS(gmemResidency(address(), 1, GMEM_ASK_HOT, &state, 1, &summary));
	EXPECT(summary.pages == 1 && summary.mapped == 1);
	char text[64];
	WORKS(gmemResidencyText(&summary, &state, text, sizeof text));
	WORKS(gmemResidencyJson(&summary, &state, text, sizeof text));
	WORKS(gmemResidencySvg(&summary, &state, text, sizeof text));
}
static void last_error(void) {
	EXPECT(gmemSetDevice("toaster") == -EINVAL);
	EXPECT(strstr(gmemLastError(), "toaster") != NULL);
}
static void version(void) { EXPECT(gmemVersion()[0] != '\0'); }
static void device(void) {
	WORKS(gmemSetDevice("host"));
	EXPECT(gmemGetDevice() != NULL && strcmp(gmemGetDevice(), "host") == 0);
	EXPECT(gmemGetDeviceContext() == NULL);
}

static void streams(void) {
	atomic_int done = 0;
	gmemStream_t fresh = NULL;
	WORKS(gmemStreamCreate(&fresh));
	WORKS(gmemStreamLaunch(fresh, add_one, &done));
	WORKS(gmemStreamSynchronize(fresh));
	WORKS(gmemStreamQuery(fresh));
	WORKS(gmemStreamDestroy(fresh));
	EXPECT(done == 1);
}
static void external_streams(void) {
	atomic_int done = 0;
	gmemStream_t fresh = NULL;
	WORKS(gmemStreamWrap(run_now, NULL, &fresh));
	WORKS(gmemStreamLaunch(fresh, add_one, &done));
	WORKS(gmemStreamSynchronize(fresh));
	WORKS(gmemStreamDestroy(fresh));
	EXPECT(done == 1);
}
static void dropped(void) {
	if (external == NULL) {
		WORKS(gmemStreamWrap(keep_ticket, &ticket, &external));
	}
	atomic_int done = 0;
	WORKS(gmemStreamLaunch(external, add_one, &done));
	gmemLaunchDropped(ticket);
	EXPECT(gmemStreamSynchronize(external) == -ECANCELED);
	EXPECT(done == 0);
}
int gmemStreamLaunch_cxx(size_t on, void **task) __asm__(
	"_ZN4gmem6detail13stream_launchEmSt10unique_ptrINS0_4taskESt14default_deleteIS2_EE");
/* A std::unique_ptr is passed by its address. An empty one is registered and fails in its turn. */
static void launch_from_cxx(void) {
	WITH_STREAM();
	void *none = NULL;
	WORKS(gmemStreamLaunch_cxx((uintptr_t)stream, &none));
	EXPECT(gmemStreamSynchronize(stream) == -EINVAL);
}
static void events(void) {
	WITH_STREAM();
	gmemEvent_t fresh = NULL;
	WORKS(gmemEventCreate(&fresh));
	WORKS(gmemEventRecord(fresh, stream));
	WORKS(gmemStreamWaitEvent(stream, fresh));
	WORKS(gmemEventSynchronize(fresh));
	WORKS(gmemEventQuery(fresh));
	WORKS(gmemEventDestroy(fresh));
	WORKS(gmemStreamSynchronize(stream));
}

static void heap_statistics(void) {
	gmemHeapStats_t stats = {.size = sizeof stats};
	char text[64];
	WORKS(gmemHeapStats(&stats));
	EXPECT(stats.mapped > 0);
	WORKS(gmemHeapStatsJson(text, sizeof text));
	WORKS(gmemHeapSetLimits(0, 0));
	(void)gmemHeapTrim();
	EXPECT(gmemHeapProfileDump("/dev/null") == -EOPNOTSUPP);
}

/* Write to a block, and keep the compiler from leaving it out. */
static void *used(void *block) {
	EXPECT(block != NULL || (may_fail != NULL && may_fail("malloc", ENOMEM)));
	if (block != NULL) {
		*(volatile char *)block = 1;
	}
	return block;
}

#define HEAP_CELLS(prefix, name)                                                                                       \
	static void name##_malloc_cell(void) {                                                                             \
		for (int i = 0; i < KINDS; ++i) {                                                                              \
			prefix##free(used(prefix##malloc(SIZES[i])));                                                              \
		}                                                                                                              \
	}                                                                                                                  \
	static void name##_calloc_cell(void) {                                                                             \
		for (int i = 0; i < KINDS; ++i) {                                                                              \
			prefix##free(used(prefix##calloc(1, SIZES[i])));                                                           \
		}                                                                                                              \
	}                                                                                                                  \
	static void name##_realloc_cell(void) {                                                                            \
		void *block = NULL;                                                                                            \
		for (int i = 0; i < KINDS; ++i) {                                                                              \
			block = used(prefix##realloc(block, SIZES[i]));                                                            \
		}                                                                                                              \
		prefix##free(used(prefix##reallocarray(block, 2, SIZES[0])));                                                  \
	}                                                                                                                  \
	static void name##_aligned_cell(void) {                                                                            \
		for (int i = 0; i < KINDS; ++i) {                                                                              \
			void *block = NULL;                                                                                        \
			if (prefix##posix_memalign(&block, 64, SIZES[i]) != 0) {                                                   \
				block = NULL;                                                                                          \
			}                                                                                                          \
			prefix##free(used(block));                                                                                 \
			prefix##free(used(prefix##aligned_alloc(64, SIZES[i])));                                                   \
			prefix##free(used(prefix##memalign(64, SIZES[i])));                                                        \
			prefix##free(used(prefix##valloc(SIZES[i])));                                                              \
			prefix##free(used(prefix##pvalloc(SIZES[i])));                                                             \
		}                                                                                                              \
	}                                                                                                                  \
	static void name##_sized_cell(void) {                                                                              \
		for (int i = 0; i < KINDS; ++i) {                                                                              \
			prefix##free_sized(used(prefix##malloc(SIZES[i])), SIZES[i]);                                              \
			prefix##free_aligned_sized(used(prefix##aligned_alloc(64, SIZES[i])), 64, SIZES[i]);                       \
		}                                                                                                              \
	}                                                                                                                  \
	static void name##_usable_cell(void) {                                                                             \
		void *block = used(prefix##malloc(SIZES[1]));                                                                  \
		EXPECT(block == NULL || prefix##malloc_usable_size(block) >= SIZES[1]);                                        \
		prefix##free(block);                                                                                           \
		(void)prefix##malloc_trim(0);                                                                                  \
	}

void cfree(void *ptr);
void free_sized(void *ptr, size_t bytes);
void free_aligned_sized(void *ptr, size_t alignment, size_t bytes);
HEAP_CELLS(, posix)
HEAP_CELLS(gmem_, gmem)

static void device_alloc(void) {
	for (int i = 0; i < KINDS; ++i) {
		gmem_free(used(gmem_device_alloc(64, SIZES[i])));
	}
}
static void old_names(void) {
	cfree(used(malloc(SIZES[1])));
	(void)mallopt(M_TRIM_THRESHOLD, 1 << 20);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
	(void)mallinfo();
#pragma GCC diagnostic pop
	EXPECT(mallinfo2().uordblks > 0);
}

/* The operators new and delete, as the linker knows them. */
void *new_one(size_t) __asm__("_Znwm");
void *new_one_nothrow(size_t, const void *) __asm__("_ZnwmRKSt9nothrow_t");
void *new_one_aligned(size_t, size_t) __asm__("_ZnwmSt11align_val_t");
void *new_one_aligned_nothrow(size_t, size_t, const void *) __asm__("_ZnwmSt11align_val_tRKSt9nothrow_t");
void delete_one(void *) __asm__("_ZdlPv");
void delete_one_nothrow(void *, const void *) __asm__("_ZdlPvRKSt9nothrow_t");
void delete_one_aligned(void *, size_t) __asm__("_ZdlPvSt11align_val_t");
void delete_one_aligned_nothrow(void *, size_t, const void *) __asm__("_ZdlPvSt11align_val_tRKSt9nothrow_t");
void delete_one_sized(void *, size_t) __asm__("_ZdlPvm");
void delete_one_sized_aligned(void *, size_t, size_t) __asm__("_ZdlPvmSt11align_val_t");
void *new_many(size_t) __asm__("_Znam");
void *new_many_nothrow(size_t, const void *) __asm__("_ZnamRKSt9nothrow_t");
void *new_many_aligned(size_t, size_t) __asm__("_ZnamSt11align_val_t");
void *new_many_aligned_nothrow(size_t, size_t, const void *) __asm__("_ZnamSt11align_val_tRKSt9nothrow_t");
void delete_many(void *) __asm__("_ZdaPv");
void delete_many_nothrow(void *, const void *) __asm__("_ZdaPvRKSt9nothrow_t");
void delete_many_aligned(void *, size_t) __asm__("_ZdaPvSt11align_val_t");
void delete_many_aligned_nothrow(void *, size_t, const void *) __asm__("_ZdaPvSt11align_val_tRKSt9nothrow_t");
void delete_many_sized(void *, size_t) __asm__("_ZdaPvm");
void delete_many_sized_aligned(void *, size_t, size_t) __asm__("_ZdaPvmSt11align_val_t");

/* Without memory they throw, as C++ requires, which ends a program in C. */
static void operators(void) {
	for (int i = 0; i < KINDS; ++i) {
		const size_t bytes = SIZES[i];
		delete_one(used(new_one(bytes)));
		delete_one_sized(used(new_one(bytes)), bytes);
		delete_one_aligned(used(new_one_aligned(bytes, 64)), 64);
		delete_one_sized_aligned(used(new_one_aligned(bytes, 64)), bytes, 64);
		delete_many(used(new_many(bytes)));
		delete_many_sized(used(new_many(bytes)), bytes);
		delete_many_aligned(used(new_many_aligned(bytes, 64)), 64);
		delete_many_sized_aligned(used(new_many_aligned(bytes, 64)), bytes, 64);
	}
}
static void nothrow_operators(void) {
	const char nothrow = 0;
	for (int i = 0; i < KINDS; ++i) {
		const size_t bytes = SIZES[i];
		delete_one_nothrow(used(new_one_nothrow(bytes, &nothrow)), &nothrow);
		delete_one_aligned_nothrow(used(new_one_aligned_nothrow(bytes, 64, &nothrow)), 64, &nothrow);
		delete_many_nothrow(used(new_many_nothrow(bytes, &nothrow)), &nothrow);
		delete_many_aligned_nothrow(used(new_many_aligned_nothrow(bytes, 64, &nothrow)), 64, &nothrow);
	}
}

/* ---- calls that block while the stream has work ---------------------------------------------------- */

static void block_in_synchronize(void) {
	WITH_STREAM();
	WORKS(gmemStreamSynchronize(stream));
}
static void block_in_event(void) {
	WITH_STREAM();
	WORKS(gmemEventSynchronize(event));
}
static void block_in_launch(void) {
	WITH_STREAM();
	static atomic_int done;
	const int most = 1 << 17;
	atomic_store(&done, 0);
	for (int i = 0; i < most; ++i) {
		WORKS(gmemStreamLaunch(stream, add_one, &done));
	}
	WORKS(gmemStreamSynchronize(stream));
	EXPECT(done == most);
}

static void aligned_realloc(void) {
	void *block = NULL;
	for (int i = 0; i < KINDS; ++i) {
		block = used(gmem_aligned_realloc(block, 64, SIZES[i]));
	}
	gmem_free(block);
}

static int gmemModelCopyDescriptor_to(int *descriptor, gmemModel_t model) {
	return *descriptor = gmemModelCopyDescriptor(model);
}
static void common_copies(void) {
	gmemModelOptions_t options = {sizeof options, 0, 0, GMEM_COPY_COMMON, 0};
	gmemModel_t one = NULL, two = NULL;
	WORKS(gmemModelOpen("/proc/self/exe", &options, &one));
	options.copy = GMEM_COPY_JOIN;
	WORKS(gmemModelCopyDescriptor_to(&options.copy_descriptor, one));
	WORKS(gmemModelOpen("/proc/self/exe", &options, &two));
	/* close(3) is a cancellation point. */
	syscall(SYS_close, options.copy_descriptor);
	WORKS(gmemModelClose(two));
	WORKS(gmemModelClose(one));
}

static void free_eager_of_file(void) {
	WORKS(gmemFreeEagerFile((unsigned long)(uintptr_t)program, 2 * page, program_file, NULL));
	/* Each ELF file begins with these bytes. */
	EXPECT(memcmp(program, "\177ELF", 4) == 0);
}

static void mappings_of(void) {
	gmemMapping_t found[64];
	WORKS(gmemMappingsOf("/proc/self/exe", found, 64));
}

/* ---- the table ------------------------------------------------------------------------------------ */

enum { MOST_NAMES = 12 };
/* BLOCKS: the calls block while the stream's work does. THROWS: they throw where there is no memory. LARGE: they
 * populate tens of MiB. */
enum { BLOCKS = 1, THROWS = 2, LARGE = 4 };

static const struct cell {
	void (*call)(void);
	int kind;
	const char *functions[MOST_NAMES + 1];
} CELLS[] = {
	{prefetch, 0, {"gmemPrefetch"}},
	{prefetch_in_order, 0, {"gmemPrefetch"}},
	{prefetch_with_report, 0, {"gmemPrefetchEx"}},
	{prefetch_of_much, LARGE, {"gmemPrefetchEx"}},
	{free_eager, 0, {"gmemFreeEager"}},
	{batches, 0, {"gmemFreeEagerV", "gmemPrefetchV"}},
	{free_eager_from_cxx, 0, {"_ZN4gmem6detail10free_eagerEmmm"}},
	{models, 0, {"gmemModelOpen", "gmemModelGetInfo", "gmemModelRange", "gmemModelClose"}},
	{pipelines, 0,
		{"gmemPipelineCreate", "gmemPipelineWant", "gmemPipelineSoon", "gmemPipelineDone", "gmemPipelineGetReport",
			"gmemPipelineDestroy"}},
	{numa_id, 0, {"gmemGetNumaId"}},
	{page_size, 0, {"gmemGetPageSize"}},
	{policies, 0, {"gmemSetHugePolicy", "gmemSetRangeHugePolicy", "gmemGetHugePolicy"}},
	{fault_scopes, 0, {"gmemFaultScopeBegin", "gmemFaultScopeCount", "gmemFaultScopeEnd"}},
	{topology, 0, {"gmemTopology"}},
	{topology_texts, 0, {"gmemTopologyText", "gmemTopologyJson"}},
	{distance, 0, {"gmemNodeDistance"}},
	{residency, 0, {"gmemResidency", "gmemResidencyText", "gmemResidencyJson", "gmemResidencySvg"}},
	{mappings_of, 0, {"gmemMappingsOf"}},
	{free_eager_of_file, 0, {"gmemFreeEagerFile"}},
	{common_copies, 0, {"gmemModelCopyDescriptor", "gmemModelOpen"}},
	{last_error, 0, {"gmemLastError"}},
	{version, 0, {"gmemVersion"}},
	{device, 0, {"gmemSetDevice", "gmemGetDevice", "gmemGetDeviceContext"}},
	{streams, 0,
		{"gmemStreamCreate", "gmemStreamLaunch", "gmemStreamSynchronize", "gmemStreamQuery", "gmemStreamDestroy"}},
	{external_streams, 0, {"gmemStreamWrap"}},
	{dropped, 0, {"gmemLaunchDropped"}},
	{launch_from_cxx, 0, {"_ZN4gmem6detail13stream_launchEmSt10unique_ptrINS0_4taskESt14default_deleteIS2_EE"}},
	{events, 0,
		{"gmemEventCreate", "gmemEventRecord", "gmemStreamWaitEvent", "gmemEventSynchronize", "gmemEventQuery",
			"gmemEventDestroy"}},
	{heap_statistics, 0,
		{"gmemHeapStats", "gmemHeapStatsJson", "gmemHeapSetLimits", "gmemHeapTrim", "gmemHeapProfileDump"}},
	{posix_malloc_cell, 0, {"malloc", "free"}},
	{posix_calloc_cell, 0, {"calloc"}},
	{open_library, 0, {"dlopen"}},
	{posix_realloc_cell, 0, {"realloc", "reallocarray"}},
	{posix_aligned_cell, 0, {"posix_memalign", "aligned_alloc", "memalign", "valloc", "pvalloc"}},
	{posix_sized_cell, 0, {"free_sized", "free_aligned_sized"}},
	{posix_usable_cell, 0, {"malloc_usable_size", "malloc_trim"}},
	{old_names, 0, {"cfree", "mallopt", "mallinfo", "mallinfo2"}},
	{gmem_malloc_cell, 0, {"gmem_malloc", "gmem_free"}},
	{gmem_calloc_cell, 0, {"gmem_calloc"}},
	{gmem_realloc_cell, 0, {"gmem_realloc", "gmem_reallocarray"}},
	{aligned_realloc, 0, {"gmem_aligned_realloc"}},
	{gmem_aligned_cell, 0,
		{"gmem_posix_memalign", "gmem_aligned_alloc", "gmem_memalign", "gmem_valloc", "gmem_pvalloc"}},
	{gmem_sized_cell, 0, {"gmem_free_sized", "gmem_free_aligned_sized"}},
	{gmem_usable_cell, 0, {"gmem_malloc_usable_size", "gmem_malloc_trim"}},
	{device_alloc, 0, {"gmem_device_alloc"}},
	{operators, THROWS, {"_Znwm", "_ZnwmSt11align_val_t", "_Znam", "_ZnamSt11align_val_t"}},
	{operators, THROWS,
		{"_ZdlPv", "_ZdlPvSt11align_val_t", "_ZdlPvm", "_ZdlPvmSt11align_val_t", "_ZdaPv", "_ZdaPvSt11align_val_t",
			"_ZdaPvm", "_ZdaPvmSt11align_val_t"}},
	{nothrow_operators, 0,
		{"_ZnwmRKSt9nothrow_t", "_ZnwmSt11align_val_tRKSt9nothrow_t", "_ZnamRKSt9nothrow_t",
			"_ZnamSt11align_val_tRKSt9nothrow_t", "_ZdlPvRKSt9nothrow_t", "_ZdlPvSt11align_val_tRKSt9nothrow_t",
			"_ZdaPvRKSt9nothrow_t", "_ZdaPvSt11align_val_tRKSt9nothrow_t"}},
	{block_in_synchronize, BLOCKS, {"gmemStreamSynchronize"}},
	{block_in_event, BLOCKS, {"gmemEventSynchronize"}},
	{block_in_launch, BLOCKS, {"gmemStreamLaunch"}},
};

static int has_cell(const char *function) {
	for (size_t i = 0; i < sizeof CELLS / sizeof *CELLS; ++i) {
		for (const char *const *name = CELLS[i].functions; *name != NULL; ++name) {
			if (strcmp(*name, function) == 0) {
				return 1;
			}
		}
	}
	return 0;
}

static void every_exported_function_has_a_cell(void) {
	FILE *exports = fopen(EXPORTS, "re");
	char line[256];
	NEED(exports != NULL);
	while (fgets(line, sizeof line, exports) != NULL) {
		line[strcspn(line, "\n")] = '\0';
		if (line[0] != '#' && line[0] != '\0' && !has_cell(line)) {
			fprintf(stderr, "%s is exported and has no cell in %s\n", line, __FILE__);
			++checks_failed;
		}
	}
	fclose(exports);
}

#endif
