/* SPDX-License-Identifier: Apache-2.0 */
/* GMEM_HARDEN=1: misuse that ends the process, each in a process of its own. Compiled with -fno-builtin. */
#include <stdint.h>

#include <libgmem.h>

#include "case.h"

static void *volatile kept;

enum { LARGE = 5 << 20 };

static char *allocated(size_t size) {
	char *block = gmem_malloc(size);
	NEED(block != NULL && gmem_malloc_usable_size(block) == size);
	memset(block, 'x', size);
	return block;
}

static void written_behind(size_t size, size_t distance) {
	char *volatile block = allocated(size);
	block[size + distance] ^= 1;
	gmem_free(block);
}

static void small_overrun(void) { written_behind(100, 0); }
static void full_class_overrun(void) { written_behind(104, 0); }
static void empty_overrun(void) { written_behind(0, 3); }
static void cached_overrun(void) { written_behind(20000, 5); }
static void medium_overrun(void) { written_behind(300000, 0); }
static void large_slack_overrun(void) { written_behind(LARGE + 10, 0); }
static void large_overrun(void) { written_behind(LARGE, 0); }
static void large_far_overrun(void) { written_behind(LARGE + 10, 60000); }
static void large_underrun(void) { allocated(LARGE)[-1] = 1; }

static void overrun_then_resized(void) {
	char *volatile block = allocated(50);
	block[50] ^= 1;
	kept = gmem_realloc(block, 5000);
}

static void write_after_free(void) {
	char *volatile block = allocated(200);
	gmem_free(block);
	block[17] = 1;
	gmemHeapTrim();
}

static void twice(size_t size) {
	char *block = allocated(size);
	gmem_free(block);
	gmem_free(block);
}

static void small_twice(void) { twice(64); }
static void medium_twice(void) { twice(100000); }
static void large_twice(void) { twice(LARGE); }

static void twice_with_many_between(void) {
	char *block = allocated(64);
	gmem_free(block);
	for (int i = 0; i < 50; ++i) {
		gmem_free(allocated(64));
	}
	gmem_free(block);
}

static void inside_small(void) { gmem_free(allocated(1000) + 16); }
static void inside_medium(void) { gmem_free(allocated(100000) + 4096); }
static void inside_large(void) { gmem_free(allocated(LARGE) + ((size_t)2 << 20)); }
static void resized_inside(void) { kept = gmem_realloc(allocated(LARGE) + ((size_t)2 << 20), 10); }

/* No fault at all. */
static void nothing(void) {
	for (int round = 0; round < 3; ++round) {
		for (size_t size = 0; size < ((size_t)8 << 20); size = size * 5 / 4 + 1) {
			char *block = allocated(size), *other = gmem_calloc(1, size);
			NEED(other != NULL && gmem_malloc_usable_size(other) == size);
			for (size_t i = 0; i < size; i += 509) {
				NEED(other[i] == 0);
			}
			block = gmem_realloc(block, size * 2 + 1);
			NEED(block != NULL && (size == 0 || (block[0] == 'x' && block[size - 1] == 'x')));
			block = gmem_realloc(block, size / 2 + 1);
			NEED(block != NULL && gmem_malloc_usable_size(block) == size / 2 + 1);
			gmem_free(block);
			gmem_free(other);
			for (size_t alignment = 16; alignment <= ((size_t)4 << 20); alignment *= 16) {
				block = gmem_aligned_alloc(alignment, size);
				NEED(block != NULL && (uintptr_t)block % alignment == 0);
				memset(block, 'y', size);
				block = gmem_aligned_realloc(block, alignment, size + 100);
				NEED(block != NULL && (uintptr_t)block % alignment == 0 && (size == 0 || block[size - 1] == 'y'));
				gmem_free(block);
			}
		}
	}
	gmemHeapTrim();
}

