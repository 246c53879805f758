/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Provokes every documented errno that a stock machine can produce, and prints a line "function errno" for each one
 * that came out. errnos.py compares the lines with what libgmem.h documents.
 */
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <libgmem.h>

#include "../check.h"

static size_t page;
static gmemStream_t stream;
/* Never a handle: those are odd, and nothing is mapped there. */
static gmemStream_t unknown_stream = (gmemStream_t)16;
static gmemEvent_t unknown_event = (gmemEvent_t)16;

/* The result of a function that ran on a stream. */
static int seen;
static int gate;

static unsigned long addr(const void *at) { return (unsigned long)(uintptr_t)at; }

static void *map(int protection, int flags, int fd) {
	char *start = mmap(NULL, 3 * page, protection, flags, fd, 0);
	NEED(start != MAP_FAILED);
	return start;
}

static void *memory(void) { return map(PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1); }

/* The whole GMEM pages of a mapping of three lie in its last two thirds. */
static int free_of(void *start) { return gmemFreeEager(addr(start), 3 * page, NULL); }

static int prefetch_of(void *start) { return gmemPrefetch(addr(start), 3 * page, gmemGetNumaId(), NULL); }

static int prefetch_ex(int huge, unsigned long long timeout_ns, const int *cancel) {
	gmemPrefetchOptions_t options = {sizeof options, huge, 0, timeout_ns, cancel, NULL, NULL, NULL, NULL};
	return gmemPrefetchEx(addr(memory()), 3 * page, gmemGetNumaId(), NULL, &options, NULL);
}

static void nothing(void *arg) { (void)arg; }

static void wait_for_gate(void *arg) {
	(void)arg;
	while (__atomic_load_n(&gate, __ATOMIC_ACQUIRE) == 0) {
		usleep(100);
	}
}

/* ---- the file mapping, the hole, and the like ------------------------------------------------------- */

static void *file(size_t length, int protection, int flags) {
	char name[] = "/tmp/gmem_errnos_XXXXXX";
	const int fd = mkstemp(name);
	NEED(fd >= 0 && unlink(name) == 0 && ftruncate(fd, (off_t)length) == 0);
	void *start = map(protection, flags, fd);
	close(fd);
	return start;
}

static void *hole(void) {
	char *start = memory();
	NEED(munmap(start + page, page) == 0);
	return start;
}

static void *sealed(void) {
	const int fd = memfd_create("sealed", MFD_ALLOW_SEALING);
	NEED(fd >= 0 && ftruncate(fd, (off_t)(3 * page)) == 0);
	void *start = map(PROT_READ | PROT_WRITE, MAP_SHARED, fd);
	NEED(fcntl(fd, F_ADD_SEALS, 16 /* F_SEAL_FUTURE_WRITE */) == 0);
	return start;
}

static int free_overflow(void) { return gmemFreeEager(-page, 2 * page, NULL); }
static int free_hole(void) { return free_of(hole()); }
static int free_read_only(void) { return free_of(map(PROT_READ, MAP_SHARED | MAP_ANONYMOUS, -1)); }
static int free_sealed(void) { return free_of(sealed()); }
static int free_unknown_stream(void) { return gmemFreeEager(addr(memory()), page, unknown_stream); }
static int free_file(void) { return free_of(file(3 * page, PROT_READ | PROT_WRITE, MAP_SHARED)); }

static int prefetch_overflow(void) { return gmemPrefetch(-page, 2 * page, gmemGetNumaId(), NULL); }
static int prefetch_no_node(void) { return gmemPrefetch(addr(memory()), page, -1, NULL); }
static int prefetch_hole(void) { return prefetch_of(hole()); }
static int prefetch_prot_none(void) { return prefetch_of(map(PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1)); }
static int prefetch_beyond_file(void) { return prefetch_of(file(page, PROT_READ, MAP_SHARED)); }
static int prefetch_too_much(void) {
	const size_t size = (size_t)1 << 45;
	void *start = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	NEED(start != MAP_FAILED);
	const int result = gmemPrefetch(addr(start), size, gmemGetNumaId(), NULL);
	munmap(start, size);
	return result;
}

static int ex_policy(void) { return prefetch_ex(7, 0, NULL); }
static int ex_cancelled(void) {
	static const int cancel = 1;
	return prefetch_ex(0, 0, &cancel);
}
static int ex_timeout(void) { return prefetch_ex(0, 1, NULL); }
static int ex_require_of_file(void) {
	gmemPrefetchOptions_t options = {sizeof options, GMEM_HUGE_REQUIRE, 0, 0, NULL, NULL, NULL, NULL, NULL};
	void *start = file(3 * page, PROT_READ | PROT_WRITE, MAP_SHARED);
	return gmemPrefetchEx(addr(start), 3 * page, gmemGetNumaId(), NULL, &options, NULL);
}
static int ex_of(void *start) { return gmemPrefetchEx(addr(start), 3 * page, gmemGetNumaId(), NULL, NULL, NULL); }
static int ex_hole(void) { return ex_of(hole()); }
static int ex_prot_none(void) { return ex_of(map(PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1)); }
static int ex_beyond_file(void) { return ex_of(file(page, PROT_READ, MAP_SHARED)); }

