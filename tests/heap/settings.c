/* SPDX-License-Identifier: Apache-2.0 */
/* The heap's variables of the environment, each in a process of its own: `settings NAME` is that process. */
#include <fcntl.h>
#include <sys/wait.h>

#include <libgmem.h>

#include "../check.h"

static const size_t MIB = (size_t)1 << 20;

static gmemHeapStats_t now(void) {
	gmemHeapStats_t stats = {.size = sizeof stats};
	CHECK_EQUAL(gmemHeapStats(&stats), 0);
	return stats;
}

/* Idle bytes after 100 MiB were freed. */
static size_t idle_after_free(void) {
	char *block = gmem_malloc(100 * MIB);
	NEED(block != NULL);
	memset(block, 'x', 100 * MIB);
	gmem_free(block);
	return now().idle;
}

static void none(void) {
	CHECK_EQUAL(now().hard_limit, 0);
	CHECK_EQUAL(now().soft_limit, 0);
	CHECK(idle_after_free() >= 90 * MIB);
}

static void limits(void) {
	CHECK_EQUAL(now().soft_limit, 48 * MIB);
	CHECK_EQUAL(now().hard_limit, 64 * MIB);
	errno = 0;
	CHECK(gmem_malloc(100 * MIB) == NULL && errno == ENOMEM);
	void *block = gmem_malloc(40 * MIB);
	CHECK(block != NULL);
	gmem_free(block);
}

static void nonsense(void) {
	CHECK_EQUAL(now().hard_limit, 0);
	CHECK_EQUAL(now().soft_limit, 0);
}

/* zero:true */
static void jemallocs(void) {
	CHECK(idle_after_free() >= 90 * MIB);
	char *block = gmem_malloc(100 * MIB);
	NEED(block != NULL);
	CHECK(is_all(block, 100 * MIB, 0));
	gmem_free(block);
}

/* The group's limit depends on the machine; whether it is read does not. */
static void control_group(void) {
	const size_t limit = now().hard_limit;
	CHECK(limit == 0 || limit > MIB);
	void *block = gmem_malloc(2 * MIB);
	CHECK(block != NULL);
	gmem_free(block);
}

static const struct {
	const char *name;
	void (*check)(void);
	const char *environment[3];
	int says_something;
} cases[] = {
	{"none", none, {NULL}, 0},
	{"limits", limits, {"GMEM_HEAP_SOFT_LIMIT=48M", "GMEM_HEAP_HARD_LIMIT=67108864", NULL}, 0},
	{"nonsense", nonsense, {"GMEM_HEAP_SOFT_LIMIT=much", "GMEM_HEAP_HARD_LIMIT=-5", NULL}, 0},
	{"control group", control_group, {"GMEM_HEAP_HARD_LIMIT=cgroup", NULL}, 0},
	{"jemalloc's", jemallocs, {"GMEM_MALLOC_CONF=zero:true", NULL}, 0},
	{"jemalloc's, overruled", none, {"GMEM_MALLOC_CONF=retain:false,dss:primary", NULL}, 0},
	{"jemalloc's, wrong", none, {"GMEM_MALLOC_CONF=no_such_option:1", NULL}, 0},
	{"statistics", none, {"GMEM_STATS=1", NULL}, 1},
	{"no statistics", none, {"GMEM_STATS=0", NULL}, 0},
};
enum { CASES = sizeof cases / sizeof cases[0] };

/* Run a case; what it writes to stderr comes into `said`. */
static void run(int index, char *said, size_t room) {
	int ends[2];
	NEED(pipe(ends) == 0);
	const pid_t child = fork();
	NEED(child >= 0);
	if (child == 0) {
		NEED(dup2(ends[1], 2) == 2);
		close(ends[0]);
		close(ends[1]);
		execle("/proc/self/exe", "settings", cases[index].name, (char *)NULL, cases[index].environment);
		_exit(127);
	}
	close(ends[1]);
	size_t length = 0;
	ssize_t got;
	while (length < room - 1 && (got = read(ends[0], said + length, room - 1 - length)) > 0) {
		length += (size_t)got;
	}
	said[length] = '\0';
	close(ends[0]);
	int status = 0;
	NEED(waitpid(child, &status, 0) == child);
	CHECK_EQUAL(status, 0);
}

int main(int argc, char **argv) {
	for (int i = 0; i < CASES; ++i) {
		char said[4096];
		if (argc > 1 && strcmp(argv[1], cases[i].name) == 0) {
			cases[i].check();
			return checks_result(cases[i].name);
		}
		if (argc > 1) {
			continue;
		}
		run(i, said, sizeof said);
		CHECK_EQUAL(said[0] != '\0', cases[i].says_something);
		if (cases[i].says_something) {
			CHECK(strncmp(said, "libgmem: heap: live ", 20) == 0);
			CHECK(strchr(said, '\n') == said + strlen(said) - 1);
		} else {
			fputs(said, stderr);
		}
	}
	return checks_result("settings");
}
