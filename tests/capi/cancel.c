/* SPDX-License-Identifier: Apache-2.0 */
/* Thread cancellation: no function of the library is a cancellation point, and none ends the process when a
 * cancellation is pending. A table of functions times states; a function that is exported and has no cell fails the
 * test.
 *
 * States:
 *   deferred      cancellation is enabled, deferred, and pending before the call; it must act after the call only
 *   asynchronous  cancellation is asynchronous, and pending but disabled; the call must not enable it
 *   blocked       the cancellation comes while the call blocks
 * Asynchronous and enabled is no state: POSIX allows a thread to call no function then but those that end it. */
#include <dlfcn.h>
#include <malloc.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/wait.h>

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

/* Blocks of each kind: kept by the thread, by jemalloc, and one with pages of its own. */
static const size_t SIZES[] = {24, 100000, (size_t)5 << 20};
enum { KINDS = 3 };

/* The arguments of each cell, created again before each. */
static size_t page, size;
static char *range;
static gmemStream_t stream, external;
static gmemEvent_t event;
static void *ticket;

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

static void set_up(void) {
	page = huge_page();
	size = 4 * page;
	range = map_private(size, page);
	memset(range, 'x', page);
	NEED(gmemStreamCreate(&stream) == 0 && gmemEventCreate(&event) == 0);
	NEED(gmemStreamWrap(keep_ticket, &ticket, &external) == 0);
}

/* ---- one cell for each function ------------------------------------------------------------------ */

static void prefetch(void) {
	EXPECT(gmemPrefetch(address(), size, gmemGetNumaId(), NULL) == 0);
	EXPECT(faults_of_writing(range, size) == 0);
}
static void prefetch_in_order(void) {
	EXPECT(gmemPrefetch(address(), size, gmemGetNumaId(), stream) == 0);
	EXPECT(gmemStreamSynchronize(stream) == 0);
	EXPECT(faults_of_writing(range, size) == 0);
}
static void prefetch_with_report(void) {
	gmemPrefetchOptions_t options = {.size = sizeof options, .huge = GMEM_HUGE_PREFER};
	gmemPrefetchReport_t report = {.size = sizeof report};
	EXPECT(gmemPrefetchEx(address(), size, gmemGetNumaId(), NULL, &options, &report) == 0);
	EXPECT(report.result == 0 && report.failed == 0 && report.bytes == size);
}
/* Large enough for several threads. */
static void prefetch_of_much(void) {
	const size_t much = (size_t)80 << 20;
	char *start = map_private(much, page);
	EXPECT(gmemPrefetchEx((uintptr_t)start, much, gmemGetNumaId(), NULL, NULL, NULL) == 0);
	EXPECT(faults_of_writing(start, much) == 0);
	munmap(start, much);
}
static void free_eager(void) {
	memset(range, 'x', page);
	EXPECT(gmemFreeEager(address(), size, NULL) == 0);
	EXPECT(range[0] == 0);
}
static void batches(void) {
	const gmemRange_t halves[] = {{address(), size / 2}, {address() + size / 2, size / 2}};
	gmemPrefetchReport_t report = {.size = sizeof report};
	gmemFreeReport_t freed = {.size = sizeof freed};
	EXPECT(gmemPrefetchV(halves, 2, gmemGetNumaId(), NULL, NULL, &report) == 0);
	EXPECT(report.result == 0 && report.bytes == size);
	EXPECT(gmemFreeEagerV(halves, 2, NULL, &freed) == 0);
	EXPECT(freed.result == 0 && freed.freed == size);
	EXPECT(gmemFreeEagerV(halves, 2, stream, &freed) == 0);
	EXPECT(gmemStreamSynchronize(stream) == 0);
}
int cxx_free_eager(size_t addr, size_t bytes, size_t on) __asm__("_ZN4gmem6detail10free_eagerEmmm");
static void free_eager_from_cxx(void) {
	memset(range, 'x', page);
	EXPECT(cxx_free_eager(address(), size, 0) == 0);
	EXPECT(range[0] == 0);
}
static void open_library(void) {
	void *program = dlopen(NULL, RTLD_LAZY | RTLD_DEEPBIND);
	EXPECT(program != NULL && dlclose(program) == 0);
}
static void numa_id(void) { EXPECT(gmemGetNumaId() >= 0); }
static void page_size(void) { EXPECT(gmemGetPageSize() == page); }
static void policies(void) {
	EXPECT(gmemSetHugePolicy(GMEM_HUGE_PREFER) == 0);
	EXPECT(gmemSetRangeHugePolicy(address(), size, GMEM_HUGE_OFF) == 0);
	EXPECT(gmemGetHugePolicy(address()) == GMEM_HUGE_OFF);
	EXPECT(gmemGetHugePolicy(address() + size) == GMEM_HUGE_PREFER);
}
static void fault_scopes(void) {
	for (int whose = GMEM_FAULTS_THREAD; whose <= GMEM_FAULTS_PROCESS; ++whose) {
		gmemFaultScope_t scope;
		EXPECT(gmemFaultScopeBegin(&scope, whose) == 0);
		EXPECT(gmemFaultScopeCount(&scope) >= 0);
		gmemFaultScopeEnd(&scope);
		EXPECT(gmemFaultScopeCount(&scope) == -EBADF);
	}
}
static void topology(void) {
	gmemTopology_t machine = {.size = sizeof machine};
	EXPECT(gmemTopology(&machine, NULL, 0, sizeof(gmemNode_t)) > 0);
	EXPECT(machine.gmem_page == page);
}
static void topology_texts(void) {
	char text[64];
	EXPECT(gmemTopologyText(text, sizeof text) > 0);
	EXPECT(gmemTopologyJson(text, sizeof text) > 0);
}
static void distance(void) { EXPECT(gmemNodeDistance(gmemGetNumaId(), gmemGetNumaId()) == 10); }
static void residency(void) {
	gmemPageState_t state;
	gmemResidency_t summary = {.size = sizeof summary};
	EXPECT(gmemResidency(address(), 1, GMEM_ASK_HOT, &state, 1, &summary) == 0);
	EXPECT(summary.pages == 1 && summary.mapped == 1);
	char text[64];
	EXPECT(gmemResidencyText(&summary, &state, text, sizeof text) > 0);
	EXPECT(gmemResidencyJson(&summary, &state, text, sizeof text) > 0);
	EXPECT(gmemResidencySvg(&summary, &state, text, sizeof text) > 0);
}
static void last_error(void) {
	EXPECT(gmemSetDevice("toaster") == -EINVAL);
	EXPECT(strstr(gmemLastError(), "toaster") != NULL);
}
static void version(void) { EXPECT(gmemVersion()[0] != '\0'); }
static void device(void) {
	EXPECT(gmemSetDevice("host") == 0);
	EXPECT(gmemGetDevice() != NULL && strcmp(gmemGetDevice(), "host") == 0);
	EXPECT(gmemGetDeviceContext() == NULL);
}

