// SPDX-License-Identifier: Apache-2.0
/// @file
/// ranges [--seconds N] [--seed S]: random mappings, and random calls on them, beside a model.
///
/// The model knows for each base page of an arena what is mapped there and which number was written to it. Each call is
/// predicted: its result, and the contents of every page afterwards. The first difference ends the run with the seed
/// and the steps that led to it.
#include <algorithm>
#include <array>
#include <chrono>
#include <cinttypes>
#include <climits>
#include <cstdarg>
#include <cstring>
#include <map>
#include <random>
#include <string>
#include <vector>

#include <fcntl.h>
#include <sys/auxv.h>
#include <sys/syscall.h>

#include <libgmem.h>

#include "../check.h"
#include "special_memory.hpp"

namespace {

enum class kind : unsigned char {
	hole,
	anonymous,
	shared,
	memfd,
	file_private,
	file_shared,
	file_read_only,
	huge_tlb,
	grows_down,
	served
};

constexpr std::array<const char *, 10> kind_names{"hole", "anonymous", "shared", "memfd", "file_private", "file_shared",
	"file_read_only", "huge_tlb", "grows_down", "served"};

struct page_model {
	kind what = kind::hole;
	int protection = PROT_NONE;
	bool locked = false;
	/// It cannot be unmapped or changed any more.
	bool sealed = false;
	/// A guard page, or behind a protection key: mapped, but no access succeeds.
	bool guarded = false, forbidden = false;
	/// A call that failed may have dropped it or not.
	bool may_be_zero = false;
	/// At the start of the page; 0 for a page of zeros.
	std::uint64_t number = 0;
	/// A private page of a file mapping: it may hold other bytes than the file.
	bool copied = false;

	[[nodiscard]] bool readable() const { return (protection & PROT_READ) != 0 && !guarded && !forbidden; }
	[[nodiscard]] bool writable() const { return (protection & PROT_WRITE) != 0 && readable(); }
	/// Nothing has been done to it that restricts further changes.
	[[nodiscard]] bool plain_anonymous() const { return what == kind::anonymous && writable() && !locked && !sealed; }
};

constexpr std::size_t gmem_pages = 10;

class fuzzer {
public:
	explicit fuzzer(std::uint64_t seed)
		: random_(seed), seed_(seed), page_(gmemGetPageSize()), base_(static_cast<std::size_t>(sysconf(_SC_PAGESIZE))),
		  per_page_(page_ / base_), model_(gmem_pages * per_page_) {
		// PROT_NONE keeps others out of the holes; the arena itself starts in the middle of nothing.
		arena_ = map_at_page(gmem_pages * page_, page_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);
		NEED(munmap(arena_, gmem_pages * page_) == 0);
		file_ = file_of(gmem_pages * page_);
		NEED(gmemStreamCreate(&stream_) == 0);
		node_ = gmemGetNumaId();
		NEED(node_ >= 0);
	}

	~fuzzer() {
		munmap(arena_, gmem_pages * page_);
		close(file_);
		(void)gmemStreamDestroy(stream_);
	}

	fuzzer(const fuzzer &) = delete;
	fuzzer &operator=(const fuzzer &) = delete;

	void step() {
		switch (below(21)) {
		case 0:
		case 1:
		case 2: map(); break;
		case 3: unmap(); break;
		case 4: protect(); break;
		case 5: lock(); break;
		case 6:
		case 7:
		case 8: write(); break;
		case 9:
		case 10:
		case 11: free_eager(); break;
		case 12:
		case 13: prefetch(); break;
		case 14: residency(); break;
		case 15: guard(); break;
		case 16: forbid(); break;
		case 17: seal(); break;
		case 18:
		case 19: elsewhere(); break;
		default: odd_arguments(); break;
		}
		check_contents();
	}

	[[nodiscard]] std::size_t calls() const { return calls_; }

	/// How often each kind of step was taken, by all fuzzers.
	static std::map<std::string, std::size_t> &steps() {
		static std::map<std::string, std::size_t> taken;
		return taken;
	}

private:
	struct span {
		std::size_t first, last; // base pages
	};

