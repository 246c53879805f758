/* SPDX-License-Identifier: Apache-2.0 */
/* The threads' caches under a hard limit: 64 threads begin, allocate blocks of all sizes that threads cache, pass them
 * to one another, free what they get and end. Each byte is checked. The limit holds, NULL comes with ENOMEM, and in the
 * end everything is free for one large block. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

#include <libgmem.h>

#include "../check.h"

static const size_t MIB = (size_t)1 << 20;
enum { THREADS = 64, ROUNDS = 4, STEPS = 3000, MAILBOXES = 2048, LARGEST = 40000 };

/* Blocks on their way; the first word of each is its size. */
static _Atomic(size_t *) mailboxes[MAILBOXES];
static atomic_ulong refusals;

static uint64_t next(uint64_t *state) {
	*state = *state * 6364136223846793005 + 1442695040888963407;
	return *state >> 33;
}

static void fill(size_t *block, size_t size) {
	memset(block, (int)(unsigned char)size, size);
	*block = size;
}

static void check_and_free(size_t *block) {
	if (block != NULL) {
		const size_t size = *block;
		NEED(size >= sizeof size && size <= LARGEST);
		NEED(is_all((char *)(block + 1), size - sizeof size, (char)size));
		gmem_free(block);
	}
}

static void *pass_blocks_on(void *arg) {
	uint64_t state = (uint64_t)(uintptr_t)arg;
	for (int i = 0; i < STEPS; ++i) {
		/* Each doubling is as frequent as the next. */
		const size_t most = (size_t)16 << next(&state) % 12;
		size_t size = sizeof size + next(&state) % most;
		size = size < LARGEST ? size : LARGEST;
		errno = 0;
		size_t *block = gmem_malloc(size);
		if (block != NULL) {
			fill(block, size);
		} else {
			CHECK_EQUAL(errno, ENOMEM);
			atomic_fetch_add(&refusals, 1);
		}
		check_and_free(atomic_exchange(&mailboxes[next(&state) % MAILBOXES], block));
	}
	return NULL;
}

static gmemHeapStats_t now(void) {
	gmemHeapStats_t stats = {.size = sizeof stats};
	CHECK_EQUAL(gmemHeapStats(&stats), 0);
	return stats;
}

static void run(size_t limit_mib) {
	pthread_t threads[THREADS];
	gmemHeapTrim();
	const gmemHeapStats_t before = now();
	const size_t limit = before.live + before.idle + before.metadata + limit_mib * MIB;
	CHECK_EQUAL(gmemHeapSetLimits(0, limit), 0);
	for (int round = 0; round < ROUNDS; ++round) {
		for (uintptr_t i = 0; i < THREADS; ++i) {
			/* Near the limit there may be no memory for a thread. */
			while (pthread_create(&threads[i], NULL, pass_blocks_on, (void *)(i * 1000003 + (unsigned)round)) != 0) {
				check_and_free(atomic_exchange(&mailboxes[i], NULL));
			}
		}
		for (int i = 0; i < THREADS; ++i) {
			pthread_join(threads[i], NULL);
		}
		CHECK(now().resident <= limit + 8 * MIB);
	}
	for (int i = 0; i < MAILBOXES; ++i) {
		check_and_free(atomic_exchange(&mailboxes[i], NULL));
	}
	CHECK_EQUAL(gmemHeapSetLimits(0, 0), 0);
	gmemHeapTrim();
	/* Nothing was lost in a cache. */
	CHECK(now().live <= before.live + 4 * MIB);
}

int main(void) {
	/* Far more than what is live. */
	run(512);
	CHECK_EQUAL(atomic_load(&refusals), 0);
	run(16);
	fprintf(stderr, "migrate: %lu allocations were refused\n", atomic_load(&refusals));
	return checks_result("migrate");
}