static void streams(void) {
	atomic_int done = 0;
	gmemStream_t fresh = NULL;
	EXPECT(gmemStreamCreate(&fresh) == 0);
	EXPECT(gmemStreamLaunch(fresh, add_one, &done) == 0);
	EXPECT(gmemStreamSynchronize(fresh) == 0);
	EXPECT(gmemStreamQuery(fresh) == 0);
	EXPECT(gmemStreamDestroy(fresh) == 0);
	EXPECT(done == 1);
}
static void external_streams(void) {
	atomic_int done = 0;
	gmemStream_t fresh = NULL;
	EXPECT(gmemStreamWrap(run_now, NULL, &fresh) == 0);
	EXPECT(gmemStreamLaunch(fresh, add_one, &done) == 0);
	EXPECT(gmemStreamSynchronize(fresh) == 0);
	EXPECT(gmemStreamDestroy(fresh) == 0);
	EXPECT(done == 1);
}
static void dropped(void) {
	atomic_int done = 0;
	EXPECT(gmemStreamLaunch(external, add_one, &done) == 0);
	gmemLaunchDropped(ticket);
	EXPECT(gmemStreamSynchronize(external) == -ECANCELED);
	EXPECT(done == 0);
}
int cxx_stream_launch(size_t on, void **task) __asm__(
	"_ZN4gmem6detail13stream_launchEmSt10unique_ptrINS0_4taskESt14default_deleteIS2_EE");
/* A std::unique_ptr is passed by its address. An empty one is registered and fails in its turn. */
static void launch_from_cxx(void) {
	void *none = NULL;
	EXPECT(cxx_stream_launch((uintptr_t)stream, &none) == 0);
	EXPECT(gmemStreamSynchronize(stream) == -EINVAL);
}
static void events(void) {
	gmemEvent_t fresh = NULL;
	EXPECT(gmemEventCreate(&fresh) == 0);
	EXPECT(gmemEventRecord(fresh, stream) == 0);
	EXPECT(gmemStreamWaitEvent(stream, fresh) == 0);
	EXPECT(gmemEventSynchronize(fresh) == 0);
	EXPECT(gmemEventQuery(fresh) == 0);
	EXPECT(gmemEventDestroy(fresh) == 0);
	EXPECT(gmemStreamSynchronize(stream) == 0);
}

