/* SPDX-License-Identifier: Apache-2.0 */
/* Children in which one cell is called, so that a cell that ends the process does not hide the others. */
#ifndef GMEM_TESTS_CHILDREN_H
#define GMEM_TESTS_CHILDREN_H

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "../check.h"

/* From now on the kernel answers the calls with an error. Returns 0 where no filter can be installed. */
static inline int refuse_calls(const long *calls, size_t count, int with) {
	struct sock_filter steps[256];
	size_t length = 0;
	NEED(2 * count + 3 < sizeof steps / sizeof *steps);
	steps[length++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
	for (size_t i = 0; i < count; ++i) {
		steps[length++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)calls[i], 0, 1);
		steps[length++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)with);
	}
	steps[length++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	const struct sock_fprog filter = {(unsigned short)length, steps};
	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0;
}

static inline int refuse_call(long call, int with) { return refuse_calls(&call, 1, with); }

/* Calls `function` in a child, which ends with its result. Returns the status, or -1 for a result of SKIPPED. */
static inline int status_of_child(int (*function)(const void *), const void *argument) {
	int status = 0;
	fflush(NULL);
	const pid_t child = fork();
	NEED(child >= 0);
	if (child == 0) {
		alarm(60); /* ends a hang */
		checks_failed = 0;
		_exit(function(argument));
	}
	NEED(waitpid(child, &status, 0) == child);
	return WIFEXITED(status) && WEXITSTATUS(status) == SKIPPED ? -1 : status;
}

static inline void describe_end(int status) {
	if (WIFSIGNALED(status)) {
		fprintf(stderr, WTERMSIG(status) == SIGALRM ? "hung\n" : "ended by signal %d\n", WTERMSIG(status));
	} else {
		fprintf(stderr, "failed\n");
	}
}

#endif
