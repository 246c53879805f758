/* SPDX-License-Identifier: Apache-2.0 */
/* gmemStream*: order, errors, misuse, threads, fork and exit. */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/wait.h>
#include <time.h>

#include <libgmem.h>

#include "../check.h"

static size_t page;
static int here;

static unsigned long at(const void *start) { return (unsigned long)(uintptr_t)start; }

static gmemStream_t new_stream(void) {
	gmemStream_t stream = NULL;
	NEED(gmemStreamCreate(&stream) == 0 && stream != NULL);
	return stream;
}

static void nap(void) { nanosleep(&(struct timespec){.tv_nsec = 20 * 1000 * 1000}, NULL); }

/* ---- order -------------------------------------------------------------------------------- */

struct observed {
	char *start;
	int first_byte;
	size_t resident;
};

static void observe(void *arg) {
	struct observed *seen = arg;
	seen->resident = resident_pages(seen->start, page);
	seen->first_byte = seen->resident ? seen->start[0] : -1;
}

static void write_x(void *arg) { memset(arg, 'x', page); }

static atomic_int gate;
static void wait_for_gate(void *arg) {
	(void)arg;
	while (!atomic_load(&gate)) {
		nap();
	}
}
static void open_gate(void *arg) {
	(void)arg;
	atomic_store(&gate, 1);
}

static void calls_run_in_order_with_launched_functions(void) {
	gmemStream_t stream = new_stream();
	char *start = map_private(page, page);
	NEED(madvise(start, page, MADV_NOHUGEPAGE) == 0);
	struct observed before = {start, 0, 0}, prefetched = before, written = before, freed = before;
	const size_t all = page / (size_t)sysconf(_SC_PAGESIZE);

	CHECK_EQUAL(gmemStreamLaunch(stream, observe, &before), 0);
	CHECK_EQUAL(gmemPrefetch(at(start), page, here, stream), 0);
	CHECK_EQUAL(gmemStreamLaunch(stream, observe, &prefetched), 0);
	CHECK_EQUAL(gmemStreamLaunch(stream, write_x, start), 0);
	CHECK_EQUAL(gmemStreamLaunch(stream, observe, &written), 0);
	CHECK_EQUAL(gmemFreeEager(at(start), page, stream), 0);
	CHECK_EQUAL(gmemStreamLaunch(stream, observe, &freed), 0);
	CHECK_EQUAL(gmemStreamSynchronize(stream), 0);
	CHECK_EQUAL(before.resident, 0);
	CHECK_EQUAL(prefetched.resident, all);
	CHECK_EQUAL(prefetched.first_byte, 0);
	CHECK_EQUAL(written.first_byte, 'x');
	CHECK_EQUAL(freed.resident, 0);
	CHECK_EQUAL(gmemStreamDestroy(stream), 0);
	munmap(start, page);
}

static void the_call_returns_before_the_work_is_done(void) {
	gmemStream_t stream = new_stream();
	char *start = map_private(page, page);
	memset(start, 'x', page);
	atomic_store(&gate, 0);
	CHECK_EQUAL(gmemStreamQuery(stream), 0);
	CHECK_EQUAL(gmemStreamLaunch(stream, wait_for_gate, NULL), 0);
	CHECK_EQUAL(gmemFreeEager(at(start), page, stream), 0);
	CHECK_EQUAL(gmemStreamQuery(stream), -EBUSY);
	CHECK_EQUAL(start[0], 'x');
	/* NULL is no stream: it does not wait for one either. */
	CHECK_EQUAL(gmemPrefetch(at(start), page, here, NULL), 0);
	open_gate(NULL);
	CHECK_EQUAL(gmemStreamSynchronize(stream), 0);
	CHECK_EQUAL(gmemStreamQuery(stream), 0);
	CHECK_EQUAL(start[0], 0);
	CHECK_EQUAL(gmemStreamDestroy(stream), 0);
	munmap(start, page);
}

/* More work than a stream holds: the caller waits for room, and nothing is lost. */
static atomic_int counter;
static void count(void *arg) {
	(void)arg;
	atomic_fetch_add(&counter, 1);
}

