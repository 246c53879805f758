/* SPDX-License-Identifier: Apache-2.0 */
/* A device where it cannot be used: an error with each of the words that are given as arguments, and the process goes
 * on. Run with GMEM_DEVICE set. */
#include <libgmem.h>

#include "../check.h"

int main(int argc, char **argv) {
	enum { ROUNDS = 3 };
	NEED(getenv("GMEM_DEVICE") != NULL);
	for (int round = 0; round < ROUNDS; ++round) {
		CHECK(gmemGetDevice() == NULL);
		CHECK_EQUAL(gmemGetNumaId(), -ENODEV);
		CHECK(gmemGetDeviceContext() == NULL);
		CHECK_EQUAL(gmemSetDevice(getenv("GMEM_DEVICE")), -ENODEV);
	}
	for (int i = 1; i < argc; ++i) {
		if (strstr(gmemLastError(), argv[i]) == NULL) {
			fprintf(stderr, "no %s in: %s\n", argv[i], gmemLastError());
			++checks_failed;
		}
	}

	const size_t page = gmemGetPageSize();
	char *memory = map_private(page, page);
	CHECK_EQUAL(gmemPrefetch((unsigned long)memory, page, 0, NULL), -ENODEV);
	CHECK_EQUAL(gmemFreeEager((unsigned long)memory, page, NULL), -ENODEV);
	CHECK_EQUAL(resident_pages(memory, page), 0);
	char *block = malloc(4 * page);
	CHECK(block != NULL);
	free(block);

	/* The other device works, and stays current when this one is refused again. */
	CHECK_EQUAL(gmemSetDevice("host"), 0);
	CHECK_EQUAL(gmemSetDevice(getenv("GMEM_DEVICE")), -ENODEV);
	CHECK(gmemGetDevice() != NULL && strcmp(gmemGetDevice(), "host") == 0);
	CHECK_EQUAL(gmemPrefetch((unsigned long)memory, page, gmemGetNumaId(), NULL), 0);
	CHECK(resident_pages(memory, page) > 0);
	return checks_result("unusable");
}
