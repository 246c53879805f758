/* SPDX-License-Identifier: Apache-2.0 */
/* Statistics, limits, trimming; blocks of another allocator; mallopt and mallinfo2; and memory that runs out for
 * other reasons than a refused mmap: RLIMIT_AS, an exhausted vm.max_map_count. */
#include <dlfcn.h>
#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/wait.h>

#include <libgmem.h>

#include "../check.h"

static const size_t MIB = (size_t)1 << 20;

static gmemHeapStats_t now(void) {
	gmemHeapStats_t stats = {.size = sizeof stats};
	CHECK_EQUAL(gmemHeapStats(&stats), 0);
	CHECK_EQUAL(stats.size, sizeof stats);
	return stats;
}

static void statistics_follow_the_heap(void) {
	const size_t size = 200 * MIB;
	const gmemHeapStats_t before = now();
	char *block = gmem_malloc(size);
	NEED(block != NULL);
	memset(block, 'x', size);
	const gmemHeapStats_t with = now();
	CHECK(with.live >= before.live + size);
	CHECK(with.resident >= before.resident + size - 4 * MIB);
	CHECK(with.mapped >= with.live + with.idle);
	CHECK(with.huge <= with.resident);
	CHECK(with.arenas >= 1);
	gmem_free(block);
	const gmemHeapStats_t idle = now();
	CHECK(idle.live + size <= with.live + MIB);
	CHECK(gmemHeapTrim() >= size - 4 * MIB);
	const gmemHeapStats_t after = now();
	CHECK(after.idle < 4 * MIB);
	CHECK(after.resident + size <= with.resident + 4 * MIB);
	CHECK(after.released >= before.released + size - 4 * MIB);
	CHECK_EQUAL(gmemHeapTrim() > 4 * MIB, 0);
}

static void the_structure_may_grow(void) {
	/* A program of an older version knows less; one of a newer version knows more. */
	struct {
		gmemHeapStats_t stats;
		size_t more;
	} newer = {.more = 12345};
	newer.stats.size = sizeof newer;
	CHECK_EQUAL(gmemHeapStats(&newer.stats), 0);
	CHECK_EQUAL(newer.stats.size, sizeof newer.stats);
	CHECK_EQUAL(newer.more, 12345);
	gmemHeapStats_t older = {.size = 2 * sizeof(size_t), .idle = 54321};
	CHECK_EQUAL(gmemHeapStats(&older), 0);
	CHECK(older.live > 0);
	CHECK_EQUAL(older.idle, 54321);
	older.size = 3;
	CHECK_EQUAL(gmemHeapStats(&older), -EINVAL);
	CHECK(strstr(gmemLastError(), "stats->size = 3") != NULL);
	CHECK_EQUAL(gmemHeapStats(NULL), -EINVAL);
}

static void json(void) {
	char text[8192];
	const int length = gmemHeapStatsJson(text, sizeof text);
	CHECK(length > 100 && (size_t)length == strlen(text));
	CHECK(strncmp(text, "{\"live\":", 8) == 0 && strcmp(text + length - 2, "]}") == 0);
	char little[10];
	memset(little, 'x', sizeof little);
	CHECK(gmemHeapStatsJson(little, 5) > 100);
	CHECK(strcmp(little, "{\"li") == 0);
	CHECK(little[5] == 'x');
	CHECK(gmemHeapStatsJson(NULL, 0) > 100);
	CHECK_EQUAL(gmemHeapStatsJson(NULL, 5), -EINVAL);
}