	std::size_t below(std::size_t limit) { return std::uniform_int_distribution<std::size_t>(0, limit - 1)(random_); }

	[[gnu::format(printf, 2, 3)]] void note(const char *format, ...) {
		std::array<char, 200> line{};
		va_list arguments;
		va_start(arguments, format);
		(void)std::vsnprintf(line.data(), line.size(), format, arguments);
		va_end(arguments);
		history_.emplace_back(line.data());
		++steps()[history_.back().substr(0, history_.back().find_first_of("0123456789"))];
		if (history_.size() > 40) {
			history_.erase(history_.begin());
		}
	}

	[[noreturn]] void differ(const std::string &what) {
		std::fprintf(stderr, "ranges: seed %" PRIu64 ": %s\nthe last steps:\n", seed_, what.c_str());
		for (const std::string &line : history_) {
			std::fprintf(stderr, "  %s\n", line.c_str());
		}
		std::exit(1);
	}

	void expect(long actual, long expected) {
		++calls_;
		if (actual != expected) {
			differ("result " + std::to_string(actual) + ", expected " + std::to_string(expected) +
				   "; gmemLastError(): " + gmemLastError());
		}
	}

	[[nodiscard]] char *at(std::size_t base_page) const { return arena_ + base_page * base_; }

	/// Some base pages, often whole GMEM pages.
	span some() {
		if (below(2) == 0) {
			const std::size_t first = below(gmem_pages), count = 1 + below(gmem_pages - first);
			return {first * per_page_, (first + count) * per_page_};
		}
		const std::size_t first = below(model_.size()),
						  count = 1 + below(std::min(model_.size() - first, 3 * per_page_));
		return {first, first + count};
	}

	/// Neighbouring base pages of which each is as wanted; none if no such page is found.
	span some_that(bool (*holds)(const page_model &)) {
		for (int attempt = 0; attempt < 8; ++attempt) {
			const std::size_t first = below(model_.size()), most = first + 1 + below(2 * per_page_);
			std::size_t last = first;
			while (last < std::min(most, model_.size()) && holds(model_[last])) {
				++last;
			}
			if (last > first) {
				return {first, last};
			}
		}
		return {0, 0};
	}

	[[nodiscard]] bool all_of(span where, bool (*holds)(const page_model &)) const {
		for (std::size_t i = where.first; i < where.last; ++i) {
			if (!holds(model_[i])) {
				return false;
			}
		}
		return true;
	}

	// ---- changes to the mappings ----------------------------------------------------------------------

	void map() {
		span where = some();
		const kind what = static_cast<kind>(1 + below(kind_names.size() - 1));
		if (what == kind::huge_tlb) {
			where = {where.first / per_page_ * per_page_, (where.last + per_page_ - 1) / per_page_ * per_page_};
		}
		// Parts of a hugetlb page cannot be replaced, and no part of sealed memory.
		if (!all_of(where, [](const page_model &page) { return !page.sealed; }) ||
			(what != kind::huge_tlb &&
				!all_of(where, [](const page_model &page) { return page.what != kind::huge_tlb; }))) {
			return;
		}
		const std::size_t bytes = (where.last - where.first) * base_;
		int protection = PROT_READ | PROT_WRITE, flags = MAP_FIXED, fd = -1;
		off_t offset = 0;
		int own = -1;
		switch (what) {
		case kind::anonymous:
		case kind::served: flags |= MAP_PRIVATE | MAP_ANONYMOUS; break;
		case kind::grows_down: flags |= MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN; break;
		case kind::shared: flags |= MAP_SHARED | MAP_ANONYMOUS; break;
		case kind::huge_tlb: flags |= MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB; break;
		case kind::memfd:
			flags |= MAP_SHARED;
			fd = own = memfd_create("gmem-fuzz", MFD_CLOEXEC);
			NEED(own >= 0 && ftruncate(own, static_cast<off_t>(bytes)) == 0);
			break;
		case kind::file_read_only: protection = PROT_READ; [[fallthrough]];
		case kind::file_private: flags |= MAP_PRIVATE; [[fallthrough]];
		default: // the file
			flags |= what == kind::file_shared ? MAP_SHARED : 0;
			fd = file_;
			offset = static_cast<off_t>(where.first * base_);
			break;
		}
		void *const done = mmap(at(where.first), bytes, protection, flags, fd, offset);
		if (own >= 0) {
			close(own);
		}
		if (done == MAP_FAILED) {
			NEED(what == kind::huge_tlb); // the pool is empty
			forget(where);
			return;
		}
		note("map %s %zu..%zu", kind_names[static_cast<std::size_t>(what)], where.first, where.last);
		for (std::size_t i = where.first; i < where.last; ++i) {
			model_[i] = {};
			model_[i].what = what;
			model_[i].protection = protection;
			model_[i].number = is_file(what) ? number_at(i) : 0;
		}
		// Without a monitor it is ordinary memory.
		if (what == kind::served && !server().take(done, bytes)) {
			note("which nobody serves");
		}
	}