static void heap_statistics(void) {
	gmemHeapStats_t stats = {.size = sizeof stats};
	char text[64];
	EXPECT(gmemHeapStats(&stats) == 0 && stats.mapped > 0);
	EXPECT(gmemHeapStatsJson(text, sizeof text) > 0);
	EXPECT(gmemHeapSetLimits(0, 0) == 0);
	(void)gmemHeapTrim();
}

/* Write to a block, and keep the compiler from leaving it out. */
static void *used(void *block) {
	EXPECT(block != NULL);
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
			EXPECT(prefix##posix_memalign(&block, 64, SIZES[i]) == 0);                                                 \
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
		EXPECT(prefix##malloc_usable_size(block) >= SIZES[1]);                                                         \
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

static void operators(void) {
	const char nothrow = 0;
	for (int i = 0; i < KINDS; ++i) {
		const size_t bytes = SIZES[i];
		delete_one(used(new_one(bytes)));
		delete_one_sized(used(new_one(bytes)), bytes);
		delete_one_nothrow(used(new_one_nothrow(bytes, &nothrow)), &nothrow);
		delete_one_aligned(used(new_one_aligned(bytes, 64)), 64);
		delete_one_sized_aligned(used(new_one_aligned(bytes, 64)), bytes, 64);
		delete_one_aligned_nothrow(used(new_one_aligned_nothrow(bytes, 64, &nothrow)), 64, &nothrow);
		delete_many(used(new_many(bytes)));
		delete_many_sized(used(new_many(bytes)), bytes);
		delete_many_nothrow(used(new_many_nothrow(bytes, &nothrow)), &nothrow);
		delete_many_aligned(used(new_many_aligned(bytes, 64)), 64);
		delete_many_sized_aligned(used(new_many_aligned(bytes, 64)), bytes, 64);
		delete_many_aligned_nothrow(used(new_many_aligned_nothrow(bytes, 64, &nothrow)), 64, &nothrow);
	}
}

/* ---- calls that block until the gate opens ------------------------------------------------------- */

static atomic_int gate;

static void wait_for_gate(void *arg) {
	(void)arg;
	while (!atomic_load(&gate)) {
		sched_yield();
	}
}

static void block_in_synchronize(void) { EXPECT(gmemStreamSynchronize(stream) == 0); }
static void block_in_event(void) { EXPECT(gmemEventSynchronize(event) == 0); }
static void block_in_launch(void) {
	static atomic_int done;
	const int most = 1 << 17;
	for (int i = 0; i < most; ++i) {
		EXPECT(gmemStreamLaunch(stream, add_one, &done) == 0);
	}
	EXPECT(gmemStreamSynchronize(stream) == 0);
	EXPECT(done == most);
}

/* ---- the table ------------------------------------------------------------------------------------ */

enum { MOST_NAMES = 12 };

static void mappings_of(void) {
	gmemMapping_t found[64];
	EXPECT(gmemMappingsOf("/proc/self/exe", found, 64) > 0);
}

static void aligned_realloc(void) {
	void *block = gmem_aligned_realloc(NULL, 64, 100);
	block = gmem_aligned_realloc(block, 4096, 100000);
	block = gmem_aligned_realloc(block, 64, (size_t)8 << 20);
	EXPECT(block != NULL);
	gmem_free(block);
}

static const struct cell {
	void (*call)(void);
	int blocks;
	const char *functions[MOST_NAMES + 1];
} CELLS[] = {
	{prefetch, 0, {"gmemPrefetch"}},
	{prefetch_in_order, 0, {"gmemPrefetch"}},
	{prefetch_with_report, 0, {"gmemPrefetchEx"}},
	{prefetch_of_much, 0, {"gmemPrefetchEx"}},
	{free_eager, 0, {"gmemFreeEager"}},
	{batches, 0, {"gmemFreeEagerV", "gmemPrefetchV"}},
	{free_eager_from_cxx, 0, {"_ZN4gmem6detail10free_eagerEmmm"}},
	{numa_id, 0, {"gmemGetNumaId"}},
	{page_size, 0, {"gmemGetPageSize"}},
	{policies, 0, {"gmemSetHugePolicy", "gmemSetRangeHugePolicy", "gmemGetHugePolicy"}},
	{fault_scopes, 0, {"gmemFaultScopeBegin", "gmemFaultScopeCount", "gmemFaultScopeEnd"}},
	{topology, 0, {"gmemTopology"}},
	{topology_texts, 0, {"gmemTopologyText", "gmemTopologyJson"}},
	{distance, 0, {"gmemNodeDistance"}},
	{residency, 0, {"gmemResidency", "gmemResidencyText", "gmemResidencyJson", "gmemResidencySvg"}},
	{mappings_of, 0, {"gmemMappingsOf"}},
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
	{heap_statistics, 0, {"gmemHeapStats", "gmemHeapStatsJson", "gmemHeapSetLimits", "gmemHeapTrim"}},
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
	{operators, 0,
		{"_Znwm", "_ZnwmRKSt9nothrow_t", "_ZnwmSt11align_val_t", "_ZnwmSt11align_val_tRKSt9nothrow_t", "_Znam",
			"_ZnamRKSt9nothrow_t", "_ZnamSt11align_val_t", "_ZnamSt11align_val_tRKSt9nothrow_t"}},
	{operators, 0,
		{"_ZdlPv", "_ZdlPvRKSt9nothrow_t", "_ZdlPvSt11align_val_t", "_ZdlPvSt11align_val_tRKSt9nothrow_t", "_ZdlPvm",
			"_ZdlPvmSt11align_val_t", "_ZdaPv", "_ZdaPvRKSt9nothrow_t", "_ZdaPvSt11align_val_t",
			"_ZdaPvSt11align_val_tRKSt9nothrow_t", "_ZdaPvm", "_ZdaPvmSt11align_val_t"}},
	{block_in_synchronize, 1, {"gmemStreamSynchronize"}},
	{block_in_event, 1, {"gmemEventSynchronize"}},
	{block_in_launch, 1, {"gmemStreamLaunch"}},
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

/* ---- the states ------------------------------------------------------------------------------------ */

enum state { DEFERRED, ASYNCHRONOUS, STATES, BLOCKED = STATES };
static const char *const STATE_NAMES[] = {"deferred", "asynchronous", "blocked"};

static enum state state;
static atomic_int begun, returned;

static void *thread_of(void *arg) {
	const struct cell *cell = (const struct cell *)arg;
	NEED(pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL) == 0);
	if (state != BLOCKED) {
		NEED(pthread_cancel(pthread_self()) == 0);
	}
	if (state == ASYNCHRONOUS) {
		NEED(pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, NULL) == 0);
	} else {
		NEED(pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, NULL) == 0);
	}
	atomic_store(&begun, 1);
	cell->call();
	if (!cell->blocks) {
		/* Once more, with everything in place that the first use makes. */
		cell->call();
	}
	atomic_store(&returned, 1);
	NEED(pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, NULL) == 0);
	pthread_testcancel();
	return (void *)&returned;
}

