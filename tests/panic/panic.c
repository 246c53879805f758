/* SPDX-License-Identifier: Apache-2.0 */
/* A panic inside the library is an error to its caller: no abort, no output, and life goes on. */
#include <libgmem.h>

#include "../check.h"

int panic_in_guard(void);

int main(void) {
	int ends[2];
	char byte;
	NEED(pipe(ends) == 0);
	const int err = dup(2);
	NEED(dup2(ends[1], 2) == 2);
	const int result = panic_in_guard();
	NEED(dup2(err, 2) == 2);
	close(ends[1]);
	CHECK_EQUAL(result, -ENOTRECOVERABLE);
	CHECK(strstr(gmemLastError(), "unwrap") != NULL);
	CHECK_EQUAL(read(ends[0], &byte, 1), 0);
	CHECK_EQUAL(gmemPrefetch(0, 0, gmemGetNumaId(), NULL), 0);
	CHECK_EQUAL(panic_in_guard(), -ENOTRECOVERABLE);
	return checks_result("panic");
}