static int free_v(void *start, void *on) {
	const gmemRange_t range = {addr(start), 3 * page};
	return gmemFreeEagerV(&range, 1, on, NULL);
}
static int free_v_null(void) { return gmemFreeEagerV(NULL, 1, NULL, NULL); }
static int free_v_file(void) { return free_v(file(3 * page, PROT_READ | PROT_WRITE, MAP_SHARED), NULL); }
static int free_v_hole(void) { return free_v(hole(), NULL); }
static int free_v_read_only(void) { return free_v(map(PROT_READ, MAP_SHARED | MAP_ANONYMOUS, -1), NULL); }
static int free_v_sealed(void) { return free_v(sealed(), NULL); }

static int prefetch_v(void *start, void *on, int huge, unsigned long long timeout_ns, const int *cancel) {
	const gmemRange_t range = {addr(start), 3 * page};
	gmemPrefetchOptions_t options = {sizeof options, huge, 0, timeout_ns, cancel, NULL, NULL, NULL, NULL};
	return gmemPrefetchV(&range, 1, gmemGetNumaId(), on, &options, NULL);
}
static int v_null(void) { return gmemPrefetchV(NULL, 1, gmemGetNumaId(), NULL, NULL, NULL); }
static int v_hole(void) { return prefetch_v(hole(), NULL, 0, 0, NULL); }
static int v_prot_none(void) { return prefetch_v(map(PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1), NULL, 0, 0, NULL); }
static int v_beyond_file(void) { return prefetch_v(file(page, PROT_READ, MAP_SHARED), NULL, 0, 0, NULL); }
static int v_require_of_file(void) {
	return prefetch_v(file(3 * page, PROT_READ | PROT_WRITE, MAP_SHARED), NULL, GMEM_HUGE_REQUIRE, 0, NULL);
}
static int v_cancelled(void) {
	static const int cancel = 1;
	return prefetch_v(memory(), NULL, 0, 0, &cancel);
}
static int v_timeout(void) { return prefetch_v(memory(), NULL, 0, 1, NULL); }

static int policy_unknown(void) { return gmemSetHugePolicy(-1); }
static int range_policy_unknown(void) { return gmemSetRangeHugePolicy(0, page, 4); }
static int range_policy_overflow(void) { return gmemSetRangeHugePolicy(-page, 2 * page, GMEM_HUGE_OFF); }

/* ---- seeing -------------------------------------------------------------------------------------------- */

static int topology_size(void) {
	gmemTopology_t machine = {.size = 1};
	return gmemTopology(&machine, NULL, 0, 0);
}
static int topology_nodes(void) { return gmemTopology(NULL, NULL, 1, sizeof(gmemNode_t)); }
static int topology_node_size(void) {
	gmemNode_t node;
	return gmemTopology(NULL, &node, 1, 1);
}
static int distance_to_none(void) { return gmemNodeDistance(0, -1); }
static int topology_text_null(void) { return gmemTopologyText(NULL, 1); }
static int topology_json_null(void) { return gmemTopologyJson(NULL, 1); }
static int residency_ask(void) { return gmemResidency(0, page, 2, NULL, 0, NULL); }
static int residency_overflow(void) { return gmemResidency(-page, 2 * page, 0, NULL, 0, NULL); }
static int residency_pages(void) { return gmemResidency(0, page, 0, NULL, 1, NULL); }
static int residency_text_null(void) { return gmemResidencyText(NULL, NULL, NULL, 0); }
static int residency_json_null(void) { return gmemResidencyJson(NULL, NULL, NULL, 0); }
static int residency_svg_null(void) { return gmemResidencySvg(NULL, NULL, NULL, 0); }
static int free_mapped(int descriptor) {
	return gmemFreeEagerFile(addr(file(3 * page, PROT_READ, MAP_SHARED)), 3 * page, descriptor, NULL);
}
static int free_file_overflow(void) { return gmemFreeEagerFile(-page, 2 * page, 0, NULL); }
static int free_file_not_open(void) { return free_mapped(-1); }
static int free_file_of_another(void) {
	const int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	const int result = free_mapped(fd);
	close(fd);
	return result;
}
static int free_file_write_only(void) {
	const int fd = open("/tmp", O_TMPFILE | O_WRONLY | O_CLOEXEC, 0600);
	const int result = free_mapped(fd);
	close(fd);
	return result;
}
static int free_file_directory(void) {
	const int fd = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	const int result = free_mapped(fd);
	close(fd);
	return result;
}
static int free_file_hole(void) {
	char *const view = file(3 * page, PROT_READ, MAP_PRIVATE);
	char name[] = "/tmp/gmem_errnos_XXXXXX";
	const int fd = mkstemp(name);
	NEED(fd >= 0 && unlink(name) == 0 && ftruncate(fd, (off_t)(3 * page)) == 0);
	NEED(mmap(view, 3 * page, PROT_READ, MAP_PRIVATE | MAP_FIXED, fd, 0) == view);
	NEED(munmap(view + page, page) == 0);
	const int result = gmemFreeEagerFile(addr(view), 3 * page, fd, NULL);
	close(fd);
	return result;
}
static int mappings_of_null(void) { return gmemMappingsOf(NULL, NULL, 0); }
static int mappings_of_nothing(void) { return gmemMappingsOf("/no/such/file", NULL, 0); }
static int faults_begin_null(void) { return gmemFaultScopeBegin(NULL, GMEM_FAULTS_THREAD); }
static int faults_begin_whose(void) {
	gmemFaultScope_t scope;
	return gmemFaultScopeBegin(&scope, 9);
}
static int faults_count_null(void) { return (int)gmemFaultScopeCount(NULL); }
static int faults_count_closed(void) {
	gmemFaultScope_t scope = {.counter = 1 << 20};
	return (int)gmemFaultScopeCount(&scope);
}
static int stats_null(void) { return gmemHeapStats(NULL); }
static int stats_size(void) {
	gmemHeapStats_t stats = {.size = 1};
	return gmemHeapStats(&stats);
}
static int stats_json_null(void) { return gmemHeapStatsJson(NULL, 1); }
static int profile_null(void) { return gmemHeapProfileDump(NULL); }
static int profile_off(void) { return gmemHeapProfileDump("/dev/null"); }
static int limits_crossed(void) { return gmemHeapSetLimits(2, 1); }
static int device_null(void) { return gmemSetDevice(NULL); }
static int device_unknown(void) { return gmemSetDevice("toaster"); }

