/* SPDX-License-Identifier: Apache-2.0 */
/* gmemStreamWrap: executors of every kind, good and bad. */
#include <pthread.h>
#include <stdatomic.h>
#include <sys/wait.h>
#include <time.h>

#include <libgmem.h>

#include "../check.h"

static size_t page;
static int here;

static unsigned long at(const void *start) { return (unsigned long)(uintptr_t)start; }

/* ---- an executor ----------------------------------------------------------------------------- */

struct item {
	gmemHostFn fn;
	void *arg;
};

/* A queue that threads, or the test by hand, take functions from. */
struct executor {
	pthread_mutex_t lock;
	pthread_cond_t more;
	struct item items[4096];
	int first, count, refuse, closed, running;
	pthread_t threads[4];
};

static int add(void *native, gmemHostFn fn, void *arg) {
	struct executor *executor = native;
	int result = 0;
	pthread_mutex_lock(&executor->lock);
	if (executor->refuse != 0) {
		result = executor->refuse;
	} else {
		NEED(executor->count < 4096);
		executor->items[executor->count++] = (struct item){fn, arg};
		pthread_cond_signal(&executor->more);
	}
	pthread_mutex_unlock(&executor->lock);
	return result;
}

/* The next function, or none; with `wait`, none means that the executor is closed. */
static int take(struct executor *executor, int wait, struct item *item) {
	pthread_mutex_lock(&executor->lock);
	while (wait && executor->first == executor->count && !executor->closed) {
		pthread_cond_wait(&executor->more, &executor->lock);
	}
	const int found = executor->first < executor->count;
	if (found) {
		*item = executor->items[executor->first++];
	}
	pthread_mutex_unlock(&executor->lock);
	return found;
}

static int run_one(struct executor *executor) {
	struct item item;
	if (!take(executor, 0, &item)) {
		return 0;
	}
	item.fn(item.arg);
	return 1;
}

static void *run_all(void *arg) {
	struct item item;
	while (take(arg, 1, &item)) {
		item.fn(item.arg);
	}
	return NULL;
}

static struct executor *new_executor(int threads) {
	struct executor *executor = calloc(1, sizeof *executor);
	NEED(executor != NULL);
	pthread_mutex_init(&executor->lock, NULL);
	pthread_cond_init(&executor->more, NULL);
	executor->running = threads;
	for (int i = 0; i < threads; ++i) {
		NEED(pthread_create(&executor->threads[i], NULL, run_all, executor) == 0);
	}
	return executor;
}

static void end_executor(struct executor *executor) {
	pthread_mutex_lock(&executor->lock);
	executor->closed = 1;
	pthread_cond_broadcast(&executor->more);
	pthread_mutex_unlock(&executor->lock);
	for (int i = 0; i < executor->running; ++i) {
		pthread_join(executor->threads[i], NULL);
	}
	free(executor);
}

static int run_at_once(void *native, gmemHostFn fn, void *arg) {
	++*(int *)native;
	fn(arg);
	return 0;
}

static gmemStream_t wrap(gmemLaunchFn launch, void *native) {
	gmemStream_t stream = NULL;
	NEED(gmemStreamWrap(launch, native, &stream) == 0 && stream != NULL);
	return stream;
}

/* ---- order ------------------------------------------------------------------------------------- */

static atomic_int steps;
struct step {
	int at;
	const char *byte;
	int value;
};
static void note(void *arg) {
	struct step *step = arg;
	step->at = atomic_fetch_add(&steps, 1) + 1;
	step->value = step->byte ? *step->byte : 0;
}

static void write_x(void *arg) { *(char *)arg = 'x'; }

