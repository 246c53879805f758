/* SPDX-License-Identifier: Apache-2.0 */
/* A program of the original library's users: its three prototypes, and nothing of this project. */
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int gmemFreeEager(unsigned long addr, size_t size, void *stream);
int gmemPrefetch(unsigned long addr, size_t size, int hnid, void *stream);
int gmemGetNumaId(void);

/* As the known clients look it up: they read a whole register of a function that returns int. */
typedef size_t (*client_free_eager)(uint64_t, size_t, void *);

static int fills_the_register(void) {
	client_free_eager free_eager = (client_free_eager)(void (*)(void))gmemFreeEager;
	return free_eager(4096, 0, NULL) == 0 && free_eager(UINT64_MAX, SIZE_MAX, NULL) == (size_t)-EINVAL;
}

int main(void) {
	if (!fills_the_register()) {
		return 4;
	}
	const size_t size = (size_t)16 << 20;
	char *block = malloc(size);
	if (block == NULL || gmemPrefetch((unsigned long)block, size, gmemGetNumaId(), NULL) != 0) {
		return 1;
	}
	memset(block, 'x', size);
	if (gmemFreeEager((unsigned long)block, size, NULL) != 0 || block[0] != 0 || block[size - 1] != 0) {
		return 2;
	}
	block = realloc(block, 2 * size);
	if (block == NULL || gmemFreeEager(0xFFFFFFFFFFFFFFFF, (size_t)-1, NULL) == 0) {
		return 3;
	}
	free(block);
	puts("original: ok");
	return 0;
}