/* ---- streams and events -------------------------------------------------------------------------------- */

static int refuse(void *native, gmemHostFn fn, void *arg) {
	(void)fn;
	(void)arg;
	return (int)(intptr_t)native;
}
static int drop(void *native, gmemHostFn fn, void *arg) {
	(void)native;
	(void)fn;
	gmemLaunchDropped(arg);
	return 0;
}
static gmemStream_t external(gmemLaunchFn launch, intptr_t native) {
	gmemStream_t made = NULL;
	NEED(gmemStreamWrap(launch, (void *)native, &made) == 0);
	return made;
}
/* An executor that refuses with a code of its own. */
static gmemStream_t refusing(void) { return external(refuse, 7); }

static gmemEvent_t event(void) {
	gmemEvent_t made = NULL;
	NEED(gmemEventCreate(&made) == 0);
	return made;
}
/* An event that passes when the gate opens. */
static gmemEvent_t pending(void) {
	gmemEvent_t made = event();
	gate = 0;
	NEED(gmemStreamLaunch(stream, wait_for_gate, NULL) == 0 && gmemEventRecord(made, stream) == 0);
	return made;
}
static int opened(int result) {
	__atomic_store_n(&gate, 1, __ATOMIC_RELEASE);
	NEED(gmemStreamSynchronize(stream) == 0);
	return result;
}

static int create_null(void) { return gmemStreamCreate(NULL); }
static int launch_unknown(void) { return gmemStreamLaunch(unknown_stream, nothing, NULL); }
static int launch_null(void) { return gmemStreamLaunch(stream, NULL, NULL); }
static int launch_refused(void) { return gmemStreamLaunch(refusing(), nothing, NULL); }
static int free_refused(void) { return gmemFreeEager(addr(memory()), 3 * page, refusing()); }
static int free_file_refused(void) {
	const int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	const int result = gmemFreeEagerFile(addr(file(3 * page, PROT_READ, MAP_SHARED)), 3 * page, fd, refusing());
	close(fd);
	return result;
}
static int prefetch_refused(void) { return gmemPrefetch(addr(memory()), page, gmemGetNumaId(), refusing()); }
static int ex_refused(void) { return gmemPrefetchEx(addr(memory()), page, gmemGetNumaId(), refusing(), NULL, NULL); }
static int free_v_refused(void) { return free_v(memory(), refusing()); }
static int v_refused(void) { return prefetch_v(memory(), refusing(), 0, 0, NULL); }
static int record_refused(void) { return gmemEventRecord(event(), refusing()); }
static int wait_refused(void) { return opened(gmemStreamWaitEvent(refusing(), pending())); }
static int query_unknown(void) { return gmemStreamQuery(unknown_stream); }
static int query_busy(void) {
	pending();
	return opened(gmemStreamQuery(stream));
}
static int synchronize_unknown(void) { return gmemStreamSynchronize(unknown_stream); }
static int synchronize_dropped(void) {
	gmemStream_t dropping = external(drop, 0);
	NEED(gmemStreamLaunch(dropping, nothing, NULL) == 0);
	return gmemStreamSynchronize(dropping);
}
static void synchronize_here(void *arg) {
	(void)arg;
	seen = gmemStreamSynchronize(stream);
}
static int synchronize_itself(void) {
	NEED(gmemStreamLaunch(stream, synchronize_here, NULL) == 0 && gmemStreamSynchronize(stream) == 0);
	return seen;
}
static int destroy_unknown(void) { return gmemStreamDestroy(unknown_stream); }
static int wrap_null(void) {
	gmemStream_t made;
	return gmemStreamWrap(NULL, NULL, &made);
}
static int wrap_nowhere(void) { return gmemStreamWrap(refuse, NULL, NULL); }
static int event_null(void) { return gmemEventCreate(NULL); }
static int record_unknown(void) { return gmemEventRecord(unknown_event, stream); }
static int wait_unknown(void) { return gmemStreamWaitEvent(stream, unknown_event); }
static int event_query_unknown(void) { return gmemEventQuery(unknown_event); }
static int event_query_busy(void) { return opened(gmemEventQuery(pending())); }
static int event_synchronize_unknown(void) { return gmemEventSynchronize(unknown_event); }
static gmemEvent_t behind;
static void synchronize_behind(void *arg) {
	(void)arg;
	while (__atomic_load_n(&behind, __ATOMIC_ACQUIRE) == NULL) {
		usleep(100);
	}
	seen = gmemEventSynchronize(behind);
}
static int event_synchronize_itself(void) {
	gmemEvent_t made = event();
	NEED(gmemStreamLaunch(stream, synchronize_behind, NULL) == 0 && gmemEventRecord(made, stream) == 0);
	__atomic_store_n(&behind, made, __ATOMIC_RELEASE);
	NEED(gmemStreamSynchronize(stream) == 0);
	return seen;
}
static int event_destroy_unknown(void) { return gmemEventDestroy(unknown_event); }