	/// A refused mapping may have removed what was there.
	void forget(span where) {
		NEED(munmap(at(where.first), (where.last - where.first) * base_) == 0 || errno == EINVAL);
		for (std::size_t i = where.first; i < where.last; ++i) {
			model_[i] = {};
		}
	}

	void unmap() {
		const span where = some();
		if (all_of(where, [](const page_model &page) { return page.what != kind::huge_tlb && !page.sealed; })) {
			note("unmap %zu..%zu", where.first, where.last);
			forget(where);
		}
	}

	void protect() {
		const span where = some_that([](const page_model &page) {
			return page.what != kind::hole && page.what != kind::huge_tlb && page.what != kind::file_read_only &&
				   !page.sealed && !page.forbidden;
		});
		const int protection = std::array<int, 3>{PROT_NONE, PROT_READ, PROT_READ | PROT_WRITE}[below(3)];
		if (where.last == 0) {
			return;
		}
		note("protect %d %zu..%zu", protection, where.first, where.last);
		NEED(mprotect(at(where.first), (where.last - where.first) * base_, protection) == 0);
		for (std::size_t i = where.first; i < where.last; ++i) {
			model_[i].protection = protection;
		}
	}

	void lock() {
		const span where =
			some_that([](const page_model &page) { return page.what == kind::anonymous && page.writable(); });
		const bool locked = below(2) == 0;
		const std::size_t bytes = (where.last - where.first) * base_;
		if (bytes > 0 && (locked ? mlock(at(where.first), bytes) : munlock(at(where.first), bytes)) == 0) {
			note("%s %zu..%zu", locked ? "lock" : "unlock", where.first, where.last);
			for (std::size_t i = where.first; i < where.last; ++i) {
				model_[i].locked = locked;
			}
		}
	}

	void guard() {
		const bool install = below(3) != 0;
		const span where =
			install ? some_that([](const page_model &page) { return page.plain_anonymous(); })
					: some_that([](const page_model &page) { return page.guarded && !page.sealed && !page.locked; });
		const std::size_t bytes = (where.last - where.first) * base_;
		if (bytes == 0 || !special::set_guard(at(where.first), bytes, install)) {
			return;
		}
		note("%s guard pages %zu..%zu", install ? "install" : "remove", where.first, where.last);
		for (std::size_t i = where.first; i < where.last; ++i) {
			model_[i].guarded = install;
			model_[i].number = 0;
			model_[i].may_be_zero = false;
		}
	}

	void forbid() {
		const span where = some_that([](const page_model &page) { return page.plain_anonymous(); });
		if (special::forbidding_key() < 0 || where.last == 0) {
			return;
		}
		note("forbid by a key %zu..%zu", where.first, where.last);
		NEED(pkey_mprotect(at(where.first), (where.last - where.first) * base_, PROT_READ | PROT_WRITE,
				 special::forbidding_key()) == 0);
		for (std::size_t i = where.first; i < where.last; ++i) {
			model_[i].forbidden = true;
		}
	}

