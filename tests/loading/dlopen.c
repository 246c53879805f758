/* SPDX-License-Identifier: Apache-2.0 */
/* dlopen LIBRARY: what frameworks do with libgmem.so, in a process with glibc's malloc: open it in a
 * thread under its unversioned name, look one function up through a type that is not quite its own,
 * call it, close it, and let the thread end. Then what loading must not do. */
#include <dirent.h>
#include <dlfcn.h>
#include <pthread.h>

#include "../check.h"

static const char *path;

/* As the frameworks declare it. */
typedef size_t (*free_eager_fn)(uint64_t, size_t, void *);
typedef const char *(*last_error_fn)(void);

static void *framework(void *arg) {
	const size_t size = (size_t)8 << 20;
	(void)arg;
	void *library = dlopen(path, RTLD_NOW);
	if (library == NULL) {
		fprintf(stderr, "%s\n", dlerror());
		exit(1);
	}
	free_eager_fn free_eager;
	last_error_fn last_error;
	*(void **)&free_eager = dlsym(library, "gmemFreeEager");
	*(void **)&last_error = dlsym(library, "gmemLastError");
	NEED(free_eager != NULL && last_error != NULL);
	char *block = aligned_alloc((size_t)2 << 20, size);
	NEED(block != NULL);
	memset(block, 'x', size);
	CHECK_EQUAL(free_eager((uint64_t)(uintptr_t)block, size, NULL), 0);
	CHECK(is_all(block, size, 0));
	CHECK((int)free_eager(0xFFFFFFFFFFFFFFFF, (size_t)-1, NULL) == -EINVAL);
	CHECK(strlen(last_error()) > 0);
	/* The heap of the library beside glibc's. */
	void *(*gmem_malloc)(size_t);
	void (*gmem_free)(void *);
	*(void **)&gmem_malloc = dlsym(library, "gmem_malloc");
	*(void **)&gmem_free = dlsym(library, "gmem_free");
	gmem_free(gmem_malloc(100));
	gmem_free(gmem_malloc(size));
	free(block);
	CHECK_EQUAL(dlclose(library), 0);
	return NULL;
}

static int entries(const char *folder) {
	int count = 0;
	DIR *directory = opendir(folder);
	NEED(directory != NULL);
	while (readdir(directory) != NULL) {
		++count;
	}
	closedir(directory);
	return count;
}

static void loading_does_nothing_visible(void) {
	int pipe_ends[2];
	char byte;
	NEED(pipe(pipe_ends) == 0);
	const int out = dup(1), err = dup(2), threads = entries("/proc/self/task"), files = entries("/proc/self/fd");
	NEED(dup2(pipe_ends[1], 1) == 1 && dup2(pipe_ends[1], 2) == 2);
	void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	NEED(dup2(out, 1) == 1 && dup2(err, 2) == 2);
	close(pipe_ends[1]);
	CHECK(library != NULL);
	CHECK_EQUAL(read(pipe_ends[0], &byte, 1), 0);
	CHECK_EQUAL(entries("/proc/self/task"), threads);
	CHECK_EQUAL(entries("/proc/self/fd") + 1, files);
	CHECK_EQUAL(dlclose(library), 0);
	close(pipe_ends[0]);
	close(out);
	close(err);
}

int main(int argc, char **argv) {
	if (argc < 2) {
		fprintf(stderr, "usage: dlopen LIBRARY [LIBRARY BEFORE IT]\n");
		return 2;
	}
	path = argv[1];
	NEED(argc < 3 || dlopen(argv[2], RTLD_NOW) != NULL);
	loading_does_nothing_visible();
	for (int i = 0; i < 8; ++i) {
		pthread_t thread;
		NEED(pthread_create(&thread, NULL, framework, NULL) == 0);
		NEED(pthread_join(thread, NULL) == 0);
	}
	return checks_result("dlopen");
}