static void a_hard_limit_holds(void) {
	gmemHeapTrim();
	const gmemHeapStats_t before = now();
	const size_t in_use = before.live + before.idle + before.metadata;
	CHECK_EQUAL(gmemHeapSetLimits(0, in_use + 100 * MIB), 0);
	CHECK_EQUAL(now().hard_limit, in_use + 100 * MIB);
	errno = 0;
	CHECK(gmem_malloc(120 * MIB) == NULL && errno == ENOMEM);
	CHECK(now().refused > before.refused);
	/* Small ones come to the same end, and what was given stays whole. */
	enum { MANY = 400000 };
	char **blocks = mmap(NULL, MANY * sizeof *blocks, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	NEED(blocks != MAP_FAILED);
	size_t got = 0;
	while (got < MANY && (blocks[got] = gmem_malloc(1000)) != NULL) {
		memset(blocks[got], (int)got, 1000);
		++got;
	}
	CHECK(got > 80000 && got < 120000);
	CHECK_EQUAL(errno, ENOMEM);
	for (size_t i = 0; i < got; ++i) {
		CHECK(is_all(blocks[i], 1000, (char)i));
		gmem_free(blocks[i]);
	}
	munmap(blocks, MANY * sizeof *blocks);
	/* What is idle does not stand in the way of what is asked for. */
	void *block = gmem_malloc(80 * MIB);
	CHECK(block != NULL);
	gmem_free(block);
	CHECK_EQUAL(gmemHeapSetLimits(2, 1), -EINVAL);
	CHECK(strstr(gmemLastError(), "soft = 2") != NULL);
	CHECK_EQUAL(gmemHeapSetLimits(0, 0), 0);
	block = gmem_malloc(120 * MIB);
	CHECK(block != NULL);
	gmem_free(block);
}

static atomic_bool trimming;

static void *trim_all_the_time(void *arg) {
	(void)arg;
	while (atomic_load(&trimming)) {
		gmemHeapTrim();
	}
	return NULL;
}

/* Memory that another thread is just giving back is as good as idle memory. */
static void a_release_in_progress_is_awaited(void) {
	enum { BLOCKS = 300 };
	static char *blocks[BLOCKS];
	gmemHeapTrim();
	const gmemHeapStats_t before = now();
	CHECK_EQUAL(gmemHeapSetLimits(0, before.live + before.idle + before.metadata + 100 * MIB), 0);
	pthread_t thread;
	atomic_store(&trimming, true);
	NEED(pthread_create(&thread, NULL, trim_all_the_time, NULL) == 0);
	for (int round = 0; round < 30; ++round) {
		for (int i = 0; i < BLOCKS; ++i) {
			blocks[i] = gmem_malloc(300000);
			NEED(blocks[i] != NULL);
			memset(blocks[i], 'x', 300000);
		}
		for (int i = 0; i < BLOCKS; i += 2) {
			gmem_free(blocks[i]);
		}
		for (int i = 1; i < BLOCKS; i += 2) {
			gmem_free(blocks[i]);
		}
		char *block = gmem_malloc(80 * MIB);
		CHECK(block != NULL);
		gmem_free(block);
	}
	atomic_store(&trimming, false);
	pthread_join(thread, NULL);
	CHECK_EQUAL(gmemHeapSetLimits(0, 0), 0);
}

static pthread_barrier_t memory_is_out;

static void *allocate_without_memory(void *arg) {
	(void)arg;
	pthread_barrier_wait(&memory_is_out);
	char *block = gmem_malloc(100);
	if (block != NULL) {
		memset(block, 'x', 100);
	}
	gmem_free(block);
	return NULL;
}

/* A thread whose first allocation finds the limit reached gets NULL, or a block. */
static void threads_begin_at_the_limit(void) {
	enum { THREADS = 6 };
	pthread_t threads[THREADS];
	NEED(pthread_barrier_init(&memory_is_out, NULL, THREADS + 1) == 0);
	for (int i = 0; i < THREADS; ++i) {
		NEED(pthread_create(&threads[i], NULL, allocate_without_memory, NULL) == 0);
	}
	const gmemHeapStats_t before = now();
	CHECK_EQUAL(gmemHeapSetLimits(0, before.live + before.idle + before.metadata + 10 * MIB), 0);
	char *last = NULL, *block;
	while ((block = gmem_malloc(5000)) != NULL) {
		*(char **)block = last;
		last = block;
	}
	pthread_barrier_wait(&memory_is_out);
	for (int i = 0; i < THREADS; ++i) {
		pthread_join(threads[i], NULL);
	}
	while (last != NULL) {
		block = *(char **)last;
		gmem_free(last);
		last = block;
	}
	CHECK_EQUAL(gmemHeapSetLimits(0, 0), 0);
}

static void refusals_leave_nothing_behind(void) {
	gmemHeapTrim();
	const gmemHeapStats_t before = now();
	CHECK_EQUAL(gmemHeapSetLimits(0, before.live + before.idle + before.metadata + 100 * MIB), 0);
	void *held = gmem_malloc(70 * MIB);
	NEED(held != NULL);
	for (int i = 0; i < 10; ++i) {
		CHECK(gmem_malloc((300 + (size_t)i) * MIB) == NULL);
	}
	const size_t mapped = now().mapped;
	for (int i = 0; i < 2000; ++i) {
		CHECK(gmem_malloc((300 + (size_t)i % 10) * MIB) == NULL);
	}
	CHECK_EQUAL(now().mapped, mapped);
	gmem_free(held);
	/* What the thread keeps is no reason to refuse. */
	char *last = NULL, *block;
	while ((block = gmem_malloc(2000)) != NULL) {
		*(char **)block = last;
		last = block;
	}
	for (int i = 0; i < 60; ++i) {
		block = *(char **)last;
		gmem_free(last);
		last = block;
	}
	block = gmem_malloc(1500);
	CHECK(block != NULL);
	gmem_free(block);
	while (last != NULL) {
		block = *(char **)last;
		gmem_free(last);
		last = block;
	}
	CHECK_EQUAL(gmemHeapSetLimits(0, 0), 0);
}

static void above_the_soft_limit_nothing_idle_is_kept(void) {
	gmemHeapTrim();
	CHECK_EQUAL(gmemHeapSetLimits(50 * MIB, 0), 0);
	for (int i = 0; i < 20; ++i) {
		char *block = gmem_malloc((size_t)(60 + i) * MIB);
		NEED(block != NULL);
		memset(block, 'x', (size_t)(60 + i) * MIB);
		gmem_free(block);
	}
	/* The next one finds the limit exceeded. */
	gmem_free(gmem_malloc(100 * MIB));
	CHECK(now().idle < 110 * MIB);
	void *block = gmem_malloc(150 * MIB);
	CHECK(now().idle < 20 * MIB);
	gmem_free(block);
	CHECK_EQUAL(gmemHeapSetLimits(0, 0), 0);
}

static void blocks_of_another_allocator_go_back_to_it(void) {
	const size_t before = now().foreign_blocks;
	void *(*libc_malloc)(size_t) = NULL;
	void *libc = dlopen("libc.so.6", RTLD_NOW | RTLD_NOLOAD);
	NEED(libc != NULL);
	*(void **)&libc_malloc = dlsym(libc, "__libc_malloc");
	if (libc_malloc == NULL) {
		*(void **)&libc_malloc = dlsym(libc, "malloc");
	}
	NEED(libc_malloc != NULL);
	for (size_t size = 1; size <= 4 * MIB; size *= 8) {
		char *block = libc_malloc(size);
		NEED(block != NULL);
		memset(block, 'x', size);
		CHECK(gmem_malloc_usable_size(block) >= size);
		block = gmem_realloc(block, size + 100);
		NEED(block != NULL);
		CHECK(is_all(block, size, 'x'));
		gmem_free(block);
	}
	CHECK(now().foreign_blocks >= before + 3);
}

#ifdef INTERPOSED
static void what_glibc_has(void) {
	char *block = malloc(50 * MIB);
	NEED(block != NULL);
	const struct mallinfo2 info = mallinfo2();
	CHECK(info.uordblks >= 50 * MIB && info.arena >= info.uordblks);
	free(block);
	CHECK_EQUAL(mallopt(M_MMAP_THRESHOLD, 1 << 20), 1);
	CHECK_EQUAL(mallopt(12345, 1), 0);
}
#endif

static void in_a_child(void (*what)(void)) {
	const pid_t child = fork();
	NEED(child >= 0);
	if (child == 0) {
		alarm(60);
		what();
		_exit(checks_failed != 0);
	}
	int status = 0;
	NEED(waitpid(child, &status, 0) == child);
	CHECK_EQUAL(status, 0);
}

/* No more mappings can be made or split. */
static void without_mappings(void) {
	const size_t base = (size_t)sysconf(_SC_PAGESIZE);
	char *kept = gmem_malloc(1000);
	NEED(kept != NULL);
	memset(kept, 'k', 1000);
	const size_t room = 200000 * base;
	char *start = mmap(NULL, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	NEED(start != MAP_FAILED);
	size_t splits = 0;
	while (splits < 99000 && mprotect(start + 2 * splits * base, base, PROT_READ) == 0) {
		++splits;
	}
	if (splits == 99000) {
		fprintf(stderr, "vm.max_map_count is too high to exhaust here\n");
		return;
	}
	int failures = 0;
	for (int round = 0; round < 4; ++round) {
		void *blocks[24];
		for (int i = 0; i < 24; ++i) {
			errno = 0;
			blocks[i] = gmem_malloc((size_t)1 << (i + 4));
			if (blocks[i] == NULL) {
				CHECK_EQUAL(errno, ENOMEM);
				++failures;
			}
		}
		for (int i = 0; i < 24; ++i) {
			blocks[i] = gmem_realloc(blocks[i], (size_t)3 << (i + 3));
		}
		for (int i = 0; i < 24; ++i) {
			gmem_free(blocks[i]);
		}
		gmemHeapTrim();
	}
	munmap(start, room);
	CHECK(is_all(kept, 1000, 'k'));
	char *block = gmem_malloc(300 * MIB);
	NEED(block != NULL);
	memset(block, 'x', 300 * MIB);
	gmem_free(block);
	gmem_free(kept);
}

/* In a process of its own: a heap that has seen more keeps the addresses. */
static int with_little_address_space(void) {
	const struct rlimit limit = {600 * MIB, 600 * MIB};
	NEED(setrlimit(RLIMIT_AS, &limit) == 0);
	errno = 0;
	CHECK(gmem_malloc(1024 * MIB) == NULL && errno == ENOMEM);
	void *blocks[64];
	int got = 0;
	while (got < 64 && (blocks[got] = gmem_malloc(20 * MIB)) != NULL) {
		memset(blocks[got], 1, 20 * MIB);
		++got;
	}
	CHECK(got >= 4 && got < 40);
	while (got > 0) {
		gmem_free(blocks[--got]);
	}
	void *block = gmem_malloc(60 * MIB);
	CHECK(block != NULL);
	gmem_free(block);
	return checks_result("introspection with little address space");
}

static void this_again(void) {
	execl("/proc/self/exe", "introspection", "with-little-address-space", (char *)NULL);
	NEED(0);
}

int main(int argc, char **argv) {
	(void)argv;
	if (argc > 1) {
		return with_little_address_space();
	}
	in_a_child(threads_begin_at_the_limit);
	statistics_follow_the_heap();
	the_structure_may_grow();
	json();
	a_hard_limit_holds();
	a_release_in_progress_is_awaited();
	refusals_leave_nothing_behind();
	above_the_soft_limit_nothing_idle_is_kept();
	blocks_of_another_allocator_go_back_to_it();
#ifdef INTERPOSED
	what_glibc_has();
#endif
	in_a_child(without_mappings);
	in_a_child(this_again);
	return checks_result("introspection");
}