/* A full queue: filled and met by a function that another stream runs, because such a call must not wait. */
static struct {
	gmemStream_t stream;
	gmemEvent_t event, before;
	unsigned long memory;
	int launch, free, free_v, prefetch, prefetch_ex, prefetch_v, record, wait;
} full;
static void meet_full_queue(void *arg) {
	(void)arg;
	for (full.launch = 0; full.launch == 0;) {
		full.launch = gmemStreamLaunch(full.stream, nothing, NULL);
	}
	full.free = gmemFreeEager(full.memory, 3 * page, full.stream);
	const gmemRange_t range = {full.memory, 3 * page};
	full.free_v = gmemFreeEagerV(&range, 1, full.stream, NULL);
	full.prefetch_v = gmemPrefetchV(&range, 1, gmemGetNumaId(), full.stream, NULL, NULL);
	full.prefetch = gmemPrefetch(full.memory, page, gmemGetNumaId(), full.stream);
	full.prefetch_ex = gmemPrefetchEx(full.memory, page, gmemGetNumaId(), full.stream, NULL, NULL);
	full.record = gmemEventRecord(full.event, full.stream);
	full.wait = gmemStreamWaitEvent(full.stream, full.before);
}
static void fill_a_queue(void) {
	gmemStream_t other = NULL;
	full.memory = addr(memory());
	full.event = event();
	NEED(gmemStreamCreate(&full.stream) == 0 && gmemStreamCreate(&other) == 0);
	full.before = pending();
	NEED(gmemStreamWaitEvent(full.stream, full.before) == 0);
	NEED(gmemStreamLaunch(other, meet_full_queue, NULL) == 0 && gmemStreamSynchronize(other) == 0);
	opened(0);
	NEED(gmemStreamSynchronize(full.stream) == 0);
}
static int launch_full(void) { return full.launch; }
static int free_full(void) { return full.free; }
static int free_v_full(void) { return full.free_v; }
static int v_full(void) { return full.prefetch_v; }
static int prefetch_full(void) { return full.prefetch; }
static int ex_full(void) { return full.prefetch_ex; }
static int record_full(void) { return full.record; }
static int wait_full(void) { return full.wait; }

/* ---- the heap ------------------------------------------------------------------------------------------- */

/* Volatile, or the compiler would warn of what is tried here. */
static volatile size_t too_much = SIZE_MAX / 2;

static int errno_of(void *block) {
	const int result = block == NULL ? errno : 0;
	gmem_free(block);
	return result;
}
static int malloc_too_much(void) { return errno_of(gmem_malloc(too_much)); }
static int calloc_too_much(void) { return errno_of(gmem_calloc(too_much, 3)); }
static int realloc_too_much(void) { return errno_of(gmem_realloc(NULL, too_much)); }
static int reallocarray_too_much(void) { return errno_of(gmem_reallocarray(NULL, too_much, 3)); }
static int memalign_odd(void) {
	void *block;
	return gmem_posix_memalign(&block, 3, 1);
}
static int memalign_too_much(void) {
	void *block;
	return gmem_posix_memalign(&block, 64, too_much);
}
static int aligned_odd(void) { return errno_of(gmem_aligned_alloc(3, 1)); }
static int aligned_realloc_odd(void) { return errno_of(gmem_aligned_realloc(NULL, 3, 1)); }
static int aligned_realloc_too_much(void) { return errno_of(gmem_aligned_realloc(NULL, 64, too_much)); }
static int aligned_too_much(void) { return errno_of(gmem_aligned_alloc(64, too_much)); }
static int memalign_huge(void) { return errno_of(gmem_memalign(too_much + 2, 1)); }
static int old_memalign_too_much(void) { return errno_of(gmem_memalign(64, too_much)); }
static int valloc_too_much(void) { return errno_of(gmem_valloc(too_much)); }
static int pvalloc_too_much(void) { return errno_of(gmem_pvalloc(too_much)); }
static int device_alloc_odd(void) { return errno_of(gmem_device_alloc(3, 1)); }
static int device_alloc_too_much(void) { return errno_of(gmem_device_alloc(64, too_much)); }

/* ---- a device that cannot be used ----------------------------------------------------------------------- */

