/* SPDX-License-Identifier: Apache-2.0 */
/* libgmem.a and another Rust library in one program. */
#include <libgmem.h>

#include "../check.h"

size_t second_rust(size_t count);

int main(void) {
	const size_t size = (size_t)8 << 20;
	char *block = malloc(size);
	gmemStream_t stream;
	NEED(block != NULL);
	CHECK_EQUAL(second_rust(1000), 2890 + 1);
	CHECK_EQUAL(gmemStreamCreate(&stream), 0);
	CHECK_EQUAL(gmemPrefetch((uintptr_t)block, size, gmemGetNumaId(), stream), 0);
	CHECK_EQUAL(gmemStreamSynchronize(stream), 0);
	CHECK_EQUAL(gmemStreamDestroy(stream), 0);
	CHECK_EQUAL(gmemPrefetch(1, (size_t)-1, 0, NULL), -EINVAL);
	CHECK_EQUAL(second_rust(10), 10 + 1);
	free(block);
	return checks_result("second_rust");
}