/* libgmem's calls lie among the executor's own, at their places. */
static void calls_take_their_place_among_the_executors_own(void) {
	struct executor *executor = new_executor(0);
	gmemStream_t stream = wrap(add, executor);
	char *start = map_private(page, page);
	start[0] = 'a';
	struct step own[3] = {{0, start, 0}, {0, start, 0}, {0, start, 0}}, launched = {0, start, 0};
	atomic_store(&steps, 0);
	NEED(add(executor, note, &own[0]) == 0);
	CHECK_EQUAL(gmemFreeEager(at(start), page, stream), 0);
	NEED(add(executor, note, &own[1]) == 0);
	NEED(add(executor, write_x, start) == 0);
	CHECK_EQUAL(gmemStreamLaunch(stream, note, &launched), 0);
	CHECK_EQUAL(gmemPrefetch(at(start), page, here, stream), 0);
	NEED(add(executor, note, &own[2]) == 0);
	CHECK_EQUAL(gmemStreamQuery(stream), -EBUSY);
	CHECK_EQUAL(start[0], 'a');
	while (run_one(executor)) {
	}
	CHECK_EQUAL(gmemStreamQuery(stream), 0);
	CHECK_EQUAL(gmemStreamSynchronize(stream), 0);
	CHECK_EQUAL(own[0].at, 1);
	CHECK_EQUAL(own[0].value, 'a');
	CHECK_EQUAL(own[1].at, 2);
	CHECK_EQUAL(own[1].value, 0);
	CHECK_EQUAL(launched.at, 3);
	CHECK_EQUAL(launched.value, 'x');
	CHECK_EQUAL(own[2].at, 4);
	CHECK_EQUAL(gmemStreamDestroy(stream), 0);
	end_executor(executor);
	munmap(start, page);
}

/* Neighbours stay two calls where the executor has work of its own between them. */
static void nothing_is_done_ahead_of_its_place(void) {
	struct executor *executor = new_executor(0);
	gmemStream_t stream = wrap(add, executor);
	char *start = map_private(2 * page, page);
	start[0] = start[page] = 'a';
	CHECK_EQUAL(gmemFreeEager(at(start), page, stream), 0);
	CHECK_EQUAL(gmemFreeEager(at(start + page), page, stream), 0);
	run_one(executor);
	CHECK_EQUAL(start[0], 0);
	CHECK_EQUAL(start[page], 'a');
	run_one(executor);
	CHECK_EQUAL(start[page], 0);
	CHECK_EQUAL(gmemStreamDestroy(stream), 0);
	end_executor(executor);
	munmap(start, 2 * page);
}

static int order[1000];
static atomic_int order_count;
static void append(void *arg) { order[atomic_fetch_add(&order_count, 1)] = (int)(intptr_t)arg; }

static void several_threads_keep_the_order(void) {
	struct executor *executor = new_executor(4);
	gmemStream_t stream = wrap(add, executor);
	atomic_store(&order_count, 0);
	for (intptr_t i = 0; i < 1000; ++i) {
		CHECK_EQUAL(gmemStreamLaunch(stream, append, (void *)i), 0);
	}
	CHECK_EQUAL(gmemStreamSynchronize(stream), 0);
	int in_order = 1;
	for (int i = 0; i < 1000; ++i) {
		in_order &= order[i] == i;
	}
	CHECK(in_order);
	CHECK_EQUAL(gmemStreamDestroy(stream), 0);
	end_executor(executor);
}

static gmemStream_t inner_stream;
static void launch_another(void *arg) { CHECK_EQUAL(gmemStreamLaunch(inner_stream, append, arg), 0); }

static void an_executor_may_run_at_once(void) {
	int count = 0;
	char *start = map_private(page, page);
	gmemStream_t stream = inner_stream = wrap(run_at_once, &count);
	start[0] = 'x';
	atomic_store(&order_count, 0);
	CHECK_EQUAL(gmemFreeEager(at(start), page, stream), 0);
	CHECK_EQUAL(start[0], 0);
	CHECK_EQUAL(gmemStreamQuery(stream), 0);
	/* Work that registers more on its own stream. */
	CHECK_EQUAL(gmemStreamLaunch(stream, launch_another, (void *)1), 0);
	CHECK_EQUAL(gmemStreamSynchronize(stream), 0);
	CHECK_EQUAL(atomic_load(&order_count), 1);
	CHECK_EQUAL(count, 3);
	CHECK_EQUAL(gmemStreamDestroy(stream), 0);
	munmap(start, page);
}

