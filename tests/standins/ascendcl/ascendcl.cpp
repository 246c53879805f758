// SPDX-License-Identifier: Apache-2.0
// The stand-in for Ascend's runtime: each stream is a thread that does what it is given in order. What the
// documentation forbids is refused, and where it says that something never comes, it never comes.
//
// Older runtimes are built of the same file: WITHOUT_HOST_FUNC, WITHOUT_PROCESS_REPORT.
#include "acl/acl.h"

#include <pthread.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <thread>

namespace {

constexpr int devices = 2;

struct task {
	enum class kind { kernel, host_function, callback } what;
	void (*function)(void *);
	void *argument;
	bool blocks;
};

/// A callback on its way to the thread that runs it.
struct report {
	task todo;
	void *from;
	std::shared_ptr<bool> done;
};

struct stream {
	int device = 0;
	std::deque<task> waiting;
	bool busy = false;
	bool ends = false;
	/// Functions are launched by either call, never by both.
	bool has_host_functions = false;
	bool has_callbacks = false;
	/// The thread that runs its callbacks, 0 for none.
	std::uint64_t subscriber = 0;
	task last{};
	std::thread thread;
};

/// A thread that is subscribed to streams.
struct reporter {
	int device = 0;
	int streams = 0;
	std::deque<report> waiting;
};

/// Never destroyed: threads outlive the end of main.
struct runtime {
	std::mutex mutex;
	std::condition_variable changed;
	std::map<void *, std::unique_ptr<stream>> streams;
	std::map<std::uint64_t, reporter> reporters;
	int contexts[devices] = {};
	aclError failure = ACL_SUCCESS;
	int failures = 0;
	long launches = 0;
	std::atomic<int> violations{0};
	/// Threads that wait for reports.
	std::atomic<int> inside{0};
	pid_t process = getpid();
};

runtime &all() {
	static auto *one = new runtime;
	return *one;
}

/// At exit() the real one takes itself apart, and who is inside then has nothing under its feet.
const struct end {
	~end() {
		if (getpid() == all().process && all().inside > 0) {
			std::fputs("libascendcl (stand-in): a thread waits for reports while the process ends\n", stderr);
			_exit(70);
		}
	}
} at_the_end{};

thread_local int *current_context = nullptr;
thread_local bool is_in_function = false;

void call(const task &todo) {
	is_in_function = todo.what != task::kind::kernel;
	todo.function(todo.argument);
	is_in_function = false;
}

/// Every call begins here.
aclError enter() {
	if (is_in_function || getpid() != all().process) {
		++all().violations;
		return ACL_ERROR_RT_INTERNAL_ERROR;
	}
	return current_context == nullptr ? ACL_ERROR_RT_CONTEXT_NULL : ACL_SUCCESS;
}

int current_device() { return static_cast<int>(current_context - all().contexts); }

/// With the lock.
aclError find(void *handle, stream *&found) {
	const auto at = all().streams.find(handle);
	if (at == all().streams.end() || at->second->ends) {
		return ACL_ERROR_RT_PARAM_INVALID;
	}
	found = at->second.get();
	return found->device == current_device() ? ACL_SUCCESS : ACL_ERROR_RT_STREAM_CONTEXT;
}

void serve(stream &self) {
	std::unique_lock lock(all().mutex);
	for (;;) {
		all().changed.wait(lock, [&] { return !self.waiting.empty() || self.ends; });
		if (self.waiting.empty()) {
			return;
		}
		const task next = self.waiting.front();
		self.waiting.pop_front();
		self.busy = true;
		if (next.what == task::kind::callback) {
			// To whom nobody is subscribed any more waits for ever.
			all().changed.wait(lock, [&] { return self.subscriber != 0; });
			const auto done = std::make_shared<bool>(false);
			all().reporters[self.subscriber].waiting.push_back({next, &self, done});
			all().changed.notify_all();
			// And so does one whose subscription ended before the function's return was told.
			all().changed.wait(lock, [&] { return *done || !next.blocks; });
		} else {
			lock.unlock();
			call(next);
			lock.lock();
		}
		self.busy = false;
		all().changed.notify_all();
	}
}

aclError add(aclrtStream handle, const task &todo) {
	if (const aclError wrong = enter()) {
		return wrong;
	}
	const std::lock_guard lock(all().mutex);
	stream *to = nullptr;
	if (const aclError wrong = find(handle, to)) {
		return wrong;
	}
	if (todo.what != task::kind::kernel) {
		if (all().failures > 0) {
			--all().failures;
			return all().failure;
		}
		const bool is_callback = todo.what == task::kind::callback;
		if (is_callback ? to->has_host_functions : to->has_callbacks) {
			return ACL_ERROR_RT_FEATURE_NOT_SUPPORT;
		}
		if (is_callback && to->subscriber == 0) {
			return ACL_ERROR_RT_STREAM_NO_CB_REG;
		}
		(is_callback ? to->has_callbacks : to->has_host_functions) = true;
		to->last = todo;
		++all().launches;
	}
	to->waiting.push_back(todo);
	all().changed.notify_all();
	return ACL_SUCCESS;
}

} // namespace

