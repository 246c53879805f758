// SPDX-License-Identifier: Apache-2.0
/// @file
/// heap_load [--no-rest] WORKLOAD: one allocation workload on whatever malloc the process has; heap_load alone
/// lists them. Prints a line "name value" for each of
///   seconds   pair, batch and random: the fastest of many repetitions of a few milliseconds; fork: the
///             fastest of some; all others: CPU time, user and system, of all threads
///   first     fill and burst only: the same for the first time in a fresh process
///   faults    fill and burst only: page faults while it repeats (what "seconds" measures)
///   peak      resident bytes at most
///   after     resident bytes 4 s after everything was freed; --no-rest leaves that wait out
/// tools/bench_heap.py runs it under one allocator after the other. Each workload is written from its
/// published description.
#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
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

struct result {
	double seconds;
	double first = -1;
	long faults = -1;
};

template <typename Work>
result cpu_time(Work work) {
	const double before = cpu_seconds();
	work();
	return {cpu_seconds() - before};
}

/// The fastest repetition within 0.2 s: what the code costs while nothing disturbs it, on a machine whose
/// speed changes from one moment to the next.
template <typename Repetition>
double fastest(Repetition repetition) {
	using clock = std::chrono::steady_clock;
	using seconds = std::chrono::duration<double>;
	double best = 1e9;
	const auto begin = clock::now();
	for (auto now = begin; seconds(now - begin).count() < 0.2;) {
		repetition();
		const auto then = std::exchange(now, clock::now());
		best = std::min(best, seconds(now - then).count());
	}
	return best;
}

/// The same in several threads at once; the slowest one's fastest.
template <typename Repetition>
result fastest_of_each(unsigned threads, Repetition repetition) {
	if (threads == 1) {
		return {fastest(repetition)}; // a process without threads, as far as the allocator can see
	}
	std::vector<double> best(threads);
	std::atomic<unsigned> missing = threads;
	std::vector<std::thread> running;
	for (unsigned t = 0; t < threads; ++t) {
		running.emplace_back([&, t] {
			for (--missing; missing != 0;) {
				std::this_thread::yield();
			}
			best[t] = fastest(repetition);
		});
	}
	for (auto &thread : running) {
		thread.join();
	}
	return {*std::max_element(best.begin(), best.end())};
}

result pair(std::size_t size, unsigned threads) {
	return fastest_of_each(threads, [size] {
		for (int i = 0; i < 200'000; ++i) {
			char *block = get(size);
			block[0] = 1;
			std::free(block);
		}
	});
}

result batch(std::size_t size) {
	return fastest_of_each(1, [size] {
		std::array<char *, 64> blocks{};
		for (int i = 0; i < 1'000; ++i) {
			for (char *&block : blocks) {
				block = get(size);
				block[0] = 1;
			}
			for (char *block : blocks) {
				std::free(block);
			}
		}
	});
}

/// Random sizes among 4096 live blocks.
result random_sizes() {
	random_source random(1);
	std::vector<char *> live(4096);
	const result measured = fastest_of_each(1, [&] {
		for (int i = 0; i < 40'000; ++i) {
			char *&slot = live[random.next() % live.size()];
			std::free(slot);
			slot = get(random.between(16, 4096));
			slot[0] = 1;
		}
	});
	for (char *block : live) {
		std::free(block);
	}
	return measured;
}