static void a_full_stream_makes_its_caller_wait(void) {
	gmemStream_t stream = new_stream(), other = new_stream();
	atomic_store(&gate, 0);
	atomic_store(&counter, 0);
	CHECK_EQUAL(gmemStreamLaunch(stream, wait_for_gate, NULL), 0);
	nap();
	for (int i = 0; i < 65536; ++i) {
		CHECK_EQUAL(gmemStreamLaunch(stream, count, NULL), 0);
	}
	CHECK_EQUAL(gmemStreamLaunch(other, open_gate, NULL), 0);
	for (int i = 0; i < 1000; ++i) {
		CHECK_EQUAL(gmemStreamLaunch(stream, count, NULL), 0);
	}
	CHECK_EQUAL(gmemStreamSynchronize(stream), 0);
	CHECK_EQUAL(atomic_load(&counter), 66536);
	CHECK_EQUAL(gmemStreamDestroy(stream), 0);
	CHECK_EQUAL(gmemStreamDestroy(other), 0);
}

/* ---- errors ------------------------------------------------------------------------------- */

static void a_failed_call_surfaces_when_synchronizing(void) {
	gmemStream_t stream = new_stream();
	char *start = map_private(3 * page, page);
	memset(start, 'x', 3 * page);
	NEED(munmap(start + page, page) == 0);
	CHECK_EQUAL(gmemFreeEager(at(start), page, stream), 0);
	CHECK_EQUAL(gmemPrefetch(at(start), 3 * page, here, stream), 0);
	CHECK_EQUAL(gmemFreeEager(at(start + 2 * page), page, stream), 0);
	CHECK_EQUAL(gmemStreamSynchronize(stream), -ENOMEM);
	CHECK(strstr(gmemLastError(), "nothing is mapped at") != NULL);
	CHECK(strstr(gmemLastError(), "gmemPrefetch") != NULL && strstr(gmemLastError(), "number 2") != NULL);
	/* Work queued behind the failure has run, and the failure is reported once. */
	CHECK_EQUAL(start[2 * page], 0);
	CHECK_EQUAL(gmemStreamSynchronize(stream), 0);
	/* Arguments are checked at once and queue nothing. */
	CHECK_EQUAL(gmemPrefetch(at(start), page, -1, stream), -EINVAL);
	CHECK_EQUAL(gmemFreeEager(at(start), (size_t)-1, stream), -EINVAL);
	CHECK_EQUAL(gmemStreamSynchronize(stream), 0);
	CHECK_EQUAL(gmemStreamDestroy(stream), 0);
	munmap(start, page);
	munmap(start + 2 * page, page);
}

static void misuse_is_refused(void) {
	gmemStream_t stream = new_stream();
	int object;
	gmemStream_t const unknown[] = {
		NULL, (gmemStream_t)&object, (gmemStream_t)(uintptr_t)1, (gmemStream_t)(uintptr_t)-1};
	CHECK_EQUAL(gmemStreamCreate(NULL), -EINVAL);
	CHECK_EQUAL(gmemStreamLaunch(stream, NULL, NULL), -EINVAL);
	CHECK_EQUAL(gmemStreamDestroy(stream), 0);
	CHECK_EQUAL(gmemStreamDestroy(stream), -EINVAL);
	CHECK_EQUAL(gmemStreamQuery(stream), -EINVAL);
	CHECK_EQUAL(gmemStreamSynchronize(stream), -EINVAL);
	CHECK_EQUAL(gmemStreamLaunch(stream, count, NULL), -EINVAL);
	for (size_t i = 0; i < sizeof unknown / sizeof unknown[0]; ++i) {
		CHECK_EQUAL(gmemStreamDestroy(unknown[i]), -EINVAL);
		CHECK_EQUAL(gmemStreamQuery(unknown[i]), -EINVAL);
		CHECK_EQUAL(gmemStreamSynchronize(unknown[i]), -EINVAL);
		CHECK_EQUAL(gmemStreamLaunch(unknown[i], count, NULL), -EINVAL);
	}
}

static gmemStream_t own_stream;
static int own_result;
static void synchronize_own(void *arg) {
	(void)arg;
	own_result = gmemStreamSynchronize(own_stream);
}

static void work_cannot_wait_for_itself(void) {
	own_stream = new_stream();
	CHECK_EQUAL(gmemStreamLaunch(own_stream, synchronize_own, NULL), 0);
	CHECK_EQUAL(gmemStreamSynchronize(own_stream), 0);
	CHECK_EQUAL(own_result, -EDEADLK);
	CHECK_EQUAL(gmemStreamDestroy(own_stream), 0);
}