/* ---- errors -------------------------------------------------------------------------------------- */

static void a_failure_stays_with_the_stream(void) {
	struct executor *executor = new_executor(1);
	gmemStream_t stream = wrap(add, executor);
	char *start = map_private(page, page);
	NEED(munmap(start, page) == 0);
	CHECK_EQUAL(gmemPrefetch(at(start), page, here, stream), 0);
	CHECK_EQUAL(gmemStreamLaunch(stream, append, NULL), 0);
	CHECK_EQUAL(gmemStreamSynchronize(stream), -ENOMEM);
	CHECK(strstr(gmemLastError(), "gmemPrefetch") != NULL && strstr(gmemLastError(), "number 1") != NULL);
	CHECK_EQUAL(gmemStreamSynchronize(stream), 0);
	/* Arguments are looked at before the executor hears of anything. */
	CHECK_EQUAL(gmemPrefetch(at(start), page, -1, stream), -EINVAL);
	CHECK_EQUAL(gmemStreamLaunch(stream, NULL, NULL), -EINVAL);
	CHECK_EQUAL(gmemStreamDestroy(stream), 0);
	end_executor(executor);
}

static void what_is_refused_is_not_registered(void) {
	struct executor *executor = new_executor(0);
	gmemStream_t stream = wrap(add, executor);
	gmemEvent_t event = NULL;
	NEED(gmemEventCreate(&event) == 0);
	atomic_store(&order_count, 0);
	CHECK_EQUAL(gmemStreamLaunch(stream, append, (void *)1), 0);
	executor->refuse = 77;
	CHECK_EQUAL(gmemStreamLaunch(stream, append, (void *)2), -EIO);
	CHECK(strstr(gmemLastError(), "77") != NULL);
	CHECK_EQUAL(gmemEventRecord(event, stream), -EIO);
	CHECK_EQUAL(gmemEventQuery(event), 0);
	executor->refuse = -ENOSPC;
	CHECK_EQUAL(gmemFreeEager(0, 0, stream), -ENOSPC);
	executor->refuse = 0;
	CHECK_EQUAL(gmemStreamLaunch(stream, append, (void *)3), 0);
	CHECK_EQUAL(executor->count, 2);
	while (run_one(executor)) {
	}
	CHECK_EQUAL(gmemStreamSynchronize(stream), 0);
	CHECK_EQUAL(atomic_load(&order_count), 2);
	CHECK_EQUAL(order[1], 3);
	/* With nothing else waiting. */
	executor->refuse = 1;
	CHECK_EQUAL(gmemStreamLaunch(stream, append, (void *)4), -EIO);
	CHECK_EQUAL(gmemStreamQuery(stream), 0);
	CHECK_EQUAL(gmemStreamDestroy(stream), 0);
	CHECK_EQUAL(gmemEventDestroy(event), 0);
	end_executor(executor);
}

static void misuse_is_refused(void) {
	gmemStream_t stream = NULL;
	int count = 0;
	CHECK_EQUAL(gmemStreamWrap(NULL, NULL, &stream), -EINVAL);
	CHECK_EQUAL(gmemStreamWrap(run_at_once, &count, NULL), -EINVAL);
	stream = wrap(run_at_once, &count);
	CHECK_EQUAL(gmemStreamDestroy(stream), 0);
	CHECK_EQUAL(gmemStreamDestroy(stream), -EINVAL);
	CHECK_EQUAL(gmemStreamLaunch(stream, append, NULL), -EINVAL);
	CHECK_EQUAL(count, 0);
	gmemLaunchDropped(NULL);
	gmemLaunchDropped((void *)(uintptr_t)-1);
	gmemLaunchDropped(&count);
}

