// SPDX-License-Identifier: Apache-2.0
/// The heap's profile: the bytes of each place that allocates, of small blocks from the threads' caches as well as
/// large ones, compared with the program's own count. Run without arguments it starts itself with GMEM_HEAP_PROFILE.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include <dlfcn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <libgmem.hpp>

#include "../check.h"

namespace {

constexpr double distance = 4096;
constexpr std::size_t bytes_each = std::size_t{24} << 20;

} // namespace

// Names that dladdr() finds.
extern "C" {

[[gnu::noinline]] void of_small_blocks(std::vector<void *> &blocks) {
	for (std::size_t bytes = 0; bytes < bytes_each; bytes += 48) {
		blocks.push_back(std::malloc(48));
	}
}

[[gnu::noinline]] void of_page_blocks(std::vector<void *> &blocks) {
	for (std::size_t bytes = 0; bytes < bytes_each; bytes += 4096) {
		blocks.push_back(::operator new(4096));
	}
}

[[gnu::noinline]] void of_vectors(std::vector<std::vector<float, gmem::gmem_allocator<float>>> &vectors) {
	for (int i = 0; i < 4; ++i) {
		vectors.emplace_back(bytes_each / sizeof(float));
	}
}

[[gnu::noinline]] void of_what_is_freed() {
	for (std::size_t bytes = 0; bytes < bytes_each; bytes += 1024) {
		void *volatile block = std::malloc(1024);
		std::free(block);
	}
}
}

namespace {

/// Bytes that each function of this program has allocated, according to a profile. A sample of `count` blocks with
/// `bytes` stands for more, the more the smaller they are (jeprof does the same).
std::map<std::string, double> bytes_of_functions(const char *path) {
	std::map<std::string, double> sums;
	std::ifstream file(path);
	std::string line, trace;
	while (std::getline(file, line)) {
		double count = 0, bytes = 0;
		if (line.rfind("@ ", 0) == 0) {
			trace = line.substr(2);
		} else if (!trace.empty() && std::sscanf(line.c_str(), " t*: %lf: %lf", &count, &bytes) == 2 && count > 0) {
			const double estimate = bytes / (1 - std::exp(-bytes / count / distance));
			std::istringstream words(trace);
			for (std::string word; words >> word;) {
				Dl_info found{};
				// A call's address is that of the instruction behind it.
				auto *address = reinterpret_cast<void *>(std::strtoul(word.c_str(), nullptr, 16) - 1);
				if (dladdr(address, &found) != 0 && found.dli_sname != nullptr &&
					std::strncmp(found.dli_sname, "of_", 3) == 0) {
					sums[found.dli_sname] += estimate;
					break;
				}
			}
		}
	}
	return sums;
}

bool is_about(double value, double expected) { return value > 0.9 * expected && value < 1.1 * expected; }

void profiled() {
	std::vector<void *> small, pages, of_thread;
	std::vector<std::vector<float, gmem::gmem_allocator<float>>> vectors;
	small.reserve(bytes_each / 48 + 1);
	pages.reserve(bytes_each / 4096 + 1);
	of_thread.reserve(bytes_each / 48 + 1);
	of_small_blocks(small);
	std::thread([&] { of_small_blocks(of_thread); }).join();
	of_page_blocks(pages);
	of_vectors(vectors);
	of_what_is_freed();

	const auto path = std::to_string(getpid()) + ".heap";
	CHECK(gmemHeapProfileDump("/nowhere/at/all") == -ENOENT && gmemHeapProfileDump("") == -ENOENT);
	CHECK(gmemHeapProfileDump(path.c_str()) == 0);
	auto sums = bytes_of_functions(path.c_str());
	for (const auto &[name, bytes] : sums) {
		std::printf("%s: %.0f bytes\n", name.c_str(), bytes);
	}
	constexpr double each = bytes_each;
	CHECK(is_about(sums["of_small_blocks"], 2 * each));
	CHECK(is_about(sums["of_page_blocks"], each));
	CHECK(is_about(sums["of_vectors"], 4 * each));
	CHECK(sums["of_what_is_freed"] < 0.01 * each);

	for (auto *blocks : {&small, &of_thread, &pages}) {
		for (void *block : *blocks) {
			gmem_free(block);
		}
	}
	vectors.clear();
	CHECK(gmemHeapProfileDump(path.c_str()) == 0);
	sums = bytes_of_functions(path.c_str());
	CHECK(sums["of_small_blocks"] + sums["of_page_blocks"] + sums["of_vectors"] < 0.01 * each);
	unlink(path.c_str());
}

} // namespace

int main(int argc, char **) {
	if (argc > 1) {
		profiled();
		return checks_result("profile");
	}
	CHECK(gmemHeapProfileDump("/dev/null") == -EOPNOTSUPP);
	const std::string at_exit = std::to_string(getpid()) + ".exit.heap";
	setenv("GMEM_HEAP_PROFILE", "4K", 1);
	setenv("GMEM_HEAP_PROFILE_FILE", at_exit.c_str(), 1);
	const pid_t child = fork();
	NEED(child >= 0);
	if (child == 0) {
		execl("/proc/self/exe", "profile", "profiled", nullptr);
		_exit(127);
	}
	int status = 0;
	NEED(waitpid(child, &status, 0) == child);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	std::ifstream left(at_exit);
	std::string first;
	CHECK(std::getline(left, first) && first == "heap_v2/4096");
	unlink(at_exit.c_str());
	return checks_result("profile");
}