static int unusable_free(void) { return free_of(memory()); }
static int unusable_prefetch(void) { return gmemPrefetch(addr(memory()), page, 0, NULL); }
static int unusable_prefetch_ex(void) { return gmemPrefetchEx(addr(memory()), page, 0, NULL, NULL, NULL); }
static int unusable_free_v(void) { return free_v(memory(), NULL); }
static int unusable_v(void) {
	const gmemRange_t range = {addr(memory()), page};
	return gmemPrefetchV(&range, 1, 0, NULL, NULL, NULL);
}
static int unusable_policy(void) { return gmemSetRangeHugePolicy(addr(memory()), page, GMEM_HUGE_OFF); }
static int unusable_launch(void) { return gmemStreamLaunch(unknown_stream, nothing, NULL); }
static int unusable_query(void) { return gmemStreamQuery(unknown_stream); }
static int unusable_synchronize(void) { return gmemStreamSynchronize(unknown_stream); }
static int unusable_destroy(void) { return gmemStreamDestroy(unknown_stream); }
static int unusable_record(void) { return gmemEventRecord(event(), unknown_stream); }
static int unusable_wait(void) { return gmemStreamWaitEvent(unknown_stream, event()); }
static int unusable_device(void) { return gmemSetDevice("cuda"); }

/* ---- a process without memory ------------------------------------------------------------------------------ */

enum { MANY = 200000 };

static int exhausted_create(void) {
	int result = 0;
	for (int i = 0; i < MANY && result == 0; ++i) {
		gmemStream_t another;
		result = gmemStreamCreate(&another);
	}
	return result;
}
/* The first stream of a process needs a thread. */
static int threadless_create(void) {
	const struct rlimit none = {0, 0};
	gmemStream_t first;
	/* The limit does not hold for root. */
	NEED(setrlimit(RLIMIT_NPROC, &none) == 0 && (getuid() != 0 || setuid(65534) == 0));
	return gmemStreamCreate(&first);
}
static int exhausted_wrap(void) {
	int result = 0;
	for (int i = 0; i < MANY && result == 0; ++i) {
		gmemStream_t another;
		result = gmemStreamWrap(refuse, NULL, &another);
	}
	return result;
}
static int exhausted_policy(void) { return gmemSetRangeHugePolicy(1 << 20, 1 << 20, GMEM_HUGE_OFF); }
static int exhausted_event(void) {
	int result = 0;
	for (int i = 0; i < MANY && result == 0; ++i) {
		gmemEvent_t another;
		result = gmemEventCreate(&another);
	}
	return result;
}
static int exhausted_launch(void) {
	int result = 0;
	for (int i = 0; i < MANY && result == 0; ++i) {
		result = gmemStreamLaunch(stream, nothing, NULL);
	}
	return result;
}
static gmemEvent_t kept_event;
static int exhausted_record(void) {
	int result = 0;
	for (int i = 0; i < MANY && result == 0; ++i) {
		result = gmemEventRecord(kept_event, stream);
	}
	return result;
}
static int exhausted_wait(void) {
	int result = 0;
	for (int i = 0; i < MANY && result == 0; ++i) {
		result = gmemStreamWaitEvent(full.stream, kept_event);
	}
	return result;
}
static gmemPageState_t states[1 << 18];
static gmemResidency_t varied(size_t pages) {
	gmemResidency_t all = {sizeof all, 0, 4096, pages, 0, 0, 0, 0, 0, 0, 0, 0};
	for (size_t i = 0; i < all.pages; ++i) {
		/* No line of the text is like another. */
		states[i].flags = i * 2654435761U >> 29 & 1 ? GMEM_PAGE_MAPPED : 0;
	}
	return all;
}
static int exhausted_residency_text(void) {
	const gmemResidency_t all = varied(1 << 18);
	return gmemResidencyText(&all, states, NULL, 0);
}
static int exhausted_residency_json(void) {
	const gmemResidency_t all = varied(1 << 14);
	return gmemResidencyJson(&all, states, NULL, 0);
}
static int exhausted_residency_svg(void) {
	const gmemResidency_t all = varied(1 << 14);
	return gmemResidencySvg(&all, states, NULL, 0);
}
/* Every other page, so that there is much to note. */
static unsigned long striped;
static size_t stripes;
static int exhausted_residency(void) { return gmemResidency(striped, stripes, 0, NULL, 0, NULL); }
/* Set aside before memory is used up, for calls that need some before they fail for another reason. */
static void *spare[256];
static void set_aside(void) {
	for (size_t i = 0; i < sizeof spare / sizeof *spare; ++i) {
		spare[i] = gmem_malloc(16 + i % 32 * 32);
	}
}
static void release_spare(void) {
	for (size_t i = 0; i < sizeof spare / sizeof *spare; ++i) {
		gmem_free(spare[i]);
	}
}
/* The only thread would wait for work that it has to do itself. */
static void synchronize_another(void *arg) {
	(void)arg;
	release_spare();
	NEED(gmemStreamLaunch(stream, nothing, NULL) == 0);
	seen = gmemStreamSynchronize(stream);
}
static void synchronize_another_event(void *arg) {
	(void)arg;
	release_spare();
	NEED(gmemStreamLaunch(stream, nothing, NULL) == 0 && gmemEventRecord(kept_event, stream) == 0);
	seen = gmemEventSynchronize(kept_event);
}
static int exhausted_synchronize(void) {
	NEED(gmemStreamLaunch(full.stream, synchronize_another, NULL) == 0 && gmemStreamSynchronize(full.stream) == 0);
	return seen;
}
static int exhausted_event_synchronize(void) {
	NEED(gmemStreamLaunch(full.stream, synchronize_another_event, NULL) == 0);
	NEED(gmemStreamSynchronize(full.stream) == 0);
	return seen;
}