/* A freed block reads as zeros, and the next one of its size is hardly ever the same. */
static void freed_blocks(void) {
	int same = 0;
	for (int i = 0; i < 100; ++i) {
		char *volatile block = allocated(48);
		gmem_free(block);
		for (int j = 0; j < 48; ++j) {
			NEED(block[j] == 0);
		}
		char *next = allocated(48);
		same += next == block;
		gmem_free(next);
	}
	CHECK(same < 10);
}

/* The verbs take large blocks as they are. */
static void large_blocks_and_verbs(void) {
	char *block = allocated(LARGE);
	CHECK((uintptr_t)block % ((size_t)2 << 20) == 0);
	CHECK(gmemPrefetch((unsigned long)block, LARGE, gmemGetNumaId(), NULL) == 0);
	CHECK(gmemFreeEager((unsigned long)block, LARGE, NULL) == 0);
	CHECK(block[0] == 0 && block[LARGE - 1] == 'x');
	gmem_free(block);
}

static const struct {
	const char *name;
	/* What it says before SIGABRT; "" for SIGSEGV, NULL for no fault. */
	const char *said;
	void (*run)(void);
} cases[] = {
	{"one byte behind 100", "was written to behind its end (size class: 112 bytes)", small_overrun},
	{"one byte behind 104, which fill the class", "was written to behind its end, or is no", full_class_overrun},
	{"behind an empty block", "was written to behind its end (size class: 16 bytes)", empty_overrun},
	{"behind 20,000 bytes", "was written to behind its end (size class: 20480 bytes)", cached_overrun},
	{"behind 300,000 bytes", "was written to behind its end", medium_overrun},
	{"behind 5 MiB, inside its last page", "was written to behind its end", large_slack_overrun},
	{"behind 5 MiB", "", large_overrun},
	{"behind the last page of 5 MiB", "", large_far_overrun},
	{"before 5 MiB", "", large_underrun},
	{"behind a block that is resized", "was written to behind its end", overrun_then_resized},
	{"after free", "was written to after it was freed (size class: 224 bytes)", write_after_free},
	{"64 bytes, twice", "is free already (size class: 80 bytes)", small_twice},
	{"100,000 bytes, twice", "is no live block", medium_twice},
	{"5 MiB, twice", "is no live block", large_twice},
	{"twice, with many between", "is free already (size class: 80 bytes)", twice_with_many_between},
	{"inside 1000 bytes", "is no beginning of a block", inside_small},
	{"inside 100,000 bytes", "is no live block", inside_medium},
	{"inside 5 MiB", "is no live block", inside_large},
	{"resized inside 5 MiB", "is no live block", resized_inside},
	{"nothing", NULL, nothing},
	{"freed blocks", NULL, freed_blocks},
	{"large blocks and verbs", NULL, large_blocks_and_verbs},
};
enum { CASES = sizeof cases / sizeof *cases };

int main(int argc, char **argv) {
	if (argc > 1) {
		cases[atoi(argv[1])].run();
		return checks_result("hardened");
	}
	char said[1024], leaked_said[1024];
	setenv("GMEM_HARDEN", "1", 1);
	for (int i = 0; i < CASES; ++i) {
		const char *expected = cases[i].said;
		const int aborted = run_case(i, "1", said, sizeof said);
		const int leaked = run_case(i, "0", leaked_said, sizeof leaked_said);
		int is_right;
		if (expected == NULL) {
			is_right = aborted == 0 && leaked == 0 && said[0] == '\0' && leaked_said[0] == '\0';
		} else if (expected[0] == '\0') {
			is_right = aborted == SIGSEGV && leaked == SIGSEGV;
		} else {
			is_right = aborted == SIGABRT && strstr(said, expected) != NULL && leaked == 0 &&
					   strstr(leaked_said, expected) != NULL;
		}
		if (!is_right) {
			fprintf(
				stderr, "%s: status %d and %d, \"%s\" and \"%s\"\n", cases[i].name, aborted, leaked, said, leaked_said);
		}
		CHECK(is_right);
	}
	return checks_result("hardened");
}