static void a_stream_destroyed_while_busy_finishes(void) {
	gmemStream_t stream = new_stream();
	atomic_store(&gate, 0);
	atomic_store(&counter, 0);
	CHECK_EQUAL(gmemStreamLaunch(stream, wait_for_gate, NULL), 0);
	CHECK_EQUAL(gmemStreamLaunch(stream, count, NULL), 0);
	CHECK_EQUAL(gmemStreamDestroy(stream), 0);
	open_gate(NULL);
	for (int i = 0; i < 500 && !atomic_load(&counter); ++i) {
		nap();
	}
	CHECK_EQUAL(atomic_load(&counter), 1);
}

/* ---- events ------------------------------------------------------------------------------- */

static gmemEvent_t new_event(void) {
	gmemEvent_t event = NULL;
	NEED(gmemEventCreate(&event) == 0 && event != NULL);
	return event;
}

static int order[64];
static atomic_int order_count;
static void append(void *arg) { order[atomic_fetch_add(&order_count, 1)] = (int)(intptr_t)arg; }

/* More streams wait than threads serve, and what they wait for comes last. */
static void streams_wait_for_an_event(void) {
	enum { WAITING = 20 };
	gmemStream_t first = new_stream(), waiting[WAITING];
	gmemEvent_t event = new_event();
	CHECK_EQUAL(gmemEventQuery(event), 0);
	CHECK_EQUAL(gmemEventSynchronize(event), 0);
	atomic_store(&gate, 0);
	atomic_store(&order_count, 0);
	CHECK_EQUAL(gmemStreamLaunch(first, wait_for_gate, NULL), 0);
	CHECK_EQUAL(gmemStreamLaunch(first, append, (void *)1), 0);
	CHECK_EQUAL(gmemEventRecord(event, first), 0);
	CHECK_EQUAL(gmemEventQuery(event), -EBUSY);
	for (int i = 0; i < WAITING; ++i) {
		waiting[i] = new_stream();
		CHECK_EQUAL(gmemStreamWaitEvent(waiting[i], event), 0);
		CHECK_EQUAL(gmemStreamLaunch(waiting[i], append, (void *)2), 0);
	}
	gmemStream_t opener = new_stream();
	CHECK_EQUAL(gmemStreamLaunch(opener, open_gate, NULL), 0);
	CHECK_EQUAL(gmemEventSynchronize(event), 0);
	for (int i = 0; i < WAITING; ++i) {
		CHECK_EQUAL(gmemStreamSynchronize(waiting[i]), 0);
		CHECK_EQUAL(gmemStreamDestroy(waiting[i]), 0);
	}
	CHECK_EQUAL(order[0], 1);
	CHECK_EQUAL(atomic_load(&order_count), WAITING + 1);
	CHECK_EQUAL(gmemEventQuery(event), 0);
	CHECK_EQUAL(gmemStreamDestroy(first), 0);
	CHECK_EQUAL(gmemStreamDestroy(opener), 0);
	CHECK_EQUAL(gmemEventDestroy(event), 0);
}

/* A wait means the recording that was the latest when it was registered. */
static void an_event_may_be_recorded_again(void) {
	gmemStream_t one = new_stream(), other = new_stream();
	gmemEvent_t event = new_event();
	CHECK_EQUAL(gmemStreamLaunch(one, append, NULL), 0);
	CHECK_EQUAL(gmemEventRecord(event, one), 0);
	CHECK_EQUAL(gmemEventSynchronize(event), 0);
	atomic_store(&gate, 0);
	CHECK_EQUAL(gmemStreamWaitEvent(other, event), 0);
	CHECK_EQUAL(gmemStreamLaunch(one, wait_for_gate, NULL), 0);
	CHECK_EQUAL(gmemEventRecord(event, one), 0);
	CHECK_EQUAL(gmemStreamSynchronize(other), 0);
	CHECK_EQUAL(gmemEventQuery(event), -EBUSY);
	open_gate(NULL);
	CHECK_EQUAL(gmemEventSynchronize(event), 0);
	CHECK_EQUAL(gmemStreamDestroy(one), 0);
	CHECK_EQUAL(gmemStreamDestroy(other), 0);
	CHECK_EQUAL(gmemEventDestroy(event), 0);
}

/* The stream and the event are given up while another stream waits for them; a failure ahead of the event is nobody's.
 */