/* ---- the table -------------------------------------------------------------------------------------------- */

struct row {
	const char *function;
	int (*provoke)(void);
	int errno_;
	const char *name;
};
/* Results are negative errnos, but for the heap's functions, which have positive ones. */
#define ROW(function, provoke, errno_) {#function, provoke, errno_, #errno_}

static const struct row usual[] = {
	ROW(gmemFreeEager, free_overflow, EINVAL),
	ROW(gmemFreeEager, free_unknown_stream, EINVAL),
	ROW(gmemFreeEager, free_file, EINVAL),
	ROW(gmemFreeEager, free_hole, ENOMEM),
	ROW(gmemFreeEager, free_read_only, EACCES),
	ROW(gmemFreeEager, free_sealed, EPERM),
	ROW(gmemFreeEager, free_refused, EIO),
	ROW(gmemFreeEager, free_full, EAGAIN),
	ROW(gmemPrefetch, prefetch_overflow, EINVAL),
	ROW(gmemPrefetch, prefetch_no_node, EINVAL),
	ROW(gmemPrefetch, prefetch_hole, ENOMEM),
	ROW(gmemPrefetch, prefetch_too_much, ENOMEM),
	ROW(gmemPrefetch, prefetch_prot_none, EACCES),
	ROW(gmemPrefetch, prefetch_beyond_file, EFAULT),
	ROW(gmemPrefetch, prefetch_refused, EIO),
	ROW(gmemPrefetch, prefetch_full, EAGAIN),
	ROW(gmemPrefetchEx, ex_policy, EINVAL),
	ROW(gmemPrefetchEx, ex_hole, ENOMEM),
	ROW(gmemPrefetchEx, ex_prot_none, EACCES),
	ROW(gmemPrefetchEx, ex_beyond_file, EFAULT),
	ROW(gmemPrefetchEx, ex_require_of_file, EOPNOTSUPP),
	ROW(gmemPrefetchEx, ex_cancelled, ECANCELED),
	ROW(gmemPrefetchEx, ex_timeout, ETIMEDOUT),
	ROW(gmemPrefetchEx, ex_refused, EIO),
	ROW(gmemPrefetchEx, ex_full, EAGAIN),
	ROW(gmemFreeEagerV, free_v_null, EINVAL),
	ROW(gmemFreeEagerV, free_v_file, EINVAL),
	ROW(gmemFreeEagerV, free_v_hole, ENOMEM),
	ROW(gmemFreeEagerV, free_v_read_only, EACCES),
	ROW(gmemFreeEagerV, free_v_sealed, EPERM),
	ROW(gmemFreeEagerV, free_v_refused, EIO),
	ROW(gmemFreeEagerV, free_v_full, EAGAIN),
	ROW(gmemPrefetchV, v_null, EINVAL),
	ROW(gmemPrefetchV, v_hole, ENOMEM),
	ROW(gmemPrefetchV, v_prot_none, EACCES),
	ROW(gmemPrefetchV, v_beyond_file, EFAULT),
	ROW(gmemPrefetchV, v_require_of_file, EOPNOTSUPP),
	ROW(gmemPrefetchV, v_cancelled, ECANCELED),
	ROW(gmemPrefetchV, v_timeout, ETIMEDOUT),
	ROW(gmemPrefetchV, v_refused, EIO),
	ROW(gmemPrefetchV, v_full, EAGAIN),
	ROW(gmemSetHugePolicy, policy_unknown, EINVAL),
	ROW(gmemSetRangeHugePolicy, range_policy_unknown, EINVAL),
	ROW(gmemSetRangeHugePolicy, range_policy_overflow, EINVAL),
	ROW(gmemTopology, topology_size, EINVAL),
	ROW(gmemTopology, topology_nodes, EINVAL),
	ROW(gmemTopology, topology_node_size, EINVAL),
	ROW(gmemNodeDistance, distance_to_none, EINVAL),
	ROW(gmemTopologyText, topology_text_null, EINVAL),
	ROW(gmemTopologyJson, topology_json_null, EINVAL),
	ROW(gmemResidency, residency_ask, EINVAL),
	ROW(gmemResidency, residency_overflow, EINVAL),
	ROW(gmemResidency, residency_pages, EINVAL),
	ROW(gmemResidencyText, residency_text_null, EINVAL),
	ROW(gmemResidencyJson, residency_json_null, EINVAL),
	ROW(gmemResidencySvg, residency_svg_null, EINVAL),
	ROW(gmemFreeEagerFile, free_file_overflow, EINVAL),
	ROW(gmemFreeEagerFile, free_file_of_another, EINVAL),
	ROW(gmemFreeEagerFile, free_file_not_open, EBADF),
	ROW(gmemFreeEagerFile, free_file_write_only, EACCES),
	ROW(gmemFreeEagerFile, free_file_directory, ENODEV),
	ROW(gmemFreeEagerFile, free_file_hole, ENOMEM),
	ROW(gmemFreeEagerFile, free_file_refused, EIO),
	ROW(gmemMappingsOf, mappings_of_null, EINVAL),
	ROW(gmemMappingsOf, mappings_of_nothing, ENOENT),
	ROW(gmemFaultScopeBegin, faults_begin_null, EINVAL),
	ROW(gmemFaultScopeBegin, faults_begin_whose, EINVAL),
	ROW(gmemFaultScopeCount, faults_count_null, EINVAL),
	ROW(gmemFaultScopeCount, faults_count_closed, EBADF),
	ROW(gmemSetDevice, device_null, EINVAL),
	ROW(gmemSetDevice, device_unknown, EINVAL),
	ROW(gmemStreamCreate, create_null, EINVAL),
	ROW(gmemStreamLaunch, launch_unknown, EINVAL),
	ROW(gmemStreamLaunch, launch_null, EINVAL),
	ROW(gmemStreamLaunch, launch_refused, EIO),
	ROW(gmemStreamLaunch, launch_full, EAGAIN),
	ROW(gmemStreamQuery, query_unknown, EINVAL),
	ROW(gmemStreamQuery, query_busy, EBUSY),
	ROW(gmemStreamSynchronize, synchronize_unknown, EINVAL),
	ROW(gmemStreamSynchronize, synchronize_dropped, ECANCELED),
	ROW(gmemStreamSynchronize, synchronize_itself, EDEADLK),
	ROW(gmemStreamDestroy, destroy_unknown, EINVAL),
	ROW(gmemStreamWrap, wrap_null, EINVAL),
	ROW(gmemStreamWrap, wrap_nowhere, EINVAL),
	ROW(gmemEventCreate, event_null, EINVAL),
	ROW(gmemEventRecord, record_unknown, EINVAL),
	ROW(gmemEventRecord, record_refused, EIO),
	ROW(gmemEventRecord, record_full, EAGAIN),
	ROW(gmemStreamWaitEvent, wait_unknown, EINVAL),
	ROW(gmemStreamWaitEvent, wait_refused, EIO),
	ROW(gmemStreamWaitEvent, wait_full, EAGAIN),
	ROW(gmemEventQuery, event_query_unknown, EINVAL),
	ROW(gmemEventQuery, event_query_busy, EBUSY),
	ROW(gmemEventSynchronize, event_synchronize_unknown, EINVAL),
	ROW(gmemEventSynchronize, event_synchronize_itself, EDEADLK),
	ROW(gmemEventDestroy, event_destroy_unknown, EINVAL),
	ROW(gmemHeapStats, stats_null, EINVAL),
	ROW(gmemHeapStats, stats_size, EINVAL),
	ROW(gmemHeapStatsJson, stats_json_null, EINVAL),
	ROW(gmemHeapProfileDump, profile_null, EINVAL),
	ROW(gmemHeapProfileDump, profile_off, EOPNOTSUPP),
	ROW(gmemHeapSetLimits, limits_crossed, EINVAL),
	ROW(gmem_malloc, malloc_too_much, ENOMEM),
	ROW(gmem_calloc, calloc_too_much, ENOMEM),
	ROW(gmem_realloc, realloc_too_much, ENOMEM),
	ROW(gmem_reallocarray, reallocarray_too_much, ENOMEM),
	ROW(gmem_posix_memalign, memalign_odd, EINVAL),
	ROW(gmem_posix_memalign, memalign_too_much, ENOMEM),
	ROW(gmem_aligned_alloc, aligned_odd, EINVAL),
	ROW(gmem_aligned_alloc, aligned_too_much, ENOMEM),
	ROW(gmem_aligned_realloc, aligned_realloc_odd, EINVAL),
	ROW(gmem_aligned_realloc, aligned_realloc_too_much, ENOMEM),
	ROW(gmem_memalign, memalign_huge, EINVAL),
	ROW(gmem_memalign, old_memalign_too_much, ENOMEM),
	ROW(gmem_valloc, valloc_too_much, ENOMEM),
	ROW(gmem_pvalloc, pvalloc_too_much, ENOMEM),
	ROW(gmem_device_alloc, device_alloc_odd, EINVAL),
	ROW(gmem_device_alloc, device_alloc_too_much, ENOMEM),
};

