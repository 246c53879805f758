/* SPDX-License-Identifier: Apache-2.0 */
/* Idle memory: it is used again wherever it lies, calloc() does not take it for zeros, and it goes back to the kernel
 * while the program rests (GMEM_HEAP_KEEP). */
#include <stdint.h>
#include <sys/wait.h>
#include <unistd.h>

#include <libgmem.h>

#include "../check.h"

static const size_t MIB = (size_t)1 << 20;
enum { BLOCKS = 16 };

static gmemHeapStats_t now(void) {
	gmemHeapStats_t stats = {.size = sizeof stats};
	CHECK_EQUAL(gmemHeapStats(&stats), 0);
	return stats;
}

static size_t random_below(size_t limit) {
	static uint64_t state = 1;
	state = state * 6364136223846793005 + 1442695040888963407;
	return (size_t)(state >> 33) % limit;
}

static void touch(char *block, size_t size) {
	for (size_t at = 0; at < size; at += 4096) {
		block[at] = (char)0x5a;
	}
}

/* Blocks of changing size leave holes that the next one does not fit into. Their memory serves it all the same. */
static void holes_do_not_make_the_heap_grow(void) {
	char *blocks[BLOCKS] = {NULL};
	size_t live = 0, most = 0;
	const size_t before = now().resident;
	for (int i = 0; i < 600; ++i) {
		char **block = &blocks[random_below(BLOCKS)];
		live -= gmem_malloc_usable_size(*block);
		gmem_free(*block);
		const size_t size = 2 * MIB + random_below(8 * MIB);
		*block = gmem_malloc(size);
		NEED(*block != NULL);
		touch(*block, size);
		live += gmem_malloc_usable_size(*block);
		most = live > most ? live : most;
		if (i % 20 == 0) {
			CHECK(now().resident <= before + most + most / 4 + 16 * MIB);
		}
	}
	for (int i = 0; i < BLOCKS; ++i) {
		gmem_free(blocks[i]);
	}
	CHECK(now().idle >= most / 2);
}

static void used_memory_is_no_zeros(void) {
	for (int i = 0; i < 60; ++i) {
		const size_t size = 100000 + random_below(6 * MIB);
		char *dirty = gmem_malloc(8 * MIB);
		NEED(dirty != NULL);
		memset(dirty, 0x5a, 8 * MIB);
		gmem_free(dirty);
		char *obstacle = i % 2 == 0 ? gmem_malloc(2 * MIB) : NULL;
		char *block = gmem_calloc(1, size);
		NEED(block != NULL);
		CHECK(is_all(block, size, 0));
		gmem_free(obstacle);
		gmem_free(block);
		if (i % 16 == 0) {
			gmemHeapTrim();
		}
	}
}

/* In a process of its own, with GMEM_HEAP_KEEP=0. */
static int memory_goes_back_at_rest(void) {
	char *blocks[BLOCKS];
	const size_t before = now().resident;
	for (int i = 0; i < BLOCKS; ++i) {
		blocks[i] = gmem_malloc(16 * MIB);
		NEED(blocks[i] != NULL);
		touch(blocks[i], 16 * MIB);
	}
	CHECK(now().resident >= before + BLOCKS * 16 * MIB);
	for (int i = 0; i < BLOCKS; ++i) {
		gmem_free(blocks[i]);
	}
	for (int i = 0; i < 600 && now().resident > before + 8 * MIB; ++i) {
		usleep(100 * 1000);
	}
	CHECK(now().resident <= before + 8 * MIB);
	return checks_result("keep: at rest");
}

int main(int argc, char **argv) {
	if (argc > 1) {
		return memory_goes_back_at_rest();
	}
	holes_do_not_make_the_heap_grow();
	used_memory_is_no_zeros();
	const pid_t child = fork();
	NEED(child >= 0);
	if (child == 0) {
		setenv("GMEM_HEAP_KEEP", "0", 1);
		execl("/proc/self/exe", argv[0], "at-rest", (char *)NULL);
		_exit(127);
	}
	int status = 0;
	NEED(waitpid(child, &status, 0) == child);
	CHECK_EQUAL(status, 0);
	return checks_result("keep");
}
