/* SPDX-License-Identifier: Apache-2.0 */
/* gmemPrefetch of one range to two nodes at once, while it is written to. Needs two nodes. */
#include <pthread.h>
#include <stdatomic.h>

#include "nodes.h"

enum { PAGES = 4, PREFETCHES = 25 };

static char *start;
static atomic_int running;
static atomic_int moved; /* calls that said 0 */

static void *prefetch_again_and_again(void *node) {
	for (int i = 0; i < PREFETCHES; ++i) {
		const int result = prefetch_to(start, PAGES * page, *(const int *)node);
		/* The other thread moves pages away meanwhile. */
		CHECK(result == 0 || result == -EBUSY);
		atomic_fetch_add(&moved, result == 0);
	}
	atomic_fetch_sub(&running, 1);
	return NULL;
}

/* Each word is counted up, round after round; what it was is checked before: a page that was copied while it was
 * written to would be a round behind. Returns the rounds. */
static uint64_t count_up(void) {
	volatile uint64_t *words = (volatile uint64_t *)(void *)start;
	uint64_t round = 0, lost = 0;
	do {
		for (size_t i = 0; i < PAGES * page / sizeof *words; i += 8) { /* one in each cache line */
			lost += words[i] != round + i;
			words[i] = round + i + 1;
		}
		++round;
	} while (atomic_load(&running) > 0);
	CHECK_EQUAL(lost, 0);
	return round;
}

static void no_byte_is_lost(int huge) {
	start = map_pages(PAGES * page, huge);
	CHECK_EQUAL(prefetch_to(start, PAGES * page, nodes[node_count - 2]), 0);
	uint64_t *words = (uint64_t *)(void *)start;
	for (size_t i = 0; i < PAGES * page / sizeof *words; ++i) {
		words[i] = i;
	}
	pthread_t threads[2];
	atomic_store(&running, 2);
	atomic_store(&moved, 0);
	for (int i = 0; i < 2; ++i) {
		NEED(pthread_create(&threads[i], NULL, prefetch_again_and_again, &nodes[node_count - 2 + i]) == 0);
	}
	const uint64_t rounds = count_up();
	for (int i = 0; i < 2; ++i) {
		NEED(pthread_join(threads[i], NULL) == 0);
	}
	CHECK(atomic_load(&moved) > 0);
	size_t lost = 0;
	for (size_t i = 0; i < PAGES * page / sizeof *words; ++i) {
		lost += words[i] != i + (i % 8 == 0 ? rounds : 0);
	}
	CHECK_EQUAL(lost, 0);
	CHECK_EQUAL(
		pages_on(start, PAGES * page, nodes[node_count - 2]) + pages_on(start, PAGES * page, nodes[node_count - 1]),
		PAGES * page / base);
	/* When it is quiet again one call brings it together. */
	CHECK_EQUAL(prefetch_to(start, PAGES * page, nodes[0]), 0);
	CHECK_EQUAL(pages_on(start, PAGES * page, nodes[0]), PAGES * page / base);
	munmap(start, PAGES * page);
}

int main(void) {
	need_nodes(2);
	no_byte_is_lost(0);
	no_byte_is_lost(1);
	return checks_result("concurrent");
}