static void events_outlive_their_streams(void) {
	gmemStream_t first = new_stream(), second = new_stream();
	gmemEvent_t event = new_event();
	atomic_store(&gate, 0);
	atomic_store(&order_count, 0);
	CHECK_EQUAL(gmemStreamLaunch(first, wait_for_gate, NULL), 0);
	CHECK_EQUAL(gmemPrefetch(64 * page, page, here, first), 0);
	CHECK_EQUAL(gmemStreamLaunch(first, append, (void *)1), 0);
	CHECK_EQUAL(gmemEventRecord(event, first), 0);
	CHECK_EQUAL(gmemStreamWaitEvent(second, event), 0);
	CHECK_EQUAL(gmemStreamLaunch(second, append, (void *)2), 0);
	CHECK_EQUAL(gmemStreamDestroy(first), 0);
	CHECK_EQUAL(gmemEventQuery(event), -EBUSY);
	CHECK_EQUAL(gmemEventDestroy(event), 0);
	open_gate(NULL);
	CHECK_EQUAL(gmemStreamSynchronize(second), 0);
	CHECK_EQUAL(order[0] * 10 + order[1], 12);
	/* Nothing left to wait for: the stream has gone with its work done. */
	CHECK_EQUAL(gmemStreamDestroy(second), 0);
}

static gmemEvent_t own_event;
static void synchronize_own_event(void *arg) {
	(void)arg;
	wait_for_gate(NULL);
	own_result = gmemEventSynchronize(own_event);
}

static void misuse_of_events_is_refused(void) {
	gmemStream_t stream = new_stream();
	gmemEvent_t event = new_event();
	int object;
	CHECK_EQUAL(gmemEventCreate(NULL), -EINVAL);
	/* One is not the other. */
	CHECK_EQUAL(gmemEventRecord((gmemEvent_t)stream, stream), -EINVAL);
	CHECK_EQUAL(gmemEventRecord(event, (gmemStream_t)event), -EINVAL);
	CHECK_EQUAL(gmemStreamQuery((gmemStream_t)event), -EINVAL);
	CHECK_EQUAL(gmemEventRecord(event, NULL), -EINVAL);
	CHECK_EQUAL(gmemStreamWaitEvent(NULL, event), -EINVAL);
	CHECK_EQUAL(gmemStreamWaitEvent(stream, NULL), -EINVAL);
	CHECK_EQUAL(gmemEventQuery((gmemEvent_t)&object), -EINVAL);
	/* Work cannot wait for what comes behind it. */
	own_event = event;
	atomic_store(&gate, 0);
	CHECK_EQUAL(gmemStreamLaunch(stream, synchronize_own_event, NULL), 0);
	CHECK_EQUAL(gmemEventRecord(event, stream), 0);
	open_gate(NULL);
	CHECK_EQUAL(gmemStreamSynchronize(stream), 0);
	CHECK_EQUAL(own_result, -EDEADLK);
	CHECK_EQUAL(gmemEventDestroy(event), 0);
	CHECK_EQUAL(gmemEventDestroy(event), -EINVAL);
	CHECK_EQUAL(gmemEventQuery(event), -EINVAL);
	CHECK_EQUAL(gmemEventRecord(event, stream), -EINVAL);
	CHECK(strstr(gmemLastError(), "gmemEventCreate") != NULL);
	CHECK_EQUAL(gmemStreamDestroy(stream), 0);
}

/* ---- threads ------------------------------------------------------------------------------ */

static void *hammer(void *arg) {
	char *start = arg;
	for (int i = 0; i < 50; ++i) {
		gmemStream_t stream = new_stream();
		CHECK_EQUAL(gmemPrefetch(at(start), page, here, stream), 0);
		CHECK_EQUAL(gmemStreamLaunch(stream, count, NULL), 0);
		CHECK_EQUAL(gmemFreeEager(at(start), page, stream), 0);
		CHECK_EQUAL(gmemStreamSynchronize(stream), 0);
		CHECK_EQUAL(gmemStreamDestroy(stream), 0);
	}
	return NULL;
}

static void sixty_four_threads_do_not_disturb_each_other(void) {
	enum { THREADS = 64 };
	pthread_t threads[THREADS];
	char *start = map_private(THREADS * page, page);
	atomic_store(&counter, 0);
	for (int i = 0; i < THREADS; ++i) {
		NEED(pthread_create(&threads[i], NULL, hammer, start + (size_t)i * page) == 0);
	}
	for (int i = 0; i < THREADS; ++i) {
		pthread_join(threads[i], NULL);
	}
	CHECK_EQUAL(atomic_load(&counter), THREADS * 50);
	munmap(start, THREADS * page);
}

static pthread_t signalled;
static void note_thread(int number) {
	(void)number;
	signalled = pthread_self();
}

