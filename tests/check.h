/* SPDX-License-Identifier: Apache-2.0 */
/* Shared by the C and C++ tests: checks that count failures, pages in and out of memory, page faults. */
#ifndef GMEM_TESTS_CHECK_H
#define GMEM_TESTS_CHECK_H

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

/* ctest's code for "skipped"; the reason is printed before. */
enum { SKIPPED = 77 };

static int checks_failed;

#define CHECK(condition) check_that((condition) ? 1 : 0, #condition, __FILE__, __LINE__)

static inline void check_that(int holds, const char *what, const char *file, int line) {
	if (!holds) {
		fprintf(stderr, "%s:%d: failed: %s\n", file, line, what);
		++checks_failed;
	}
}

#define CHECK_EQUAL(actual, expected) check_equal((long)(actual), (long)(expected), #actual, __FILE__, __LINE__)

static inline void check_equal(long actual, long expected, const char *what, const char *file, int line) {
	if (actual != expected) {
		fprintf(stderr, "%s:%d: %s is %ld, not %ld\n", file, line, what, actual, expected);
		++checks_failed;
	}
}

/* Sanitizers take page faults of their own. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define FAULTS_ARE_THE_TESTS 0
#else
#define FAULTS_ARE_THE_TESTS 1
#endif

/* A system call that the test itself needs. */
#define NEED(condition)                                                                                                \
	do {                                                                                                               \
		if (!(condition)) {                                                                                            \
			fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #condition, strerror(errno));                       \
			exit(1);                                                                                                   \
		}                                                                                                              \
	} while (0)

static inline int checks_result(const char *name) {
	if (checks_failed != 0) {
		fprintf(stderr, "%s: %d checks failed\n", name, checks_failed);
	}
	return checks_failed != 0;
}

/* Pages of 2 MiB, which need not be the hugetlb pool's default size. */
#define MAP_HUGETLB_2MB (MAP_HUGETLB | 21 << 26)

/* The kernel's transparent huge page in bytes: 2, 32 or 512 MiB. The GMEM page where the kernel has none. */
static inline size_t kernel_huge_page(void) {
	FILE *file = fopen("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size", "re");
	size_t bytes = (size_t)2 << 20;
	if (file != NULL) {
		NEED(fscanf(file, "%zu", &bytes) == 1);
		fclose(file);
	}
	return bytes;
}

/* Page faults that the calling thread has taken. */
static inline long thread_faults(void) {
	struct rusage usage;
	NEED(getrusage(RUSAGE_THREAD, &usage) == 0);
	return usage.ru_minflt + usage.ru_majflt;
}

/* Base pages of [start, start + size) that are in memory. */
static inline size_t resident_pages(const void *start, size_t size) {
	const size_t base = (size_t)sysconf(_SC_PAGESIZE);
	unsigned char *present = (unsigned char *)malloc(size / base);
	size_t count = 0;
	NEED(present != NULL);
	NEED(mincore((void *)(uintptr_t)start, size, present) == 0);
	for (size_t i = 0; i < size / base; ++i) {
		count += present[i] & 1;
	}
	free(present);
	return count;
}

/* The process's anonymous memory in bytes: exact, unlike VmRSS, and without pages of files. */
static inline size_t anonymous_bytes(void) {
	FILE *smaps = fopen("/proc/self/smaps_rollup", "re");
	char line[256];
	size_t kib = 0;
	NEED(smaps != NULL);
	while (fgets(line, sizeof line, smaps) != NULL) {
		if (sscanf(line, "Anonymous: %zu kB", &kib) == 1) {
			break;
		}
	}
	fclose(smaps);
	return kib << 10;
}

/* A fresh mapping of `size` bytes that starts on a multiple of `alignment`, with nothing on either side of it. It lies
 * far below where the kernel places what has no address of its own, so that nothing else, the heap's next pages for
 * one, comes to lie in a hole that a test makes. */
static inline char *map_at_page(size_t size, size_t alignment, int protection, int flags, int fd) {
	static uintptr_t next = (uintptr_t)1 << 45;
	char *start = (char *)((next + alignment - 1) & ~(uintptr_t)(alignment - 1));
	next = (uintptr_t)start + size + alignment;
	NEED(mmap(start, size, protection, flags | MAP_FIXED_NOREPLACE, fd, 0) == start);
	return start;
}

static inline char *map_private(size_t size, size_t alignment) {
	return map_at_page(size, alignment, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
}

/* Whether every byte of [start, start + size) is `value`. */
static inline int is_all(const char *start, size_t size, char value) {
	for (size_t i = 0; i < size; ++i) {
		if (start[i] != value) {
			return 0;
		}
	}
	return 1;
}

/* One read, or one write, per base page; returns the faults taken. */
static inline long faults_of_reading(const char *start, size_t size) {
	const size_t base = (size_t)sysconf(_SC_PAGESIZE);
	volatile const char *bytes = start;
	const long before = thread_faults();
	for (size_t i = 0; i < size; i += base) {
		(void)bytes[i];
	}
	return thread_faults() - before;
}

static inline long faults_of_writing(char *start, size_t size) {
	const size_t base = (size_t)sysconf(_SC_PAGESIZE);
	volatile char *bytes = start;
	const long before = thread_faults();
	for (size_t i = 0; i < size; i += base) {
		bytes[i] = bytes[i];
	}
	return thread_faults() - before;
}

/* An unlinked file of `size` bytes of 'f' on a disk file system. */
static inline int file_of(size_t size) {
	char path[] = "gmem-test-XXXXXX";
	const int fd = mkostemp(path, 02000000 /* O_CLOEXEC */);
	NEED(fd >= 0);
	NEED(unlink(path) == 0);
	char *block = (char *)malloc(1 << 20);
	NEED(block != NULL);
	memset(block, 'f', 1 << 20);
	for (size_t done = 0; done < size;) {
		const size_t next = size - done < 1 << 20 ? size - done : 1 << 20;
		NEED(write(fd, block, next) == (ssize_t)next);
		done += next;
	}
	free(block);
	return fd;
}

#endif
