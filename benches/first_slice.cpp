// SPDX-License-Identifier: Apache-2.0
/// @file
/// The first gains of a user: a vector that fills fast, verbs that cost no more than the bare system
/// call, and asynchronous calls that are cheap to make.
#include <algorithm>
#include <vector>

#include "compare.hpp"
#include "mapping.hpp"

namespace {

using bench::gib;
using bench::mapping;
using bench::need;
using bench::warm_free_memory;

/// Fill a fresh vector of 1 GiB, then write once to each page of it; how long, and how many faults.
template <class Allocator>
bench::seconds fill_and_touch(long *faults) {
	const long before = bench::faults();
	const bench::seconds time = bench::time_of([] {
		std::vector<float, Allocator> vector(gib / sizeof(float), 1.0F);
		for (std::size_t i = 0; i < vector.size(); i += 4096 / sizeof(float)) {
			vector[i] += 1.0F;
		}
	});
	*faults = std::max(*faults, bench::faults() - before);
	return time;
}

/// The first time: all memory is the kernel's.
template <class Allocator>
bench::seconds first_fill(long *faults) {
	(void)gmem_malloc_trim(0);
	warm_free_memory();
	return fill_and_touch<Allocator>(faults);
}

bench::seconds prefetch(const mapping &memory) {
	memory.drop();
	warm_free_memory();
	return bench::time_of([&] { need(gmemPrefetch(memory.address(), memory.size(), gmemGetNumaId(), nullptr)); });
}

bench::seconds populate(const mapping &memory) {
	memory.drop();
	warm_free_memory();
	return bench::time_of([&] { need(madvise(memory.data(), memory.size(), MADV_POPULATE_WRITE)); });
}

bench::seconds free_eager(const mapping &memory) {
	need(madvise(memory.data(), memory.size(), MADV_POPULATE_WRITE));
	return bench::time_of([&] { need(gmemFreeEager(memory.address(), memory.size(), nullptr)); });
}

bench::seconds dont_need(const mapping &memory) {
	need(madvise(memory.data(), memory.size(), MADV_POPULATE_WRITE));
	return bench::time_of([&] { need(madvise(memory.data(), memory.size(), MADV_DONTNEED)); });
}

/// Nanoseconds per asynchronous call: each call timed by itself, less the cost of reading the clock.
template <class Call>
std::vector<double> enqueue_nanoseconds(Call &&call) {
	constexpr int rounds = 20, calls = 5000;
	gmem::stream stream;
	std::vector<double> medians;
	for (int round = 0; round < rounds; ++round) {
		std::vector<double> times, clock;
		for (int i = 0; i < calls; ++i) {
			times.push_back(bench::time_of([&] { call(stream.get()); }) * 1e9);
			clock.push_back(bench::time_of([] {}) * 1e9);
		}
		stream.synchronize();
		medians.push_back(std::max(0.0, bench::spread_of(times).median - bench::spread_of(clock).median));
	}
	return medians;
}

} // namespace

int main() {
	std::printf("%-66s %10s  %-20s  %-10s\n", "figure (median of pairs [spread])", "ratio", "", "goal");

	const auto row = [](const char *name, auto &&fill) {
		long standard_faults = 0, gmem_faults = 0;
		const auto filled = bench::ratios(
			9, [&] { return fill(gmem_allocator<float>(), &gmem_faults); },
			[&] { return fill(std::allocator<float>(), &standard_faults); });
		bench::print_row(std::string(name) + ": std / gmem_allocator", filled, bench::goal::at_least, 4);
		bench::print_row("  page faults of gmem_allocator (std: " + std::to_string(standard_faults) + ")",
			{static_cast<double>(gmem_faults)}, bench::goal::at_most, 600, "");
	};
	row("fill + touch of a 1 GiB vector, first",
		[](auto allocator, long *faults) { return first_fill<decltype(allocator)>(faults); });
	row("fill + touch of a 1 GiB vector, again",
		[](auto allocator, long *faults) { return fill_and_touch<decltype(allocator)>(faults); });

	const mapping large(gib);
	bench::print_row("gmemPrefetch of 1 GiB: MADV_POPULATE_WRITE / ours",
		bench::ratios(
			9, [&] { return prefetch(large); }, [&] { return populate(large); }),
		bench::goal::at_least, 0.95);
	auto freed = bench::ratios(15, [&] { return free_eager(large); }, [&] { return dont_need(large); });
	for (double &ratio : freed) {
		ratio = 1 / ratio;
	}
	bench::print_row("gmemFreeEager of 1 GiB: ours / MADV_DONTNEED", freed, bench::goal::at_most, 1.05);

	const mapping small(64 * gmem::page_size());
	need(madvise(small.data(), small.size(), MADV_POPULATE_WRITE));
	const int node = gmemGetNumaId();
	bench::print_row("enqueue gmemPrefetch (there already)", enqueue_nanoseconds([&](gmemStream_t stream) {
		need(gmemPrefetch(small.address(), gmem::page_size(), node, stream));
	}),
		bench::goal::at_most, 300, "ns");
	std::size_t next = 0;
	bench::print_row("enqueue gmemFreeEager", enqueue_nanoseconds([&](gmemStream_t stream) {
		next = (next + 1) % 64;
		need(gmemFreeEager(small.address() + next * gmem::page_size(), gmem::page_size(), stream));
	}),
		bench::goal::at_most, 300, "ns");
	bench::print_row("enqueue gmemStreamLaunch (of nothing)",
		enqueue_nanoseconds([](gmemStream_t stream) { need(gmemStreamLaunch(stream, [](void *) {}, nullptr)); }),
		bench::goal::at_most, 300, "ns");
	return 0;
}
