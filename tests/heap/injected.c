/* SPDX-License-Identifier: Apache-2.0 */
/* The kernel refuses: each call for memory that the heap makes in a program's life fails once, then each fails from
 * some point on. Whatever fails, an allocation gives NULL and ENOMEM or works, and the heap is whole afterwards.
 *
 *   injected           runs itself once for each call
 *   injected FIRST N   the program whose calls number FIRST to FIRST + N - 1 fail; prints how many there were */
#include <dlfcn.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <libgmem.h>

#include "../check.h"

static atomic_long calls, first_to_fail = -1, number_to_fail;

static int refuse(void) {
	const long call = atomic_fetch_add(&calls, 1);
	const long first = atomic_load(&first_to_fail);
	if (first < 0 || call < first || call - first >= atomic_load(&number_to_fail)) {
		return 0;
	}
	errno = ENOMEM;
	return 1;
}

/* These take the place of the C library's for the whole process. */
void *mmap(void *addr, size_t length, int prot, int flags, int fd, off_t offset) {
	return refuse() ? MAP_FAILED : (void *)syscall(SYS_mmap, addr, length, prot, flags, fd, offset);
}

void *mremap(void *old, size_t old_size, size_t new_size, int flags, ...) {
	va_list arguments;
	va_start(arguments, flags);
	void *where = va_arg(arguments, void *);
	va_end(arguments);
	if (refuse()) {
		/* As the kernel: it makes room before it looks. */
		if (flags & MREMAP_FIXED) {
			syscall(SYS_munmap, where, new_size);
		}
		errno = ENOMEM;
		return MAP_FAILED;
	}
	return (void *)syscall(SYS_mremap, old, old_size, new_size, flags, where);
}

int madvise(void *addr, size_t length, int advice) {
	return refuse() ? -1 : (int)syscall(SYS_madvise, addr, length, advice);
}

static long refused;

/* NULL is fine if errno says so. */
static void *or_enomem(void *block) {
	if (block == NULL) {
		NEED(errno == ENOMEM);
		++refused;
	}
	errno = 0;
	return block;
}

static void *small_ones(void *arg) {
	(void)arg;
	char *blocks[100];
	for (int i = 0; i < 100; ++i) {
		blocks[i] = or_enomem(gmem_malloc((size_t)i * 97 + 1));
		if (blocks[i] != NULL) {
			memset(blocks[i], i, (size_t)i * 97 + 1);
		}
	}
	for (int i = 0; i < 100; ++i) {
		CHECK(blocks[i] == NULL || is_all(blocks[i], (size_t)i * 97 + 1, (char)i));
		gmem_free(blocks[i]);
	}
	return NULL;
}

static void grow(void) {
	size_t size = 1 << 16;
	char *block = or_enomem(gmem_malloc(size));
	if (block == NULL) {
		return;
	}
	memset(block, 'x', size);
	while (size < (size_t)16 << 20) {
		char *obstacle = or_enomem(gmem_malloc((size_t)2 << 20));
		char *larger = or_enomem(gmem_realloc(block, size * 2));
		gmem_free(obstacle);
		if (larger == NULL) {
			/* What could not grow is as it was. */
			break;
		}
		block = larger;
		memset(block + size, 'x', size);
		size *= 2;
	}
	CHECK(is_all(block, size, 'x'));
	gmem_free(block);
}

static void life(void) {
	pthread_t thread;
	small_ones(NULL);
	for (size_t size = 1 << 14; size <= (size_t)16 << 20; size *= 4) {
		char *block = or_enomem(gmem_calloc(1, size)), *aligned = or_enomem(gmem_aligned_alloc((size_t)4 << 20, size));
		if (block != NULL) {
			CHECK(is_all(block, size, 0));
			memset(block, 'x', size);
		}
		if (aligned != NULL) {
			CHECK(((uintptr_t)aligned & (((size_t)4 << 20) - 1)) == 0);
			memset(aligned, 'y', size);
		}
		CHECK(block == NULL || is_all(block, size, 'x'));
		gmem_free(block);
		gmem_free(aligned);
		gmemHeapTrim();
	}
	grow();
	if (pthread_create(&thread, NULL, small_ones, NULL) == 0) {
		pthread_join(thread, NULL);
	}
}

static int one_run(long first, long number) {
	atomic_store(&first_to_fail, atomic_load(&calls) + first);
	atomic_store(&number_to_fail, number);
	const long before = atomic_load(&calls);
	life();
	const long made = atomic_load(&calls) - before;
	/* The kernel gives again: nothing is lost. */
	atomic_store(&first_to_fail, -1);
	refused = 0;
	life();
	CHECK_EQUAL(refused, 0);
	printf("%ld\n", made);
	return checks_result("injected");
}

/* Returns the number of calls. */
static long run(const char *self, long first, long number) {
	char command[512], line[64] = "";
	snprintf(command, sizeof command, "'%s' %ld %ld", self, first, number);
	FILE *output = popen(command, "r");
	NEED(output != NULL);
	const char *said = fgets(line, sizeof line, output);
	const int status = pclose(output);
	if (status != 0 || said == NULL) {
		fprintf(stderr, "%s: ended with %#x\n", command, (unsigned)status);
		++checks_failed;
		return 0;
	}
	return strtol(line, NULL, 10);
}

int main(int argc, char **argv) {
	if (argc == 3) {
		return one_run(strtol(argv[1], NULL, 10), strtol(argv[2], NULL, 10));
	}
	const long whole = run(argv[0], 0, 0);
	CHECK(whole > 20);
	for (long first = 0; first < whole && checks_failed == 0; ++first) {
		run(argv[0], first, 1);
	}
	for (long first = 0; first < whole && checks_failed == 0; first += whole / 20 + 1) {
		run(argv[0], first, 1000000);
	}
	return checks_result("injected");
}
