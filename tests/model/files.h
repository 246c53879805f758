/* SPDX-License-Identifier: Apache-2.0 */
/* Files whose every word tells its offset, for tests of models. */
#ifndef GMEM_TESTS_MODEL_FILES_H
#define GMEM_TESTS_MODEL_FILES_H

#include <fcntl.h>
#include <sys/stat.h>

#include <libgmem.h>

#include "../check.h"

/* The word at an offset, a multiple of 8. */
static inline uint64_t word_at(size_t offset) { return (uint64_t)offset * 0x9E3779B97F4A7C15U + 1; }

/* Write a file of `size` bytes to a path; the page cache holds none of it afterwards. */
static inline void write_file(const char *path, size_t size) {
	const size_t block_bytes = (size_t)1 << 20;
	uint64_t *const block = (uint64_t *)malloc(block_bytes);
	const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	NEED(block != NULL && fd >= 0);
	for (size_t done = 0; done < size; done += block_bytes) {
		for (size_t i = 0; i < block_bytes / sizeof *block; ++i) {
			block[i] = word_at(done + i * sizeof *block);
		}
		const size_t next = size - done < block_bytes ? size - done : block_bytes;
		NEED(write(fd, block, next) == (ssize_t)next);
	}
	NEED(fsync(fd) == 0 && posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) == 0);
	close(fd);
	free(block);
}

/* Bytes of a file in the page cache. */
static inline size_t cached_bytes(const char *path) {
	struct stat status;
	const int fd = open(path, O_RDONLY | O_CLOEXEC);
	NEED(fd >= 0 && fstat(fd, &status) == 0);
	const size_t base = (size_t)sysconf(_SC_PAGESIZE), size = ((size_t)status.st_size + base - 1) / base * base;
	void *const view = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
	NEED(view != MAP_FAILED);
	const size_t cached = resident_pages(view, size) * base;
	munmap(view, size);
	close(fd);
	return cached;
}

/* Whether [from, to) of a model that begins at `data` has the file's bytes. */
static inline int has_the_files_bytes(const char *data, size_t from, size_t to) {
	for (size_t at = from; at < to; ++at) {
		const uint64_t word = word_at(at / 8 * 8);
		if (at % 8 == 0 && at + 8 <= to) {
			uint64_t here = 0;
			memcpy(&here, data + at, sizeof here);
			if (here != word) {
				fprintf(stderr, "wrong bytes at %zu\n", at);
				return 0;
			}
			at += 7;
		} else if (data[at] != ((const char *)&word)[at % 8]) {
			fprintf(stderr, "wrong byte at %zu\n", at);
			return 0;
		}
	}
	return 1;
}

static inline gmemModelInfo_t info_of(gmemModel_t model) {
	gmemModelInfo_t info;
	memset(&info, 0, sizeof info);
	info.size = sizeof info;
	NEED(gmemModelGetInfo(model, &info) == 0);
	return info;
}

/* Open a file in a mode, or fail the test. */
static inline gmemModel_t open_model(const char *path, int mode) {
	gmemModelOptions_t options = {sizeof options, mode, 0, 0, 0};
	gmemModel_t model = NULL;
	if (gmemModelOpen(path, &options, &model) != 0) {
		fprintf(stderr, "%s\n", gmemLastError());
		exit(1);
	}
	return model;
}

#endif
