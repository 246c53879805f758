// SPDX-License-Identifier: Apache-2.0
// The device "ascend": streams of Ascend's runtime as they are, on a stand-in for it, with whichever launch call it
// has. In the virtual machine (guest.py --gmem) also memory that goes to the accelerator and is dropped there.
#include <libgmem.hpp>

#include <sys/wait.h>

#include <atomic>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <acl/acl.h>
#ifndef BY_CALLBACK
#include <libgmem/streams/ascend.hpp>
#endif

#include "../check.h"

static size_t page;
static int here;

static unsigned long at(const void *start) { return static_cast<unsigned long>(reinterpret_cast<uintptr_t>(start)); }

/* ThreadSanitizer allows no addresses of one's own choice. */
static char *map(size_t size) {
	char *start =
		static_cast<char *>(mmap(nullptr, size + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	NEED(start != MAP_FAILED);
	const size_t before = -at(start) % page;
	NEED(before == 0 || munmap(start, before) == 0);
	NEED(before == page || munmap(start + before + size, page - before) == 0);
	return start + before;
}

static gmemStream_t raw(aclrtStream stream) { return static_cast<gmemStream_t>(stream); }

static void says(const char *what) {
	if (strstr(gmemLastError(), what) == nullptr) {
		fprintf(stderr, "the message does not say \"%s\": %s\n", what, gmemLastError());
		++checks_failed;
	}
}

static aclrtStream new_stream() {
	aclrtStream stream = nullptr;
	NEED(aclrtCreateStream(&stream) == ACL_SUCCESS);
	return stream;
}

/* As the header has it: synchronize, tell libgmem, destroy. */
static void end(aclrtStream stream) {
	CHECK_EQUAL(gmemStreamDestroy(raw(stream)), 0);
	CHECK_EQUAL(aclrtDestroyStream(stream), ACL_SUCCESS);
}

// ---- what streams run -------------------------------------------------------------------------------------

static std::mutex lock;
static std::vector<int> seen;

static void note(int value) {
	const std::lock_guard guard(lock);
	seen.push_back(value);
}

static std::vector<int> noted() {
	const std::lock_guard guard(lock);
	return std::exchange(seen, {});
}

static void note_number(void *number) { note(static_cast<int>(reinterpret_cast<intptr_t>(number))); }

static void *number(intptr_t value) { return reinterpret_cast<void *>(value); }

/// Keeps a stream from going on.
struct gate {
	std::atomic<bool> is_open{false}, is_reached{false};

	static void wait(void *self) {
		auto *gate = static_cast<struct gate *>(self);
		gate->is_reached = true;
		while (!gate->is_open) {
			usleep(100);
		}
	}
	void close(aclrtStream stream) {
		is_open = is_reached = false;
		NEED(ascend_stand_in_run(stream, wait, this) == ACL_SUCCESS);
		while (!is_reached) {
			usleep(100);
		}
	}
};

static void read_byte(void *byte) { note(*static_cast<volatile char *>(byte)); }
static void write_x(void *byte) { *static_cast<volatile char *>(byte) = 'x'; }

// ---- order and errors ---------------------------------------------------------------------------------------

static void calls_lie_among_the_streams_own_work() {
	aclrtStream stream = new_stream();
	char *start = map(page);
	gate gate;
	for (int round = 0; round < 20; ++round) {
		start[0] = 'a';
		gate.close(stream);
		NEED(ascend_stand_in_run(stream, read_byte, start) == ACL_SUCCESS);
		CHECK_EQUAL(gmemFreeEager(at(start), page, stream), 0);
		NEED(ascend_stand_in_run(stream, read_byte, start) == ACL_SUCCESS);
		NEED(ascend_stand_in_run(stream, write_x, start) == ACL_SUCCESS);
		CHECK_EQUAL(gmemStreamLaunch(raw(stream), read_byte, start), 0);
		CHECK_EQUAL(gmemPrefetch(at(start), page, here, stream), 0);
		NEED(ascend_stand_in_run(stream, note_number, number(7)) == ACL_SUCCESS);
		CHECK_EQUAL(gmemStreamQuery(raw(stream)), -EBUSY);
		CHECK(noted().empty());
		gate.is_open = true;
		CHECK_EQUAL(gmemStreamSynchronize(raw(stream)), 0);
		CHECK_EQUAL(gmemStreamQuery(raw(stream)), 0);
		NEED(aclrtSynchronizeStream(stream) == ACL_SUCCESS);
		CHECK(noted() == (std::vector<int>{'a', 0, 'x', 7}));
	}
	end(stream);
	munmap(start, page);
}

static void reports_and_options() {
	aclrtStream stream = new_stream();
	char *start = map(2 * page);
	gmemPrefetchReport_t report = {};
	report.size = sizeof report;
	gate gate;
	gate.close(stream);
	CHECK_EQUAL(gmemPrefetchEx(at(start), 2 * page, here, stream, nullptr, &report), 0);
	CHECK_EQUAL(report.result, -EINPROGRESS);
	gate.is_open = true;
	CHECK_EQUAL(gmemStreamSynchronize(raw(stream)), 0);
	NEED(aclrtSynchronizeStream(stream) == ACL_SUCCESS);
	CHECK_EQUAL(report.result, 0);
	CHECK_EQUAL(report.already_resident + report.populated, 2 * page / static_cast<size_t>(sysconf(_SC_PAGESIZE)));
	end(stream);
	munmap(start, 2 * page);
}

static void events_join_it_with_streams_of_libgmem() {
	aclrtStream stream = new_stream();
	gmemStream_t own = nullptr;
	gmemEvent_t there = nullptr, back = nullptr;
	NEED(gmemStreamCreate(&own) == 0 && gmemEventCreate(&there) == 0 && gmemEventCreate(&back) == 0);
	for (int round = 0; round < 20; ++round) {
		CHECK_EQUAL(gmemStreamLaunch(raw(stream), note_number, number(1)), 0);
		CHECK_EQUAL(gmemEventRecord(there, raw(stream)), 0);
		CHECK_EQUAL(gmemStreamWaitEvent(own, there), 0);
		CHECK_EQUAL(gmemStreamLaunch(own, note_number, number(2)), 0);
		CHECK_EQUAL(gmemEventRecord(back, own), 0);
		CHECK_EQUAL(gmemStreamWaitEvent(raw(stream), back), 0);
		NEED(ascend_stand_in_run(stream, note_number, number(3)) == ACL_SUCCESS);
		NEED(aclrtSynchronizeStream(stream) == ACL_SUCCESS);
		CHECK(noted() == (std::vector<int>{1, 2, 3}));
	}
	CHECK_EQUAL(gmemEventSynchronize(back), 0);
	CHECK_EQUAL(gmemEventQuery(back), 0);
	CHECK_EQUAL(gmemStreamDestroy(own), 0);
	CHECK_EQUAL(gmemEventDestroy(there), 0);
	CHECK_EQUAL(gmemEventDestroy(back), 0);
	end(stream);
}

static void a_failure_comes_out_of_synchronize() {
	aclrtStream stream = new_stream();
	char *start = map(page);
	NEED(munmap(start, page) == 0);
	CHECK_EQUAL(gmemPrefetch(at(start), page, here, stream), 0);
	CHECK_EQUAL(gmemStreamLaunch(raw(stream), note_number, number(1)), 0);
	CHECK_EQUAL(gmemStreamSynchronize(raw(stream)), -ENOMEM);
	says("gmemPrefetch");
	says("number 1");
	CHECK_EQUAL(gmemStreamSynchronize(raw(stream)), 0);
	CHECK(noted() == std::vector<int>{1});
	CHECK_EQUAL(gmemPrefetch(at(start), page, -1, stream), -EINVAL);
	CHECK_EQUAL(gmemStreamLaunch(raw(stream), nullptr, nullptr), -EINVAL);
	end(stream);
}

static void what_is_refused_is_not_registered() {
	aclrtStream stream = new_stream();
	CHECK_EQUAL(gmemStreamLaunch(raw(stream), note_number, number(1)), 0);
	const long launches = ascend_stand_in_launches();
	ascend_stand_in_fail(207001, 1);
	CHECK_EQUAL(gmemStreamLaunch(raw(stream), note_number, number(2)), -ENOMEM);
	says("207001");
	ascend_stand_in_fail(507899, 2);
	CHECK_EQUAL(gmemFreeEager(0, 0, stream), -EIO);
	says("507899");
	CHECK_EQUAL(gmemPrefetch(at(&launches), 1, here, stream), -EIO);
	CHECK_EQUAL(ascend_stand_in_launches(), launches);
	CHECK_EQUAL(gmemStreamLaunch(raw(stream), note_number, number(3)), 0);
	CHECK_EQUAL(gmemStreamSynchronize(raw(stream)), 0);
	CHECK(noted() == (std::vector<int>{1, 3}));
	end(stream);
}

/* A thread that has chosen no device, or another one, launches nothing. */
static void the_calling_threads_context_counts() {
	aclrtStream stream = new_stream();
	std::thread([&] {
		CHECK_EQUAL(gmemStreamLaunch(raw(stream), note_number, number(1)), -ENODEV);
		says("107002");
		says("aclrtSetDevice");
		NEED(aclrtSetDevice(1) == ACL_SUCCESS);
		CHECK_EQUAL(gmemStreamLaunch(raw(stream), note_number, number(1)), -EINVAL);
		says("107003");
	}).join();
	CHECK_EQUAL(gmemStreamSynchronize(raw(stream)), 0);
	CHECK(noted().empty());
	end(stream);
}

static void devices_of_the_runtime_are_served_apart() {
	aclrtStream first = new_stream();
	CHECK_EQUAL(gmemStreamLaunch(raw(first), note_number, number(1)), 0);
	CHECK_EQUAL(gmemStreamSynchronize(raw(first)), 0);
	std::thread([&] {
		NEED(aclrtSetDevice(1) == ACL_SUCCESS);
		aclrtStream second = new_stream();
		CHECK_EQUAL(gmemStreamLaunch(raw(second), note_number, number(2)), 0);
		CHECK_EQUAL(gmemStreamSynchronize(raw(second)), 0);
		end(second);
	}).join();
	CHECK(noted() == (std::vector<int>{1, 2}));
	end(first);
}

// ---- life and death -------------------------------------------------------------------------------------------

static void many_streams_share_a_thread() {
	std::vector<aclrtStream> streams;
	for (int i = 0; i < 20; ++i) {
		streams.push_back(new_stream());
	}
	for (int round = 0; round < 50; ++round) {
		for (aclrtStream stream : streams) {
			CHECK_EQUAL(gmemStreamLaunch(raw(stream), note_number, number(round)), 0);
		}
	}
	for (aclrtStream stream : streams) {
		CHECK_EQUAL(gmemStreamSynchronize(raw(stream)), 0);
	}
	CHECK_EQUAL(noted().size(), 20 * 50);
	for (aclrtStream stream : streams) {
		end(stream);
	}
	CHECK_EQUAL(ascend_stand_in_subscriptions(), 0);
}

static void a_stream_that_was_given_up_finishes_and_comes_back() {
	aclrtStream stream = new_stream();
	gate gate;
	gate.close(stream);
	CHECK_EQUAL(gmemStreamLaunch(raw(stream), note_number, number(1)), 0);
	CHECK_EQUAL(gmemStreamDestroy(raw(stream)), 0);
	/* Unknown to libgmem, so there is nothing on it; and it may be given up again. */
	CHECK_EQUAL(gmemStreamQuery(raw(stream)), 0);
	CHECK_EQUAL(gmemStreamDestroy(raw(stream)), 0);
	gate.is_open = true;
	NEED(aclrtSynchronizeStream(stream) == ACL_SUCCESS);
	CHECK(noted() == std::vector<int>{1});
	for (int i = 0; i < 5; ++i) {
		CHECK_EQUAL(gmemStreamLaunch(raw(stream), note_number, number(2)), 0);
		CHECK_EQUAL(gmemStreamSynchronize(raw(stream)), 0);
		CHECK_EQUAL(gmemStreamDestroy(raw(stream)), 0);
	}
	CHECK_EQUAL(noted().size(), 5);
	/* A call of the runtime's that comes twice, or after that. */
	NEED(ascend_stand_in_repeat(stream) == ACL_SUCCESS);
	NEED(aclrtSynchronizeStream(stream) == ACL_SUCCESS);
	CHECK(noted().empty());
	NEED(aclrtDestroyStream(stream) == ACL_SUCCESS);
	CHECK_EQUAL(ascend_stand_in_subscriptions(), 0);
}

/* The runtime gives the address of a stream that is gone to the next one. */
static void addresses_are_used_again() {
	for (int i = 0; i < 50; ++i) {
		aclrtStream stream = new_stream();
		CHECK_EQUAL(gmemStreamLaunch(raw(stream), note_number, number(i)), 0);
		CHECK_EQUAL(gmemStreamSynchronize(raw(stream)), 0);
		if (i % 2 == 0) {
			CHECK_EQUAL(gmemStreamDestroy(raw(stream)), 0);
		} /* else libgmem is not told, which costs it some memory and nothing else */
		CHECK_EQUAL(aclrtDestroyStream(stream), ACL_SUCCESS);
	}
	CHECK_EQUAL(noted().size(), 50);
}

static void a_destroyed_stream_is_refused() {
	aclrtStream stream = new_stream();
	NEED(aclrtDestroyStream(stream) == ACL_SUCCESS);
	CHECK_EQUAL(gmemStreamLaunch(raw(stream), note_number, number(1)), -EINVAL);
	says("107000");
	CHECK_EQUAL(gmemStreamSynchronize(raw(stream)), 0);
	CHECK_EQUAL(gmemStreamDestroy(raw(stream)), 0);
	CHECK(noted().empty());
}

/* As a stream_ref, with callables and exceptions. */
static void cpp_takes_it() {
	aclrtStream stream = new_stream();
	const gmem::stream_ref ref(raw(stream));
	char *start = map(page);
	start[0] = 'a';
	ref.launch([start] { note(start[0]); });
	gmem::free_eager({start, page}, ref);
	ref.launch([start] { note(start[0]); });
	ref.launch([] { throw std::runtime_error("spilt"); });
	gmem::prefetch({start, page}, here, ref);
	try {
		ref.synchronize();
		CHECK(!"it threw");
	} catch (const gmem::error &failure) {
		CHECK(std::string(failure.what()).find("spilt") != std::string::npos);
	}
	CHECK(ref.query());
	CHECK(noted() == (std::vector<int>{'a', 0}));
	NEED(aclrtSynchronizeStream(stream) == ACL_SUCCESS);
	end(stream);
	munmap(start, page);
}

/* The adapter, which is for other devices, has a place in the same order. */
static void the_adapter_goes_with_it() {
#ifndef BY_CALLBACK
	aclrtStream stream = new_stream();
	const gmem::external_stream wrapped = gmem::streams::ascend(stream);
	for (int round = 0; round < 10; ++round) {
		CHECK_EQUAL(gmemStreamLaunch(raw(stream), note_number, number(1)), 0);
		CHECK_EQUAL(gmemStreamLaunch(wrapped.get(), note_number, number(2)), 0);
		CHECK_EQUAL(gmemStreamLaunch(raw(stream), note_number, number(3)), 0);
		NEED(aclrtSynchronizeStream(stream) == ACL_SUCCESS);
		CHECK(noted() == (std::vector<int>{1, 2, 3}));
	}
	end(stream);
#endif
}

/* A framework's thread stays the stream's. */
static void a_thread_that_is_subscribed_already_is_left_alone() {
#ifdef BY_CALLBACK
	aclrtStream stream = new_stream();
	std::atomic<bool> is_over{false};
	std::atomic<uint64_t> id{0};
	std::thread theirs([&] {
		NEED(aclrtSetDevice(0) == ACL_SUCCESS);
		id = static_cast<uint64_t>(pthread_self());
		while (!is_over) {
			(void)aclrtProcessReport(10);
			usleep(100);
		}
	});
	while (id == 0) {
		usleep(100);
	}
	NEED(aclrtSubscribeReport(id, stream) == ACL_SUCCESS);
	CHECK_EQUAL(gmemStreamLaunch(raw(stream), note_number, number(1)), 0);
	CHECK_EQUAL(gmemStreamSynchronize(raw(stream)), 0);
	CHECK_EQUAL(gmemStreamDestroy(raw(stream)), 0);
	CHECK_EQUAL(ascend_stand_in_subscriptions(), 1);
	NEED(aclrtSynchronizeStream(stream) == ACL_SUCCESS);
	CHECK_EQUAL(aclrtUnSubscribeReport(id, stream), ACL_SUCCESS);
	CHECK(noted() == std::vector<int>{1});
	is_over = true;
	theirs.join();
	NEED(aclrtDestroyStream(stream) == ACL_SUCCESS);
#else
	/* With the newer call there is nobody to subscribe, and the older one is not for the same stream. */
	aclrtStream stream = new_stream();
	NEED(aclrtSubscribeReport(static_cast<uint64_t>(pthread_self()), stream) == ACL_SUCCESS);
	NEED(aclrtLaunchCallback(note_number, number(1), ACL_CALLBACK_NO_BLOCK, stream) == ACL_SUCCESS);
	CHECK_EQUAL(aclrtProcessReport(1000), ACL_SUCCESS);
	CHECK_EQUAL(gmemStreamLaunch(raw(stream), note_number, number(2)), -EOPNOTSUPP);
	says("207000");
	says("aclrtLaunchCallback");
	CHECK(noted() == std::vector<int>{1});
	NEED(aclrtUnSubscribeReport(static_cast<uint64_t>(pthread_self()), stream) == ACL_SUCCESS);
	end(stream);
#endif
}

static std::atomic<int> counted{0};
static void count(void * /*arg*/) { ++counted; }

static void threads_may_share_a_stream() {
	aclrtStream stream = new_stream();
	std::vector<std::thread> threads;
	counted = 0;
	for (int i = 0; i < 4; ++i) {
		threads.emplace_back([&] {
			NEED(aclrtSetDevice(0) == ACL_SUCCESS);
			for (int j = 0; j < 200; ++j) {
				CHECK_EQUAL(gmemStreamLaunch(raw(stream), count, nullptr), 0);
			}
			CHECK_EQUAL(gmemStreamSynchronize(raw(stream)), 0);
		});
	}
	for (std::thread &thread : threads) {
		thread.join();
	}
	CHECK_EQUAL(counted, 4 * 200);
	end(stream);
}

/* On another device the number is no stream; nothing else ever happens. */
static void others_switch_the_device() {
	aclrtStream stream = new_stream();
	std::atomic<bool> is_over{false};
	const auto change = [&] {
		while (!is_over) {
			CHECK_EQUAL(gmemSetDevice("host"), 0);
			CHECK_EQUAL(gmemSetDevice("ascend"), 0);
		}
	};
	std::thread one(change), two(change);
	int done = 0;
	counted = 0;
	for (int i = 0; i < 2000; ++i) {
		const int result = gmemStreamLaunch(raw(stream), count, nullptr);
		CHECK(result == 0 || result == -EINVAL);
		done += result == 0 ? 1 : 0;
		const int freed = gmemFreeEager(0, 0, stream);
		CHECK(freed == 0 || freed == -EINVAL);
	}
	is_over = true;
	one.join();
	two.join();
	CHECK_EQUAL(gmemSetDevice("ascend"), 0);
	CHECK_EQUAL(gmemStreamSynchronize(raw(stream)), 0);
	CHECK_EQUAL(counted, done);
	end(stream);
}

// ---- what is no stream ------------------------------------------------------------------------------------------

static void refused_everywhere(void *stream, const char *why) {
	gmemEvent_t event = nullptr;
	NEED(gmemEventCreate(&event) == 0);
	const auto handle = static_cast<gmemStream_t>(stream);
	CHECK_EQUAL(gmemFreeEager(0, 0, stream), -EINVAL);
	CHECK_EQUAL(gmemPrefetch(0, 0, here, stream), -EINVAL);
	CHECK_EQUAL(gmemPrefetchEx(0, 0, here, stream, nullptr, nullptr), -EINVAL);
	CHECK_EQUAL(gmemStreamLaunch(handle, count, nullptr), -EINVAL);
	CHECK_EQUAL(gmemStreamQuery(handle), -EINVAL);
	CHECK_EQUAL(gmemStreamSynchronize(handle), -EINVAL);
	CHECK_EQUAL(gmemEventRecord(event, handle), -EINVAL);
	CHECK_EQUAL(gmemStreamWaitEvent(handle, event), -EINVAL);
	CHECK_EQUAL(gmemStreamDestroy(handle), -EINVAL);
	says(why);
	CHECK_EQUAL(gmemEventDestroy(event), 0);
}

/* Told by the number alone: nothing is mapped at any of these. */
static void numbers_that_are_no_streams() {
	char *unmapped = map(page);
	NEED(munmap(unmapped, page) == 0);
	CHECK_EQUAL(gmemSetDevice("host"), 0);
	for (void *stream : {number(0x1000), number(1), number(2), number(0xdeadbeef), static_cast<void *>(unmapped)}) {
		refused_everywhere(stream, "GMEM_DEVICE");
	}
	CHECK_EQUAL(gmemSetDevice("ascend"), 0);
	for (void *stream : {number(1), number(2), number(8), number(0xdeadbee2), static_cast<void *>(unmapped + 4)}) {
		refused_everywhere(stream, "is not a stream");
	}
}

static void a_child_is_told() {
#ifdef __SANITIZE_THREAD__
	puts("note: ThreadSanitizer allows no threads after fork()");
	return;
#endif
	aclrtStream stream = new_stream();
	gate gate;
	counted = 0;
	gate.close(stream);
	CHECK_EQUAL(gmemStreamLaunch(raw(stream), count, nullptr), 0);
	const pid_t child = fork();
	NEED(child >= 0);
	if (child == 0) {
		alarm(30);
		checks_failed = 0;
		CHECK_EQUAL(gmemStreamLaunch(raw(stream), count, nullptr), -ENODEV);
		says("fork()");
		CHECK_EQUAL(gmemFreeEager(0, 0, stream), -ENODEV);
		CHECK_EQUAL(gmemStreamSynchronize(raw(stream)), -ENODEV);
		/* There is nothing of it here to give up. */
		CHECK_EQUAL(gmemStreamDestroy(raw(stream)), 0);
		gmemStream_t own = nullptr;
		CHECK_EQUAL(gmemStreamCreate(&own), 0);
		CHECK_EQUAL(gmemStreamLaunch(own, count, nullptr), 0);
		CHECK_EQUAL(gmemStreamSynchronize(own), 0);
		CHECK_EQUAL(counted, 1);
		CHECK_EQUAL(ascend_stand_in_violations(), 0);
		exit(checks_failed != 0);
	}
	int status = -1;
	NEED(waitpid(child, &status, 0) == child);
	CHECK_EQUAL(status, 0);
	gate.is_open = true;
	CHECK_EQUAL(gmemStreamSynchronize(raw(stream)), 0);
	CHECK_EQUAL(counted, 1);
	end(stream);
}

// ---- with a GMEM kernel -----------------------------------------------------------------------------------------

static long on_device(int hnid) {
	const std::string path = "/sys/kernel/mm/gmem/hnode" + std::to_string(hnid) + "/nr_activepages";
	FILE *file = fopen(path.c_str(), "re");
	long pages = -1;
	NEED(file != nullptr && fscanf(file, "%ld", &pages) == 1);
	fclose(file);
	return pages;
}

static void memory_goes_to_the_accelerator_and_is_dropped_there() {
	const int device = gmemGetNumaId();
	NEED(device > 0);
	char *block = static_cast<char *>(gmem_malloc(4 * page));
	NEED(block != nullptr);
	memset(block, 'm', 4 * page);
	aclrtStream stream = new_stream();
	gate gate;
	gate.close(stream);
	CHECK_EQUAL(gmemPrefetch(at(block), 4 * page, device, stream), 0);
	CHECK_EQUAL(gmemFreeEager(at(block), page, stream), 0);
	CHECK_EQUAL(on_device(device), 0);
	gate.is_open = true;
	CHECK_EQUAL(gmemStreamSynchronize(raw(stream)), 0);
	CHECK_EQUAL(on_device(device), 3);
	CHECK(is_all(block, page, 0));
	CHECK(is_all(block + page, 3 * page, 'm'));
	/* Ordinary memory stays where it is, and the stream says so. */
	char *ordinary = map(page);
	CHECK_EQUAL(gmemPrefetch(at(ordinary), page, device, stream), 0);
	CHECK_EQUAL(gmemStreamSynchronize(raw(stream)), -EINVAL);
	says("peer-shared");
	munmap(ordinary, page);
	end(stream);
	gmem_free(block);
}

static void memory() {
	CHECK_EQUAL(gmemSetDevice("ascend"), 0);
	CHECK(strcmp(gmemGetDevice(), "ascend") == 0);
	if (access("/sys/module/gmem_kernel", F_OK) == 0) {
		memory_goes_to_the_accelerator_and_is_dropped_there();
	} else if (access("/dev/gmem", F_OK) != 0) {
		CHECK_EQUAL(gmemGetNumaId(), -ENODEV);
		says("/dev/gmem");
	}
}

/* The runtime finds none of libgmem's threads inside it when it takes itself apart. */
static void one_is_left_to_the_end() {
	aclrtStream stream = new_stream();
	CHECK_EQUAL(gmemStreamLaunch(raw(stream), count, nullptr), 0);
	CHECK_EQUAL(gmemStreamSynchronize(raw(stream)), 0);
#ifdef BY_CALLBACK
	CHECK_EQUAL(ascend_stand_in_subscriptions(), 1);
#endif
}

int main() {
	alarm(120);
	page = gmemGetPageSize();
	NEED(gmemSetDevice("host") == 0);
	here = gmemGetNumaId();
	NEED(aclrtSetDevice(0) == ACL_SUCCESS);
	memory();
	calls_lie_among_the_streams_own_work();
	reports_and_options();
	events_join_it_with_streams_of_libgmem();
	a_failure_comes_out_of_synchronize();
	what_is_refused_is_not_registered();
	the_calling_threads_context_counts();
	devices_of_the_runtime_are_served_apart();
	many_streams_share_a_thread();
	a_stream_that_was_given_up_finishes_and_comes_back();
	a_thread_that_is_subscribed_already_is_left_alone();
	cpp_takes_it();
	the_adapter_goes_with_it();
	threads_may_share_a_stream();
	others_switch_the_device();
	numbers_that_are_no_streams();
	a_child_is_told();
	a_destroyed_stream_is_refused();
	addresses_are_used_again();
	CHECK_EQUAL(ascend_stand_in_violations(), 0);
	one_is_left_to_the_end();
	return checks_result("ascend");
}
