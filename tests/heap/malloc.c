/* SPDX-License-Identifier: Apache-2.0 */
/* The whole malloc family by POSIX, C23 and glibc's manual. One program for every way of loading:
 *
 *   heap                 the names of C: linked in (compiled with HEAP_LINKED), or preloaded
 *   heap LIBRARY         the names of C, looked up in a library that is dlopened
 *   heap LIBRARY gmem_   the names of libgmem.h, likewise
 */
#include <dlfcn.h>
#include <limits.h>
#include <malloc.h>
#include <pthread.h>
#include <stdalign.h>
#include <stddef.h>
#include <sys/wait.h>

#include "../check.h"

/* The functions under test. */
static struct {
	void *(*malloc)(size_t);
	void *(*calloc)(size_t, size_t);
	void *(*realloc)(void *, size_t);
	void *(*reallocarray)(void *, size_t, size_t);
	void (*free)(void *);
	void (*free_sized)(void *, size_t);
	void (*free_aligned_sized)(void *, size_t, size_t);
	int (*posix_memalign)(void **, size_t, size_t);
	void *(*aligned_alloc)(size_t, size_t);
	void *(*memalign)(size_t, size_t);
	void *(*valloc)(size_t);
	void *(*pvalloc)(size_t);
	size_t (*malloc_usable_size)(void *);
	int (*malloc_trim)(size_t);
	size_t (*page_size)(void);
} heap;

static void *find(void *library, const char *prefix, const char *name) {
	char whole[64];
	snprintf(whole, sizeof whole, "%s%s", prefix, name);
	void *function = dlsym(library, whole);
	if (function == NULL) {
		fprintf(stderr, "%s is not there: %s\n", whole, dlerror());
		exit(1);
	}
	return function;
}

#ifdef HEAP_LINKED

/* glibc 2.36 does not declare these. */
void free_sized(void *, size_t);
void free_aligned_sized(void *, size_t, size_t);
size_t gmemGetPageSize(void);

static void load(const char *path, const char *prefix) {
	(void)path;
	(void)prefix;
	(void)find;
#define USE(name) heap.name = name
	USE(malloc);
	USE(calloc);
	USE(realloc);
	USE(reallocarray);
	USE(free);
	USE(free_sized);
	USE(free_aligned_sized);
	USE(posix_memalign);
	USE(aligned_alloc);
	USE(memalign);
	USE(valloc);
	USE(pvalloc);
	USE(malloc_usable_size);
	USE(malloc_trim);
	heap.page_size = gmemGetPageSize;
}

#else

static void load(const char *path, const char *prefix) {
	void *library = path != NULL ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : RTLD_DEFAULT;
	if (path != NULL && library == NULL) {
		fprintf(stderr, "%s\n", dlerror());
		exit(1);
	}
#define FIND(name) *(void **)&heap.name = find(library, prefix, #name)
	FIND(malloc);
	FIND(calloc);
	FIND(realloc);
	FIND(reallocarray);
	FIND(free);
	FIND(free_sized);
	FIND(free_aligned_sized);
	FIND(posix_memalign);
	FIND(aligned_alloc);
	FIND(memalign);
	FIND(valloc);
	FIND(pvalloc);
	FIND(malloc_usable_size);
	FIND(malloc_trim);
	*(void **)&heap.page_size = find(library, "", "gmemGetPageSize");
}

#endif

static int aligned_to(const void *block, size_t alignment) { return ((uintptr_t)block & (alignment - 1)) == 0; }

static void sizes_and_alignment(void) {
	const size_t huge = heap.page_size();
	for (size_t size = 0; size <= 3 * huge; size = size < 64 ? size + 1 : size * 3 / 2) {
		char *block = heap.malloc(size);
		NEED(block != NULL);
		CHECK(aligned_to(block, size >= huge ? huge : size > 8 ? alignof(max_align_t) : 8));
		CHECK(heap.malloc_usable_size(block) >= size);
		memset(block, 'x', size);
		heap.free(block);
	}
	CHECK_EQUAL(heap.malloc_usable_size(NULL), 0);
	heap.free(NULL);
	heap.free_sized(NULL, 0);
	heap.free_aligned_sized(NULL, 64, 0);
	void *first = heap.malloc(0), *second = heap.malloc(0);
	CHECK(first != NULL && second != NULL && first != second);
	heap.free(first);
	heap.free(second);
}

