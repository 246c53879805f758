// SPDX-License-Identifier: Apache-2.0
// The C++ API without exceptions and RTTI: every operation by its std::error_code, and each failure.
#include <array>
#include <vector>

#include <libgmem.hpp>
#include <libgmem/streams/executor.hpp>

#include "../check.h"

#if LIBGMEM_HAS_EXCEPTIONS || defined(__cpp_rtti)
#error "compile with -fno-exceptions -fno-rtti"
#endif

namespace {

std::error_code ec;

/// Whether the last call succeeded.
bool ok() { return !ec; }
/// Whether it failed with an errno, and said why.
bool failed(std::errc why) { return ec == why; }

int node() {
	const int id = gmem::device::numa_id(ec);
	CHECK(ok() && id >= 0);
	return id;
}

void devices_and_policies() {
	CHECK(gmem::device::current(ec) != nullptr && ok());
	gmem::device::set_current("toaster", ec);
	CHECK(failed(std::errc::invalid_argument));
	gmem::device::set_current("host", ec);
	CHECK(ok());
	CHECK(gmem::device::context(ec) == nullptr && ok());
	gmem::set_huge_policy(gmem::huge_pages::prefer, ec);
	CHECK(ok());
	gmem::set_huge_policy(gmem::huge_pages::as_is, ec);
	CHECK(ok());
	gmem::set_huge_policy({nullptr, 4096}, gmem::huge_pages::as_is, ec);
	CHECK(ok());
}

void memory() {
	auto numbers = gmem::buffer<float>::create(4 * gmem::page_size(), ec);
	CHECK(ok() && numbers.size() == 4 * gmem::page_size());
	numbers.prefetch(node(), nullptr, ec);
	CHECK(ok());
	numbers[7] = 1;
	numbers.free_eager(nullptr, ec);
	CHECK(ok() && numbers[7] == 0);
	CHECK(gmem::buffer<float>::create(SIZE_MAX, ec).empty() && failed(std::errc::not_enough_memory));
	CHECK(gmem::buffer<float>::create(SIZE_MAX / 16, ec).empty() && failed(std::errc::not_enough_memory));
	CHECK(gmem::buffer<float>::create(0, ec).empty() && ok());
	CHECK(gmem::make_unique_for_overwrite<float[]>(10, ec) != nullptr && ok());

	std::vector<int, gmem_allocator<int>> values(1000, 5);
	CHECK_EQUAL(values[999], 5);
	gmem_allocator<int> allocator;
	CHECK(allocator.allocate(SIZE_MAX / 8, ec) == nullptr && failed(std::errc::not_enough_memory));
	int *one = allocator.allocate(1, ec);
	CHECK(one != nullptr && ok());
	allocator.deallocate(one, 1);

	const gmem::heap heap;
	void *block = heap.allocate(100, 4096);
	CHECK(block != nullptr && reinterpret_cast<std::uintptr_t>(block) % 4096 == 0);
	heap.deallocate(block, 100, 4096);
	CHECK(heap.allocate(SIZE_MAX / 2) == nullptr);
	CHECK(heap.allocate(8, 3, ec) == nullptr && failed(std::errc::invalid_argument));
}

void verbs() {
	std::vector<char, gmem_allocator<char>> data(4 * gmem::page_size(), 'x');
	const gmem::prefetch_report report = gmem::prefetch(data, node(), nullptr, ec);
	CHECK(ok() && report.bytes() == data.size());
	gmem::prefetch(data, nullptr, ec);
	CHECK(ok());
	gmem::prefetch(data, -1, nullptr, ec);
	CHECK(failed(std::errc::invalid_argument));
	gmem::free_eager({reinterpret_cast<void *>(64), SIZE_MAX}, nullptr, ec);
	CHECK(failed(std::errc::invalid_argument));

	const std::size_t half = data.size() / 2 + 1;
	const std::array<gmem::mutable_range, 2> halves{{{data.data(), half}, {data.data() + half, data.size() - half}}};
	gmem::prefetch(halves, node(), nullptr, ec);
	CHECK(ok());
	gmemFreeReport_t freed{};
	freed.size = sizeof freed;
	gmem::free_eager(halves, nullptr, ec, &freed);
	CHECK(ok() && freed.freed == data.size() && data[half] == 0);
	gmem::free_scope scope;
	scope.add(data, ec);
	CHECK(ok());
	scope.flush(ec);
	CHECK(ok() && scope.size() == 0);
}

void streams() {
	auto stream = gmem::stream::create(ec);
	CHECK(ok());
	auto event = gmem::event::create(ec);
	CHECK(ok());
	int runs = 0;
	stream.launch([&runs] { ++runs; }, ec);
	CHECK(ok());
	stream.record(event, ec);
	CHECK(ok());
	stream.wait(event, ec);
	CHECK(ok());
	event.synchronize(ec);
	CHECK(ok() && event.query(ec) && ok());
	stream.synchronize(ec);
	CHECK(ok() && runs == 1 && stream.query(ec) && ok());
	(void)gmem::external_stream::create(nullptr, nullptr, ec);
	CHECK(failed(std::errc::invalid_argument));
	const auto run = [&runs](auto function) {
		++runs;
		function();
	};
	auto wrapped = gmem::streams::executor(run, ec);
	CHECK(ok());
	wrapped.launch([&runs] { ++runs; }, ec);
	CHECK(ok());
	wrapped.synchronize(ec);
	CHECK(ok() && runs == 3);
	auto owned = gmem::streams::executor([](auto function) { function(); }, ec);
	CHECK(ok());
	owned.launch([&runs] { ++runs; }, ec);
	owned.synchronize(ec);
	CHECK(ok() && runs == 4);
	const gmem::stream_ref unknown(reinterpret_cast<gmemStream_t>(16));
	unknown.launch([] {}, ec);
	CHECK(failed(std::errc::invalid_argument));
	CHECK(!unknown.query(ec) && failed(std::errc::invalid_argument));
	unknown.record(event, ec);
	CHECK(failed(std::errc::invalid_argument));
}

void inspection() {
	const auto machine = gmem::topology::create(ec);
	CHECK(ok() && !machine.nodes().empty());
	CHECK_EQUAL(gmem::topology::distance(node(), node(), ec), 10);
	CHECK(gmem::topology::distance(0, -1, ec) < 0 && failed(std::errc::invalid_argument));
	CHECK(!gmem::topology::to_text(ec).empty() && ok());
	CHECK(!gmem::topology::to_json(ec).empty() && ok());
	std::vector<char> bytes(1 << 16, 'x');
	const auto map = gmem::residency::create(bytes, ec);
	CHECK(ok() && map.count(gmem::residency::flag::mapped) == map.size());
	CHECK(!map.to_text(ec).empty() && ok() && !map.to_json(ec).empty() && ok() && !map.to_svg(ec).empty() && ok());
	CHECK(gmem::residency::create({reinterpret_cast<void *>(64), SIZE_MAX}, ec).empty() && !ok());
	auto faults = gmem::fault_scope::create(ec);
	CHECK(ok() && faults.count(ec) >= 0 && ok());
	faults.reset(ec);
	CHECK(ok() && faults.count(ec) >= 0);
}

void models() {
	auto file = gmem::model_file::open("/proc/self/exe", ec, {gmem::model_mode::private_pages});
	CHECK(ok() && !file.empty() && file.mode() == gmem::model_mode::private_pages);
	gmem::prefetch(file.range(), node(), nullptr, ec);
	CHECK(ok() && file.loaded_bytes() >= file.size() && file.read_bytes() == file.size());
	CHECK(file.data()[1] == std::byte{'E'});
	gmem::free_eager(file.range(), nullptr, ec);
	CHECK(ok() && file.loaded_bytes() == 0 && file.data()[1] == std::byte{'E'});
	CHECK(file.range(0, file.size() + 1, ec).size_bytes() == 0 && failed(std::errc::invalid_argument));
	CHECK(gmem::model_file::open("/", ec).get() == nullptr && failed(std::errc::is_a_directory));

	gmem::model_files all;
	const std::size_t size = file.size();
	all.add(std::move(file), ec);
	CHECK(ok());
	all.add(gmem::model_file::open("/proc/self/exe", ec), ec);
	CHECK(ok() && all.count() == 2 && all.size() == 2 * size);
	const auto parts = all.range(size - 1, 2, ec);
	CHECK(ok() && parts.size() == 2 && parts[0].size_bytes() == 1 && parts[1].data() == all[1].data());
	gmem::prefetch(parts, node(), nullptr, ec);
	CHECK(ok());
	gmem::free_eager(parts, nullptr, ec);
	CHECK(ok());
	CHECK(all.range(size, size + 1, ec).empty() && failed(std::errc::invalid_argument));

	auto pipeline = gmem::prefetch_pipeline::create(parts, {64 * gmem::page_size()}, ec);
	CHECK(ok());
	pipeline.want(0, ec);
	CHECK(ok());
	pipeline.done(0, ec);
	CHECK(ok() && pipeline.report().wants == 1);
	pipeline.soon(9, ec);
	CHECK(failed(std::errc::invalid_argument));
	CHECK(gmem::prefetch_pipeline::create(parts, {1}, ec).get() == nullptr && failed(std::errc::invalid_argument));
}

} // namespace

int main() {
	devices_and_policies();
	memory();
	verbs();
	streams();
	inspection();
	models();
	return checks_result("no_exceptions");
}
