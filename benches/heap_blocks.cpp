// SPDX-License-Identifier: Apache-2.0
/// @file
/// heap_blocks [--rest SECONDS]: large blocks as inference engines use them, on whatever malloc the process has. Prints
/// a line "name value" for each of
///   main_faults, main_ms          a block of 128 MiB is filled and freed, ten times, in the main thread: once
///   thread_faults, thread_ms      the same in another thread
///   after, after_rest             memory after that, now and after SECONDS (40)
///   holes                         memory after every other of 64 blocks of 8 MiB was freed, and malloc_trim()
///   trim, trim_ms                 memory after all were freed, and malloc_trim()
///   grow_ms                       realloc() from 64 to 1024 MiB in steps of 64
/// Times are those of the processor, faults those of the process, memory is resident, in MiB. tools/bench_blocks.py
/// compares allocators by it.
#include <chrono>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <string>
#include <thread>
#include <vector>

#include <malloc.h>
#include <sys/resource.h>
#include <unistd.h>

namespace {

constexpr std::size_t mebibyte = std::size_t{1} << 20;
constexpr std::size_t page = 4096;

double cpu_milliseconds() {
	timespec now{};
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
	return static_cast<double>(now.tv_sec) * 1e3 + static_cast<double>(now.tv_nsec) / 1e6;
}

long faults() {
	rusage usage{};
	getrusage(RUSAGE_SELF, &usage);
	return usage.ru_minflt + usage.ru_majflt;
}

double resident_mebibytes() {
	std::FILE *const file = std::fopen("/proc/self/statm", "r");
	long all = 0, resident = 0;
	if (file == nullptr || std::fscanf(file, "%ld %ld", &all, &resident) != 2) {
		std::perror("/proc/self/statm");
		std::exit(1);
	}
	std::fclose(file);
	return static_cast<double>(resident) * static_cast<double>(sysconf(_SC_PAGESIZE)) / mebibyte;
}

void print(const std::string &name, double value) { std::printf("%s %.4g\n", name.c_str(), value); }

/// A block whose pages are all written.
char *filled(std::size_t bytes) {
	auto *const block = static_cast<char *>(std::malloc(bytes));
	if (block == nullptr) {
		std::perror("malloc");
		std::exit(1);
	}
	for (std::size_t at = 0; at < bytes; at += page) {
		static_cast<volatile char *>(block)[at] = 1;
	}
	return block;
}

void fill_and_free(const std::string &where) {
	constexpr int times = 10;
	const long faults_before = faults();
	const double begun = cpu_milliseconds();
	for (int i = 0; i < times; ++i) {
		std::free(filled(128 * mebibyte));
	}
	print(where + "_ms", (cpu_milliseconds() - begun) / times);
	print(where + "_faults", static_cast<double>(faults() - faults_before) / times);
}

void free_parts() {
	std::vector<char *> blocks;
	for (int i = 0; i < 64; ++i) {
		blocks.push_back(filled(8 * mebibyte));
	}
	for (std::size_t i = 0; i < blocks.size(); i += 2) {
		std::free(blocks[i]);
	}
	malloc_trim(0);
	print("holes", resident_mebibytes());
	for (std::size_t i = 1; i < blocks.size(); i += 2) {
		std::free(blocks[i]);
	}
	const double begun = cpu_milliseconds();
	malloc_trim(0);
	print("trim_ms", cpu_milliseconds() - begun);
	print("trim", resident_mebibytes());
}

void grow() {
	const double begun = cpu_milliseconds();
	std::size_t bytes = 64 * mebibyte;
	char *block = filled(bytes);
	// What lies behind the block keeps it from growing in place.
	char *const fence = filled(8 * mebibyte);
	for (; bytes < 1024 * mebibyte; bytes += 64 * mebibyte) {
		block = static_cast<char *>(std::realloc(block, bytes + 64 * mebibyte));
		if (block == nullptr) {
			std::perror("realloc");
			std::exit(1);
		}
		std::memset(block + bytes, 1, 64 * mebibyte);
	}
	print("grow_ms", cpu_milliseconds() - begun);
	std::free(fence);
	std::free(block);
}

} // namespace

int main(int argc, char **argv) {
	const int rest = argc == 3 && std::strcmp(argv[1], "--rest") == 0 ? std::atoi(argv[2]) : 40;
	fill_and_free("main");
	std::thread([] { fill_and_free("thread"); }).join();
	print("after", resident_mebibytes());
	std::this_thread::sleep_for(std::chrono::seconds(rest));
	print("after_rest", resident_mebibytes());
	free_parts();
	grow();
}