static void a_place_that_is_dropped_fails(void) {
	struct executor *executor = new_executor(0);
	gmemStream_t stream = wrap(add, executor);
	gmemEvent_t event = NULL;
	NEED(gmemEventCreate(&event) == 0);
	atomic_store(&order_count, 0);
	for (intptr_t i = 0; i < 3; ++i) {
		CHECK_EQUAL(gmemStreamLaunch(stream, append, (void *)i), 0);
	}
	CHECK_EQUAL(gmemEventRecord(event, stream), 0);
	gmemLaunchDropped(executor->items[1].arg);
	/* Out of its turn, so nothing happens yet; and only once. */
	gmemLaunchDropped(executor->items[1].arg);
	CHECK_EQUAL(atomic_load(&order_count), 0);
	executor->items[0].fn(executor->items[0].arg);
	executor->items[2].fn(executor->items[2].arg);
	/* Who waits for an event does so no longer than there is hope. */
	CHECK_EQUAL(gmemEventQuery(event), -EBUSY);
	gmemLaunchDropped(executor->items[3].arg);
	CHECK_EQUAL(gmemEventSynchronize(event), 0);
	CHECK_EQUAL(gmemStreamSynchronize(stream), -ECANCELED);
	CHECK(strstr(gmemLastError(), "number 2") != NULL);
	CHECK_EQUAL(gmemStreamSynchronize(stream), 0);
	CHECK_EQUAL(atomic_load(&order_count), 2);
	CHECK_EQUAL(gmemStreamDestroy(stream), 0);
	CHECK_EQUAL(gmemEventDestroy(event), 0);
	end_executor(executor);
}

static void a_place_that_comes_late_or_twice_is_safe(void) {
	struct executor *executor = new_executor(0);
	gmemStream_t stream = wrap(add, executor);
	atomic_store(&order_count, 0);
	for (intptr_t i = 0; i < 3; ++i) {
		CHECK_EQUAL(gmemStreamLaunch(stream, append, (void *)i), 0);
	}
	const struct item *items = executor->items;
	items[0].fn(items[0].arg);
	items[0].fn(items[0].arg);
	CHECK_EQUAL(atomic_load(&order_count), 1);
	/* Destroyed: what it had still runs. */
	CHECK_EQUAL(gmemStreamDestroy(stream), 0);
	items[1].fn(items[1].arg);
	items[2].fn(items[2].arg);
	CHECK_EQUAL(atomic_load(&order_count), 3);
	/* Gone by now. */
	for (int i = 0; i < 3; ++i) {
		items[i].fn(items[i].arg);
		gmemLaunchDropped(items[i].arg);
	}
	CHECK_EQUAL(atomic_load(&order_count), 3);
	/* Destroyed with work that never runs. */
	stream = wrap(add, executor);
	CHECK_EQUAL(gmemStreamLaunch(stream, append, NULL), 0);
	CHECK_EQUAL(gmemStreamDestroy(stream), 0);
	end_executor(executor);
}

/* ---- events, threads, fork ----------------------------------------------------------------------- */