/// Larson and Krishnan: a server's threads replace blocks of random size, and hand what is left to their
/// successors, so that memory is freed by threads that did not allocate it.
void larson(unsigned threads) {
	constexpr int generations = 20, replacements = 200'000;
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

/// Lever and Boreham's malloc-test: one thread allocates in batches, another frees them. Who has to wait
/// sleeps, and long enough to make that rare: waiting is not the allocator's cost.
void xmalloc() {
	constexpr int batches = 20'000;
	constexpr std::size_t many = 128, most = 256;
	using batch = std::array<char *, 128>;
	std::mutex mutex;
	std::condition_variable changed;
	std::vector<batch *> waiting;
	bool done = false;
	std::thread consumer([&] {
		for (bool last = false; !last;) {
			std::vector<batch *> taken;
			{
				std::unique_lock lock(mutex);
				changed.wait(lock, [&] { return done || waiting.size() >= many; });
				taken.swap(waiting);
				last = done;
			}
			changed.notify_one();
			for (batch *one : taken) {
				for (char *block : *one) {
					std::free(block);
				}
				delete one;
			}
		}
	});
	random_source random(3);
	for (int i = 0; i < batches; ++i) {
		auto *one = new batch;
		for (char *&block : *one) {
			block = get(std::size_t{1} << random.between(4, 11));
			block[0] = 1;
		}
		std::unique_lock lock(mutex);
		changed.wait(lock, [&] { return waiting.size() < most; });
		waiting.push_back(one);
		if (waiting.size() == many) {
			changed.notify_one();
		}
	}
	{
		const std::lock_guard lock(mutex);
		done = true;
	}
	changed.notify_one();
	consumer.join();
}

/// mimalloc's test-stress: in each phase fresh threads allocate objects, mostly small and now and then large,
/// keep some to the phase's end, free others at random, and exchange some through a table that outlives the
/// phase, so that they are freed by other threads and later ones.
void mstress(unsigned threads) {
	constexpr int phases = 12, objects = 60'000;
	std::vector<std::atomic<char *>> table(1000);
	const auto allocate = [](random_source &random) {
		std::size_t size = std::size_t{8} << random.next() % 6; // 8 to 256 bytes
		if (random.next() % 100 == 0) {
			size *= random.next() % 100 == 0 ? 1000 : random.next() % 10 == 0 ? 100 : 10;
		}
		auto *object = static_cast<char *>(std::calloc(1, size));
		if (object == nullptr) {
			std::abort();
		}
		object[0] = object[size - 1] = 1;
		return object;
	};
	for (int phase = 0; phase < phases; ++phase) {
		std::vector<std::thread> running;
		for (unsigned t = 0; t < threads; ++t) {
			running.emplace_back([&, t] {
				random_source random(static_cast<unsigned>(phase) * 100 + t);
				std::vector<char *> live, kept;
				for (int allocated = 0; allocated < objects;) {
					const auto dice = random.next() % 100;
					if (dice < 50) {
						live.push_back(allocate(random));
						++allocated;
					} else if (dice < 60) {
						kept.push_back(allocate(random));
						++allocated;
					} else if (!live.empty()) {
						char *&object = live[random.next() % live.size()];
						if (dice < 85) {
							std::free(std::exchange(object, live.back()));
							live.pop_back();
						} else {
							object = table[random.next() % table.size()].exchange(object);
							if (object == nullptr) {
								object = live.back();
								live.pop_back();
							}
						}
					}
				}
				for (const auto *objects_left : {&live, &kept}) {
					for (char *object : *objects_left) {
						std::free(object);
					}
				}
			});
		}
		for (auto &thread : running) {
			thread.join();
		}
	}
	for (auto &slot : table) {
		std::free(slot.load());
	}
}

/// A list of blocks that one thread leaves for another.
class hand_over {
public:
	void put(std::vector<char *> blocks) {
		const std::lock_guard lock(mutex_);
		waiting_.insert(waiting_.end(), blocks.begin(), blocks.end());
	}
	std::vector<char *> take() {
		const std::lock_guard lock(mutex_);
		return std::exchange(waiting_, {});
	}

private:
	std::mutex mutex_;
	std::vector<char *> waiting_;
};

/// Two threads replace blocks of 8 B to 16 KB in another order than that of their allocation, and leave every tenth for
/// the other thread to free.
void mixed() {
	constexpr int replacements = 400'000;
	std::array<hand_over, 2> left;
	std::array<std::thread, 2> running;
	for (std::size_t t = 0; t < running.size(); ++t) {
		running[t] = std::thread([&left, t] {
			random_source random(t + 11);
			std::vector<char *> live(1000), parting;
			for (int i = 0; i < replacements; ++i) {
				char *&slot = live[random.next() % live.size()];
				if (i % 10 == 0) {
					parting.push_back(slot);
				} else {
					std::free(slot);
				}
				slot = get(random.between(8, 16'000));
				slot[0] = 1;
				if (parting.size() == 100) {
					left[1 - t].put(std::exchange(parting, {}));
					for (char *block : left[t].take()) {
						std::free(block);
					}
				}
			}
			for (const auto *blocks : {&live, &parting}) {
				for (char *block : *blocks) {
					std::free(block);
				}
			}
		});
	}
	for (std::size_t t = 0; t < running.size(); ++t) {
		running[t].join();
	}
	for (hand_over &one : left) {
		for (char *block : one.take()) {
			std::free(block);
		}
	}
}

/// Two threads replace blocks of 40 to 500 KB.
void medium() {
	std::array<std::thread, 2> running;
	for (std::size_t t = 0; t < running.size(); ++t) {
		running[t] = std::thread([t] {
			random_source random(t + 21);
			std::vector<char *> live(100);
			for (int i = 0; i < 200'000; ++i) {
				char *&slot = live[random.next() % live.size()];
				std::free(slot);
				slot = get(random.between(40'000, 500'000));
				slot[0] = 1;
			}
			for (char *block : live) {
				std::free(block);
			}
		});
	}
	for (std::thread &one : running) {
		one.join();
	}
}

/// Threads that start, allocate a little, and end, two at a time.
void short_threads() {
	for (int i = 0; i < 5'000; ++i) {
		std::array<std::thread, 2> running;
		for (std::thread &one : running) {
			one = std::thread([] {
				for (std::size_t size = 16; size <= 1024; size *= 2) {
					char *block = get(size);
					block[0] = 1;
					std::free(block);
				}
			});
		}
		for (std::thread &one : running) {
			one.join();
		}
	}
}

/// A server that gets a request every 1.5 seconds, for which it needs 32 MiB.
result bursts() {
	const auto serve = [] {
		std::array<char *, 8> blocks{};
		for (char *&block : blocks) {
			block = get(std::size_t{4} << 20);
			std::memset(block, 1, std::size_t{4} << 20);
		}
		for (char *block : blocks) {
			std::free(block);
		}
	};
	result all{0};
	all.first = cpu_time(serve).seconds;
	for (int i = 0; i < 3; ++i) {
		usleep(1'500'000);
		rusage before{}, after{};
		getrusage(RUSAGE_SELF, &before);
		all.seconds += cpu_time(serve).seconds;
		getrusage(RUSAGE_SELF, &after);
		all.faults = std::max(all.faults, 0L) + after.ru_minflt - before.ru_minflt;
	}
	return all;
}

/// The shape of mimalloc-bench's malloc-large: 20 live blocks of 5 to 25 MiB, replaced at random.
void malloc_large() {
	random_source random(5);
	std::vector<char *> live(20);
	for (int i = 0; i < 500; ++i) {
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

void fill_once(std::size_t size) {
	char *block = get(size);
	std::memset(block, 1, size);
	std::free(block);
}

/// Allocates, fills and frees a block: the first one in forked children that have allocated nothing large yet,
/// their median; then again and again.
result fill(std::size_t size, std::size_t children, int times) {
	void *shared = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED) {
		std::abort();
	}
	auto *seconds = static_cast<double *>(shared);
	for (std::size_t i = 0; i < children; ++i) {
		const pid_t child = fork();
		if (child == 0) {
			seconds[i] = cpu_time([size] { fill_once(size); }).seconds;
			_exit(0);
		}
		int status = 0;
		if (child < 0 || waitpid(child, &status, 0) != child || status != 0) {
			std::abort();
		}
	}
	std::sort(seconds, seconds + children);
	const double first = seconds[children / 2];

	for (int i = 0; i < 2 + times / 10; ++i) { // what starts once, a thread say, is not steady
		fill_once(size);
	}
	rusage before{}, after{};
	getrusage(RUSAGE_SELF, &before);
	result steady = cpu_time([size, times] {
		for (int i = 0; i < times; ++i) {
			fill_once(size);
		}
	});
	getrusage(RUSAGE_SELF, &after);
	steady.first = first;
	steady.faults = after.ru_minflt - before.ru_minflt;
	return steady;
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

/// fork, _exit and wait with 4 GiB of touched blocks.
result fork_cost() {
	constexpr std::size_t size = std::size_t{1} << 20;
	std::vector<char *> blocks(4096);
	for (char *&block : blocks) {
		block = get(size);
		for (std::size_t at = 0; at < size; at += 4096) {
			block[at] = 1;
		}
	}
	const double best = fastest([] {
		const pid_t child = fork();
		if (child == 0) {
			_exit(0);
		}
		int status = 0;
		if (child < 0 || waitpid(child, &status, 0) != child || status != 0) {
			std::abort();
		}
	});
	for (char *block : blocks) {
		std::free(block);
	}
	return {best};
}

/// A figure of /proc/self/status in bytes. Not getrusage's maximum, which counts the pages that the process
/// had before it became this program.
std::size_t status_bytes(const char *name) {
	std::FILE *status = std::fopen("/proc/self/status", "re");
	char line[256];
	while (status != nullptr && std::fgets(line, sizeof line, status) != nullptr) {
		if (std::strncmp(line, name, std::strlen(name)) == 0) {
			std::fclose(status);
			return std::strtoul(line + std::strlen(name) + 1, nullptr, 10) * 1024;
		}
	}
	std::abort();
}

} // namespace

int main(int argc, char **argv) {
	constexpr std::size_t mib = std::size_t{1} << 20;
	using workload = std::pair<std::string, std::function<result()>>;
	std::vector<workload> workloads;
	for (const unsigned threads : {1U, 2U}) {
		for (const std::size_t size : {16, 64, 256, 1024, 4096}) {
			workloads.emplace_back("pair-" + std::to_string(size) + (threads == 1 ? "" : "-2"),
				[size, threads] { return pair(size, threads); });
		}
	}
	for (const std::size_t size : {16, 256, 1024, 4096}) {
		workloads.emplace_back("batch64-" + std::to_string(size), [size] { return batch(size); });
	}
	const std::vector<workload> others = {
		{"random", random_sizes},
		{"larson-2", [] { return cpu_time([] { larson(2); }); }},
		{"xmalloc-2", [] { return cpu_time(xmalloc); }},
		{"mstress-2", [] { return cpu_time([] { mstress(2); }); }},
		{"mixed-2", [] { return cpu_time(mixed); }},
		{"medium-2", [] { return cpu_time(medium); }},
		{"threads-2", [] { return cpu_time(short_threads); }},
		{"burst-32MiB", bursts},
		{"malloc-large", [] { return cpu_time(malloc_large); }},
		{"fill-1MiB", [] { return fill(mib, 21, 2000); }},
		{"fill-64MiB", [] { return fill(64 * mib, 5, 20); }},
		{"fill-1GiB", [] { return fill(1024 * mib, 1, 2); }},
		{"push_back", [] { return cpu_time(push_back); }},
		{"realloc-grow", [] { return cpu_time(grow); }},
		{"fork-4GiB", fork_cost},
	};
	workloads.insert(workloads.end(), others.begin(), others.end());
	if (argc == 1) {
		for (const auto &[name, run] : workloads) {
			std::puts(name.c_str());
		}
		return 0;
	}
	const bool rest = std::strcmp(argv[1], "--no-rest") != 0;
	const std::string wanted = argc == (rest ? 2 : 3) ? argv[argc - 1] : "";
	const auto chosen =
		std::find_if(workloads.begin(), workloads.end(), [&](const workload &one) { return one.first == wanted; });
	if (chosen == workloads.end()) {
		std::fputs("usage: heap_load [--no-rest] WORKLOAD; heap_load alone lists the workloads\n", stderr);
		return 2;
	}
	const result measured = chosen->second();
	std::printf("seconds %.9f\npeak %zu\n", measured.seconds, status_bytes("VmHWM:"));
	if (measured.first >= 0) {
		std::printf("first %.9f\nfaults %ld\n", measured.first, measured.faults);
	}
	if (rest) {
		// A little life goes on, as it does in a program; nothing is freed that was not.
		for (int i = 0; i < 40; ++i) {
			usleep(100'000);
			for (int j = 0; j < 1000; ++j) {
				std::free(get(64));
			}
		}
		std::printf("after %zu\n", status_bytes("VmRSS:"));
	}
	return 0;
}
