/* SPDX-License-Identifier: Apache-2.0 */
/* Thread cancellation: no function of the library is a cancellation point, and none ends the process when a
 * cancellation is pending. Every cell of cells.h in each state.
 *
 * States:
 *   deferred      cancellation is enabled, deferred, and pending before the call; it must act after the call only
 *   asynchronous  cancellation is asynchronous, and pending but disabled; the call must not enable it
 *   blocked       the cancellation comes while the call blocks
 * Asynchronous and enabled is no state: POSIX allows a thread to call no function then but those that end it. */
#include <sys/wait.h>

#include "cells.h"

/* ---- the states ------------------------------------------------------------------------------------ */

enum state { DEFERRED, ASYNCHRONOUS, STATES, BLOCKED = STATES };
static const char *const STATE_NAMES[] = {"deferred", "asynchronous", "blocked"};

static enum state state;
static atomic_int begun, returned;

static void make_streams(void) {
	WITH_STREAM();
	if (external == NULL) {
		WORKS(gmemStreamWrap(keep_ticket, &ticket, &external));
	}
}

/* Blocking cells block until the gate opens. */
static atomic_int gate;

static void wait_for_gate(void *arg) {
	(void)arg;
	while (!atomic_load(&gate)) {
		sched_yield();
	}
}

static void *thread_of(void *arg) {
	const struct cell *cell = (const struct cell *)arg;
	NEED(pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL) == 0);
	if (state != BLOCKED) {
		NEED(pthread_cancel(pthread_self()) == 0);
	}
	if (state == ASYNCHRONOUS) {
		NEED(pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, NULL) == 0);
	} else {
		NEED(pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, NULL) == 0);
	}
	atomic_store(&begun, 1);
	cell->call();
	if (!(cell->kind & BLOCKS)) {
		/* Once more, with everything in place that the first use makes. */
		cell->call();
	}
	atomic_store(&returned, 1);
	NEED(pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, NULL) == 0);
	pthread_testcancel();
	return (void *)&returned;
}

/* In a process of its own, so that one cell that ends it does not hide the others. Returns an exit status. */
static int in_child(const struct cell *cell) {
	pthread_t thread;
	void *result = NULL; /* `returned`, or what the C library has for a thread that was cancelled. */
	alarm(60);
	set_up_range();
	make_streams();
	if (cell->kind & BLOCKS) {
		NEED(gmemStreamLaunch(stream, wait_for_gate, NULL) == 0);
		NEED(gmemEventRecord(event, stream) == 0);
	}
	NEED(pthread_create(&thread, NULL, thread_of, (void *)(uintptr_t)cell) == 0);
	if (cell->kind & BLOCKS) {
		/* By now it blocks, or the cancellation is pending when it does: both must be harmless. */
		while (!atomic_load(&begun)) {
			sched_yield();
		}
		usleep(20000);
		NEED(pthread_cancel(thread) == 0);
		usleep(20000);
		atomic_store(&gate, 1);
	}
	NEED(pthread_join(thread, &result) == 0);
	if (!returned) {
		fprintf(stderr, "the thread was cancelled inside the call\n");
	} else if (result == &returned) {
		fprintf(stderr, "the cancellation was lost\n");
	} else if (failed_line != 0) {
		fprintf(stderr, "%s:%d: the call did not do its work\n", __FILE__, failed_line);
	}
	return !returned || result == &returned || failed_line != 0;
}

static void check_cell(const struct cell *cell, enum state in) {
	state = in;
	fflush(NULL);
	const pid_t child = fork();
	NEED(child >= 0);
	if (child == 0) {
		_exit(in_child(cell));
	}
	int status = 0;
	NEED(waitpid(child, &status, 0) == child);
	if (status != 0) {
		fprintf(stderr, "%s and companions, %s: ", cell->functions[0], STATE_NAMES[in]);
		if (WIFSIGNALED(status)) {
			fprintf(stderr, "the process ended by signal %d\n", WTERMSIG(status));
		} else {
			fprintf(stderr, "failed\n");
		}
		++checks_failed;
	}
}

int main(void) {
	every_exported_function_has_a_cell();
	for (size_t i = 0; i < sizeof CELLS / sizeof *CELLS; ++i) {
		if (CELLS[i].kind & BLOCKS) {
			check_cell(&CELLS[i], BLOCKED);
		} else {
			for (int in = 0; in < STATES; ++in) {
				check_cell(&CELLS[i], (enum state)in);
			}
		}
	}
	return checks_result("cancel");
}
