// SPDX-License-Identifier: Apache-2.0
/// @file
/// Prefetch and eager free side by side with the bare system calls that they rest on. With --nodes, in a machine with
/// several memory nodes: migration.
#include <cstring>
#include <vector>

#include <sys/syscall.h>
#include <unistd.h>

#include "compare.hpp"
#include "mapping.hpp"

namespace {

using bench::gib;
using bench::mapping;
using bench::need;

int node() { return gmemGetNumaId(); }

/// Ours in comparison with theirs where less is better.
template <class Ours, class Theirs>
std::vector<double> cost(int pairs, Ours &&ours, Theirs &&theirs) {
	auto ratios = bench::ratios(pairs, ours, theirs);
	for (double &ratio : ratios) {
		ratio = 1 / ratio;
	}
	return ratios;
}

/// Where pages are, as move_pages(2) has it, or where they are to go.
class page_list {
public:
	explicit page_list(const mapping &memory, std::size_t step) {
		for (std::size_t at = 0; at < memory.size(); at += step) {
			pages_.push_back(memory.data() + at);
		}
		status_.resize(pages_.size());
	}
	void ask() { need(static_cast<int>(call(nullptr))); }
	void move(int target) {
		const std::vector<int> targets(pages_.size(), target);
		need(static_cast<int>(call(targets.data())));
	}

private:
	long call(const int *targets) {
		return syscall(SYS_move_pages, 0, pages_.size(), pages_.data(), targets, status_.data(), 2 /* MPOL_MF_MOVE */);
	}
	std::vector<void *> pages_;
	std::vector<int> status_;
};

// ---- populating ----------------------------------------------------------------------------------

bench::seconds bare_populate(const mapping &memory) {
	memory.drop();
	bench::warm_free_memory();
	return bench::time_of([&] { memory.populate(); });
}

bench::seconds prefetch(const mapping &memory, unsigned threads) {
	memory.drop();
	bench::warm_free_memory();
	gmemPrefetchOptions_t options{};
	options.size = sizeof options;
	options.threads = threads;
	return bench::time_of(
		[&] { need(gmemPrefetchEx(memory.address(), memory.size(), node(), nullptr, &options, nullptr)); });
}

void populating() {
	const mapping large(gib);
	bench::print_row("prefetch of 1 GiB, one thread: MADV_POPULATE_WRITE / ours",
		bench::ratios(
			11, [&] { return prefetch(large, 1); }, [&] { return bare_populate(large); }),
		bench::goal::at_least, 0.97);
	bench::print_row("  as many threads as help",
		bench::ratios(
			11, [&] { return prefetch(large, 0); }, [&] { return bare_populate(large); }),
		bench::goal::at_least, 1.6);
	const mapping small(gib / 4, MADV_NOHUGEPAGE);
	bench::print_row("  256 MiB on base pages, one thread",
		bench::ratios(
			9, [&] { return prefetch(small, 1); }, [&] { return bare_populate(small); }),
		bench::goal::at_least, 0.97);
	bench::print_row("  256 MiB on base pages, as many threads as help",
		bench::ratios(
			9, [&] { return prefetch(small, 0); }, [&] { return bare_populate(small); }),
		bench::goal::at_least, 1.6);
}

void reports() {
	const mapping memory(std::size_t{64} << 20);
	const auto timed = [&](bool with) {
		memory.drop();
		mapping(std::size_t{80} << 20).populate(); // warm, as above
		gmemPrefetchReport_t report{};
		report.size = sizeof report;
		return bench::time_of([&] {
			need(gmemPrefetchEx(memory.address(), memory.size(), node(), nullptr, nullptr, with ? &report : nullptr));
		});
	};
	bench::print_row("report for 64 MiB: with / without",
		cost(41, [&] { return timed(true); }, [&] { return timed(false); }), bench::goal::at_most, 1.02);
}

void already_there() {
	for (const int advice : {MADV_HUGEPAGE, MADV_NOHUGEPAGE}) {
		const mapping memory(gib, advice);
		memory.populate();
		page_list pages(memory, static_cast<std::size_t>(sysconf(_SC_PAGESIZE)));
		bench::print_row(std::string("prefetch of 1 GiB already there, ") +
							 (advice == MADV_HUGEPAGE ? "huge" : "base") + " pages: move_pages status / ours",
			bench::ratios(
				9, [&] { return bench::time_of([&] { need(gmemPrefetch(memory.address(), gib, node(), nullptr)); }); },
				[&] { return bench::time_of([&] { pages.ask(); }); }),
			bench::goal::at_least, 5);
	}
}

void residency() {
	for (const int advice : {MADV_HUGEPAGE, MADV_NOHUGEPAGE}) {
		const mapping memory(4 * gib, advice);
		memory.populate();
		std::vector<gmemPageState_t> pages(memory.size() / static_cast<std::size_t>(sysconf(_SC_PAGESIZE)));
		std::vector<double> milliseconds;
		for (int i = 0; i < 9; ++i) {
			milliseconds.push_back(bench::time_of([&] {
				const int result =
					gmemResidency(memory.address(), memory.size(), 0, pages.data(), pages.size(), nullptr);
				need(result < 0 ? result : 0);
			}) * 1e3);
		}
		bench::print_row(std::string("residency of ") + std::to_string(pages.size()) + " pages, " +
							 (advice == MADV_HUGEPAGE ? "huge" : "base"),
			milliseconds, bench::goal::at_most, 50, "ms");
	}
}

// ---- eager free ----------------------------------------------------------------------------------

bench::seconds free_eager(const mapping &memory) {
	memory.populate();
	return bench::time_of([&] { need(gmemFreeEager(memory.address(), memory.size(), nullptr)); });
}

bench::seconds dont_need(const mapping &memory) {
	memory.populate();
	return bench::time_of([&] { need(madvise(memory.data(), memory.size(), MADV_DONTNEED)); });
}

void freeing() {
	const mapping huge(gib), small(gib, MADV_NOHUGEPAGE);
	bench::print_row("gmemFreeEager of 1 GiB: ours / MADV_DONTNEED",
		cost(21, [&] { return free_eager(huge); }, [&] { return dont_need(huge); }), bench::goal::at_most, 1.03);
	bench::print_row("  the same on base pages",
		cost(9, [&] { return free_eager(small); }, [&] { return dont_need(small); }), bench::goal::at_most, 1.03);
	bench::print_row("  of base pages / of huge pages",
		cost(9, [&] { return free_eager(small); }, [&] { return free_eager(huge); }), bench::goal::at_least, 1);
}

// ---- the call itself -----------------------------------------------------------------------------

/// Nanoseconds of a call, in comparison with another by turns.
template <class Ours, class Theirs>
std::vector<double> overhead(Ours &&ours, Theirs &&theirs) {
	constexpr int rounds = 41, calls = 1000;
	const auto each = [](auto &&call) {
		return bench::time_of([&] {
			for (int i = 0; i < calls; ++i) {
				call();
			}
		}) / calls *
			   1e9;
	};
	std::vector<double> differences;
	for (int i = 0; i < rounds; ++i) {
		const double a = each(ours), b = each(theirs);
		differences.push_back(a - b);
	}
	return differences;
}

void calls() {
	const mapping memory(gmem::page_size());
	memory.populate();
	const int here = node();
	bench::print_row("gmemPrefetch of a huge page already there, over the bare call",
		overhead([&] { need(gmemPrefetch(memory.address(), memory.size(), here, nullptr)); },
			[&] { need(madvise(memory.data(), memory.size(), MADV_POPULATE_WRITE)); }),
		bench::goal::at_most, 1000, "ns");
	memory.drop();
	bench::print_row("gmemFreeEager of a page that is not there, over the bare call",
		overhead([&] { need(gmemFreeEager(memory.address(), memory.size(), nullptr)); },
			[&] { need(madvise(memory.data(), memory.size(), MADV_DONTNEED)); }),
		bench::goal::at_most, 1000, "ns");
	bench::print_row("gmemFreeEager of less than a page, over the same call",
		overhead([&] { need(gmemFreeEager(memory.address(), 4096, nullptr)); },
			[&] { need(madvise(memory.data(), 4096, MADV_DONTNEED)); }),
		bench::goal::at_most, 1000, "ns");
}

// ---- several nodes -------------------------------------------------------------------------------

/// There and back between nodes 0 and 1.
void migration() {
	constexpr std::size_t size = std::size_t{128} << 20;
	for (const int advice : {MADV_HUGEPAGE, MADV_NOHUGEPAGE}) {
		const bool huge = advice == MADV_HUGEPAGE;
		const mapping memory(size, advice);
		memory.populate();
		std::memset(memory.data(), 'x', size);
		page_list pages(memory, huge ? gmem::page_size() : static_cast<std::size_t>(sysconf(_SC_PAGESIZE)));
		const auto home = [&] { need(gmemPrefetch(memory.address(), size, 0, nullptr)); };
		bench::print_row(std::string("migration of 128 MiB, ") + (huge ? "huge" : "base") + " pages: move_pages / ours",
			bench::ratios(
				5,
				[&] {
					home();
					return bench::time_of([&] { need(gmemPrefetch(memory.address(), size, 1, nullptr)); });
				},
				[&] {
					home();
					return bench::time_of([&] { pages.move(1); });
				}),
			bench::goal::at_least, 1);
	}
}

} // namespace

int main(int argc, char **argv) {
	std::printf("%-66s %10s  %-20s  %-10s\n", "figure (median of pairs [spread])", "ratio", "", "goal");
	if (argc > 1 && std::strcmp(argv[1], "--nodes") == 0) {
		migration();
		return 0;
	}
	populating();
	reports();
	residency();
	already_there();
	freeing();
	calls();
	return 0;
}
