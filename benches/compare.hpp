// SPDX-License-Identifier: Apache-2.0
/// @file
/// Side-by-side timing for noisy machines: two ways of doing the same take turns, and what counts is
/// the ratio of each pair. A lone absolute time is never printed.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include <sys/resource.h>

namespace bench {

using seconds = double;

[[nodiscard]] inline seconds now() {
	return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// Page faults of this process, from the kernel's counters.
[[nodiscard]] inline long faults() {
	rusage usage{};
	getrusage(RUSAGE_SELF, &usage);
	return usage.ru_minflt + usage.ru_majflt;
}

/// Time of one call.
template <class F>
[[nodiscard]] seconds time_of(F &&function) {
	const seconds start = now();
	function();
	return now() - start;
}

struct spread {
	double low, median, high;
};

[[nodiscard]] inline spread spread_of(std::vector<double> values) {
	std::sort(values.begin(), values.end());
	return {values.front(), values[values.size() / 2], values.back()};
}

enum class goal { at_least, at_most };

/// One row: the ratio of each pair, its spread, and whether the median meets the goal.
inline void print_row(const std::string &figure, const std::vector<double> &ratios, goal direction, double wanted,
	const std::string &unit = "x") {
	const spread ratio = spread_of(ratios);
	const bool met = direction == goal::at_least ? ratio.median >= wanted : ratio.median <= wanted;
	std::printf("%-66s %8.2f%-2s [%7.2f .. %7.2f]  %s %-7g %s\n", figure.c_str(), ratio.median, unit.c_str(), ratio.low,
		ratio.high, direction == goal::at_least ? ">=" : "<=", wanted, met ? "met" : "MISSED");
	std::fflush(stdout);
}

/// Run `ours` and `theirs` by turns, who begins alternating, and return theirs/ours per pair.
template <class Ours, class Theirs>
[[nodiscard]] std::vector<double> ratios(int pairs, Ours &&ours, Theirs &&theirs) {
	std::vector<double> result;
	for (int i = -1; i < pairs; ++i) { // the first pair warms up
		seconds a = 0, b = 0;
		if (i % 2 == 0) {
			a = ours();
			b = theirs();
		} else {
			b = theirs();
			a = ours();
		}
		if (i >= 0) {
			result.push_back(b / a);
		}
	}
	return result;
}

} // namespace bench