	/// Once in an arena, because nobody gets that memory back.
	void seal() {
		const span where = some_that([](const page_model &page) { return page.plain_anonymous(); });
		const std::size_t bytes = (where.last - where.first) * base_;
		if (has_sealed_ || bytes == 0) {
			return;
		}
		const int protection = below(2) == 0 ? PROT_READ : PROT_READ | PROT_WRITE;
		NEED(madvise(at(where.first), bytes, MADV_DONTNEED) == 0);
		NEED(mprotect(at(where.first), bytes, protection) == 0);
		has_sealed_ = special::seal(at(where.first), bytes);
		note("%s with protection %d %zu..%zu", has_sealed_ ? "seal" : "protect", protection, where.first, where.last);
		for (std::size_t i = where.first; i < where.last; ++i) {
			model_[i].protection = protection;
			model_[i].sealed = has_sealed_;
			model_[i].number = 0;
			model_[i].may_be_zero = false;
		}
	}

	// ---- contents -------------------------------------------------------------------------------------

	static bool is_file(kind what) {
		return what == kind::file_private || what == kind::file_shared || what == kind::file_read_only;
	}

	/// The file's own bytes at a base page.
	[[nodiscard]] std::uint64_t number_at(std::size_t base_page) const {
		std::uint64_t number = 0;
		NEED(pread(file_, &number, sizeof number, static_cast<off_t>(base_page * base_)) == sizeof number);
		return number;
	}

	void write() {
		const span where = some();
		note("write %zu..%zu", where.first, where.last);
		for (std::size_t i = where.first; i < where.last; ++i) {
			// Writing to the file changes other mappings of it, which the model does not follow.
			if (model_[i].writable() && model_[i].what != kind::file_shared) {
				model_[i].may_be_zero = false;
				model_[i].number = random_() | 1;
				model_[i].copied = model_[i].what == kind::file_private;
				std::memcpy(at(i), &model_[i].number, sizeof model_[i].number);
				std::memcpy(at(i) + base_ - sizeof model_[i].number, &model_[i].number, sizeof model_[i].number);
			}
		}
	}

	void check_contents() {
		for (std::size_t i = 0; i < model_.size(); ++i) {
			if (!model_[i].readable()) {
				continue;
			}
			// A page is not read into memory only because it is looked at: each step looks at an eighth of them.
			if (below(8) != 0) {
				continue;
			}
			std::uint64_t first = 0, last = 0;
			std::memcpy(&first, at(i), sizeof first);
			std::memcpy(&last, at(i) + base_ - sizeof last, sizeof last);
			if (model_[i].may_be_zero && first == 0) {
				model_[i].number = 0;
			}
			model_[i].may_be_zero = false;
			if (first != model_[i].number || last != model_[i].number) {
				differ("base page " + std::to_string(i) + " (" + kind_names[static_cast<std::size_t>(model_[i].what)] +
					   ") holds " + std::to_string(first) + " and " + std::to_string(last) + ", expected " +
					   std::to_string(model_[i].number));
			}
		}
	}

	// ---- calls ----------------------------------------------------------------------------------------

	/// Any range in the arena, in bytes; often near the edges of pages.
	std::pair<std::size_t, std::size_t> some_bytes() {
		const std::size_t all = gmem_pages * page_;
		std::size_t from = below(all), size = below(all - from) + 1;
		if (below(2) == 0) {
			from = from / page_ * page_ + below(3);
			size = std::min(size / page_ * page_ + below(5), all - from);
		}
		return {from, size};
	}

	template <class Call>
	long now_or_in_order(const Call &call) {
		if (below(3) != 0) {
			return call(nullptr);
		}
		const int registered = call(stream_);
		const int result = gmemStreamSynchronize(stream_);
		return registered != 0 ? registered : result;
	}