/* Compiled in, so that the compiler cannot know the size. */
static volatile size_t too_much[] = {(size_t)PTRDIFF_MAX + 1, SIZE_MAX, SIZE_MAX - 4096, SIZE_MAX / 2};

static void what_cannot_be_had_is_enomem(void) {
	for (size_t i = 0; i < sizeof too_much / sizeof too_much[0]; ++i) {
		const size_t size = too_much[i];
#define ENOMEM_FROM(call) (errno = 0, (call) == NULL && errno == ENOMEM)
		CHECK(ENOMEM_FROM(heap.malloc(size)));
		CHECK(ENOMEM_FROM(heap.calloc(size, 1)));
		CHECK(ENOMEM_FROM(heap.calloc(size, 3)));
		CHECK(ENOMEM_FROM(heap.realloc(NULL, size)));
		CHECK(ENOMEM_FROM(heap.reallocarray(NULL, size, 2)));
		CHECK(ENOMEM_FROM(heap.aligned_alloc(64, size)));
		CHECK(ENOMEM_FROM(heap.memalign(64, size)));
		CHECK(ENOMEM_FROM(heap.valloc(size)));
		CHECK(ENOMEM_FROM(heap.pvalloc(size)));
		char *block = heap.malloc(100), *same = NULL;
		NEED(block != NULL);
		memset(block, 'x', 100);
		CHECK(ENOMEM_FROM(same = heap.realloc(block, size)));
		CHECK(ENOMEM_FROM(same = heap.reallocarray(block, size, 2)));
		CHECK(same == NULL && is_all(block, 100, 'x'));
		heap.free(block);
		void *out = &out;
		errno = 0;
		CHECK_EQUAL(heap.posix_memalign(&out, 64, size), ENOMEM);
		CHECK(out == &out && errno == 0);
	}
	CHECK(ENOMEM_FROM(heap.calloc(SIZE_MAX / 2 + 1, 2)));
	CHECK(ENOMEM_FROM(heap.reallocarray(NULL, SIZE_MAX / 2 + 1, 2)));
}

static void calloc_gives_zeros_even_from_used_memory(void) {
	for (size_t size = 1; size <= (size_t)16 << 20; size *= 4) {
		char *dirty = heap.malloc(size);
		NEED(dirty != NULL);
		memset(dirty, 'x', size);
		heap.free(dirty);
		char *clean = heap.calloc(size / 2 + 1, 2);
		NEED(clean != NULL);
		CHECK(is_all(clean, size, 0));
		heap.free(clean);
	}
}

/* A block that cannot grow in place is moved, and what was moved is moved again; a part of it is a mapping of its own,
 * which the kernel does not move together with the rest. */
static void what_grows_keeps_its_bytes(void) {
	const size_t base = (size_t)sysconf(_SC_PAGESIZE);
	for (int with_a_split = 0; with_a_split < 2; ++with_a_split) {
		size_t size = (size_t)4 << 20;
		char *block = heap.malloc(size);
		void *obstacles[8];
		int count = 0;
		NEED(block != NULL);
		memset(block, 'x', size);
		while (size < (size_t)100 << 20) {
			obstacles[count++] = heap.malloc((size_t)2 << 20);
			if (with_a_split) {
				NEED(madvise(block + size / 2 + base, base, MADV_DONTDUMP) == 0);
			}
			block = heap.realloc(block, size * 2);
			NEED(block != NULL);
			CHECK(is_all(block, size, 'x'));
			memset(block + size, 'x', size);
			size *= 2;
		}
		heap.free(block);
		while (count > 0) {
			heap.free(obstacles[--count]);
		}
	}
}

