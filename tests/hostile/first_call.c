/* SPDX-License-Identifier: Apache-2.0 */
/* Every exported function as the first call of a process that lacks something: it works, or fails with a documented
 * error. It neither ends the process nor hangs. */
#include <signal.h>

#include "../capi/cells.h"
#include "children.h"

/* ---- what the process lacks ---------------------------------------------------------------------- */

static void limit(int resource, rlim_t to) {
	const struct rlimit most = {to, to};
	NEED(setrlimit((__rlimit_resource_t)resource, &most) == 0);
}

static int no_mappings(void) {
	limit(RLIMIT_AS, 1 << 20);
	return 1;
}

/* Both heaps, the library's and the process's, and every size. */
static int no_memory(void) {
	no_mappings();
	for (size_t bytes = (size_t)1 << 24; bytes >= 8; bytes /= 2) {
		while (gmem_malloc(bytes) != NULL) {
		}
		while (malloc(bytes) != NULL) {
		}
	}
	return 1;
}

static int no_descriptors(void) {
	limit(RLIMIT_NOFILE, 0);
	return 1;
}

/* RLIMIT_NPROC does not hold for root. */
static int no_threads(void) {
	const long calls[] = {SYS_clone, SYS_clone3};
	return refuse_calls(calls, 2, EAGAIN);
}

static int means_no_memory(int error) { return error == ENOMEM || error == EAGAIN; }
static int means_no_descriptors(int error) { return error == EMFILE; }
static int means_no_threads(int error) { return error == EAGAIN; }

static const struct state {
	const char *name;
	int (*enter)(void);
	int (*may_fail_with)(int error);
	int lacks_memory;
} STATES[] = {
	{"no memory", no_memory, means_no_memory, 1},
	{"no mappings", no_mappings, means_no_memory, 1},
	{"no descriptors", no_descriptors, means_no_descriptors, 0},
	{"no threads", no_threads, means_no_threads, 0},
};

/* ---- cells in states ------------------------------------------------------------------------------- */

struct call {
	const struct state *state;
	const struct cell *cell;
};

static int in_child(const void *argument) {
	const struct call *call = (const struct call *)argument;
	set_up_range();
	if (!call->state->enter()) {
		return SKIPPED;
	}
	may_fail_with = call->state->may_fail_with;
	call->cell->call();
	if (!(call->cell->kind & BLOCKS)) {
		/* Once more, with everything in place that the first use has made. */
		call->cell->call();
	}
	if (failed_line != 0) {
		fprintf(stderr, "%s:%d: neither done nor a documented error (%s)\n", __FILE__, failed_line, gmemLastError());
	}
	return failed_line != 0;
}

int main(void) {
	every_exported_function_has_a_cell();
	for (size_t i = 0; i < sizeof STATES / sizeof *STATES; ++i) {
		for (size_t j = 0; j < sizeof CELLS / sizeof *CELLS; ++j) {
			const struct call call = {&STATES[i], &CELLS[j]};
			if (STATES[i].lacks_memory && CELLS[j].kind & THROWS) {
				continue;
			}
			const int status = status_of_child(in_child, &call);
			if (status == -1) {
				printf("note: no seccomp filter can be installed here, so %s is left out\n", STATES[i].name);
				break;
			}
			if (status != 0) {
				fprintf(stderr, "%s and companions, %s: ", CELLS[j].functions[0], STATES[i].name);
				describe_end(status);
				++checks_failed;
			}
		}
	}
	return checks_result("first_call");
}
