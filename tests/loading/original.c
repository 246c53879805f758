/* SPDX-License-Identifier: Apache-2.0 */
/* A program of the original library's users: its three prototypes, and nothing of this project. */
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int gmemFreeEager(unsigned long addr, size_t size, void *stream);
int gmemPrefetch(unsigned long addr, size_t size, int hnid, void *stream);
int gmemGetNumaId(void);

int main(void) {
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
