// SPDX-License-Identifier: Apache-2.0
/// @file
/// heap_load WORKLOAD: one allocation workload on whatever malloc the process has; prints its CPU seconds,
/// and the resident memory at its peak and 4 s after everything was freed. tools/bench_heap.py runs it under
/// one allocator after the other. Each workload is written from its published description.
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include <sys/resource.h>
#include <unistd.h>

namespace {

double cpu_seconds() {
	timespec time{};
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
	return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

/// splitmix64: fast, and the same sequence for every allocator.
class random_source {
public:
	explicit random_source(std::uint64_t seed) : state_(seed) {}
	std::uint64_t next() {
		std::uint64_t z = (state_ += 0x9e3779b97f4a7c15);
		z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
		z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
		return z ^ (z >> 31);
	}
	std::size_t between(std::size_t low, std::size_t high) { return low + next() % (high - low + 1); }

private:
	std::uint64_t state_;
};

char *get(std::size_t size) {
	char *block = static_cast<char *>(std::malloc(size));
	if (block == nullptr) {
		std::abort();
	}
	return block;
}

void pair(std::size_t size) {
	for (int i = 0; i < 20'000'000; ++i) {
		char *block = get(size);
		block[0] = 1;
		std::free(block);
	}
}

void batch(std::size_t size) {
	char *blocks[64];
	for (int i = 0; i < 200'000; ++i) {
		for (char *&block : blocks) {
			block = get(size);
			block[0] = 1;
		}
		for (char *block : blocks) {
			std::free(block);
		}
	}
}

/// Random sizes among 4096 live blocks.
void random_sizes() {
	random_source random(1);
	std::vector<char *> live(4096);
	for (int i = 0; i < 20'000'000; ++i) {
		char *&slot = live[random.next() % live.size()];
		std::free(slot);
		slot = get(random.between(16, 4096));
		slot[0] = 1;
	}
	for (char *block : live) {
		std::free(block);
	}
}

/// Larson and Krishnan: a server's threads replace blocks of random size, and hand what is left to their
/// successors, so that memory is freed by threads that did not allocate it.
void larson(unsigned threads) {
	constexpr int generations = 40, replacements = 200'000;
	std::vector<std::vector<char *>> hands(threads, std::vector<char *>(1000));
	for (int generation = 0; generation < generations; ++generation) {
		std::vector<std::thread> running;
		for (unsigned t = 0; t < threads; ++t) {
			running.emplace_back([&hands, t, generation] {
				random_source random(t * 1000 + static_cast<unsigned>(generation));
				auto &blocks = hands[t];
				for (int i = 0; i < replacements; ++i) {
					char *&slot = blocks[random.next() % blocks.size()];
					std::free(slot);
					const std::size_t size = random.between(8, 1000);
					slot = get(size);
					slot[0] = slot[size - 1] = 1;
				}
			});
		}
		for (auto &thread : running) {
			thread.join();
		}
		std::rotate(hands.begin(), hands.begin() + 1, hands.end());
	}
	for (auto &blocks : hands) {
		for (char *block : blocks) {
			std::free(block);
		}
	}
}

/// Lever and Boreham's malloc-test: one thread allocates in batches, another frees them.
void xmalloc() {
	constexpr int batches = 40'000, size = 128;
	struct batch {
		char *blocks[size];
	};
	std::mutex mutex;
	std::vector<batch *> waiting;
	std::atomic<bool> done = false;
	std::thread consumer([&] {
		for (;;) {
			std::vector<batch *> taken;
			const bool last = done;
			{
				const std::lock_guard lock(mutex);
				taken.swap(waiting);
			}
			for (batch *one : taken) {
				for (char *block : one->blocks) {
					std::free(block);
				}
				delete one;
			}
			if (taken.empty()) {
				if (last) {
					return;
				}
				std::this_thread::yield();
			}
		}
	});
	random_source random(3);
	for (int i = 0; i < batches; ++i) {
		auto *one = new batch;
		for (char *&block : one->blocks) {
			block = get(std::size_t{1} << random.between(4, 11));
			block[0] = 1;
		}
		for (;;) {
			const std::lock_guard lock(mutex);
			if (waiting.size() < 256) {
				waiting.push_back(one);
				break;
			}
			std::this_thread::yield();
		}
	}
	done = true;
	consumer.join();
}

/// The shape of mimalloc-bench's malloc-large: 20 live blocks of 5 to 25 MiB, replaced at random.
void malloc_large() {
	random_source random(5);
	std::vector<char *> live(20);
	for (int i = 0; i < 1500; ++i) {
		char *&slot = live[random.next() % live.size()];
		std::free(slot);
		const std::size_t size = random.between(std::size_t{5} << 20, std::size_t{25} << 20);
		slot = get(size);
		for (std::size_t at = 0; at < size; at += 4096) {
			slot[at] = 1;
		}
	}
	for (char *block : live) {
		std::free(block);
	}
}

void fill(std::size_t size, int times) {
	for (int i = 0; i < times; ++i) {
		char *block = get(size);
		std::memset(block, i, size);
		std::free(block);
	}
}

void push_back() {
	std::vector<float> vector;
	for (int i = 0; i < 100'000'000; ++i) {
		vector.push_back(static_cast<float>(i));
	}
}

/// 4 KiB to 1 GiB by a quarter each time; what is new is written.
void grow() {
	std::size_t size = 4096;
	char *block = get(size);
	std::memset(block, 1, size);
	while (size < std::size_t{1} << 30) {
		const std::size_t next = size * 5 / 4;
		block = static_cast<char *>(std::realloc(block, next));
		if (block == nullptr) {
			std::abort();
		}
		std::memset(block + size, 1, next - size);
		size = next;
	}
	std::free(block);
}

std::size_t resident() {
	std::FILE *statm = std::fopen("/proc/self/statm", "re");
	unsigned long total = 0, pages = 0;
	if (statm == nullptr || std::fscanf(statm, "%lu %lu", &total, &pages) != 2) {
		std::abort();
	}
	std::fclose(statm);
	return pages * static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
}

} // namespace

int main(int argc, char **argv) {
	const std::map<std::string, std::function<void()>> workloads = {
		{"pair-16", [] { pair(16); }},
		{"pair-256", [] { pair(256); }},
		{"pair-1024", [] { pair(1024); }},
		{"pair-4096", [] { pair(4096); }},
		{"batch64-256", [] { batch(256); }},
		{"batch64-4096", [] { batch(4096); }},
		{"random", random_sizes},
		{"larson-2", [] { larson(2); }},
		{"xmalloc-2", xmalloc},
		{"malloc-large", malloc_large},
		{"fill-1MiB", [] { fill(std::size_t{1} << 20, 2000); }},
		{"fill-64MiB", [] { fill(std::size_t{64} << 20, 40); }},
		{"push_back", push_back},
		{"realloc-grow", grow},
	};
	const auto chosen = argc > 1 ? workloads.find(argv[1]) : workloads.end();
	if (chosen == workloads.end()) {
		for (const auto &[name, run] : workloads) {
			std::puts(name.c_str());
		}
		return argc > 1 ? 2 : 0;
	}
	const double before = cpu_seconds();
	chosen->second();
	const double seconds = cpu_seconds() - before;
	rusage usage{};
	getrusage(RUSAGE_SELF, &usage);
	// A little life goes on, as it does in a program; nothing is freed that was not.
	for (int i = 0; i < 40; ++i) {
		usleep(std::getenv("HEAP_LOAD_QUICK") ? 100 : 100'000);
		for (int j = 0; j < 1000; ++j) {
			std::free(get(64));
		}
	}
	std::printf("%.6f %ld %zu\n", seconds, usage.ru_maxrss * 1024L, resident());
	return 0;
}