static void realloc_keeps_the_bytes(void) {
	size_t size = 1;
	unsigned char *block = heap.realloc(NULL, size);
	NEED(block != NULL);
	block[0] = 1;
	for (size_t next = 2; next <= (size_t)64 << 20; next = next * 3 / 2 + 1) {
		block = heap.realloc(block, next);
		NEED(block != NULL);
		for (size_t i = 0; i < size; i += size / 97 + 1) {
			CHECK_EQUAL(block[i], (unsigned char)(i * 7 + 1));
		}
		for (size_t i = 0; i < next; ++i) {
			block[i] = (unsigned char)(i * 7 + 1);
		}
		size = next;
	}
	for (; size > 1; size /= 3) {
		block = heap.realloc(block, size);
		NEED(block != NULL);
		for (size_t i = 0; i < size; i += size / 97 + 1) {
			CHECK_EQUAL(block[i], (unsigned char)(i * 7 + 1));
		}
	}
	/* glibc: size 0 frees. */
	CHECK(heap.realloc(block, 0) == NULL);
	block = heap.reallocarray(NULL, 10, 10);
	NEED(block != NULL);
	memset(block, 'x', 100);
	block = heap.reallocarray(block, 100, 100);
	NEED(block != NULL);
	CHECK(is_all((char *)block, 100, 'x'));
	heap.free_sized(block, 10000);
}

static void alignments(void) {
	const size_t base = (size_t)sysconf(_SC_PAGESIZE);
	for (size_t alignment = 1; alignment <= (size_t)8 << 20; alignment *= 2) {
		for (size_t size = 0; size <= (size_t)5 << 20; size = size * 5 + 1) {
			void *block = heap.aligned_alloc(alignment, size);
			NEED(block != NULL);
			CHECK(aligned_to(block, alignment) && heap.malloc_usable_size(block) >= size);
			memset(block, 'x', size);
			heap.free_aligned_sized(block, alignment, size);
			block = heap.memalign(alignment, size);
			NEED(block != NULL);
			CHECK(aligned_to(block, alignment));
			heap.free(block);
			if (alignment >= sizeof(void *)) {
				CHECK_EQUAL(heap.posix_memalign(&block, alignment, size), 0);
				CHECK(block != NULL && aligned_to(block, alignment));
				heap.free(block);
			}
		}
	}
	const size_t bad[] = {0, 1, 2, 4, 3, 7, 12, 24, 48, 100};
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; ++i) {
		void *out = &out;
		errno = 0;
		CHECK_EQUAL(heap.posix_memalign(&out, bad[i], 8), EINVAL);
		CHECK(out == &out && errno == 0);
	}
	errno = 0;
	CHECK(heap.aligned_alloc(24, 48) == NULL && errno == EINVAL);
	errno = 0;
	CHECK(heap.aligned_alloc(0, 48) == NULL && errno == EINVAL);
	/* glibc raises memalign's alignment to a power of two. */
	void *block = heap.memalign(48, 10);
	CHECK(block != NULL && aligned_to(block, 64));
	heap.free(block);
	block = heap.valloc(1);
	CHECK(block != NULL && aligned_to(block, base));
	heap.free(block);
	block = heap.pvalloc(base + 1);
	CHECK(block != NULL && aligned_to(block, base) && heap.malloc_usable_size(block) >= 2 * base);
	heap.free(block);
	block = heap.pvalloc(0);
	CHECK(block != NULL);
	heap.free(block);
}

static void free_leaves_errno_alone(void) {
	for (size_t size = 1; size <= (size_t)256 << 20; size *= 4) {
		void *block = heap.malloc(size);
		NEED(block != NULL);
		errno = 12345;
		heap.free(block);
		CHECK_EQUAL(errno, 12345);
	}
	errno = 12345;
	heap.malloc_trim(0);
	CHECK_EQUAL(errno, 12345);
}

static void trim_gives_memory_back(void) {
	const size_t size = (size_t)256 << 20;
	char *block = heap.malloc(size);
	NEED(block != NULL);
	memset(block, 'x', size);
	const size_t before = anonymous_bytes();
	heap.free(block);
	(void)heap.malloc_trim(0);
	CHECK(anonymous_bytes() + size * 9 / 10 <= before);
}

