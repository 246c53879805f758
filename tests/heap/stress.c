/* SPDX-License-Identifier: Apache-2.0 */
/* stress SECONDS [THREADS [SEED]]: threads allocate blocks of 1 byte to 256 MiB in every way, fill each, check each
 * byte before it is freed, and pass half of them on, so that most are freed by a thread that did not make them.
 * Threads end and begin all the time, and a child is forked now and then that goes on by itself. */
#include <pthread.h>
#include <stdatomic.h>
#include <sys/wait.h>
#include <time.h>

#include <libgmem.h>

#include "../check.h"

enum { MAILBOXES = 64, LIVE = 64, LIFE = 20000 };
/* Memory that is live at a time, so that the machine bears it. */
static const size_t BUDGET = (size_t)1 << 30;

struct block {
	unsigned char *start;
	size_t size;
	uint64_t key;
};

static struct mailbox {
	pthread_mutex_t lock;
	struct block block;
} mailboxes[MAILBOXES];

static atomic_size_t live_bytes;
static atomic_ulong operations, passed_on, threads_begun;
static atomic_int running = 1;

static uint64_t next(uint64_t *state) {
	uint64_t z = (*state += 0x9e3779b97f4a7c15);
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
	z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
	return z ^ (z >> 31);
}

/* Every byte depends on the key and its place. */
static void fill(unsigned char *start, size_t from, size_t to, uint64_t key) {
	for (size_t i = from; i < to; ++i) {
		start[i] = (unsigned char)(key + i * 31);
	}
}

static void check_filled(const unsigned char *start, size_t size, uint64_t key) {
	for (size_t i = 0; i < size; ++i) {
		if (start[i] != (unsigned char)(key + i * 31)) {
			fprintf(stderr, "byte %zu of a block of %zu at %p is not what was written\n", i, size, (const void *)start);
			abort();
		}
	}
}

/* Small ones mostly; each doubling up to 256 MiB is a little rarer than the one before. */
static size_t random_size(uint64_t *state) {
	const uint64_t dice = next(state);
	const unsigned limit = (dice & 1023) == 0 ? 28 : (dice & 63) == 0 ? 22 : (dice & 7) == 0 ? 16 : 12;
	const unsigned bits = (unsigned)((dice >> 16) % (limit + 1));
	return 1 + (size_t)(next(state) & (((uint64_t)1 << bits) - 1));
}

static void give_back(struct block *block) {
	if (block->start != NULL) {
		check_filled(block->start, block->size, block->key);
		switch (block->key & 3) {
		case 0: gmem_free_sized(block->start, block->size); break;
		default: gmem_free(block->start);
		}
		atomic_fetch_sub(&live_bytes, block->size);
		block->start = NULL;
	}
}

static void make(struct block *block, uint64_t *state) {
	size_t size = random_size(state);
	if (atomic_fetch_add(&live_bytes, size) + size > BUDGET) {
		atomic_fetch_sub(&live_bytes, size);
		size = 1 + (size_t)(next(state) & 4095);
		atomic_fetch_add(&live_bytes, size);
	}
	block->size = size;
	block->key = next(state);
	size_t alignment = 16;
	switch (next(state) & 3) {
	case 0:
		block->start = gmem_calloc(1, size);
		NEED(block->start != NULL);
		for (size_t i = 0; i < size; ++i) {
			NEED(block->start[i] == 0);
		}
		break;
	case 1:
		alignment = (size_t)16 << (next(state) % 10);
		block->start = gmem_aligned_alloc(alignment, size);
		break;
	default: block->start = gmem_malloc(size);
	}
	NEED(block->start != NULL);
	NEED(((uintptr_t)block->start & (alignment - 1)) == 0);
	NEED(gmem_malloc_usable_size(block->start) >= size);
	fill(block->start, 0, size, block->key);
}

static void change_size(struct block *block, uint64_t *state) {
	const size_t size = random_size(state), old = block->size;
	if (size > old && atomic_load(&live_bytes) + size - old > BUDGET) {
		return;
	}
	unsigned char *moved = gmem_realloc(block->start, size);
	NEED(moved != NULL);
	atomic_fetch_add(&live_bytes, size - old);
	block->start = moved;
	block->size = size;
	check_filled(moved, size < old ? size : old, block->key);
	if (size > old) {
		fill(moved, old, size, block->key);
	}
}