	void free_eager() {
		const auto [from, size] = some_bytes();
		const std::size_t first = (from + page_ - 1) / page_ * per_page_, last = (from + size) / page_ * per_page_;
		long expected = 0;
		for (std::size_t i = first; i < last; ++i) {
			const page_model &page = model_[i];
			// What may be written, or was, would be lost; a clean page comes back from the file.
			if (is_file(page.what) && ((page.protection & PROT_WRITE) != 0 || page.copied)) {
				expected = -EINVAL;
				break;
			}
			const bool is_shared = page.what == kind::shared || page.what == kind::memfd;
			if (is_shared && (page.protection & PROT_WRITE) == 0) {
				expected = -EACCES;
				break;
			}
			if (page.what == kind::hole && expected == 0) {
				expected = -ENOMEM;
			}
			// The kernel keeps anonymous memory that is sealed and cannot be written.
			if (page.sealed && !page.writable() && !is_file(page.what)) {
				expected = -EPERM;
			}
		}
		note("free_eager %zu + %zu (base pages %zu..%zu), expected %ld", from, size, first, last, expected);
		expect(now_or_in_order([&, from = from, size = size](void *stream) {
			return gmemFreeEager(reinterpret_cast<unsigned long>(arena_) + from, size, stream);
		}),
			expected);
		if (expected == 0 || expected == -ENOMEM) {
			for (std::size_t i = first; i < last; ++i) {
				if (!is_file(model_[i].what)) {
					model_[i].number = 0;
				}
				model_[i].may_be_zero = false;
			}
		} else if (expected == -EPERM) {
			for (std::size_t i = first; i < last; ++i) {
				model_[i].may_be_zero = !is_file(model_[i].what) && model_[i].number != 0;
			}
		}
	}

	void prefetch() {
		const auto [from, size] = some_bytes();
		const std::size_t first = from / base_, last = size == 0 ? first : (from + size + base_ - 1) / base_;
		long expected = 0;
		bool forbidden = false;
		for (std::size_t i = first; i < last && expected == 0; ++i) {
			forbidden |= model_[i].guarded || model_[i].forbidden;
			if (model_[i].what == kind::hole) {
				expected = -ENOMEM;
			} else if (model_[i].protection == PROT_NONE) {
				expected = -EACCES;
			}
		}
		if (expected == 0 && forbidden) {
			expected = -EFAULT;
		}
		note("prefetch %zu + %zu (base pages %zu..%zu), expected %ld", from, size, first, last, expected);
		gmemPrefetchReport_t report{};
		report.size = sizeof report;
		expect(now_or_in_order([&, from = from, size = size](void *stream) {
			return gmemPrefetchEx(
				reinterpret_cast<unsigned long>(arena_) + from, size, node_, stream, nullptr, &report);
		}),
			expected);
		if (report.result != expected) {
			differ("the report says " + std::to_string(report.result));
		}
		if (expected == 0) {
			// A writable private mapping gets copies of the file's pages.
			for (std::size_t i = first; i < last; ++i) {
				model_[i].copied |= model_[i].what == kind::file_private && (model_[i].protection & PROT_WRITE) != 0;
			}
			check_no_faults({first, last});
			if (report.failed != 0 || report.already_resident + report.populated + report.migrated != last - first) {
				differ("the report counts " + std::to_string(report.already_resident) + " + " +
					   std::to_string(report.populated) + " + " + std::to_string(report.migrated) + " pages, and " +
					   std::to_string(report.failed) + " that failed");
			}
		}
	}

	void check_no_faults(span where) {
		const long before = thread_faults();
		for (std::size_t i = where.first; i < where.last; ++i) {
			volatile char *const byte = at(i);
			if (model_[i].writable() && model_[i].what != kind::file_shared) {
				*byte = *byte;
			} else {
				(void)*byte;
			}
		}
		const long faults = thread_faults() - before;
		if (faults != 0) {
			differ(std::to_string(faults) + " page faults after a prefetch");
		}
	}

	void residency() {
		const span where = some();
		std::vector<gmemPageState_t> pages(where.last - where.first);
		gmemResidency_t summary{};
		summary.size = sizeof summary;
		note("residency %zu..%zu", where.first, where.last);
		expect(gmemResidency(reinterpret_cast<unsigned long>(at(where.first)), (where.last - where.first) * base_, 0,
				   pages.data(), pages.size(), &summary),
			0);
		for (std::size_t i = where.first; i < where.last; ++i) {
			const bool is_mapped = (pages[i - where.first].flags & GMEM_PAGE_MAPPED) != 0;
			if (is_mapped != (model_[i].what != kind::hole)) {
				differ(
					"base page " + std::to_string(i) + (is_mapped ? " is" : " is not") + " mapped, says gmemResidency");
			}
		}
	}

