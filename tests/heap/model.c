/* SPDX-License-Identifier: Apache-2.0 */
/* model [SEQUENCES [SEED]]: random sequences of operations, each compared with a model of what a heap is: a set of
 * blocks that do not overlap, are aligned as asked, and hold what was written to them. A failure names its seed. */
#include <libgmem.h>

#include "../check.h"

enum { BLOCKS = 200, OPERATIONS = 3000 };

struct block {
	unsigned char *start;
	size_t size;   /* as asked for */
	size_t usable; /* all of it may be written, and is */
	unsigned char value;
};

/* Sorted by address. */
static struct block blocks[BLOCKS];
static int count;
static uint64_t state, seed;
static int operation;

static uint64_t next(void) {
	uint64_t z = (state += 0x9e3779b97f4a7c15);
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
	z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
	return z ^ (z >> 31);
}

#define MODEL(condition)                                                                                               \
	do {                                                                                                               \
		if (!(condition)) {                                                                                            \
			fprintf(stderr, "%s:%d: failed: %s (seed %llu, operation %d)\n", __FILE__, __LINE__, #condition,           \
				(unsigned long long)seed, operation);                                                                  \
			exit(1);                                                                                                   \
		}                                                                                                              \
	} while (0)

/* Every class and the borders between the ways that the heap goes. */
static size_t random_size(void) {
	static const size_t borders[] = {
		0, 8, 16, 128, 1024, 4096, 8192, 14336, 16384, 32768, 65536, 1 << 20, 2 << 20, 4 << 20};
	const uint64_t dice = next();
	if ((dice & 3) == 0) {
		const size_t border = borders[(dice >> 8) % (sizeof borders / sizeof *borders)];
		const size_t distance = (size_t)(dice >> 16) % 3;
		return border + distance - (border > 0 && distance == 2 ? 3 : 0);
	}
	return (size_t)next() & (((size_t)1 << ((dice >> 8) % ((dice & 63) == 1 ? 24 : 16))) - 1);
}

static int place_of(const unsigned char *start) {
	int low = 0, high = count;
	while (low < high) {
		const int middle = (low + high) / 2;
		if (blocks[middle].start < start) {
			low = middle + 1;
		} else {
			high = middle;
		}
	}
	return low;
}

/* A new block is where no other is. */
static void add(unsigned char *start, size_t size) {
	const size_t usable = gmem_malloc_usable_size(start);
	const int place = place_of(start);
	MODEL(usable >= size);
	MODEL(place == 0 || blocks[place - 1].start + blocks[place - 1].usable <= start);
	MODEL(place == count || start + usable <= blocks[place].start);
	memmove(&blocks[place + 1], &blocks[place], (size_t)(count - place) * sizeof *blocks);
	blocks[place] = (struct block){start, size, usable, (unsigned char)next()};
	++count;
	memset(start, blocks[place].value, usable);
}

static struct block remove_at(int place) {
	const struct block block = blocks[place];
	MODEL(is_all((const char *)block.start, block.usable, (char)block.value));
	MODEL(gmem_malloc_usable_size(block.start) == block.usable);
	--count;
	memmove(&blocks[place], &blocks[place + 1], (size_t)(count - place) * sizeof *blocks);
	return block;
}

static void allocate(void) {
	const size_t size = random_size();
	size_t alignment = size >= (size_t)2 << 20 ? gmemGetPageSize() : 16;
	void *start = NULL;
	switch (next() % 6) {
	case 0:
		start = gmem_calloc(1, size);
		MODEL(start != NULL && is_all(start, size, 0));
		break;
	case 1:
		alignment = (size_t)8 << (next() % 20);
		MODEL(gmem_posix_memalign(&start, alignment, size) == 0);
		break;
	case 2:
		alignment = (size_t)1 << (next() % 13);
		start = gmem_aligned_alloc(alignment, size);
		break;
	default: start = gmem_malloc(size);
	}
	MODEL(start != NULL && ((uintptr_t)start & (alignment - 1)) == 0);
	add(start, size);
}

static void reallocate(int place) {
	const struct block old = remove_at(place);
	const size_t size = random_size();
	const size_t alignment = next() % 2 == 0 ? 16 : (size_t)1 << (next() % 24);
	unsigned char *start =
		alignment == 16 ? gmem_realloc(old.start, size) : gmem_aligned_realloc(old.start, alignment, size);
	if (size == 0) {
		MODEL(start == NULL);
		return;
	}
	MODEL(start != NULL && ((uintptr_t)start & (alignment - 1)) == 0);
	MODEL(size < (size_t)2 << 20 || ((uintptr_t)start & (gmemGetPageSize() - 1)) == 0);
	MODEL(is_all((const char *)start, size < old.usable ? size : old.usable, (char)old.value));
	add(start, size);
}

static void sequence(void) {
	for (operation = 0; operation < OPERATIONS; ++operation) {
		const uint64_t dice = next() % 100;
		if (count == 0 || (dice < 50 && count < BLOCKS)) {
			allocate();
		} else if (dice < 65) {
			reallocate((int)(next() % (uint64_t)count));
		} else if (dice == 99 && next() % 10 == 0) {
			gmemHeapTrim();
		} else {
			gmem_free(remove_at((int)(next() % (uint64_t)count)).start);
		}
	}
	while (count > 0) {
		gmem_free(remove_at(count - 1).start);
	}
}

int main(int argc, char **argv) {
	const int sequences = argc > 1 ? atoi(argv[1]) : 30;
	const uint64_t first = argc > 2 ? strtoull(argv[2], NULL, 0) : 1;
	for (int i = 0; i < sequences; ++i) {
		seed = state = first + (uint64_t)i;
		sequence();
	}
	return checks_result("model");
}
