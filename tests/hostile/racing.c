/* SPDX-License-Identifier: Apache-2.0 */
/* racing [SECONDS [SEED]]: threads map, unmap, protect, move and fork the memory that other threads prefetch, free and
 * inspect meanwhile. Every result is a documented one, no byte of the memory around changes, and afterwards all works
 * as before. */
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>

#include <libgmem.h>

#include "../check.h"

/* The arena, in GMEM pages: a canary, a field, a canary, a field, ..., a canary. Only fields are changed. */
enum { FIELDS = 3, FIELD_PAGES = 8, CANARIES = FIELDS + 1, ARENA_PAGES = FIELDS * FIELD_PAGES + CANARIES };
enum { CHANGERS = 3, CALLERS = 3, STATES = 1 << 14 };

static size_t page, base, field_size;
static char *arena;
static int node;

/* The file and the memfd that are mapped in fields. Of the memfd only the first half is ever mapped. */
static char path[] = "gmem-racing-XXXXXX";
static int file, memory_file;

static atomic_int is_over;
static atomic_int failures;
static atomic_ulong changes, children, succeeded, refused;

static char *canary(int index) { return arena + (size_t)index * (FIELD_PAGES + 1) * page; }
static char *field(int index) { return canary(index) + page; }
static unsigned long address_of(const void *start) { return (unsigned long)(uintptr_t)start; }

static uint64_t next(uint64_t *state) {
	uint64_t z = (*state += 0x9e3779b97f4a7c15);
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
	z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
	return z ^ (z >> 31);
}

static size_t below(uint64_t *state, size_t limit) { return (size_t)(next(state) % limit); }

static void fail(const char *what, long value) {
	if (atomic_fetch_add(&failures, 1) < 20) {
		fprintf(stderr, "%s: %ld (%s)\n", what, value, gmemLastError());
	}
}