/* With GMEM_DEVICE=cuda and no GPU to be seen. */
static const struct row unusable[] = {
	ROW(gmemFreeEager, unusable_free, ENODEV),
	ROW(gmemPrefetch, unusable_prefetch, ENODEV),
	ROW(gmemPrefetchEx, unusable_prefetch_ex, ENODEV),
	ROW(gmemFreeEagerV, unusable_free_v, ENODEV),
	ROW(gmemPrefetchV, unusable_v, ENODEV),
	ROW(gmemSetRangeHugePolicy, unusable_policy, ENODEV),
	ROW(gmemGetNumaId, gmemGetNumaId, ENODEV),
	ROW(gmemSetDevice, unusable_device, ENODEV),
	ROW(gmemStreamLaunch, unusable_launch, ENODEV),
	ROW(gmemStreamQuery, unusable_query, ENODEV),
	ROW(gmemStreamSynchronize, unusable_synchronize, ENODEV),
	ROW(gmemStreamDestroy, unusable_destroy, ENODEV),
	ROW(gmemEventRecord, unusable_record, ENODEV),
	ROW(gmemStreamWaitEvent, unusable_wait, ENODEV),
};

/* With GMEM_DEVICE=toaster. */
static const struct row misnamed[] = {
	ROW(gmemGetNumaId, gmemGetNumaId, EINVAL),
	ROW(gmemFreeEager, unusable_free, EINVAL),
	ROW(gmemPrefetch, unusable_prefetch, EINVAL),
	ROW(gmemSetRangeHugePolicy, unusable_policy, EINVAL),
};