static void events_join_streams_of_both_kinds(void) {
	struct executor *executor = new_executor(1);
	gmemStream_t foreign = wrap(add, executor), own = NULL;
	gmemEvent_t there = NULL, back = NULL;
	NEED(gmemStreamCreate(&own) == 0 && gmemEventCreate(&there) == 0 && gmemEventCreate(&back) == 0);
	for (int round = 0; round < 100; ++round) {
		atomic_store(&order_count, 0);
		struct step behind = {0, NULL, 0};
		atomic_store(&steps, 10);
		CHECK_EQUAL(gmemStreamLaunch(foreign, append, (void *)1), 0);
		CHECK_EQUAL(gmemEventRecord(there, foreign), 0);
		CHECK_EQUAL(gmemStreamWaitEvent(own, there), 0);
		CHECK_EQUAL(gmemStreamLaunch(own, append, (void *)2), 0);
		CHECK_EQUAL(gmemStreamLaunch(own, note, &(struct step){0, NULL, 0}), 0);
		CHECK_EQUAL(gmemEventRecord(back, own), 0);
		CHECK_EQUAL(gmemStreamWaitEvent(foreign, back), 0);
		/* The executor's own work waits, too. */
		NEED(add(executor, note, &behind) == 0);
		CHECK_EQUAL(gmemStreamLaunch(foreign, append, (void *)3), 0);
		CHECK_EQUAL(gmemStreamSynchronize(foreign), 0);
		CHECK_EQUAL(order[0] * 100 + order[1] * 10 + order[2], 123);
		CHECK_EQUAL(behind.at, 12);
		executor->first = executor->count = 0;
	}
	CHECK_EQUAL(gmemStreamDestroy(foreign), 0);
	CHECK_EQUAL(gmemStreamDestroy(own), 0);
	CHECK_EQUAL(gmemEventDestroy(there), 0);
	CHECK_EQUAL(gmemEventDestroy(back), 0);
	end_executor(executor);
}

static atomic_int total;
static void count(void *arg) {
	(void)arg;
	atomic_fetch_add(&total, 1);
}

static gmemStream_t shared;
static void *hammer(void *arg) {
	(void)arg;
	for (int i = 0; i < 500; ++i) {
		CHECK_EQUAL(gmemStreamLaunch(shared, count, NULL), 0);
	}
	CHECK_EQUAL(gmemStreamSynchronize(shared), 0);
	return NULL;
}

static void threads_may_share_a_stream(void) {
	struct executor *executor = new_executor(2);
	pthread_t threads[8];
	shared = wrap(add, executor);
	atomic_store(&total, 0);
	for (int i = 0; i < 8; ++i) {
		NEED(pthread_create(&threads[i], NULL, hammer, NULL) == 0);
	}
	for (int i = 0; i < 8; ++i) {
		pthread_join(threads[i], NULL);
	}
	CHECK_EQUAL(atomic_load(&total), 8 * 500);
	CHECK_EQUAL(gmemStreamDestroy(shared), 0);
	end_executor(executor);
}

/* The child has a copy of the executor, and nothing that its places stand for. */
static void a_forked_executor_is_harmless(void) {
	struct executor *executor = new_executor(0);
	gmemStream_t stream = wrap(add, executor);
	atomic_store(&total, 0);
	CHECK_EQUAL(gmemStreamLaunch(stream, count, NULL), 0);
	const pid_t child = fork();
	NEED(child >= 0);
	if (child == 0) {
		alarm(30);
		while (run_one(executor)) {
		}
		CHECK_EQUAL(atomic_load(&total), 0);
		CHECK_EQUAL(gmemStreamQuery(stream), -EINVAL);
		CHECK_EQUAL(gmemStreamLaunch(stream, count, NULL), -EINVAL);
		exit(checks_failed != 0);
	}
	int status = 1;
	NEED(waitpid(child, &status, 0) == child);
	CHECK_EQUAL(status, 0);
	while (run_one(executor)) {
	}
	CHECK_EQUAL(gmemStreamSynchronize(stream), 0);
	CHECK_EQUAL(atomic_load(&total), 1);
	CHECK_EQUAL(gmemStreamDestroy(stream), 0);
	end_executor(executor);
}

int main(void) {
	alarm(120);
	page = gmemGetPageSize();
	here = gmemGetNumaId();
	calls_take_their_place_among_the_executors_own();
	nothing_is_done_ahead_of_its_place();
	several_threads_keep_the_order();
	an_executor_may_run_at_once();
	a_failure_stays_with_the_stream();
	what_is_refused_is_not_registered();
	misuse_is_refused();
	a_place_that_is_dropped_fails();
	a_place_that_comes_late_or_twice_is_safe();
	events_join_streams_of_both_kinds();
	threads_may_share_a_stream();
	a_forked_executor_is_harmless();
	return checks_result("foreign_streams");
}