	void odd_arguments() {
		const unsigned long start = reinterpret_cast<unsigned long>(arena_);
		note("odd arguments");
		expect(gmemFreeEager(start, static_cast<std::size_t>(-1) - below(start), nullptr), -EINVAL);
		expect(gmemPrefetch(start, static_cast<std::size_t>(-1) - below(start), node_, nullptr), -EINVAL);
		expect(gmemPrefetch(start, below(page_), -1 - static_cast<int>(below(INT_MAX)), nullptr), -EINVAL);
		expect(gmemPrefetch(start, 1, INT_MAX - static_cast<int>(below(1000)), nullptr), -EINVAL);
		expect(gmemPrefetch(random_(), 0, node_, nullptr), 0);
		expect(gmemFreeEager(random_(), 0, nullptr), 0);
		// Odd numbers that are no handle. An even one may be a driver's stream.
		const std::uintptr_t no_stream = 0x7000000000000001U | (random_() & 0xFFFFF0U);
		expect(gmemFreeEager(start, page_, reinterpret_cast<void *>(no_stream)), -EINVAL);
		expect(gmemPrefetch(start, page_, node_, reinterpret_cast<void *>(no_stream)), -EINVAL);
	}

	/// Memory outside the arena: the stack, the kernel's own page in each process, addresses that nobody can map.
	void elsewhere() {
		note("elsewhere");
		std::array<unsigned char, 40000> stack{};
		stack.fill(static_cast<unsigned char>(random_()));
		const unsigned char filled = stack[0];
		const unsigned long start = reinterpret_cast<unsigned long>(stack.data());
		const std::size_t size = 1 + below(stack.size());
		expect(gmemPrefetch(start + below(stack.size() - size + 1), size, node_, nullptr), 0);
		expect(gmemFreeEager(start, size, nullptr), 0);
		if (std::count(stack.begin(), stack.end(), filled) != static_cast<std::ptrdiff_t>(stack.size())) {
			differ("the stack has changed");
		}
		const unsigned long vdso = getauxval(AT_SYSINFO_EHDR);
		if (vdso != 0) {
			expect(gmemPrefetch(vdso + below(base_), 1, node_, nullptr), 0);
			expect(gmemFreeEager(vdso, 2 * base_, nullptr), 0);
		}
		const unsigned long beyond = 0x8000000000000000UL + (random_() & 0x7FFFFFFF00000000UL);
		expect(gmemPrefetch(beyond, 1 + below(page_), node_, nullptr), -ENOMEM);
		expect(gmemFreeEager(beyond, 2 * page_ + below(page_), nullptr), -ENOMEM);
	}

	static const special::zero_server &server() {
		static const special::zero_server one;
		return one;
	}

	std::mt19937_64 random_;
	std::uint64_t seed_;
	std::size_t page_, base_, per_page_;
	std::vector<page_model> model_;
	char *arena_ = nullptr;
	int file_ = -1, node_ = 0;
	gmemStream_t stream_ = nullptr;
	std::size_t calls_ = 0;
	bool has_sealed_ = false;
	std::vector<std::string> history_;
};

} // namespace

int main(int argc, char **argv) {
	std::chrono::seconds limit{10};
	std::uint64_t seed = 1;
	for (int i = 1; i + 1 < argc; i += 2) {
		if (std::string(argv[i]) == "--seconds") {
			limit = std::chrono::seconds(std::strtol(argv[i + 1], nullptr, 10));
		} else if (std::string(argv[i]) == "--seed") {
			seed = std::strtoull(argv[i + 1], nullptr, 10);
		}
	}
	const auto end = std::chrono::steady_clock::now() + limit;
	std::size_t calls = 0, runs = 0;
	do {
		fuzzer one(seed++);
		for (int i = 0; i < 400 && std::chrono::steady_clock::now() < end; ++i) {
			one.step();
		}
		calls += one.calls();
		++runs;
	} while (std::chrono::steady_clock::now() < end);
	for (const auto &[what, count] : fuzzer::steps()) {
		std::printf("%8zu %s\n", count, what.c_str());
	}
	std::printf("ranges: %zu calls in %zu arenas, no difference\n", calls, runs);
	return 0;
}
