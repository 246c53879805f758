/* SPDX-License-Identifier: Apache-2.0 */
/* Where the device "ascend" looks for its runtime. The first argument says what comes of it: "found", "refused", or the
 * path of a library, which is not there at first and put at $ASCEND_HOME_PATH/lib64 then. In the maps of the process,
 * or in the error, are the words that follow. Nothing here is linked with the runtime. Run with GMEM_DEVICE=ascend. */
#include <limits.h>
#include <sys/stat.h>

#include <libgmem.h>

#include "../check.h"

static int memory[8]; /* what could be a stream by its address */

static int maps_have(const char *word) {
	char line[PATH_MAX + 128];
	int found = 0;
	FILE *maps = fopen("/proc/self/maps", "re");
	NEED(maps != NULL);
	while (fgets(line, sizeof line, maps) != NULL) {
		found |= strstr(line, word) != NULL;
	}
	fclose(maps);
	return found;
}

static void refused(void) {
	for (int round = 0; round < 3; ++round) {
		CHECK_EQUAL(gmemStreamQuery((gmemStream_t)(void *)memory), -ENODEV);
		CHECK_EQUAL(gmemFreeEager(0, 0, memory), -ENODEV);
	}
	if (strchr(gmemLastError(), '\n') != NULL) {
		fprintf(stderr, "more than a line: %s\n", gmemLastError());
		++checks_failed;
	}
	/* Without streams of the driver's, all goes on. */
	CHECK(gmemGetDevice() != NULL && strcmp(gmemGetDevice(), "ascend") == 0);
	CHECK_EQUAL(gmemFreeEager(0, 0, NULL), 0);
	gmemStream_t own = NULL;
	CHECK_EQUAL(gmemStreamCreate(&own), 0);
	CHECK_EQUAL(gmemFreeEager(0, 0, own), 0);
	CHECK_EQUAL(gmemStreamDestroy(own), 0);
}

static void found(void) {
	CHECK_EQUAL(gmemStreamQuery((gmemStream_t)(void *)memory), 0);
	CHECK_EQUAL(gmemStreamDestroy((gmemStream_t)(void *)memory), 0);
}

static void put(const char *library) {
	char path[PATH_MAX];
	const char *home = getenv("ASCEND_HOME_PATH");
	NEED(home != NULL);
	snprintf(path, sizeof path, "%s/lib64/libascendcl.so", home);
	unlink(path);
	refused();
	snprintf(path, sizeof path, "%s/lib64", home);
	NEED(mkdir(home, 0700) == 0 || errno == EEXIST);
	NEED(mkdir(path, 0700) == 0 || errno == EEXIST);
	snprintf(path, sizeof path, "%s/lib64/libascendcl.so", home);
	NEED(symlink(library, path) == 0);
	found();
	unlink(path);
}

int main(int argc, char **argv) {
	NEED(argc > 1);
	const int is_refused = strcmp(argv[1], "refused") == 0;
	if (is_refused) {
		refused();
	} else if (strcmp(argv[1], "found") == 0) {
		found();
	} else {
		put(argv[1]);
	}
	for (int i = 2; i < argc; ++i) {
		if (is_refused ? strstr(gmemLastError(), argv[i]) == NULL : !maps_have(argv[i])) {
			fprintf(stderr, "no %s in %s\n", argv[i], is_refused ? gmemLastError() : "/proc/self/maps");
			++checks_failed;
		}
	}
	return checks_result("ascend_library");
}
