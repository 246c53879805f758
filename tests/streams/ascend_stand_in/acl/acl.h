// SPDX-License-Identifier: Apache-2.0
// A stand-in for a few declarations of Ascend's runtime, which no registry has, with a stream that is a thread. For the
// test of gmem::streams::ascend only.
#pragma once

#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <utility>

using aclError = int;
using aclrtStream = void *;
using aclrtHostFunc = void (*)(void *args);

class ascend_stand_in {
public:
	void add(aclrtHostFunc function, void *args) {
		const std::lock_guard lock(mutex_);
		queue_.emplace_back(function, args);
		more_.notify_one();
	}

private:
	void work() {
		for (;;) {
			std::unique_lock lock(mutex_);
			more_.wait(lock, [this] { return !queue_.empty(); });
			const auto [function, args] = queue_.front();
			queue_.pop_front();
			lock.unlock();
			function(args);
		}
	}

	std::mutex mutex_;
	std::condition_variable more_;
	std::deque<std::pair<aclrtHostFunc, void *>> queue_;
	std::thread thread_{[this] { work(); }};
};

inline aclError aclrtCreateStream(aclrtStream *stream) {
	*stream = new ascend_stand_in;
	return 0;
}

inline aclError aclrtLaunchHostFunc(aclrtStream stream, aclrtHostFunc fn, void *args) {
	static_cast<ascend_stand_in *>(stream)->add(fn, args);
	return 0;
}