/* A handler of the program's never runs on a thread of the library's. */
static void threads_take_no_signals(void) {
	sigset_t usr1, before;
	gmemStream_t stream = new_stream();
	CHECK_EQUAL(gmemStreamSynchronize(stream), 0);
	signal(SIGUSR1, note_thread);
	sigemptyset(&usr1);
	sigaddset(&usr1, SIGUSR1);
	pthread_sigmask(SIG_BLOCK, &usr1, &before);
	kill(getpid(), SIGUSR1);
	nap();
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	CHECK(pthread_equal(signalled, pthread_self()));
	signal(SIGUSR1, SIG_DFL);
	CHECK_EQUAL(gmemStreamDestroy(stream), 0);
}

/* ---- fork and exit ------------------------------------------------------------------------ */

static void in_child(void (*body)(gmemStream_t), gmemStream_t stream) {
	const pid_t child = fork();
	NEED(child >= 0);
	if (child == 0) {
		alarm(30);
		body(stream);
		exit(checks_failed != 0);
	}
	int status = 1;
	NEED(waitpid(child, &status, 0) == child);
	CHECK_EQUAL(status, 0);
}

static gmemEvent_t parents_event;
static void use_parents_stream(gmemStream_t parents) {
	CHECK_EQUAL(gmemStreamQuery(parents), -EINVAL);
	CHECK_EQUAL(gmemStreamSynchronize(parents), -EINVAL);
	CHECK_EQUAL(gmemStreamLaunch(parents, count, NULL), -EINVAL);
	CHECK(strstr(gmemLastError(), "fork") != NULL);
	CHECK_EQUAL(gmemEventQuery(parents_event), -EINVAL);
	CHECK_EQUAL(gmemEventSynchronize(parents_event), -EINVAL);
	atomic_store(&counter, 0);
	gmemStream_t own = new_stream();
	CHECK_EQUAL(gmemStreamLaunch(own, count, NULL), 0);
	CHECK_EQUAL(gmemStreamSynchronize(own), 0);
	CHECK_EQUAL(atomic_load(&counter), 1);
	CHECK_EQUAL(gmemStreamDestroy(own), 0);
}

static void a_child_makes_its_own_streams(void) {
	gmemStream_t stream = new_stream();
	atomic_store(&gate, 0);
	CHECK_EQUAL(gmemStreamLaunch(stream, wait_for_gate, NULL), 0);
	parents_event = new_event();
	CHECK_EQUAL(gmemEventRecord(parents_event, stream), 0);
	in_child(use_parents_stream, stream);
	open_gate(NULL);
	CHECK_EQUAL(gmemEventSynchronize(parents_event), 0);
	CHECK_EQUAL(gmemEventDestroy(parents_event), 0);
	CHECK_EQUAL(gmemStreamSynchronize(stream), 0);
	CHECK_EQUAL(gmemStreamDestroy(stream), 0);
}

static void exit_while_busy(gmemStream_t unused) {
	(void)unused;
	gmemStream_t stream = new_stream();
	atomic_store(&gate, 0);
	CHECK_EQUAL(gmemStreamLaunch(stream, wait_for_gate, NULL), 0);
	CHECK_EQUAL(gmemStreamLaunch(stream, count, NULL), 0);
	/* One that an event holds, and one that waits for more eager frees. */
	gmemStream_t held = new_stream(), lingering = new_stream();
	gmemEvent_t event = new_event();
	CHECK_EQUAL(gmemEventRecord(event, stream), 0);
	CHECK_EQUAL(gmemStreamWaitEvent(held, event), 0);
	CHECK_EQUAL(gmemStreamLaunch(held, count, NULL), 0);
	CHECK_EQUAL(gmemFreeEager(64 * page, page, lingering), 0);
}

static void leaving_with_work_pending_is_quiet(void) { in_child(exit_while_busy, NULL); }

int main(void) {
	alarm(600); /* only a hang takes so long, even in an emulated machine */
	page = gmemGetPageSize();
	here = gmemGetNumaId();
	calls_run_in_order_with_launched_functions();
	the_call_returns_before_the_work_is_done();
	a_full_stream_makes_its_caller_wait();
	a_failed_call_surfaces_when_synchronizing();
	misuse_is_refused();
	work_cannot_wait_for_itself();
	a_stream_destroyed_while_busy_finishes();
	streams_wait_for_an_event();
	an_event_may_be_recorded_again();
	events_outlive_their_streams();
	misuse_of_events_is_refused();
	sixty_four_threads_do_not_disturb_each_other();
	threads_take_no_signals();
	a_child_makes_its_own_streams();
	leaving_with_work_pending_is_quiet();
	return checks_result("streams");
}