/* In a process of its own, so that one cell that ends it does not hide the others. Returns an exit status. */
static int in_child(const struct cell *cell) {
	pthread_t thread;
	void *result = NULL; /* `returned`, or what the C library has for a thread that was cancelled. */
	alarm(60);
	set_up();
	if (cell->blocks) {
		NEED(gmemStreamLaunch(stream, wait_for_gate, NULL) == 0);
		NEED(gmemEventRecord(event, stream) == 0);
	}
	NEED(pthread_create(&thread, NULL, thread_of, (void *)(uintptr_t)cell) == 0);
	if (cell->blocks) {
		/* By now it blocks, or the cancellation is pending when it does: both must be harmless. */
		while (!atomic_load(&begun)) {
			sched_yield();
		}
		usleep(20000);
		NEED(pthread_cancel(thread) == 0);
		usleep(20000);
		atomic_store(&gate, 1);
	}
	NEED(pthread_join(thread, &result) == 0);
	if (!returned) {
		fprintf(stderr, "the thread was cancelled inside the call\n");
	} else if (result == &returned) {
		fprintf(stderr, "the cancellation was lost\n");
	} else if (failed_line != 0) {
		fprintf(stderr, "%s:%d: the call did not do its work\n", __FILE__, failed_line);
	}
	return !returned || result == &returned || failed_line != 0;
}

static void check_cell(const struct cell *cell, enum state in) {
	state = in;
	fflush(NULL);
	const pid_t child = fork();
	NEED(child >= 0);
	if (child == 0) {
		_exit(in_child(cell));
	}
	int status = 0;
	NEED(waitpid(child, &status, 0) == child);
	if (status != 0) {
		fprintf(stderr, "%s and companions, %s: ", cell->functions[0], STATE_NAMES[in]);
		if (WIFSIGNALED(status)) {
			fprintf(stderr, "the process ended by signal %d\n", WTERMSIG(status));
		} else {
			fprintf(stderr, "failed\n");
		}
		++checks_failed;
	}
}

int main(void) {
	every_exported_function_has_a_cell();
	for (size_t i = 0; i < sizeof CELLS / sizeof *CELLS; ++i) {
		if (CELLS[i].blocks) {
			check_cell(&CELLS[i], BLOCKED);
		} else {
			for (int in = 0; in < STATES; ++in) {
				check_cell(&CELLS[i], (enum state)in);
			}
		}
	}
	return checks_result("cancel");
}