/* Blocks made here and freed by another thread, while a third forks. */
enum { BLOCKS = 4096 };
static void *blocks[BLOCKS];
static volatile int running = 1;

static void *churn(void *arg) {
	unsigned seed = (unsigned)(uintptr_t)arg;
	void *mine[64] = {NULL};
	while (running) {
		const unsigned slot = (seed = seed * 1103515245 + 12345) >> 16 & 63;
		heap.free(mine[slot]);
		const size_t size = (size_t)1 << ((seed >> 8) % 22);
		mine[slot] = heap.malloc(size);
		NEED(mine[slot] != NULL);
		memset(mine[slot], 'x', size < 4096 ? size : 4096);
	}
	for (int i = 0; i < 64; ++i) {
		heap.free(mine[i]);
	}
	return NULL;
}

static void *free_all(void *arg) {
	(void)arg;
	for (int i = 0; i < BLOCKS; ++i) {
		CHECK_EQUAL(((char *)blocks[i])[0], (char)i);
		heap.free(blocks[i]);
	}
	return NULL;
}

static void threads_and_fork(void) {
	pthread_t threads[4], other;
	for (int i = 0; i < BLOCKS; ++i) {
		blocks[i] = heap.malloc((size_t)i + 1);
		NEED(blocks[i] != NULL);
		((char *)blocks[i])[0] = (char)i;
	}
	NEED(pthread_create(&other, NULL, free_all, NULL) == 0);
	pthread_join(other, NULL);
	for (uintptr_t i = 0; i < 4; ++i) {
		NEED(pthread_create(&threads[i], NULL, churn, (void *)(i + 1)) == 0);
	}
	for (int i = 0; i < 20; ++i) {
		void *parents = heap.malloc(1000);
		const pid_t child = fork();
		NEED(child >= 0);
		if (child == 0) {
			alarm(300);
			heap.free(parents);
			for (size_t size = 1; size <= (size_t)8 << 20; size *= 2) {
				char *block = heap.malloc(size);
				NEED(block != NULL);
				block[size - 1] = 1;
				heap.free(block);
			}
			_exit(0);
		}
		int status = 1;
		NEED(waitpid(child, &status, 0) == child);
		CHECK_EQUAL(status, 0);
		heap.free(parents);
	}
	running = 0;
	for (int i = 0; i < 4; ++i) {
		pthread_join(threads[i], NULL);
	}
}

static void out_of_address_space_is_enomem_and_passes(void) {
	const pid_t child = fork();
	NEED(child >= 0);
	if (child == 0) {
		const struct rlimit limit = {(rlim_t)1 << 30, (rlim_t)1 << 30};
		NEED(setrlimit(RLIMIT_AS, &limit) == 0);
		enum { MANY = 4096 };
		static void *held[MANY];
		int count = 0;
		errno = 0;
		while (count < MANY && (held[count] = heap.malloc((size_t)1 << 20)) != NULL) {
			((char *)held[count++])[0] = 'x';
		}
		CHECK(count > 100 && count < MANY && errno == ENOMEM);
		for (int i = 0; i < count; ++i) {
			CHECK_EQUAL(((char *)held[i])[0], 'x');
			heap.free(held[i]);
		}
		void *again = heap.malloc((size_t)64 << 20);
		CHECK(again != NULL);
		heap.free(again);
		_exit(checks_failed != 0);
	}
	int status = 1;
	NEED(waitpid(child, &status, 0) == child);
	CHECK_EQUAL(status, 0);
}

int main(int argc, char **argv) {
	alarm(600); /* only a hang takes so long, even in an emulated machine */
	load(argc > 1 ? argv[1] : NULL, argc > 2 ? argv[2] : "");
	sizes_and_alignment();
	what_cannot_be_had_is_enomem();
	calloc_gives_zeros_even_from_used_memory();
	realloc_keeps_the_bytes();
	what_grows_keeps_its_bytes();
	alignments();
	free_leaves_errno_alone();
	trim_gives_memory_back();
	threads_and_fork();
	out_of_address_space_is_enomem_and_passes();
	return checks_result("heap");
}