/* With memory, or threads, used up, in a process for each. */
static const struct row exhausted[] = {
	ROW(gmemStreamCreate, exhausted_create, ENOMEM),
	ROW(gmemStreamCreate, threadless_create, EAGAIN),
	ROW(gmemStreamWrap, exhausted_wrap, ENOMEM),
	ROW(gmemEventCreate, exhausted_event, ENOMEM),
	ROW(gmemSetRangeHugePolicy, exhausted_policy, ENOMEM),
	ROW(gmemStreamLaunch, exhausted_launch, ENOMEM),
	ROW(gmemEventRecord, exhausted_record, ENOMEM),
	ROW(gmemStreamWaitEvent, exhausted_wait, ENOMEM),
	ROW(gmemResidency, exhausted_residency, ENOMEM),
	ROW(gmemResidencyText, exhausted_residency_text, ENOMEM),
	ROW(gmemResidencyJson, exhausted_residency_json, ENOMEM),
	ROW(gmemResidencySvg, exhausted_residency_svg, ENOMEM),
	ROW(gmemStreamSynchronize, exhausted_synchronize, EAGAIN),
	ROW(gmemEventSynchronize, exhausted_event_synchronize, EAGAIN),
};

static void use_up_all_memory(void) {
	const struct rlimit none = {1 << 20, 1 << 20};
	set_aside();
	NEED(setrlimit(RLIMIT_AS, &none) == 0);
	for (size_t size = (size_t)1 << 24; size >= 8; size /= 2) {
		while (gmem_malloc(size) != NULL || malloc(size) != NULL) {
		}
	}
}

static void prepare(const struct row *row) {
	NEED(gmemStreamCreate(&stream) == 0 && gmemStreamCreate(&full.stream) == 0);
	/* One thread serves both. */
	NEED(gmemStreamLaunch(full.stream, nothing, NULL) == 0 && gmemStreamSynchronize(full.stream) == 0);
	kept_event = row->errno_ == EAGAIN ? event() : pending();
	stripes = (size_t)1 << 26;
	char *start = mmap(NULL, stripes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	NEED(start != MAP_FAILED && madvise(start, stripes, MADV_NOHUGEPAGE) == 0);
	striped = addr(start);
	for (size_t at = 0; at < stripes; at += 8192) {
		start[at] = 1;
	}
}

static int in_a_process_without_memory(const struct row *row) {
	const pid_t child = fork();
	NEED(child >= 0);
	if (child == 0) {
		alarm(60);
		if (row->provoke != threadless_create) {
			prepare(row);
			use_up_all_memory();
		}
		const int result = row->provoke();
		_exit(result == -row->errno_ ? 0 : result < 0 ? -result : 1);
	}
	int status = 1;
	NEED(waitpid(child, &status, 0) == child);
	return status;
}

static void provoke_exhausted(void) {
	for (size_t i = 0; i < sizeof exhausted / sizeof *exhausted; ++i) {
		const int status = in_a_process_without_memory(&exhausted[i]);
		check_equal(status, 0, exhausted[i].function, exhausted[i].name, 0);
		if (status == 0) {
			printf("%s %s\n", exhausted[i].function, exhausted[i].name);
			fflush(stdout);
		}
	}
}

static void provoke(const struct row *rows, size_t count) {
	for (const struct row *row = rows; row < rows + count; ++row) {
		const int is_heap = strncmp(row->function, "gmem_", 5) == 0;
		const int expected = is_heap ? row->errno_ : -row->errno_;
		const int result = row->provoke();
		check_equal(result, expected, row->function, row->name, 0);
		/* Such errors have a message, except -EBUSY, which means "not yet". */
		CHECK(is_heap || row->errno_ == EBUSY || strlen(gmemLastError()) > 10);
		if (result == expected) {
			printf("%s %s\n", row->function, row->name);
		}
	}
}

#define PROVOKE(rows) provoke(rows, sizeof rows / sizeof *rows)

int main(int argc, char **argv) {
	page = gmemGetPageSize();
	if (argc > 1 && strcmp(argv[1], "unusable") == 0) {
		PROVOKE(unusable);
	} else if (argc > 1 && strcmp(argv[1], "exhausted") == 0) {
		provoke_exhausted();
	} else if (argc > 1) {
		PROVOKE(misnamed);
	} else {
		NEED(gmemStreamCreate(&stream) == 0);
		fill_a_queue();
		PROVOKE(usual);
	}
	return checks_result("errnos");
}