static void *live_a_while(void *arg) {
	uint64_t state = (uintptr_t)arg;
	struct block mine[LIVE] = {0};
	atomic_fetch_add(&threads_begun, 1);
	for (int i = 0; i < LIFE && atomic_load(&running); ++i) {
		struct block *block = &mine[next(&state) % LIVE];
		atomic_fetch_add(&operations, 1);
		if (block->start != NULL && (next(&state) & 7) == 0) {
			change_size(block, &state);
			continue;
		}
		if (block->start != NULL && (next(&state) & 1) == 0) {
			struct mailbox *box = &mailboxes[next(&state) % MAILBOXES];
			pthread_mutex_lock(&box->lock);
			const struct block other = box->block;
			box->block = *block;
			pthread_mutex_unlock(&box->lock);
			*block = other;
			atomic_fetch_add(&passed_on, 1);
		}
		give_back(block);
		make(block, &state);
	}
	for (int i = 0; i < LIVE; ++i) {
		give_back(&mine[i]);
	}
	return NULL;
}

/* What is live in the parent is whole in the child, and the child's heap works. */
static void fork_once(uint64_t *state) {
	struct block block = {0};
	make(&block, state);
	const pid_t child = fork();
	NEED(child >= 0);
	if (child == 0) {
		alarm(60);
		give_back(&block);
		for (int i = 0; i < 2000; ++i) {
			make(&block, state);
			give_back(&block);
		}
		_exit(0);
	}
	int status = 0;
	NEED(waitpid(child, &status, 0) == child);
	CHECK_EQUAL(status, 0);
	give_back(&block);
}

struct lane {
	pthread_t thread;
	uint64_t state;
};

static void *lane_of_threads(void *arg) {
	struct lane *lane = arg;
	while (atomic_load(&running)) {
		pthread_t thread;
		NEED(pthread_create(&thread, NULL, live_a_while, (void *)(uintptr_t)next(&lane->state)) == 0);
		pthread_join(thread, NULL);
	}
	return NULL;
}

int main(int argc, char **argv) {
	const int seconds = argc > 1 ? atoi(argv[1]) : 0;
	const int threads = argc > 2 ? atoi(argv[2]) : 16;
	const uint64_t seed = argc > 3 ? strtoull(argv[3], NULL, 0) : (uint64_t)time(NULL);
	if (seconds <= 0 || threads <= 0 || threads > 1024) {
		fprintf(stderr, "usage: %s SECONDS [THREADS [SEED]]\n", argv[0]);
		return 2;
	}
	for (int i = 0; i < MAILBOXES; ++i) {
		pthread_mutex_init(&mailboxes[i].lock, NULL);
	}
	struct lane *lanes = calloc((size_t)threads, sizeof *lanes);
	NEED(lanes != NULL);
	for (int i = 0; i < threads; ++i) {
		lanes[i].state = seed + (uint64_t)i;
		NEED(pthread_create(&lanes[i].thread, NULL, lane_of_threads, &lanes[i]) == 0);
	}
	uint64_t state = seed ^ 0x5a5a5a5a;
	const time_t end = time(NULL) + seconds;
	while (time(NULL) < end) {
		fork_once(&state);
		usleep(200000);
		if ((next(&state) & 7) == 0) {
			gmemHeapTrim();
		}
	}
	atomic_store(&running, 0);
	for (int i = 0; i < threads; ++i) {
		pthread_join(lanes[i].thread, NULL);
	}
	for (int i = 0; i < MAILBOXES; ++i) {
		give_back(&mailboxes[i].block);
	}
	CHECK_EQUAL(atomic_load(&live_bytes), 0);
	free(lanes);
	gmemHeapTrim();
	gmemHeapStats_t stats = {.size = sizeof stats};
	CHECK_EQUAL(gmemHeapStats(&stats), 0);
	/* What remains is the heap's own, and what ended threads left on pages of small blocks. */
	CHECK(stats.live < (size_t)64 << 20);
	fprintf(stderr,
		"stress: %lu operations, %lu blocks passed on, %lu threads; seed %llu; live %zu MiB, resident %zu MiB\n",
		atomic_load(&operations), atomic_load(&passed_on), atomic_load(&threads_begun), (unsigned long long)seed,
		stats.live >> 20, stats.resident >> 20);
	return checks_result("stress");
}
