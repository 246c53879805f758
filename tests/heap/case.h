/* SPDX-License-Identifier: Apache-2.0 */
/* Cases of a test that may end their process. */
#ifndef TESTS_HEAP_CASE_H
#define TESTS_HEAP_CASE_H

#include <sys/wait.h>
#include <unistd.h>

#include "../check.h"

/* Runs this program again with the number of a case as its argument, and GMEM_ABORT_ON_CORRUPTION. Its stderr comes
 * into `said`. Returns the signal that ended it, or its wait status. */
static int run_case(int number, const char *aborts, char *said, size_t space) {
	int ends[2];
	NEED(pipe(ends) == 0);
	const pid_t child = fork();
	NEED(child >= 0);
	if (child == 0) {
		char argument[16];
		dup2(ends[1], 2);
		close(ends[0]);
		close(ends[1]);
		snprintf(argument, sizeof argument, "%d", number);
		setenv("GMEM_ABORT_ON_CORRUPTION", aborts, 1);
		execl("/proc/self/exe", "case", argument, (char *)NULL);
		_exit(127);
	}
	close(ends[1]);
	size_t length = 0;
	ssize_t got;
	while (length < space - 1 && (got = read(ends[0], said + length, space - 1 - length)) > 0) {
		length += (size_t)got;
	}
	said[length] = '\0';
	close(ends[0]);
	int status = 0;
	NEED(waitpid(child, &status, 0) == child);
	return WIFSIGNALED(status) ? WTERMSIG(status) : status;
}

#endif
