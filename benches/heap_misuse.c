/* SPDX-License-Identifier: Apache-2.0 */
/* Misuses malloc in one way, and goes on for a while. For tools/bench_misuse.py, which looks whether the allocator
 * that it preloads ends the process. Compiled with -fno-builtin. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <pthread.h>

enum { LARGE = 5 << 20 };

static char *volatile sink;

static char *allocated(size_t size) {
	char *block = malloc(size);
	if (block == NULL) {
		exit(1);
	}
	memset(block, 'x', size);
	return block;
}

static void twice(size_t size, int between) {
	char *block = allocated(size);
	free(block);
	for (int i = 0; i < between; ++i) {
		free(allocated(size));
	}
	free(block);
}

static void twice_now(void) { twice(64, 0); }
static void twice_after_another(void) {
	char *first = allocated(64), *second = allocated(64);
	free(first);
	free(second);
	free(first);
}
static void twice_later(void) {
	char *blocks[100];
	for (int i = 0; i < 100; ++i) {
		blocks[i] = allocated(64);
	}
	for (int i = 0; i < 100; ++i) {
		free(blocks[i]);
	}
	free(blocks[0]);
}
static void medium_twice(void) { twice(100000, 0); }
static void large_twice(void) { twice(LARGE, 0); }
static void *free_it(void *block) {
	free(block);
	return NULL;
}
static void twice_by_threads(void) {
	char *block = allocated(200);
	pthread_t thread;
	free(block);
	if (pthread_create(&thread, NULL, free_it, block) == 0) {
		pthread_join(thread, NULL);
	}
}
static void inside_small(void) { free(allocated(1024) + 16); }
static void inside_medium(void) { free(allocated(100000) + 4096); }
static void inside_large(void) { free(allocated(LARGE) + ((size_t)2 << 20)); }
static void misaligned(void) { free(allocated(48) + 8); }
static void on_the_stack(void) {
	char block[64] = "x";
	sink = block;
	free(sink);
}
static void behind(size_t size, size_t distance) {
	char *volatile block = allocated(size);
	block[size + distance] ^= 1;
	free(block);
}
static void one_byte_behind(void) { behind(100, 0); }
static void one_byte_behind_a_full_block(void) { behind(104, 0); }
static void far_behind_small(void) { behind(64, 64); }
static void behind_large(void) { behind(LARGE, 0); }
static void far_behind_large(void) { behind(LARGE, 8192); }
static void before_large(void) { allocated(LARGE)[-1] = 1; }
static void first_word_after_free(void) {
	char *volatile block = allocated(200);
	free(block);
	memset(block, 0x7f, 8);
}
static void inner_word_after_free(void) {
	char *volatile block = allocated(200);
	free(block);
	memset(block + 96, 0x7f, 8);
}
/* Caught where the old contents cannot be read any more. */
static void read_after_free(void) {
	char *volatile block = allocated(200);
	free(block);
	if (memchr(block + 32, 'x', 100) == NULL) {
		abort();
	}
}
/* Caught where the next block of the size is another one. */
static void reused_now(void) {
	char *block = allocated(200);
	free(block);
	if (allocated(200) != block) {
		abort();
	}
}

static const struct {
	const char *name;
	void (*run)(void);
} cases[] = {
	{"double free", twice_now},
	{"double free, another between", twice_after_another},
	{"double free, 99 between", twice_later},
	{"double free by two threads", twice_by_threads},
	{"double free of 100 kB", medium_twice},
	{"double free of 5 MiB", large_twice},
	{"free inside a block", inside_small},
	{"free inside 100 kB", inside_medium},
	{"free inside 5 MiB", inside_large},
	{"free of a misaligned address", misaligned},
	{"free of the stack", on_the_stack},
	{"a byte behind 100", one_byte_behind},
	{"a byte behind 104", one_byte_behind_a_full_block},
	{"a byte in the next block", far_behind_small},
	{"a byte behind 5 MiB", behind_large},
	{"8 KiB behind 5 MiB", far_behind_large},
	{"a byte before 5 MiB", before_large},
	{"write of the first word after free", first_word_after_free},
	{"write of an inner word after free", inner_word_after_free},
	{"freed contents can be read (no: caught)", read_after_free},
	{"a freed block is the next one (no: caught)", reused_now},
};
enum { CASES = sizeof cases / sizeof *cases };

int main(int argc, char **argv) {
	if (argc < 2) {
		for (int i = 0; i < CASES; ++i) {
			puts(cases[i].name);
		}
		return 0;
	}
	cases[atoi(argv[1]) % CASES].run();
	/* What an allocator may notice later. */
	static char *blocks[20000];
	for (int round = 0; round < 2; ++round) {
		for (int i = 0; i < 20000; ++i) {
			blocks[i] = allocated(64 + (size_t)i % 200);
		}
		for (int i = 0; i < 20000; ++i) {
			free(blocks[i]);
		}
	}
	return 0;
}
