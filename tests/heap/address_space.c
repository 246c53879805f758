/* SPDX-License-Identifier: Apache-2.0 */
/* Little address space or data (RLIMIT_AS, RLIMIT_DATA) from the start: malloc gives NULL or works, and nothing
 * crashes. `address_space AS|DATA KIB` is the process with the limit; without arguments all limits up to 40 MiB are
 * tried. */
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <libgmem.h>

#include "../check.h"

/* A loader that finds no space for the program's libraries ends with it; the heap is not to blame. */
enum { LOADER = 127 };

static int use_the_heap(void) {
	void *blocks[200];
	for (int i = 0; i < 200; ++i) {
		const size_t size = (size_t)16 << (i % 16);
		blocks[i] = gmem_malloc(size);
		if (blocks[i] != NULL) {
			memset(blocks[i], 'x', size);
		} else if (errno != ENOMEM) {
			return 1;
		}
	}
	for (int i = 0; i < 200; ++i) {
		gmem_free(blocks[i]);
	}
	return 0;
}

static int run(int resource, size_t kib, const char *name, const char *program) {
	char text[32];
	snprintf(text, sizeof text, "%zu", kib);
	const pid_t child = fork();
	NEED(child >= 0);
	if (child == 0) {
		const struct rlimit limit = {kib << 10, kib << 10};
		dup2(open("/dev/null", O_WRONLY), 2);
		setrlimit(resource, &limit);
		execl("/proc/self/exe", program, name, text, (char *)NULL);
		_exit(LOADER);
	}
	int status = 0;
	NEED(waitpid(child, &status, 0) == child);
	if (!WIFEXITED(status) || (WEXITSTATUS(status) != 0 && WEXITSTATUS(status) != LOADER)) {
		fprintf(stderr, "with RLIMIT_%s of %zu KiB: status %#x\n", name, kib, status);
		return 1;
	}
	return 0;
}

int main(int argc, char **argv) {
	if (argc == 3) {
		return use_the_heap();
	}
	int failed = 0;
	for (size_t kib = 2 << 10; kib < 40 << 10; kib += 250) {
		failed += run(RLIMIT_AS, kib, "AS", argv[0]);
		failed += run(RLIMIT_DATA, kib / 2, "DATA", argv[0]);
	}
	CHECK_EQUAL(failed, 0);
	return checks_result("address_space");
}