extern "C" {

aclError aclrtSetDevice(int32_t deviceId) {
	if (deviceId < 0 || deviceId >= devices) {
		return ACL_ERROR_RT_PARAM_INVALID;
	}
	return aclrtSetCurrentContext(&all().contexts[deviceId]);
}

aclError aclrtGetDevice(int32_t *deviceId) {
	if (const aclError wrong = enter()) {
		return wrong;
	}
	*deviceId = current_device();
	return ACL_SUCCESS;
}

aclError aclrtGetCurrentContext(aclrtContext *context) {
	if (const aclError wrong = enter()) {
		return wrong;
	}
	*context = current_context;
	return ACL_SUCCESS;
}

aclError aclrtSetCurrentContext(aclrtContext context) {
	const aclError wrong = enter();
	if (wrong == ACL_ERROR_RT_INTERNAL_ERROR) {
		return wrong;
	}
	int *const wanted = static_cast<int *>(context);
	if (wanted != &all().contexts[0] && wanted != &all().contexts[1]) {
		return ACL_ERROR_RT_PARAM_INVALID;
	}
	current_context = wanted;
	return ACL_SUCCESS;
}

aclError aclrtCreateStream(aclrtStream *handle) {
	if (const aclError wrong = enter()) {
		return wrong;
	}
	auto made = std::make_unique<stream>();
	stream *const self = made.get();
	self->device = current_device();
	const std::lock_guard lock(all().mutex);
	self->thread = std::thread([self] { serve(*self); });
	all().streams.emplace(self, std::move(made));
	*handle = self;
	return ACL_SUCCESS;
}

aclError aclrtSynchronizeStream(aclrtStream handle) {
	if (const aclError wrong = enter()) {
		return wrong;
	}
	std::unique_lock lock(all().mutex);
	stream *to = nullptr;
	if (const aclError wrong = find(handle, to)) {
		return wrong;
	}
	all().changed.wait(lock, [&] { return to->waiting.empty() && !to->busy; });
	return ACL_SUCCESS;
}

aclError aclrtDestroyStream(aclrtStream handle) {
	if (const aclError wrong = aclrtSynchronizeStream(handle)) {
		return wrong;
	}
	std::unique_lock lock(all().mutex);
	stream *to = nullptr;
	if (const aclError wrong = find(handle, to)) {
		return wrong;
	}
	to->ends = true;
	all().changed.notify_all();
	lock.unlock();
	to->thread.join();
	lock.lock();
	if (to->subscriber != 0) {
		--all().reporters[to->subscriber].streams;
	}
	all().streams.erase(handle);
	return ACL_SUCCESS;
}

#if !defined(WITHOUT_HOST_FUNC)
aclError aclrtLaunchHostFunc(aclrtStream stream, aclrtHostFunc fn, void *args) {
	return add(stream, {task::kind::host_function, fn, args, true});
}
#endif

aclError aclrtLaunchCallback(aclrtCallback fn, void *userData, aclrtCallbackBlockType blockType, aclrtStream stream) {
	if (blockType != ACL_CALLBACK_BLOCK && blockType != ACL_CALLBACK_NO_BLOCK) {
		return ACL_ERROR_INVALID_PARAM;
	}
	return add(stream, {task::kind::callback, fn, userData, blockType == ACL_CALLBACK_BLOCK});
}

aclError aclrtSubscribeReport(uint64_t threadId, aclrtStream handle) {
	if (const aclError wrong = enter()) {
		return wrong;
	}
	const std::lock_guard lock(all().mutex);
	stream *to = nullptr;
	if (const aclError wrong = find(handle, to)) {
		return wrong;
	}
	if (to->subscriber != 0) {
		return ACL_ERROR_RT_STREAM_SUBSCRIBE;
	}
	reporter &thread = all().reporters[threadId];
	if (thread.streams > 0 && thread.device != to->device) {
		return ACL_ERROR_RT_THREAD_SUBSCRIBE;
	}
	thread.device = to->device;
	++thread.streams;
	to->subscriber = threadId;
	all().changed.notify_all();
	return ACL_SUCCESS;
}

aclError aclrtUnSubscribeReport(uint64_t threadId, aclrtStream handle) {
	if (const aclError wrong = enter(); wrong != ACL_SUCCESS && wrong != ACL_ERROR_RT_CONTEXT_NULL) {
		return wrong;
	}
	const std::lock_guard lock(all().mutex);
	const auto at = all().streams.find(handle);
	if (at == all().streams.end() || at->second->subscriber != threadId) {
		return ACL_ERROR_RT_STREAM_SUBSCRIBE;
	}
	at->second->subscriber = 0;
	--all().reporters[threadId].streams;
	all().changed.notify_all();
	return ACL_SUCCESS;
}

#if !defined(WITHOUT_PROCESS_REPORT)
aclError aclrtProcessReport(int32_t timeout) {
	if (const aclError wrong = enter()) {
		return wrong;
	}
	if (timeout != -1 && timeout <= 0) {
		return ACL_ERROR_INVALID_PARAM;
	}
	const struct visit {
		visit() { ++all().inside; }
		~visit() { --all().inside; }
	} visit{};
	std::unique_lock lock(all().mutex);
	const auto at = all().reporters.find(pthread_self());
	if (at == all().reporters.end() || at->second.streams == 0) {
		return ACL_ERROR_RT_THREAD_SUBSCRIBE;
	}
	reporter &self = at->second;
	const auto has_some = [&] { return !self.waiting.empty(); };
	if (timeout == -1) {
		all().changed.wait(lock, has_some);
	} else if (!all().changed.wait_for(lock, std::chrono::milliseconds(timeout), has_some)) {
		return ACL_ERROR_RT_REPORT_TIMEOUT;
	}
	const report next = self.waiting.front();
	self.waiting.pop_front();
	lock.unlock();
	call(next.todo);
	// The time between a function's return and the stream's learning of it.
	std::this_thread::sleep_for(std::chrono::microseconds(200));
	lock.lock();
	const auto from = all().streams.find(next.from);
	*next.done = from != all().streams.end() && from->second->subscriber == pthread_self();
	all().changed.notify_all();
	return ACL_SUCCESS;
}
#endif

aclError ascend_stand_in_run(aclrtStream stream, void (*kernel)(void *), void *args) {
	return add(stream, {task::kind::kernel, kernel, args, true});
}

void ascend_stand_in_fail(aclError code, int count) {
	const std::lock_guard lock(all().mutex);
	all().failure = code;
	all().failures = count;
}

aclError ascend_stand_in_repeat(aclrtStream handle) {
	const std::lock_guard lock(all().mutex);
	stream *to = nullptr;
	if (const aclError wrong = find(handle, to)) {
		return wrong;
	}
	task again = to->last;
	again.what = task::kind::kernel;
	to->waiting.push_back(again);
	all().changed.notify_all();
	return ACL_SUCCESS;
}

int ascend_stand_in_violations(void) { return all().violations; }

int ascend_stand_in_subscriptions(void) {
	const std::lock_guard lock(all().mutex);
	int count = 0;
	for (const auto &[handle, one] : all().streams) {
		count += one->subscriber != 0 ? 1 : 0;
	}
	return count;
}

long ascend_stand_in_launches(void) {
	const std::lock_guard lock(all().mutex);
	return all().launches;
}

} // extern "C"