#define HOLDS(condition)                                                                                               \
	do {                                                                                                               \
		if (!(condition)) {                                                                                            \
			fail(#condition, __LINE__);                                                                                \
		}                                                                                                              \
	} while (0)

/* ---- canaries -------------------------------------------------------------------------------------- */

static uint64_t mark_of(const uint64_t *word) { return ((uintptr_t)word ^ 0xca4a51e5) * 0x9e3779b97f4a7c15; }

static void check_canary(int index) {
	const uint64_t *words = (const uint64_t *)(const void *)canary(index);
	for (size_t i = 0; i < page / sizeof *words; ++i) {
		if (words[i] != mark_of(&words[i])) {
			fail("a canary changed: its number", index);
			return;
		}
	}
}

static void make_canary(int index) {
	uint64_t *const words = (uint64_t *)(void *)canary(index);
	const int kind = index % 4;
	int descriptor = -1, flags = MAP_FIXED;
	if (kind < 2) {
		flags |= MAP_ANONYMOUS | (kind == 0 ? MAP_PRIVATE : MAP_SHARED);
	} else {
		/* Of a file the canary is a private copy; of shared memory it is the memory. */
		descriptor = kind == 2 ? file_of(page) : memfd_create("canary", MFD_CLOEXEC);
		NEED(descriptor >= 0 && (kind == 2 || ftruncate(descriptor, (off_t)page) == 0));
		flags |= kind == 2 ? MAP_PRIVATE : MAP_SHARED;
	}
	NEED(mmap(words, page, PROT_READ | PROT_WRITE, flags, descriptor, 0) == words);
	if (descriptor >= 0) {
		close(descriptor);
	}
	for (size_t i = 0; i < page / sizeof *words; ++i) {
		words[i] = mark_of(&words[i]);
	}
}

/* What is mapped in fields keeps its bytes: the file all of them, the memfd those that are never mapped. */
static void check_files(void) {
	char *const block = malloc(page);
	NEED(block != NULL);
	for (size_t at = 0; at < field_size; at += page) {
		NEED(pread(file, block, page, (off_t)at) == (ssize_t)page);
		HOLDS(is_all(block, page, 'f'));
		NEED(pread(memory_file, block, page, (off_t)(field_size + at)) == (ssize_t)page);
		HOLDS(is_all(block, page, 'm'));
	}
	free(block);
}

static void *watch(void *unused) {
	(void)unused;
	while (!atomic_load(&is_over)) {
		for (int i = 0; i < CANARIES; ++i) {
			check_canary(i);
		}
		usleep(1000);
	}
	return NULL;
}

/* ---- calls of the library --------------------------------------------------------------------------- */

/* A range that may reach into the canaries on both sides, but holds no page of them as a whole. Two such ranges do not
 * hold one either. */
static gmemRange_t some_range(uint64_t *state) {
	char *const first = field((int)below(state, FIELDS));
	const size_t before = below(state, page / 2), behind = below(state, page / 2);
	if (below(state, 2) == 0) {
		return (gmemRange_t){address_of(first) - before, field_size + before + behind};
	}
	const size_t start = below(state, field_size), size = 1 + below(state, field_size - start);
	return (gmemRange_t){address_of(first) + start, size};
}

/* To bring and to look at: also several fields with the canaries between them. */
static gmemRange_t wide_range(uint64_t *state) {
	if (below(state, 3) != 0) {
		return some_range(state);
	}
	const size_t bytes = ARENA_PAGES * page, start = below(state, page);
	return (gmemRange_t){address_of(arena) + start, bytes - start - below(state, page)};
}

/* Documented errnos that the state of the mappings can cause. */
static const int of_prefetch[] = {EINVAL, ENOMEM, EACCES, EBUSY, EFAULT, 0};
static const int of_options[] = {EINVAL, ENOMEM, EACCES, EBUSY, EFAULT, EOPNOTSUPP, ECANCELED, ETIMEDOUT, 0};
static const int of_free[] = {EINVAL, ENOMEM, EACCES, 0};
static const int none[] = {0};

static int expect(const char *call, long result, const int *errnos) {
	if (result >= 0) {
		atomic_fetch_add(&succeeded, 1);
		return 1;
	}
	atomic_fetch_add(&refused, 1);
	for (; *errnos != 0; ++errnos) {
		if (result == -*errnos) {
			HOLDS(gmemLastError()[0] != '\0');
			return 0;
		}
	}
	fail(call, result);
	return 0;
}

struct caller {
	pthread_t thread;
	uint64_t state;
	gmemStream_t stream;
	gmemEvent_t event;
	gmemPageState_t *states; /* STATES of them, and one more that nobody may write */
	int cancel;
};

/* NULL, or the caller's stream. */
static gmemStream_t now_or_later(struct caller *caller) {
	return below(&caller->state, 2) == 0 ? NULL : caller->stream;
}

static void finish(const struct caller *caller, gmemStream_t stream, const int *errnos) {
	if (stream != NULL) {
		expect("gmemStreamSynchronize", gmemStreamSynchronize(caller->stream), errnos);
	}
}

static void prefetch(struct caller *caller) {
	const gmemRange_t range = wide_range(&caller->state);
	gmemStream_t stream = now_or_later(caller);
	expect("gmemPrefetch", gmemPrefetch(range.addr, range.size, node, stream), of_prefetch);
	finish(caller, stream, of_prefetch);
}

static int sometimes_cancel(size_t done, size_t total, void *arg) {
	HOLDS(done <= total);
	return below((uint64_t *)arg, 8) == 0;
}

/* The pages of a range that is widened to whole base pages. */
static size_t pages_in(gmemRange_t range) { return (range.addr + range.size + base - 1) / base - range.addr / base; }

static void prefetch_with_report(struct caller *caller) {
	uint64_t *const state = &caller->state;
	const gmemRange_t ranges[] = {wide_range(state), some_range(state)};
	const int is_batch = below(state, 2) == 0;
	gmemPrefetchOptions_t options = {.size = sizeof options, .huge = (int)below(state, 4)};
	gmemPrefetchReport_t report = {.size = sizeof report};
	options.threads = (unsigned)below(state, 4);
	options.timeout_ns = below(state, 4) == 0 ? 1 + below(state, 3000000) : 0;
	options.cancel = &caller->cancel;
	if (below(state, 4) == 0) {
		options.progress = sometimes_cancel;
		options.progress_arg = state;
	}
	gmemStream_t stream = now_or_later(caller);
	if (is_batch) {
		expect("gmemPrefetchV", gmemPrefetchV(ranges, 2, node, stream, &options, &report), of_options);
	} else {
		const gmemRange_t range = ranges[0];
		expect("gmemPrefetchEx", gmemPrefetchEx(range.addr, range.size, node, stream, &options, &report), of_options);
	}
	finish(caller, stream, of_options);
	const size_t pages = pages_in(ranges[0]) + (is_batch ? pages_in(ranges[1]) : 0);
	HOLDS(report.result <= 0 && report.result != -EINPROGRESS);
	/* A call that failed before it looked at the pages knows no number. */
	HOLDS(report.failed == GMEM_UNKNOWN || report.failed <= pages);
	HOLDS(report.failed == GMEM_UNKNOWN || report.already_resident + report.populated <= pages);
	HOLDS(report.huge == GMEM_UNKNOWN || report.huge <= ARENA_PAGES);
	HOLDS((report.first_failed == 0) == (report.first_errno == 0));
}

static void free_eager(struct caller *caller) {
	const gmemRange_t range = some_range(&caller->state);
	gmemStream_t stream = now_or_later(caller);
	expect("gmemFreeEager", gmemFreeEager(range.addr, range.size, stream), of_free);
	finish(caller, stream, of_free);
}

static void free_many(struct caller *caller) {
	gmemRange_t ranges[5];
	gmemFreeReport_t report = {.size = sizeof report};
	for (int i = 0; i < 5; ++i) {
		ranges[i] = some_range(&caller->state);
	}
	gmemStream_t stream = now_or_later(caller);
	expect("gmemFreeEagerV", gmemFreeEagerV(ranges, 5, stream, &report), of_free);
	finish(caller, stream, of_free);
	HOLDS(report.freed + report.lost <= report.bytes);
	HOLDS(report.result != 0 || report.freed + report.lost == report.bytes);
}

/* The summary agrees with the states, and each text fits into its buffer. */
static void residency(struct caller *caller) {
	const gmemRange_t range = wide_range(&caller->state);
	gmemResidency_t all = {.size = sizeof all};
	gmemPageState_t *const states = caller->states;
	const unsigned ask = below(&caller->state, 4) == 0 ? GMEM_ASK_HOT : 0;
	states[STATES] = (gmemPageState_t){4711, 4711};
	if (!expect("gmemResidency", gmemResidency(range.addr, range.size, ask, states, STATES, &all), none)) {
		return;
	}
	HOLDS(states[STATES].node == 4711 && states[STATES].flags == 4711);
	HOLDS(all.pages == pages_in(range) && all.pages <= STATES);
	size_t mapped = 0, resident = 0, swapped = 0;
	for (size_t i = 0; i < all.pages; ++i) {
		const unsigned flags = states[i].flags;
		mapped += (flags & GMEM_PAGE_MAPPED) != 0;
		resident += (flags & GMEM_PAGE_RESIDENT) != 0;
		swapped += (flags & GMEM_PAGE_SWAPPED) != 0;
		HOLDS((flags & GMEM_PAGE_MAPPED) != 0 || flags == 0);
	}
	HOLDS(all.mapped == mapped && all.resident == resident && all.swapped == swapped);

	char text[256];
	int (*const writers[])(const gmemResidency_t *, const gmemPageState_t *, char *, size_t) = {
		gmemResidencyText, gmemResidencyJson, gmemResidencySvg};
	for (size_t i = 0; i < sizeof writers / sizeof *writers; ++i) {
		memset(text, 'x', sizeof text);
		expect("gmemResidencyText", writers[i](&all, states, text, sizeof text - 1), none);
		HOLDS(text[sizeof text - 1] == 'x');
	}
}

static void fault_scope(struct caller *caller) {
	gmemFaultScope_t scope;
	const int whose = (int)below(&caller->state, 3);
	if (expect("gmemFaultScopeBegin", gmemFaultScopeBegin(&scope, whose), none)) {
		prefetch(caller);
		expect("gmemFaultScopeCount", (long)gmemFaultScopeCount(&scope), none);
		gmemFaultScopeEnd(&scope);
	}
}

static void mappings_of_file(void) {
	gmemMapping_t found[64];
	const int count = gmemMappingsOf(path, found, 64);
	if (expect("gmemMappingsOf", count, none)) {
		for (int i = 0; i < count && i < 64; ++i) {
			HOLDS(found[i].addr >= address_of(field(0)) && found[i].size <= field_size);
			HOLDS(found[i].addr + found[i].size <= address_of(canary(FIELDS)));
			HOLDS(found[i].offset + found[i].size <= field_size);
		}
	}
}

static void policy(struct caller *caller) {
	const int which = (int)below(&caller->state, FIELDS), wanted = (int)below(&caller->state, 3);
	expect("gmemSetRangeHugePolicy", gmemSetRangeHugePolicy(address_of(field(which)), field_size, wanted), none);
}

static void count_up(void *counter) { ++*(int *)counter; }

/* Work on a stream runs in order, also behind work that fails. */
static void stream_order(struct caller *caller) {
	const gmemRange_t range = some_range(&caller->state);
	int done = 0;
	expect("gmemFreeEager", gmemFreeEager(range.addr, range.size, caller->stream), none);
	expect("gmemStreamLaunch", gmemStreamLaunch(caller->stream, count_up, &done), none);
	expect("gmemPrefetch", gmemPrefetch(range.addr, range.size, node, caller->stream), none);
	expect("gmemEventRecord", gmemEventRecord(caller->event, caller->stream), none);
	expect("gmemStreamWaitEvent", gmemStreamWaitEvent(caller->stream, caller->event), none);
	expect("gmemStreamLaunch", gmemStreamLaunch(caller->stream, count_up, &done), none);
	finish(caller, caller->stream, of_prefetch);
	HOLDS(done == 2);
}

static void call_once(struct caller *caller) {
	atomic_store_explicit((_Atomic int *)&caller->cancel, below(&caller->state, 32) == 0, memory_order_relaxed);
	switch (below(&caller->state, 14)) {
	case 0:
	case 1: prefetch(caller); break;
	case 2:
	case 3:
	case 4: prefetch_with_report(caller); break;
	case 5:
	case 6: free_eager(caller); break;
	case 7:
	case 8: free_many(caller); break;
	case 9: residency(caller); break;
	case 10: fault_scope(caller); break;
	case 11: mappings_of_file(); break;
	case 12: policy(caller); break;
	default: stream_order(caller); break;
	}
}

static void begin_caller(struct caller *caller, uint64_t seed) {
	*caller = (struct caller){.state = seed, .states = malloc((STATES + 1) * sizeof *caller->states)};
	NEED(caller->states != NULL);
	NEED(gmemStreamCreate(&caller->stream) == 0 && gmemEventCreate(&caller->event) == 0);
}

static void end_caller(struct caller *caller) {
	NEED(gmemStreamSynchronize(caller->stream) == 0);
	NEED(gmemStreamDestroy(caller->stream) == 0 && gmemEventDestroy(caller->event) == 0);
	free(caller->states);
}

static void *call(void *arg) {
	while (!atomic_load(&is_over)) {
		call_once((struct caller *)arg);
	}
	return NULL;
}

/* ---- changes of the mappings --------------------------------------------------------------------------- */

struct span {
	char *start;
	size_t size, offset; /* in the field */
};

/* Whole base pages of a field, often GMEM pages. */
static struct span some_span(uint64_t *state) {
	const size_t unit = below(state, 2) == 0 ? page : base, units = field_size / unit;
	const size_t first = below(state, units), count = 1 + below(state, units - first);
	return (struct span){field((int)below(state, FIELDS)) + first * unit, count * unit, first * unit};
}

static void map(struct span where, int protection, int flags, int descriptor) {
	const off_t offset = descriptor < 0 ? 0 : (off_t)where.offset;
	NEED(mmap(where.start, where.size, protection, flags | MAP_FIXED, descriptor, offset) == where.start);
}

static void map_something(struct span where, uint64_t *state) {
	const int both = PROT_READ | PROT_WRITE;
	switch (below(state, 6)) {
	case 0: map(where, both, MAP_SHARED | MAP_ANONYMOUS, -1); break;
	case 1: map(where, both, MAP_SHARED, memory_file); break;
	case 2: map(where, PROT_READ, below(state, 2) == 0 ? MAP_SHARED : MAP_PRIVATE, file); break;
	case 3: map(where, both, MAP_PRIVATE, file); break;
	default: map(where, both, MAP_PRIVATE | MAP_ANONYMOUS, -1); break;
	}
}

/* To another field, or inside this one. What lies there goes. The kernel refuses ranges that overlap or have holes. */
static void move(struct span from, uint64_t *state) {
	const struct span to = some_span(state);
	const size_t size = from.size < to.size ? from.size : to.size;
	const int keep = below(state, 3) == 0 ? MREMAP_DONTUNMAP : 0;
	(void)mremap(from.start, size, size, MREMAP_MAYMOVE | MREMAP_FIXED | keep, to.start);
}

static void advise(struct span where, uint64_t *state) {
	static const int advices[] = {MADV_DONTNEED, MADV_FREE, MADV_HUGEPAGE, MADV_NOHUGEPAGE, MADV_WILLNEED,
		MADV_DONTFORK, MADV_DOFORK, 20 /* MADV_COLD */, 21 /* MADV_PAGEOUT */, 25 /* MADV_COLLAPSE */};
	(void)madvise(where.start, where.size, advices[below(state, sizeof advices / sizeof *advices)]);
}

/* Write through the kernel, because the memory may be gone at any moment. */
static void write_to(struct span where, uint64_t *state) {
	char bytes[4096];
	memset(bytes, (int)next(state), sizeof bytes);
	const struct iovec from = {bytes, where.size < sizeof bytes ? where.size : sizeof bytes};
	for (size_t at = 0; at < where.size; at += page) {
		const struct iovec to = {where.start + at, from.iov_len};
		(void)process_vm_writev(getpid(), &from, 1, &to, 1, 0);
	}
}

static void all_is_well(uint64_t *state);

/* In the child nobody changes the mappings. */
static void fork_once(uint64_t *state) {
	const pid_t child = fork();
	NEED(child >= 0);
	if (child == 0) {
		alarm(600); /* ends a hang, also after the parent was ended */
		atomic_store(&failures, 0);
		struct caller caller;
		begin_caller(&caller, next(state));
		for (int i = 0; i < 10; ++i) {
			call_once(&caller);
		}
		end_caller(&caller);
		for (int i = 0; i < CANARIES; ++i) {
			check_canary(i);
		}
		all_is_well(state);
		_exit(atomic_load(&failures) != 0);
	}
	int status = 0;
	NEED(waitpid(child, &status, 0) == child);
	if (status != 0) {
		fail("the status of a child", status);
	}
	atomic_fetch_add(&children, 1);
}

static void *change(void *arg) {
	static const int protections[] = {PROT_NONE, PROT_READ, PROT_READ | PROT_WRITE};
	uint64_t state = (uintptr_t)arg;
	for (int i = 1; !atomic_load(&is_over); ++i) {
		const struct span where = some_span(&state);
		atomic_fetch_add(&changes, 1);
		if (i % 64 == 16) {
			fork_once(&state);
		}
		switch (below(&state, 24)) {
		case 0:
		case 1:
		case 2:
		case 3:
		case 4:
		case 5: map_something(where, &state); break;
		case 6: NEED(munmap(where.start, where.size) == 0); break;
		case 7:
		case 8: (void)mprotect(where.start, where.size, protections[below(&state, 3)]); break;
		case 9:
		case 10:
		case 11: move(where, &state); break;
		case 12:
		case 13:
		case 14: advise(where, &state); break;
		case 15:
			(void)(below(&state, 2) == 0 ? mlock(where.start, where.size) : munlock(where.start, where.size));
			break;
		/* Calls that find everything mapped have more to do. */
		case 16:
		case 17:
		case 18:
		case 19: {
			const struct span whole = {field((int)below(&state, FIELDS)), field_size, 0};
			map(whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
			usleep((useconds_t)below(&state, 2000));
			break;
		}
		default: write_to(where, &state); break;
		}
	}
	return NULL;
}

/* ---- before and after ----------------------------------------------------------------------------------- */

/* Memory that nobody changes any more behaves as documented. */
static void all_is_well(uint64_t *state) {
	const struct span where = {field((int)below(state, FIELDS)), field_size, 0};
	map(where, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	NEED(madvise(where.start, where.size, MADV_NOHUGEPAGE) == 0);
	HOLDS(gmemPrefetch(address_of(where.start), where.size, node, NULL) == 0);
	HOLDS(!FAULTS_ARE_THE_TESTS || faults_of_writing(where.start, where.size) == 0);
	memset(where.start, 'x', where.size);
	HOLDS(gmemFreeEager(address_of(where.start), where.size, NULL) == 0);
	HOLDS(resident_pages(where.start, where.size) == 0);
	HOLDS(is_all(where.start, where.size, 0));
}

static void remove_file(void) { unlink(path); }

static void make_arena(void) {
	page = gmemGetPageSize();
	base = (size_t)sysconf(_SC_PAGESIZE);
	field_size = FIELD_PAGES * page;
	node = gmemGetNumaId();
	NEED(node >= 0);
	arena = map_private(ARENA_PAGES * page, page);
	for (int i = 0; i < CANARIES; ++i) {
		make_canary(i);
	}
	const int writable = mkostemp(path, O_CLOEXEC);
	memory_file = memfd_create("field", MFD_CLOEXEC);
	NEED(writable >= 0 && memory_file >= 0);
	NEED(atexit(remove_file) == 0);
	char *const block = malloc(page);
	NEED(block != NULL);
	for (size_t at = 0; at < field_size; at += page) {
		memset(block, 'f', page);
		NEED(write(writable, block, page) == (ssize_t)page);
		memset(block, 'm', page);
		NEED(pwrite(memory_file, block, page, (off_t)(field_size + at)) == (ssize_t)page);
	}
	free(block);
	/* Read-only, so that mprotect(2) makes no shared mapping of it writable. */
	file = open(path, O_RDONLY | O_CLOEXEC);
	NEED(file >= 0);
	close(writable);
}

static int open_descriptors(void) {
	int count = 0;
	for (int descriptor = 0; descriptor < 2048; ++descriptor) {
		count += fcntl(descriptor, F_GETFD) >= 0;
	}
	return count;
}

int main(int argc, char **argv) {
	const unsigned seconds = argc > 1 ? (unsigned)atoi(argv[1]) : 4;
	uint64_t state = argc > 2 ? strtoull(argv[2], NULL, 0) : (uint64_t)time(NULL);
	pthread_t changers[CHANGERS], watcher;
	struct caller callers[CALLERS];
	fprintf(stderr, "racing: seed %llu\n", (unsigned long long)state);
	make_arena();
	for (int i = 0; i < CALLERS; ++i) {
		begin_caller(&callers[i], next(&state));
	}
	/* The library opens what it keeps. */
	all_is_well(&state);
	const int descriptors = open_descriptors();

	NEED(pthread_create(&watcher, NULL, watch, NULL) == 0);
	for (int i = 0; i < CALLERS; ++i) {
		NEED(pthread_create(&callers[i].thread, NULL, call, &callers[i]) == 0);
	}
	for (int i = 0; i < CHANGERS; ++i) {
		NEED(pthread_create(&changers[i], NULL, change, (void *)(uintptr_t)next(&state)) == 0);
	}
	/* Longer on a slow machine: the test is worth something only if there was a race. */
	do {
		sleep(seconds);
	} while (atomic_load(&children) == 0 || atomic_load(&succeeded) < 50 || atomic_load(&refused) < 10);
	atomic_store(&is_over, 1);
	for (int i = 0; i < CHANGERS; ++i) {
		pthread_join(changers[i], NULL);
	}
	for (int i = 0; i < CALLERS; ++i) {
		pthread_join(callers[i].thread, NULL);
		end_caller(&callers[i]);
	}
	pthread_join(watcher, NULL);

	HOLDS(open_descriptors() == descriptors);
	for (int i = 0; i < CANARIES; ++i) {
		check_canary(i);
	}
	check_files();
	for (int i = 0; i < 2 * FIELDS; ++i) {
		all_is_well(&state);
	}
	fprintf(stderr, "racing: %lu changes, %lu children, %lu calls succeeded, %lu were refused\n", atomic_load(&changes),
		atomic_load(&children), atomic_load(&succeeded), atomic_load(&refused));
	checks_failed += atomic_load(&failures);
	return checks_result("racing");
}
