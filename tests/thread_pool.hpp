// SPDX-License-Identifier: Apache-2.0
// An executor, for tests and benchmarks.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

/// As many write it: functions are copied into a queue that threads take from.
class thread_pool {
public:
	explicit thread_pool(int threads) {
		for (int i = 0; i < threads; ++i) {
			threads_.emplace_back([this] { work(); });
		}
	}
	thread_pool(const thread_pool &) = delete;
	thread_pool &operator=(const thread_pool &) = delete;
	~thread_pool() {
		{
			const std::lock_guard lock(mutex_);
			ends_ = true;
		}
		more_.notify_all();
		for (std::thread &thread : threads_) {
			thread.join();
		}
	}
	void execute(std::function<void()> function) {
		const std::lock_guard lock(mutex_);
		queue_.push_back(std::move(function));
		more_.notify_one();
	}

private:
	void work() {
		for (;;) {
			std::unique_lock lock(mutex_);
			more_.wait(lock, [this] { return ends_ || !queue_.empty(); });
			if (queue_.empty()) {
				return;
			}
			auto function = std::move(queue_.front());
			queue_.pop_front();
			lock.unlock();
			function();
		}
	}

	std::mutex mutex_;
	std::condition_variable more_;
	std::deque<std::function<void()>> queue_;
	bool ends_ = false;
	std::vector<std::thread> threads_;
};
