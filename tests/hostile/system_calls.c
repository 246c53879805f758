/* SPDX-License-Identifier: Apache-2.0 */
/* The system calls in docs/system-calls.md, from which system_calls.h is made: every exported function makes no other,
 * and with each of them refused it does its work, or fails with an error if the page says so. With the argument "every"
 * each function is called in processes of its own for each refusal, which takes minutes. */
#include <signal.h>

#include "../capi/cells.h"
#include "children.h"
#include "system_calls.h"

enum { CALLS = sizeof SYSTEM_CALLS / sizeof *SYSTEM_CALLS, MOST_CELLS = sizeof CELLS / sizeof *CELLS };

static const int errors[] = {EPERM, ENOSYS, EACCES};
enum { ERRORS = sizeof errors / sizeof *errors };

/* ---- no other calls --------------------------------------------------------------------------------- */

static void report_call(int signal, siginfo_t *info, void *context) {
	(void)signal;
	(void)context;
	fprintf(stderr, "makes system call %d, which docs/system-calls.md does not list\n", info->si_syscall);
	_exit(1);
}

static int forbid_others(void) {
	struct sock_filter steps[2 * CALLS + 3];
	size_t length = 0;
	steps[length++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
	for (size_t i = 0; i < CALLS; ++i) {
		steps[length++] =
			(struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)SYSTEM_CALLS[i].number, 0, 1);
		steps[length++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	}
	steps[length++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP);
	const struct sock_fprog filter = {(unsigned short)length, steps};
	const struct sigaction action = {.sa_sigaction = report_call, .sa_flags = SA_SIGINFO};
	NEED(sigaction(SIGSYS, &action, NULL) == 0);
	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0;
}

/* ---- refused calls ---------------------------------------------------------------------------------- */

/* What is refused: a call of the page, or all of them, or all that have another way. */
enum { ALL = CALLS, ALL_WITH_ANOTHER_WAY, REFUSALS };

static const struct refusal {
	size_t call;
	int error;
	size_t first;    /* the cell that is called first */
	int is_alone;    /* no other cell is called in the process */
	int used_before; /* every cell was called before the refusal */
} *refusal;

static int is_refused(size_t call) {
	const struct system_call *one = &SYSTEM_CALLS[call];
	switch (refusal->call) {
	case ALL: return one->is_refusable;
	case ALL_WITH_ANOTHER_WAY: return one->is_refusable && one->fails[0] == '\0';
	default: return refusal->call == call;
	}
}

static int begins_with(const char *text, const char *word) { return strncmp(text, word, strlen(word)) == 0; }

/* Whether the page says that the function fails. Where the heap does, everything may. */
static int page_says_so(const char *call, int error) {
	(void)error;
	for (size_t i = 0; i < CALLS; ++i) {
		for (const char *name = SYSTEM_CALLS[i].fails; is_refused(i) && *name != '\0'; name = strchr(name, ' ') + 1) {
			const size_t length = (size_t)(strchr(name, ' ') - name);
			if (begins_with(name, "malloc ") || strncmp(name, call, length) == 0) {
				return 1;
			}
		}
	}
	return 0;
}

static void call_cell(const struct cell *cell) {
	/* Without memory the operator throws. */
	if (!(cell->kind & THROWS && page_says_so("malloc", ENOMEM))) {
		cell->call();
	}
	if (failed_line != 0) {
		fprintf(
			stderr, "%s: line %d of cells.h: the call failed (%s)\n", cell->functions[0], failed_line, gmemLastError());
		++checks_failed;
		failed_line = 0;
	}
}

static void call_cells(void) {
	for (size_t i = 0; i < MOST_CELLS; ++i) {
		const struct cell *cell = &CELLS[(refusal->first + i) % MOST_CELLS];
		/* What blocks, or is large, is the same work in larger numbers. */
		if (!(cell->kind & BLOCKS) && (i == 0 || !(refusal->is_alone || cell->kind & LARGE))) {
			call_cell(cell);
		}
	}
}

static int with_refusal(const void *argument) {
	long calls[CALLS];
	size_t count = 0;
	refusal = (const struct refusal *)argument;
	set_up_range();
	if (refusal->used_before) {
		call_cells();
	}
	for (size_t i = 0; i < CALLS; ++i) {
		if (is_refused(i)) {
			calls[count++] = SYSTEM_CALLS[i].number;
		}
	}
	if (!refuse_calls(calls, count, refusal->error)) {
		return SKIPPED;
	}
	may_fail = page_says_so;
	call_cells();
	return checks_failed != 0;
}

static void try_refusal(struct refusal one) {
	const size_t call = one.call;
	const int status = status_of_child(with_refusal, &one);
	if (status == -1) {
		printf("no seccomp filter can be installed here\n");
		exit(SKIPPED);
	}
	if (status != 0) {
		fprintf(stderr, "%s refused with %s, %s: ",
			call < CALLS  ? SYSTEM_CALLS[call].name
			: call == ALL ? "everything"
						  : "everything with another way",
			strerror(one.error), one.used_before ? "after use" : CELLS[one.first].functions[0]);
		describe_end(status);
		++checks_failed;
	}
}

static int with_others_forbidden(const void *unused) {
	static const struct refusal nothing = {.call = REFUSALS};
	(void)unused;
	refusal = &nothing;
	set_up_range();
	if (!forbid_others()) {
		return SKIPPED;
	}
	call_cells();
	return checks_failed != 0;
}

/* Each cell as the only one of a process in which one call, or all of them, are refused with each error. */
static void try_every_cell_alone(void) {
	for (size_t call = 0; call < REFUSALS; ++call) {
		for (size_t i = 0; i < ERRORS && (call >= CALLS || SYSTEM_CALLS[call].is_refusable); ++i) {
			for (size_t cell = 0; cell < MOST_CELLS; ++cell) {
				try_refusal((struct refusal){call, errors[i], cell, .is_alone = 1});
				try_refusal((struct refusal){call, errors[i], cell, .is_alone = 1, .used_before = 1});
			}
		}
	}
}

int main(int argc, char **argv) {
	(void)argv;
	if (argc > 1) {
		try_every_cell_alone();
		return checks_result("system_calls");
	}
	every_exported_function_has_a_cell();
	const int status = status_of_child(with_others_forbidden, NULL);
	if (status != 0 && status != -1) {
		describe_end(status);
		++checks_failed;
	}
	for (size_t call = 0; call < REFUSALS; ++call) {
		if (call < CALLS && !SYSTEM_CALLS[call].is_refusable) {
			continue;
		}
		for (size_t i = 0; i < ERRORS; ++i) {
			/* Another cell is first each time. */
			const size_t first = (call * ERRORS + i) % MOST_CELLS;
			try_refusal((struct refusal){call, errors[i], first, .used_before = 1});
			try_refusal((struct refusal){call, errors[i], first, .used_before = 0});
		}
		for (size_t cell = 0; call >= CALLS && cell < MOST_CELLS; ++cell) {
			try_refusal((struct refusal){call, errors[cell % ERRORS], cell, .is_alone = 1});
		}
	}
	return checks_result("system_calls");
}
