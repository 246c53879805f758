// SPDX-License-Identifier: Apache-2.0
// Uses each class and template of the headers, because compilers warn of members and templates when they are used. It
// has to compile, under the warnings that users turn on; it is not run.
#include <array>
#include <string>
#include <system_error>
#include <vector>

#include <libgmem.hpp>
#include <libgmem/engines/ready_heap.hpp>
#include <libgmem/streams/executor.hpp>
#if __cplusplus >= 202002L
#include <span>

#include <libgmem/coroutine.hpp>

#include "detached.hpp"
#endif

namespace {

void memory(std::error_code &ec) {
	std::vector<float, gmem::gmem_allocator<float>> values(8);
	const std::vector<float, gmem::default_init_allocator<float>> unwritten(8);
	gmem::buffer<float> block = gmem::buffer<float>::create(8, ec, 4096);
	gmem::buffer<float> moved(std::move(block));
	moved.swap(block);
	const gmem::unique_ptr<float[]> owned;
	gmem::heap heap;
	heap.deallocate(heap.allocate(8, 64, ec), 8);
	const gmem::engines::ready_heap ready;
	ready.deallocate(ready.allocate(8, 64, ec), 8, 64);
#if LIBGMEM_HAS_EXCEPTIONS && defined(__cpp_rtti) && __has_include(<memory_resource>)
	gmem::memory_resource resource;
	std::pmr::vector<float> pooled(8, &resource);
#endif
	float array[8] = {};
	gmem::prefetch(array, 0, nullptr, ec);
	gmem::prefetch(values, 0, nullptr, ec);
	gmem::prefetch(std::array<gmem::range, 2>{gmem::range(values), gmem::range(unwritten)}, 0, nullptr, ec);
	gmem::free_eager(block, nullptr, ec);
	gmem::free_scope scope;
	scope.add(values, ec);
	const gmem::eager_free_guard guard(block);
#if __cplusplus >= 202002L
	gmem::prefetch(std::span<float>(values.data(), values.size()), 0, nullptr, ec);
#endif
}

void order(std::error_code &ec) {
	gmem::stream stream = gmem::stream::create(ec);
	stream.launch([] {}, ec);
	gmem::event event = gmem::event::create(ec);
	stream.record(event, ec);
	stream.wait(event, ec);
	gmem::stream_ref(stream).synchronize(ec);
	gmem::prefetch_options options;
	options.huge = gmem::huge_pages::prefer;
	const gmem::prefetch_report report = gmem::prefetch(std::string(8, ' '), 0, stream, ec, options);
	static_cast<void>(report.bytes());
}

void models(std::error_code &ec) {
	const gmem::model_file file = gmem::model_file::open("model", ec, gmem::model_options());
	gmem::model_files files;
	files.add(gmem::model_file(), ec);
	gmem::prefetch_pipeline pipeline =
		gmem::prefetch_pipeline::create(files.range(0, 0, ec), gmem::pipeline_options(), ec);
	pipeline.want(0, ec);
	const auto mappings = gmem::mappings_of("model", ec);
	gmem::prefetch(mappings, 0, nullptr, ec);
}

void looking(std::error_code &ec) {
	gmem::fault_scope faults = gmem::fault_scope::create(ec, gmem::fault_scope::whose::program);
	faults.reset(ec);
	const gmem::residency map = gmem::residency::create(gmem::range(), ec);
	const gmem::topology all = gmem::topology::create(ec);
	static_cast<void>(gmem::device::numa_id(ec));
}

#if __cplusplus >= 202002L
detached awaits(std::error_code &ec) {
	static_cast<void>(co_await gmem::prefetch(std::string(8, ' '), 0, nullptr, ec));
}
#endif

} // namespace

int main() {
	std::error_code ec;
	memory(ec);
	order(ec);
	models(ec);
	looking(ec);
#if __cplusplus >= 202002L
	awaits(ec);
#endif
	return gmemGetPageSize() == GMEM_UNKNOWN;
}
