// SPDX-License-Identifier: Apache-2.0
// The C++ API: containers, buffers, streams, verbs and errors.
#include <array>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <deque>
#include <limits>
#include <list>
#include <map>
#include <memory_resource>
#include <numeric>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <unordered_map>
#include <vector>
#if __cplusplus >= 202002L
#include <span>
#endif

#include <libgmem.hpp>

#include "../check.h"

namespace {

// ---- what holds at compile time ------------------------------------------------------------------

static_assert(std::is_empty_v<gmem_allocator<float>>);
static_assert(std::is_same_v<gmem_allocator<float>, gmem::gmem_allocator<float>>);
namespace both_names {
using namespace gmem; // NOLINT(*-using-namespace*): neither name may hide the other or make it ambiguous
static_assert(std::is_same_v<gmem_allocator<float>, allocator<float>>);
} // namespace both_names
static_assert(sizeof(std::vector<float, gmem_allocator<float>>) == sizeof(std::vector<float>));
static_assert(std::allocator_traits<gmem_allocator<int>>::is_always_equal::value);
template <class T>
constexpr bool is_owner = std::is_nothrow_move_constructible_v<T> && std::is_nothrow_move_assignable_v<T> &&
						  !std::is_copy_constructible_v<T> && !std::is_copy_assignable_v<T>;
static_assert(is_owner<gmem::buffer<float>> && is_owner<gmem::stream>);
static_assert(is_owner<gmem::external_stream> && is_owner<gmem::event>);
static_assert(!std::is_copy_constructible_v<gmem::eager_free_guard>);
static_assert(std::is_trivially_copyable_v<gmem::stream_ref> && sizeof(gmem::stream_ref) == sizeof(void *));
static_assert(std::is_base_of_v<std::system_error, gmem::error>);
static_assert(std::is_base_of_v<std::bad_alloc, gmem::out_of_memory>);
// Reading constness from the container: what is const cannot be freed.
static_assert(std::is_convertible_v<const std::vector<int> &, gmem::range>);
static_assert(!std::is_convertible_v<const std::vector<int> &, gmem::mutable_range>);
static_assert(std::is_convertible_v<std::vector<int> &, gmem::mutable_range>);
static_assert(!std::is_convertible_v<int, gmem::range>);

// ---- containers ----------------------------------------------------------------------------------

void containers_work_with_the_allocator() {
	std::vector<float, gmem_allocator<float>> vector(1000, 1.5F);
	vector.resize(3 << 20);
	CHECK(vector[999] == 1.5F && vector.back() == 0.0F);
	CHECK_EQUAL(reinterpret_cast<std::uintptr_t>(vector.data()) % gmem::page_size(), 0);

	std::list<int, gmem_allocator<int>> list(100, 7);
	std::deque<int, gmem_allocator<int>> deque(10000, 7);
	std::set<int, std::less<>, gmem_allocator<int>> set{3, 1, 2};
	std::map<int, int, std::less<>, gmem_allocator<std::pair<const int, int>>> map;
	std::unordered_map<int, int, std::hash<int>, std::equal_to<>, gmem_allocator<std::pair<const int, int>>> hashed;
	for (int i = 0; i < 10000; ++i) {
		map[i] = hashed[i] = i * i;
	}
	CHECK(std::accumulate(list.begin(), list.end(), 0) == 700 && deque[9999] == 7 && *set.begin() == 1);
	CHECK(map.at(99) == 9801 && hashed.at(99) == 9801);
	std::basic_string<char, std::char_traits<char>, gmem_allocator<char>> string(1000, 's');
	CHECK(string.back() == 's');
	auto shared = std::allocate_shared<int>(gmem_allocator<int>(), 42);
	CHECK_EQUAL(*shared, 42);

	struct alignas(256) wide {
		char bytes[256];
	};
	std::vector<wide, gmem_allocator<wide>> wides(3);
	CHECK_EQUAL(reinterpret_cast<std::uintptr_t>(wides.data()) % 256, 0);

	auto moved = std::move(vector);
	CHECK(moved.size() == 3 << 20 && gmem_allocator<int>() == gmem_allocator<long>());
	std::vector<std::string, gmem_allocator<std::string>> strings(100, std::string(100, 'x'));
	CHECK(strings[99].size() == 100);
}

void default_init_touches_nothing() {
	constexpr std::size_t count = std::size_t{64} << 20;
	const long before = thread_faults();
	std::vector<float, gmem::default_init_allocator<float>> vector(count);
	/* The heap's own tables take some dozens; the block has 128 huge pages, or 65,536 of 4 KiB. */
	CHECK(!FAULTS_ARE_THE_TESTS || thread_faults() - before < 100);
	vector[count - 1] = 1;
	std::vector<float, gmem_allocator<float>> zeros(1024);
	CHECK(zeros[1023] == 0.0F);
}

void pmr_containers_work() {
	gmem::memory_resource heap, same;
	std::pmr::vector<int> vector(&heap);
	for (int i = 0; i < 100000; ++i) {
		vector.push_back(i);
	}
	std::pmr::map<int, std::pmr::string> map(&heap);
	map[1] = "a string that is too long for the small buffer of a string";
	CHECK(vector.back() == 99999 && map.size() == 1 && heap == same);
	CHECK(!(heap == *std::pmr::new_delete_resource()));
	void *block = heap.allocate(100, 4096);
	CHECK_EQUAL(reinterpret_cast<std::uintptr_t>(block) % 4096, 0);
	heap.deallocate(block, 100, 4096);
}

// ---- buffers and verbs ---------------------------------------------------------------------------

void buffers_are_prefetched_and_freed() {
	gmem::buffer<float> buffer(4 * gmem::page_size() / sizeof(float));
	const int node = gmem::device::numa_id();
	buffer.prefetch(node);
	const long faults = faults_of_writing(reinterpret_cast<char *>(buffer.data()), buffer.size_bytes());
	CHECK(!FAULTS_ARE_THE_TESTS || faults == 0);
	const gmem::fault_scope scope;
	buffer[buffer.size() - 1] = {};
	CHECK(!FAULTS_ARE_THE_TESTS || scope.count() == 0);
	for (float &value : buffer) {
		value = 3;
	}
	gmem::buffer<float> other = std::move(buffer);
	CHECK(buffer.empty() && buffer.data() == nullptr && other[5] == 3.0F); // NOLINT(*-use-after-move)
	swap(buffer, other);
	gmem::prefetch(buffer, node);
	CHECK(buffer[0] == 3.0F);
	buffer.free_eager();
	CHECK(buffer[0] == 0.0F && buffer[buffer.size() - 1] == 0.0F);
	other = gmem::buffer<float>(10);
	CHECK_EQUAL(other.size(), 10);
	const gmem::buffer<float> none(0);
	CHECK(none.begin() == none.end());
}

void a_prefetch_gives_a_report() {
	gmem::buffer<char> buffer(4 * gmem::page_size());
	const std::size_t pages = buffer.size() / static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
	const int node = gmem::device::numa_id();
	const gmem::prefetch_report first = buffer.prefetch(node);
	CHECK(first.ready() && !first.result() && !first.first_error() && first.first_failed() == nullptr);
	CHECK_EQUAL(first.bytes(), buffer.size());
	CHECK_EQUAL(first.already_resident() + first.populated(), pages);
	CHECK(first.migrated() == 0 && first.failed() == 0 && first.threads() == 1 && first.duration().count() > 0);
	CHECK_EQUAL(gmem::prefetch(buffer).already_resident(), pages);

	// In a stream's order, and outliving stream and buffer.
	gmem::prefetch_report later;
	CHECK(later.ready() && later.bytes() == 0);
	std::atomic<bool> open = false;
	{
		const gmem::stream stream;
		stream.launch([&open] {
			while (!open) {
			}
		});
		later = gmem::prefetch(buffer, node, stream);
		(void)gmem::prefetch(buffer, node, stream); // dropped
		CHECK(!later.ready());
		open = true;
		CHECK_EQUAL(later.already_resident(), pages); // waits
	}
	CHECK(later.ready() && gmem::prefetch_report(later).already_resident() == pages);
}

void a_prefetch_takes_options() {
	gmem::buffer<char> buffer(64U << 20U);
	const int node = gmem::device::numa_id();
	std::atomic<int> cancel = 1;
	gmem::prefetch_options options;
	options.cancel = &cancel;
	std::error_code code;
	CHECK(gmem::prefetch(buffer, node, {}, code, options).result() == code && code == std::errc::operation_canceled);
	cancel = 0;
	std::size_t told = 0;
	options.progress = [&told, &buffer](std::size_t done, std::size_t total) {
		CHECK(total >= buffer.size());
		told = done;
		return true;
	};
	options.threads = 1;
	const gmem::prefetch_report done = gmem::prefetch(buffer, node, {}, options);
	CHECK(told >= buffer.size() && done.threads() == 1 && !done.stalled());
	options.progress = [](std::size_t, std::size_t) { return false; };
	options.timeout = std::chrono::hours(1);
	(void)gmem::prefetch(buffer, node, {}, code, options);
	CHECK(code == std::errc::operation_canceled);
	options.progress = nullptr;
	options.timeout = std::chrono::nanoseconds(1);
	(void)gmem::prefetch(buffer, node, {}, code, options);
	CHECK(code == std::errc::timed_out);

	gmem::set_huge_policy(buffer, gmem::huge_pages::prefer);
	CHECK(gmem::huge_policy(buffer.data()) == gmem::huge_pages::prefer);
	const gmem::prefetch_report huge = buffer.prefetch(node);
	CHECK(huge.huge().has_value() == huge.fallen_back().has_value());
	gmem::set_huge_policy(buffer, gmem::huge_pages::as_is);
	CHECK(gmem::huge_policy(buffer.data()) == gmem::huge_pages::as_is);
}

void verbs_take_any_contiguous_range() {
	std::vector<int, gmem_allocator<int>> vector(gmem::page_size());
	std::array<int, 16> array{};
	const std::string text = "constant";
	gmem::prefetch(vector);
	gmem::prefetch(array);
	gmem::prefetch(text);
	gmem::prefetch({vector.data() + 7, 100});
	vector[0] = 1;
	gmem::free_eager(vector);
	CHECK_EQUAL(vector[0], 0);
	gmem::free_eager({vector.data(), 100});
#if __cplusplus >= 202002L
	gmem::prefetch(std::span(vector));
	gmem::free_eager(std::span(vector).subspan(5));
#endif
	{
		vector[0] = 1;
		gmem::eager_free_guard guard(vector);
		gmem::eager_free_guard kept(vector);
		kept.dismiss();
		CHECK_EQUAL(vector[0], 1);
	}
	CHECK_EQUAL(vector[0], 0);
}

// ---- streams -------------------------------------------------------------------------------------

void many_ranges_are_one_batch() {
	const std::size_t page = gmem::page_size();
	const int node = gmem::device::numa_id();
	std::vector<char, gmem_allocator<char>> arena(4 * page, 'x');
	char *const first = arena.data();
	// Four tensors side by side, none of which holds a whole page.
	const std::size_t size = page - 1;
	const auto tensor = [&](std::size_t i) { return gmem::mutable_range(first + i * size, size); };
	std::vector<gmem::mutable_range> tensors{tensor(3), tensor(1), tensor(0), tensor(2)};
	gmemFreeReport_t report{};
	report.size = sizeof report;
	gmem::free_eager(tensors, {}, &report);
	CHECK_EQUAL(report.bytes, 4 * size);
	CHECK_EQUAL(report.freed, 3 * page);
	CHECK_EQUAL(report.lost, page - 4);
	CHECK(is_all(first, 3 * page, 0) && is_all(first + 3 * page, page, 'x'));

	const gmem::prefetch_report moved = gmem::prefetch(tensors, node);
	CHECK_EQUAL(moved.bytes(), 4 * size);
	CHECK(!FAULTS_ARE_THE_TESTS || faults_of_writing(first, 4 * size) == 0);
	std::memset(first, 'x', 4 * page);
	gmem::free_eager({tensor(0), tensor(1)});
	CHECK(is_all(first, page, 0) && is_all(first + page, page, 'x'));
	gmem::prefetch({tensor(0), tensor(1)}, node);
	gmem::prefetch(std::list<gmem::range>{tensor(0), tensor(1)});
	const gmemRange_t in_c[] = {{gmem::range(arena).address(), arena.size()}}; // NOLINT(*-avoid-c-arrays)
	gmem::prefetch(in_c, node);
	CHECK(!FAULTS_ARE_THE_TESTS || faults_of_writing(first, 4 * page) == 0);
#if __cplusplus >= 202002L
	gmem::prefetch(std::vector<std::span<char>>{arena}, node);
#endif
	const std::vector<std::string_view> views{std::string_view(first, 4 * page)};
	CHECK_EQUAL(gmem::prefetch(views, node).bytes(), 4 * page);
	std::error_code ec;
	gmem::prefetch(tensors, -1, nullptr, ec);
	CHECK(ec == std::errc::invalid_argument);
	gmem::free_eager(tensors, reinterpret_cast<gmemStream_t>(16), ec); // NOLINT(*-int-to-ptr)
	CHECK(ec == std::errc::invalid_argument);
	// More than fit without the heap.
	std::vector<gmem::mutable_range> bytes;
	for (std::size_t i = 0; i < 1000; ++i) {
		bytes.emplace_back(first + i * (page / 250), page / 250);
	}
	gmem::free_eager(bytes, nullptr, ec, &report);
	CHECK(!ec && report.blocks == 1 && report.freed == 1000 * (page / 250) / page * page);
	// The elements of an array type are its bytes.
	CHECK_EQUAL(gmem::prefetch(std::vector<std::array<float, 4>>(10), node).bytes(), 160);
}

void a_scope_gathers_what_is_freed() {
	const std::size_t page = gmem::page_size();
	std::vector<char, gmem_allocator<char>> arena(2 * page, 'x');
	gmem::stream stream;
	{
		gmem::free_scope scope(stream);
		for (std::size_t at = 0; at < page; at += page / 64) {
			scope.add({arena.data() + at, page / 64});
		}
		CHECK_EQUAL(scope.size(), 64);
		stream.synchronize();
		CHECK(is_all(arena.data(), 2 * page, 'x'));
		gmemFreeReport_t report{};
		report.size = sizeof report;
		scope.flush(&report);
		stream.synchronize();
		CHECK_EQUAL(report.freed, page);
		CHECK(is_all(arena.data(), page, 0) && scope.size() == 0);
		scope.add({arena.data() + page, page});
		scope.dismiss();
		scope.add({arena.data() + page, page - 1});
		scope.add({arena.data() + 2 * page - 1, 1});
	}
	stream.synchronize();
	CHECK(is_all(arena.data() + page, page, 0));
}

/// As ov::Allocator takes allocators: by value, with three members of which two do not throw.
template <class A>
void takes_an_allocator(A allocator) {
	static_assert(noexcept(allocator.deallocate(nullptr, std::size_t{}, std::size_t{})));
	static_assert(noexcept(std::declval<const A &>().is_equal(allocator)));
	void *const block = allocator.allocate(std::size_t{100}, std::size_t{64});
	CHECK(reinterpret_cast<std::uintptr_t>(block) % 64 == 0);
	std::memset(block, 1, 100);
	allocator.deallocate(block, std::size_t{100}, std::size_t{64});
	const A other(allocator);
	CHECK(allocator.is_equal(other));
}

void the_heap_is_an_allocator() {
	takes_an_allocator(gmem::heap());
	const gmem::heap heap;
	const std::size_t page = gmem::page_size();
	void *const large = heap.allocate(page);
	CHECK(reinterpret_cast<std::uintptr_t>(large) % page == 0);
	heap.deallocate(large, page);
	void *const empty = heap.allocate(0);
	CHECK(empty != nullptr);
	heap.deallocate(empty, 0);
	heap.deallocate(nullptr, 0);
	CHECK(heap == gmem::heap() && !(heap != gmem::heap()));
	try {
		(void)heap.allocate(std::numeric_limits<std::size_t>::max() / 2);
		CHECK(!"a failure throws");
	} catch (const gmem::out_of_memory &failure) {
		CHECK(failure.bytes() == std::numeric_limits<std::size_t>::max() / 2);
	}
	try {
		(void)heap.allocate(8, 3);
		CHECK(!"a failure throws");
	} catch (const std::system_error &failure) {
		CHECK(failure.code() == std::errc::invalid_argument);
	}
}

void streams_run_callables_in_order() {
	gmem::stream stream;
	std::vector<int, gmem_allocator<int>> vector(gmem::page_size());
	std::vector<int> seen;
	auto owned = std::make_unique<int>(5);
	gmem::prefetch(vector, gmem::device::numa_id(), stream);
	stream.launch([&vector] { vector[0] = 1; });
	stream.launch([&seen, &vector, owned = std::move(owned)] { seen.push_back(vector[0] + *owned); });
	gmem::free_eager(vector, stream);
	stream.launch([&seen, &vector] { seen.push_back(vector[0]); });
	stream.synchronize();
	CHECK(seen == (std::vector<int>{6, 0}) && stream.query());

	gmem::stream moved = std::move(stream);
	CHECK(stream.get() == nullptr); // NOLINT(*-use-after-move)
	stream = std::move(moved);
	const gmem::stream_ref view = stream;
	view.launch([&seen] { seen.push_back(1); });
	view.synchronize();
	CHECK_EQUAL(seen.size(), 3);
}

void streams_wait_for_each_other() {
	const gmem::stream one, other;
	const gmem::event first, second;
	CHECK(first.query());
	std::vector<int> seen;
	for (int round = 0; round < 100; ++round) {
		one.launch([&seen] { seen.push_back(1); });
		one.record(first);
		other.wait(first);
		other.launch([&seen] { seen.push_back(2); });
		other.record(second);
		one.wait(second);
	}
	second.synchronize();
	bool by_turns = seen.size() == 200;
	for (std::size_t i = 0; i < seen.size(); ++i) {
		by_turns = by_turns && seen[i] == static_cast<int>(i % 2 + 1);
	}
	CHECK(by_turns);
	std::error_code code;
	second.synchronize(code);
	CHECK(!code && first.query());
	try {
		gmem::stream_ref().record(first);
		CHECK(!"refused");
	} catch (const gmem::error &failure) {
		CHECK(failure.code() == std::errc::invalid_argument);
	}
}

struct counted {
	static inline std::atomic<int> alive{0}; // NOLINT
	counted() { ++alive; }
	counted(const counted &) { ++alive; }
	counted(counted &&) noexcept { ++alive; }
	counted &operator=(const counted &) = delete;
	~counted() { --alive; }
};

void callables_are_destroyed_once() {
	{
		gmem::stream stream;
		for (int i = 0; i < 100; ++i) {
			stream.launch([value = counted()] { (void)value; });
		}
		stream.synchronize();
		CHECK_EQUAL(counted::alive.load(), 0);
		stream.launch([value = counted()] { (void)value; });
	}
	// The destructor has waited.
	CHECK_EQUAL(counted::alive.load(), 0);
	std::atomic<bool> ran = false;
	{
		gmem::stream stream;
		stream.launch([&ran] {
			usleep(50000);
			ran = true;
		});
	}
	CHECK(ran);
	gmemStream_t handle = gmem::stream().release();
	CHECK_EQUAL(gmemStreamDestroy(handle), 0);
	// A launch that is refused destroys it too.
	try {
		gmem::stream_ref().launch([value = counted()] { (void)value; });
		CHECK(!"refused");
	} catch (const gmem::error &) {
	}
	CHECK_EQUAL(counted::alive.load(), 0);
}

// ---- seeing --------------------------------------------------------------------------------------

void the_topology_is_a_value() {
	const gmem::topology machine;
	CHECK(!machine.nodes().empty() && machine.machine().gmem_page == gmem::page_size());
	bool found = false;
	for (const gmem::topology::node &node : machine.nodes()) {
		found = found || node.id() == gmem::device::numa_id();
		CHECK(node.device() == "host" && node.free_bytes() < node.total_bytes());
		CHECK(node.has_cpus() == (node.cpus() > 0) && node.distance_to(node) == 10);
	}
	CHECK(found);
	CHECK(machine.has(gmem::topology::feature::populate));
	const gmem::topology copy = machine;
	CHECK_EQUAL(copy.nodes().size(), machine.nodes().size());
	CHECK(gmem::topology::to_text().find("GMEM 2048 KiB") != std::string::npos || gmem::page_size() != 2U << 20U);
	const std::string json = gmem::topology::to_json();
	CHECK(json.front() == '{' && json.back() == '}' && json.size() == std::string(json.c_str()).size());
	try {
		(void)gmem::topology::distance(0, -1);
		CHECK(!"thrown");
	} catch (const gmem::error &failure) {
		CHECK(failure.code() == std::errc::invalid_argument);
	}
}

void a_residency_is_a_value() {
	gmem::buffer<char> buffer(2 * gmem::page_size());
	const int node = gmem::device::numa_id();
	buffer.prefetch(node);
	const gmem::residency map(buffer);
	using flag = gmem::residency::flag;
	CHECK(map.size() == 2 * gmem::page_size() / map.page_size() && !map.empty());
	CHECK(map.count(flag::resident) == map.size() && map.count(flag::swapped) == 0);
	CHECK(!map.knows_nodes() || map.on_node(node) == map.size());
	CHECK(map.knows(flag::mapped) && !map.knows(flag::hot));
	std::size_t pages = 0;
	for (const gmem::residency::page &page : map) {
		CHECK(page.address() == reinterpret_cast<std::uintptr_t>(buffer.data()) + pages * map.page_size());
		CHECK(page.mapped() && page.resident() && !page.shared() && !page.swapped() && !page.hot());
		++pages;
	}
	CHECK(pages == map.size() && map[0].node() == node);
	// A residency map keeps the state at which it was made.
	buffer.free_eager();
	CHECK(map[0].resident() && gmem::residency(buffer).count(flag::resident) == 0);
	const gmem::residency copy = map;
	CHECK(copy.to_text() == map.to_text() && copy.to_json() == map.to_json());
	CHECK(map.to_text().find(" resident") != std::string::npos && map.to_json().front() == '{');
	CHECK(map.to_svg().rfind("<svg ", 0) == 0 && map.summary().pages == map.size());
	const gmem::residency none({nullptr, 0}, gmem::residency::ask::hot);
	CHECK(none.empty() && none.begin() == none.end() && !none.to_text().empty());
}

// ---- errors --------------------------------------------------------------------------------------

template <class F>
std::error_code code_of(F &&function) {
	try {
		function();
	} catch (const gmem::error &failure) {
		CHECK(std::string(failure.what()).size() > 20);
		return failure.code();
	}
	return {};
}

void errors_are_system_errors_with_a_reason() {
	std::vector<int> vector(10);
	CHECK(code_of([&] { gmem::prefetch(vector, -1); }) == std::errc::invalid_argument);
	CHECK(code_of([&] { gmem::prefetch({nullptr, SIZE_MAX / 2}, 0); }) == std::errc::not_enough_memory);
	CHECK(code_of([&] { gmem::free_eager(vector, gmemStream_t(&vector)); }) == std::errc::invalid_argument);
	CHECK(gmem::device::context() == nullptr);
	CHECK(code_of([&] { gmem::device::set_current("toaster"); }) == std::errc::invalid_argument);
	try {
		gmem::prefetch(vector, -1);
	} catch (const std::exception &failure) {
		CHECK(std::string(failure.what()).find("hnid = -1") != std::string::npos);
	}
	std::error_code code;
	gmem::prefetch(vector, -1, {}, code);
	CHECK(code == std::errc::invalid_argument);
	gmem::prefetch(vector, gmem::device::numa_id(), {}, code);
	CHECK(!code);
	gmem::free_eager(vector, gmemStream_t(&vector), code);
	CHECK(code == std::errc::invalid_argument);
}

void exceptions_on_a_stream_surface_when_synchronizing() {
	gmem::stream stream;
	std::atomic<bool> ran = false;
	stream.launch([] { throw std::runtime_error("the kernel failed"); });
	stream.launch([&ran] { ran = true; });
	try {
		stream.synchronize();
		CHECK(!"thrown");
	} catch (const gmem::error &failure) {
		CHECK(std::string(failure.what()).find("the kernel failed") != std::string::npos);
		CHECK(failure.code() == std::errc::operation_canceled);
	}
	CHECK(ran);
	stream.synchronize();
	stream.launch([] { throw 42; });
	std::error_code code;
	stream.synchronize(code);
	CHECK(code == std::errc::operation_canceled);
}

void memory_that_cannot_be_had_is_bad_alloc() {
	// Known at run time only.
	volatile std::size_t huge = std::numeric_limits<std::size_t>::max() / 64;
	try {
		gmem::buffer<double> buffer(huge);
		CHECK(!"thrown");
	} catch (const std::bad_alloc &failure) {
		CHECK(dynamic_cast<const gmem::out_of_memory *>(&failure) != nullptr);
	}
	try {
		gmem_allocator<double> allocator;
		(void)allocator.allocate(huge);
		CHECK(!"thrown");
	} catch (const std::exception &failure) { // and catchable as the common base
		const auto *precise = dynamic_cast<const gmem::out_of_memory *>(&failure);
		CHECK(precise != nullptr && precise->bytes() == huge * sizeof(double));
	}
	try {
		(void)gmem_allocator<double>().allocate(std::numeric_limits<std::size_t>::max() / 2);
		CHECK(!"thrown");
	} catch (const std::bad_array_new_length &) {
	}
}

} // namespace

int main() {
	alarm(120);
	containers_work_with_the_allocator();
	default_init_touches_nothing();
	pmr_containers_work();
	buffers_are_prefetched_and_freed();
	a_prefetch_gives_a_report();
	a_prefetch_takes_options();
	verbs_take_any_contiguous_range();
	many_ranges_are_one_batch();
	a_scope_gathers_what_is_freed();
	the_heap_is_an_allocator();
	streams_run_callables_in_order();
	streams_wait_for_each_other();
	callables_are_destroyed_once();
	the_topology_is_a_value();
	a_residency_is_a_value();
	errors_are_system_errors_with_a_reason();
	exceptions_on_a_stream_surface_when_synchronizing();
	memory_that_cannot_be_had_is_bad_alloc();
	return checks_result("api");
}
