// SPDX-License-Identifier: Apache-2.0
// Measures the phases of an example: time, page faults of the program, and memory. Prints one line of JSON, which
// tools/engines.py reads.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <fstream>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include <libgmem.hpp>

namespace measure {

/// A number of /proc/self/status in MiB: "VmHWM" for the peak, "VmRSS" for what is in memory.
inline double mebibytes(const char *name) {
	std::ifstream status("/proc/self/status");
	for (std::string line; std::getline(status, line);) {
		if (line.rfind(name, 0) == 0) {
			return std::strtod(line.c_str() + std::strlen(name) + 1, nullptr) / 1024;
		}
	}
	return 0;
}

/// A number that tells results apart (FNV-1a).
inline std::uint64_t checksum(const void *data, std::size_t bytes) {
	std::uint64_t sum = 0xcbf29ce484222325U;
	for (std::size_t i = 0; i < bytes; ++i) {
		sum = (sum ^ static_cast<const unsigned char *>(data)[i]) * 0x100000001b3U;
	}
	return sum;
}

/// The phases of one run.
class report {
public:
	/// Time a phase. Its milliseconds, those of the processor and its faults become members of the object: "load_ms",
	/// "load_cpu_ms", "load_faults".
	template <class Work>
	void phase(const std::string &name, Work work, int repeat = 1) {
		faults_.reset();
		const double cpu = cpu_milliseconds();
		const auto begun = std::chrono::steady_clock::now();
		for (int i = 0; i < repeat; ++i) {
			work();
		}
		const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - begun;
		const double cpu_took = cpu_milliseconds() - cpu;
		member(name + "_faults", static_cast<double>(faults_.count()));
		member(name + "_ms", took.count() / repeat);
		member(name + "_cpu_ms", cpu_took / repeat);
	}

	/// Add the bytes of a result, which are not all zeros.
	void result(const void *data, std::size_t bytes) {
		const auto *const first = static_cast<const unsigned char *>(data);
		if (std::all_of(first, first + bytes, [](unsigned char byte) { return byte == 0; })) {
			std::fprintf(stderr, "the result is all zeros\n");
			std::exit(1);
		}
		members_ << "\"checksum\": \"" << std::hex << checksum(data, bytes) << std::dec << "\", ";
	}

	/// Measure the memory now and after 1, 10 and 60 seconds, as far as that is at most `seconds`: "after_10s_mib".
	void rest(int seconds) {
		int passed = 0;
		for (const int at : {0, 1, 10, 60}) {
			if (seconds > 0 && at <= seconds) {
				std::this_thread::sleep_for(std::chrono::seconds(at - passed));
				passed = at;
				member("after_" + std::to_string(at) + "s_mib", mebibytes("VmRSS"));
			}
		}
	}

	/// Print the object, with the memory at the peak and now.
	void print() {
		std::printf("{%s\"peak_mib\": %.0f, \"after_mib\": %.0f}\n", members_.str().c_str(), mebibytes("VmHWM"),
			mebibytes("VmRSS"));
	}

private:
	/// Of all threads, in the program and in the kernel.
	static double cpu_milliseconds() {
		timespec now{};
		clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
		return static_cast<double>(now.tv_sec) * 1e3 + static_cast<double>(now.tv_nsec) / 1e6;
	}

	void member(const std::string &name, double value) { members_ << '"' << name << "\": " << value << ", "; }

	gmem::fault_scope faults_{gmem::fault_scope::whose::program};
	std::ostringstream members_;
};

/// The value of "--NAME VALUE", or what is given instead.
inline std::string option(int argc, char **argv, const char *name, const char *otherwise) {
	for (int i = 1; i + 1 < argc; ++i) {
		if (std::string(argv[i]) == std::string("--") + name) {
			return argv[i + 1];
		}
	}
	return otherwise;
}

/// Numbers between -0.5 and 0.5 that are the same in each run.
inline void fill(float *values, std::size_t count, std::uint32_t seed = 1) {
	for (std::size_t i = 0; i < count; ++i) {
		seed = seed * 1664525U + 1013904223U;
		values[i] = static_cast<float>(seed >> 8U) / 16777216.0F - 0.5F;
	}
}

/// A file of such numbers, written unless it is there with that size.
inline void need_file(const std::string &path, std::size_t count) {
	std::ifstream there(path, std::ios::binary | std::ios::ate);
	if (there && static_cast<std::size_t>(there.tellg()) == count * sizeof(float)) {
		return;
	}
	std::ofstream file(path, std::ios::binary | std::ios::trunc);
	std::vector<float> piece(std::size_t{1} << 20);
	for (std::size_t at = 0; at < count; at += piece.size()) {
		fill(piece.data(), piece.size(), static_cast<std::uint32_t>(at + 1));
		const std::size_t rest = count - at < piece.size() ? count - at : piece.size();
		file.write(reinterpret_cast<const char *>(piece.data()), static_cast<std::streamsize>(rest * sizeof(float)));
	}
	if (!file.flush()) {
		std::fprintf(stderr, "%s cannot be written\n", path.c_str());
		std::exit(1);
	}
}

} // namespace measure
