/* SPDX-License-Identifier: Apache-2.0 */
/* Shared by the tests on several memory nodes: where pages are, what a node has free, control groups. */
#ifndef GMEM_TESTS_NODES_H
#define GMEM_TESTS_NODES_H

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#include <libgmem.h>

#include "../check.h"

static size_t page; /* the GMEM page */
static size_t base; /* the kernel's page */
static int nodes[1024], node_count;

static inline int prefetch_to(const char *start, size_t size, int node) {
	return gmemPrefetch((unsigned long)(uintptr_t)start, size, node, NULL);
}

/* ---- files of the kernel --------------------------------------------------------------------------- */

/* 0 or a negative errno. */
static inline int write_file(const char *path, const char *text) {
	const int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0) {
		return -errno;
	}
	const int result = write(fd, text, strlen(text)) < 0 ? -errno : 0;
	close(fd);
	return result;
}

/* The number behind `key` in a file, -1 where there is none. An empty key: the number that the file begins with. */
static inline long read_number(const char *path, const char *key) {
	FILE *file = fopen(path, "re");
	char line[4096];
	long number = -1;
	if (file == NULL) {
		return -1;
	}
	while (number < 0 && fgets(line, sizeof line, file) != NULL) {
		const char *found = strstr(line, key);
		if (found != NULL && sscanf(found + strlen(key), "%ld", &number) != 1) {
			number = -1;
		}
	}
	fclose(file);
	return number;
}

static inline size_t node_bytes(int node, const char *what) {
	char path[64];
	snprintf(path, sizeof path, "/sys/devices/system/node/node%d/meminfo", node);
	const long kib = read_number(path, what);
	NEED(kib >= 0);
	return (size_t)kib << 10;
}

static inline size_t free_bytes(int node) { return node_bytes(node, "MemFree:"); }

/* ---- the machine ----------------------------------------------------------------------------------- */

static inline void find_nodes(void) {
	char text[4096];
	FILE *file = fopen("/sys/devices/system/node/has_memory", "re");
	if (file == NULL || fgets(text, sizeof text, file) == NULL) {
		return;
	}
	fclose(file);
	for (char *part = strtok(text, ",\n"); part != NULL; part = strtok(NULL, ",\n")) {
		int first = 0, last = 0;
		const int found = sscanf(part, "%d-%d", &first, &last);
		for (int node = first; node <= (found == 2 ? last : first); ++node) {
			nodes[node_count++] = node;
		}
	}
}

/* Automatic NUMA balancing moves pages behind the test and takes hint faults. Returns whether it is off;
 * it is turned on again at exit. */
static const char balancing[] = "/proc/sys/kernel/numa_balancing";
static long balancing_before;

static inline void restore_balancing(void) {
	char text[24];
	snprintf(text, sizeof text, "%ld", balancing_before);
	write_file(balancing, text);
}

static inline int stop_balancing(void) {
	balancing_before = read_number(balancing, "");
	if (balancing_before <= 0) {
		return 1;
	}
	atexit(restore_balancing);
	return write_file(balancing, "0") == 0;
}

/* To be called first: ends the program where there are too few nodes. */
static inline void need_nodes(int count) {
	page = gmemGetPageSize();
	base = (size_t)sysconf(_SC_PAGESIZE);
	find_nodes();
	if (node_count < count) {
		printf("%d memory node(s) here; run it in a machine with %d or more\n", node_count, count);
		exit(SKIPPED);
	}
	if (!stop_balancing()) {
		printf("kernel.numa_balancing is on and only root may turn it off\n");
		exit(SKIPPED);
	}
}

/* For what would be a nuisance on a machine that others use: nodes that are filled, system-wide settings. */
static inline void need_virtual_machine(void) {
	need_nodes(3);
	if (node_bytes(nodes[0], "MemTotal:") > (size_t)2 << 30) {
		printf("it fills memory nodes and changes settings; run it in the virtual machine (tools/guest.py)\n");
		exit(SKIPPED);
	}
}

/* ---- memory ---------------------------------------------------------------------------------------- */

