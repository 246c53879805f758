/* SPDX-License-Identifier: Apache-2.0 */
/* GMEM_HEAP_HARD_LIMIT=cgroup and its forms in memory control groups: malloc returns NULL before the kernel kills. Each
 * case is a process of its own in a group of its own: `heap_in_group LIMIT SIZE THREADS` allocates and writes blocks
 * until NULL. Without arguments the program runs all cases. */
#include <pthread.h>
#include <sys/wait.h>

#include <libgmem.h>

#include "memory_group.h"

static const size_t MIB = (size_t)1 << 20;
enum { MAX_THREADS = 4 };

struct filler {
	size_t size, bytes;
	void *blocks; /* a list, linked through their first words */
};

static void *fill(void *arg) {
	struct filler *filler = (struct filler *)arg;
	char *block;
	while ((block = malloc(filler->size)) != NULL) {
		memset(block, 'x', filler->size);
		*(void **)(void *)block = filler->blocks;
		filler->blocks = block;
		filler->bytes += filler->size;
	}
	CHECK_EQUAL(errno, ENOMEM);
	return NULL;
}

/* In the group. Fills the heap twice, because a heap that was emptied is in another state. */
static int fill_until_null(size_t limit, size_t size, int threads) {
	struct filler fillers[MAX_THREADS] = {{0}};
	pthread_t running[MAX_THREADS];
	gmemHeapStats_t stats = {.size = sizeof stats};
	NEED(gmemHeapStats(&stats) == 0);
	CHECK_EQUAL(stats.hard_limit, limit);
	size_t bytes = 0;
	for (int round = 0; round < 2; ++round) {
		for (int i = 0; i < threads; ++i) {
			fillers[i] = (struct filler){.size = size};
			NEED(pthread_create(&running[i], NULL, fill, &fillers[i]) == 0);
		}
		bytes = 0;
		for (int i = 0; i < threads; ++i) {
			pthread_join(running[i], NULL);
			bytes += fillers[i].bytes;
		}
		for (int i = 0; i < threads; ++i) {
			while (fillers[i].blocks != NULL) {
				void *block = fillers[i].blocks;
				fillers[i].blocks = *(void **)block;
				free(block);
			}
		}
	}
	/* NULL has to come late, too; heap.hard_limit says how late. */
	CHECK(bytes + (size_t)threads * 4 * MIB >= limit / 10 * 8);
	return checks_result("heap_in_group");
}

/* A form of the setting, and the limit that it stands for: a share of the group's, less some MiB. */
static const struct form {
	const char *text;
	double share;
	size_t less;
} FORMS[] = {{"cgroup", 1, 16}, {"cgroup-64M", 1, 64}, {"cgroup*0.8", 0.8, 0}};

static void run_case(const char *program, size_t group_mib, const struct form *form, size_t size, int threads) {
	const size_t limit = (size_t)((double)(group_mib * MIB) * form->share) - form->less * MIB;
	struct memory_group group;
	char text[3][32];
	snprintf(text[0], sizeof text[0], "%zu", limit);
	snprintf(text[1], sizeof text[1], "%zu", size);
	snprintf(text[2], sizeof text[2], "%d", threads);
	if (!make_memory_group(&group, group_mib * MIB)) {
		printf("no memory control group can be made here: %s\n", strerror(errno));
		exit(SKIPPED);
	}
	const pid_t child = fork();
	NEED(child >= 0);
	if (child == 0) {
		enter_memory_group(&group);
		NEED(setenv("GMEM_HEAP_HARD_LIMIT", form->text, 1) == 0);
		execl("/proc/self/exe", program, text[0], text[1], text[2], (char *)NULL);
		_exit(127);
	}
	int status = 0;
	NEED(waitpid(child, &status, 0) == child);
	const size_t peak = peak_of_memory_group(&group);
	remove_memory_group(&group);
	fprintf(stderr, "group of %zu MiB, %s, blocks of %zu, threads %d: limit %zu MiB, peak of the group %zu MiB\n",
		group_mib, form->text, size, threads, limit >> 20, peak >> 20);
	CHECK_EQUAL(status, 0);
	/* The promise of the heap, and 4 MiB for the rest of the process. */
	CHECK(peak <= limit + 12 * MIB);
}

int main(int argc, char **argv) {
	if (argc == 4) {
		return fill_until_null(strtoul(argv[1], NULL, 10), strtoul(argv[2], NULL, 10), atoi(argv[3]));
	}
	static const size_t groups[] = {90, 110, 128}, sizes[] = {100, 5000, 3000000};
	for (size_t i = 0; i < 3; ++i) {
		for (size_t j = 0; j < 3; ++j) {
			for (size_t k = 0; k < 3; ++k) {
				run_case(argv[0], groups[i], &FORMS[j], sizes[k], (i + j + k) % 2 == 0 ? 1 : MAX_THREADS);
			}
		}
	}
	return checks_result("heap_in_group");
}
