/* SPDX-License-Identifier: Apache-2.0 */
/* GMEM_HEAP_HARD_LIMIT is a promise about resident memory: `hard_limit LIMIT_MIB SIZE THREADS ORDER` allocates and
 * writes blocks until NULL and compares what the kernel counts. With LIMIT_MIB alone it does so for all sizes, and
 * without arguments it runs the whole matrix, each case in a process of its own. */
#include <fcntl.h>
#include <pthread.h>
#include <sys/wait.h>

#include <libgmem.h>

#include "../check.h"

static const size_t MIB = (size_t)1 << 20;
enum { MAX_THREADS = 4 };

enum order {
	FILL,    /* blocks until NULL */
	REFILL,  /* the same, free all, and once more */
	THINNED, /* fill, free all but one block in a hundred, and fill with blocks of four times the size */
	ORDERS
};

/* A list of blocks, linked through their first words: it needs no memory of its own. */
struct filler {
	size_t size;
	void *blocks;
	size_t count;
};

/* Resident bytes of the process. */
static size_t resident(void) {
	/* Not fopen(): there is no memory left for its buffer. */
	char text[256] = {0}, *rest;
	const int file = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
	NEED(file >= 0);
	NEED(read(file, text, sizeof text - 1) > 0);
	close(file);
	strtoul(text, &rest, 10);
	return strtoul(rest, NULL, 10) * (size_t)sysconf(_SC_PAGESIZE);
}

static void *fill(void *arg) {
	struct filler *filler = arg;
	char *block;
	while ((block = gmem_malloc(filler->size)) != NULL) {
		memset(block, 'x', filler->size);
		*(void **)block = filler->blocks;
		filler->blocks = block;
		++filler->count;
	}
	return NULL;
}

/* Free all blocks but each `kept`th. */
static void thin(struct filler *filler, size_t kept) {
	void *block = filler->blocks;
	filler->blocks = NULL;
	for (size_t i = 1; block != NULL; ++i) {
		void *next = *(void **)block;
		if (kept != 0 && i % kept == 0) {
			*(void **)block = filler->blocks;
			filler->blocks = block;
		} else {
			gmem_free(block);
			--filler->count;
		}
		block = next;
	}
}

static size_t fill_all(struct filler *fillers, int threads) {
	pthread_t running[MAX_THREADS];
	size_t bytes = 0;
	for (int i = 1; i < threads; ++i) {
		NEED(pthread_create(&running[i], NULL, fill, &fillers[i]) == 0);
	}
	fill(&fillers[0]);
	for (int i = 1; i < threads; ++i) {
		pthread_join(running[i], NULL);
	}
	for (int i = 0; i < threads; ++i) {
		bytes += fillers[i].count * fillers[i].size;
	}
	return bytes;
}

static int one(size_t limit, size_t size, int threads, enum order order) {
	struct filler fillers[MAX_THREADS] = {{0}};
	const size_t before = resident();
	for (int i = 0; i < threads; ++i) {
		fillers[i].size = size;
	}
	size_t usable = fill_all(fillers, threads);
	size_t most = resident();
	if (order == THINNED) {
		for (int i = 0; i < threads; ++i) {
			thin(&fillers[i], 100);
		}
		struct filler more[MAX_THREADS] = {{0}};
		for (int i = 0; i < threads; ++i) {
			more[i].size = 4 * size;
		}
		fill_all(more, threads);
	} else if (order == REFILL) {
		for (int i = 0; i < threads; ++i) {
			thin(&fillers[i], 0);
		}
		CHECK_EQUAL(fill_all(fillers, threads) > usable - usable / 20, 1);
	}
	most = resident() > most ? resident() : most;
	/* With more than one thread each has an arena and caches of its own. */
	const size_t overhead = (threads - 1) * 4 * MIB;
	fprintf(stderr, "limit %zu MiB, blocks of %zu, threads %d, order %d: usable %zu %%, resident %zu MiB\n",
		limit >> 20, size, threads, order, usable * 100 / limit, (most - before) >> 20);
	CHECK(most - before <= limit + 8 * MIB);
	CHECK((usable + overhead) * 10 >= limit * 9);
	return checks_result("hard_limit");
}

static void in_its_own_process(const char *program, int limit, size_t size, int threads, int order) {
	char arguments[4][32];
	snprintf(arguments[0], 32, "%d", limit);
	snprintf(arguments[1], 32, "%zu", size);
	snprintf(arguments[2], 32, "%d", threads);
	snprintf(arguments[3], 32, "%d", order);
	const pid_t child = fork();
	NEED(child >= 0);
	if (child == 0) {
		char text[32];
		snprintf(text, sizeof text, "%dM", limit);
		NEED(setenv("GMEM_HEAP_HARD_LIMIT", text, 1) == 0);
		execl("/proc/self/exe", program, arguments[0], arguments[1], arguments[2], arguments[3], (char *)NULL);
		_exit(127);
	}
	int status = 0;
	NEED(waitpid(child, &status, 0) == child);
	CHECK_EQUAL(status, 0);
}

/* All sizes, with one thread and several, in the orders up to `last`. */
static void try_all(const char *program, int limit, int last) {
	static const size_t sizes[] = {1000, 5000, 40000, 3000000};
	for (size_t size = 0; size < sizeof sizes / sizeof *sizes; ++size) {
		for (int threads = 1; threads <= MAX_THREADS; threads += 3) {
			for (int order = FILL; order <= last; ++order) {
				in_its_own_process(program, limit, sizes[size], threads, order);
			}
		}
	}
}

int main(int argc, char **argv) {
	if (argc == 5) {
		return one(
			strtoul(argv[1], NULL, 10) * MIB, strtoul(argv[2], NULL, 10), atoi(argv[3]), (enum order)atoi(argv[4]));
	}
	if (argc == 2) {
		try_all(argv[0], atoi(argv[1]), FILL);
	} else {
		try_all(argv[0], 256, THINNED);
		/* What the heap needs for itself weighs more. */
		try_all(argv[0], 64, FILL);
	}
	return checks_result("hard_limit");
}