/* Base pages of a range, all of it in memory, that lie on `node`. */
static inline size_t pages_on(const char *start, size_t size, int node) {
	const size_t count = size / base;
	const void **pages = (const void **)calloc(count, sizeof *pages);
	int *status = (int *)calloc(count, sizeof *status);
	size_t found = 0, absent = 1;
	NEED(pages != NULL && status != NULL);
	for (size_t i = 0; i < count; ++i) {
		pages[i] = start + i * base;
	}
	/* A page that the kernel moves at this very moment, to join free memory for one, is nowhere. */
	for (int attempt = 0; attempt < 10 && absent != 0; ++attempt) {
		NEED(syscall(SYS_move_pages, 0, count, pages, NULL, status, 0) == 0);
		found = absent = 0;
		for (size_t i = 0; i < count; ++i) {
			found += status[i] == node;
			absent += status[i] == -ENOENT;
		}
		if (absent != 0) {
			nanosleep(&(struct timespec){.tv_nsec = 10 * 1000 * 1000}, NULL);
		}
	}
	free(pages);
	free(status);
	return found;
}

/* Huge pages behind the mapping that `start` lies in, in KiB. */
static inline size_t huge_kib(const char *start) {
	FILE *smaps = fopen("/proc/self/smaps", "re");
	char line[512];
	int inside = 0;
	size_t kib = 0;
	NEED(smaps != NULL);
	while (fgets(line, sizeof line, smaps) != NULL) {
		unsigned long from, to;
		if (sscanf(line, "%lx-%lx ", &from, &to) == 2) {
			inside = from <= (unsigned long)(uintptr_t)start && (unsigned long)(uintptr_t)start < to;
		} else if (inside && sscanf(line, "AnonHugePages: %zu kB", &kib) == 1) {
			break;
		}
	}
	fclose(smaps);
	return kib;
}

/* Private memory on pages of 2 MiB, or on small ones. Give it back with munmap(). */
static inline char *map_pages(size_t size, int huge) {
	char *start = map_private(size, page);
	NEED(madvise(start, size, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE) == 0);
	return start;
}

/* Every word another one, so that no page can be taken for its neighbour. */
static inline uint64_t word_at(size_t index, uint64_t seed) { return (index + seed) * 0x9E3779B97F4A7C15u; }

static inline void fill(char *start, size_t size, uint64_t seed) {
	uint64_t *words = (uint64_t *)(void *)start;
	for (size_t i = 0; i < size / sizeof *words; ++i) {
		words[i] = word_at(i, seed);
	}
}

static inline int is_filled(const char *start, size_t size, uint64_t seed) {
	const uint64_t *words = (const uint64_t *)(const void *)start;
	for (size_t i = 0; i < size / sizeof *words; ++i) {
		if (words[i] != word_at(i, seed)) {
			fprintf(stderr, "word %zu of %zu is not what was written\n", i, size / sizeof *words);
			return 0;
		}
	}
	return 1;
}

/* ---- control groups and processes ------------------------------------------------------------------ */

#define CGROUPS "/sys/fs/cgroup"

/* Run `test` in a child process of its own in control group `name`; its failed checks count here. */
static inline void in_cgroup(const char *name, void (*test)(const char *cgroup)) {
	char cgroup[64], processes[96], self[16];
	snprintf(cgroup, sizeof cgroup, CGROUPS "/%s", name);
	snprintf(processes, sizeof processes, "%s/cgroup.procs", cgroup);
	NEED(write_file(CGROUPS "/cgroup.subtree_control", "+memory +cpuset") == 0);
	NEED(mkdir(cgroup, 0755) == 0);
	const pid_t child = fork();
	NEED(child >= 0);
	if (child == 0) {
		snprintf(self, sizeof self, "%d", (int)getpid());
		NEED(write_file(processes, self) == 0);
		checks_failed = 0;
		test(cgroup);
		_exit(checks_failed != 0);
	}
	int status = -1;
	NEED(waitpid(child, &status, 0) == child);
	CHECK_EQUAL(status, 0);
	NEED(rmdir(cgroup) == 0);
}

static inline int write_cgroup(const char *cgroup, const char *file, const char *text) {
	char path[128];
	snprintf(path, sizeof path, "%s/%s", cgroup, file);
	return write_file(path, text);
}

#endif
