/* SPDX-License-Identifier: Apache-2.0 */
/* Pointers that cannot be freed: each is reported in one line on stderr, and ends the process with SIGABRT or, with
 * GMEM_ABORT_ON_CORRUPTION=0, is left alone. Compiled with -fno-builtin. */
#include <pthread.h>
#include <stdint.h>

#include <libgmem.h>

#include "case.h"

static void *volatile kept;

static void twice(size_t size) {
	char *block = gmem_malloc(size);
	NEED(block != NULL);
	memset(block, 'x', size);
	gmem_free(block);
	gmem_free(block);
}

static void small_twice(void) { twice(64); }
static void page_twice(void) { twice(4096); }
static void cached_twice(void) { twice(20000); }
static void medium_twice(void) { twice(100000); }
static void large_twice(void) { twice((size_t)5 << 20); }

static void twice_with_others_between(void) {
	char *blocks[20];
	for (int i = 0; i < 20; ++i) {
		blocks[i] = gmem_malloc(100);
	}
	for (int i = 0; i < 20; ++i) {
		gmem_free(blocks[i]);
	}
	gmem_free(blocks[3]);
}

static void *free_it(void *arg) {
	gmem_free(arg);
	return NULL;
}

static void twice_by_two_threads(void) {
	char *block = gmem_malloc(200);
	NEED(block != NULL);
	pthread_t thread;
	gmem_free(block);
	NEED(pthread_create(&thread, NULL, free_it, block) == 0);
	pthread_join(thread, NULL);
}

static void resized_after_free(void) {
	char *block = gmem_malloc(64);
	gmem_free(block);
	kept = gmem_realloc(block, 1000);
}

static void inside_small(void) { gmem_free((char *)gmem_malloc(256) + 32); }
static void misaligned(void) { gmem_free((char *)gmem_malloc(48) + 8); }
static void inside_medium(void) { gmem_free((char *)gmem_malloc(100000) + 8192); }
static void inside_large(void) { gmem_free((char *)gmem_malloc((size_t)4 << 20) + 100); }
static void far_inside_large(void) { gmem_free((char *)gmem_malloc((size_t)8 << 20) + ((size_t)4 << 20)); }

/* No fault at all: contents that look like anything, and blocks that are used again. */
static void nothing(void) {
	for (int round = 0; round < 3; ++round) {
		for (size_t size = 1; size < ((size_t)8 << 20); size = size * 5 / 4 + 1) {
			char *block = gmem_malloc(size), *other = gmem_malloc(size);
			NEED(block != NULL && other != NULL);
			gmem_free(block);
			/* Never written to. */
			block = gmem_malloc(size);
			gmem_free(block);
			block = gmem_aligned_alloc(64, size);
			/* What a freed block contained, in another one. */
			memcpy(other, block, size);
			gmem_free(block);
			block = gmem_realloc(other, size * 2);
			gmem_free(gmem_realloc(block, size / 2 + 1));
		}
	}
}

static const struct {
	const char *name, *said;
	void (*run)(void);
} cases[] = {
	{"a block of 64 bytes, twice", "is free already (size class: 64 bytes)", small_twice},
	{"a page, twice", "is free already (size class: 4096 bytes)", page_twice},
	{"a block of 20,000 bytes, twice", "is free already (size class: 20480 bytes)", cached_twice},
	{"a block of 100,000 bytes, twice", "is no live block", medium_twice},
	{"a block of 5 MiB, twice", "is no live block", large_twice},
	{"twice, with others between", "is free already (size class: 112 bytes)", twice_with_others_between},
	{"twice, by two threads", "is free already (size class: 224 bytes)", twice_by_two_threads},
	{"realloc after free", "is free already (size class: 64 bytes)", resized_after_free},
	{"inside a block of 256 bytes", "is no beginning of a block (size class: 256 bytes)", inside_small},
	{"misaligned", "is no beginning of a block (size class: 48 bytes)", misaligned},
	{"inside a block of 100,000 bytes", "is no live block", inside_medium},
	{"inside a block of 4 MiB", "is no beginning of a block", inside_large},
	{"far inside a block of 8 MiB", "is no live block", far_inside_large},
	{"nothing", NULL, nothing},
};
enum { CASES = sizeof cases / sizeof *cases };

int main(int argc, char **argv) {
	if (argc > 1) {
		cases[atoi(argv[1])].run();
		return checks_result("corruption");
	}
	char said[1024];
	for (int i = 0; i < CASES; ++i) {
		const int expected = cases[i].said == NULL ? 0 : SIGABRT;
		const int aborted = run_case(i, "1", said, sizeof said);
		int is_right = aborted == expected;
		is_right = is_right && (expected == 0 ? said[0] == '\0' : strstr(said, cases[i].said) != NULL);
		is_right = is_right && (expected == 0 || strncmp(said, "libgmem: heap corruption: free: 0x", 34) == 0);
		const int leaked = run_case(i, "0", said, sizeof said);
		is_right = is_right && leaked == 0 && (expected == 0) == (said[0] == '\0');
		if (!is_right) {
			fprintf(stderr, "%s: status %d and %d, \"%s\"\n", cases[i].name, aborted, leaked, said);
		}
		CHECK(is_right);
	}
	return checks_result("corruption");
}
