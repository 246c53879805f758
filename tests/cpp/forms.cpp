// SPDX-License-Identifier: Apache-2.0
// The forms of a prefetch: with and without a node, of a pointer, an array, many ranges; and the owners of memory.
#include <array>
#include <memory>
#include <string>
#include <thread>
#include <vector>
#if __cplusplus >= 202002L
#include <ranges>
#include <span>
#endif

#include <libgmem.hpp>
#include <libgmem/engines/ready_heap.hpp>

#include "../check.h"

namespace {

alignas(64) char bytes_of_program[100000];
const float constants[1000] = {1};

void prefetches_need_no_node() {
	const std::size_t page = gmem::page_size();
	gmem::buffer<char> buffer(4 * page);
	const gmem::stream stream;
	std::error_code ec;
	gmem::prefetch_options options;
	options.huge = gmem::huge_pages::off;
	const auto in_order = gmem::prefetch(buffer, stream, options);
	stream.synchronize();
	CHECK_EQUAL(in_order.bytes(), buffer.size());
	CHECK(in_order.huge().value_or(0) == 0);
	CHECK_EQUAL(gmem::prefetch(buffer, nullptr, ec, options).bytes(), buffer.size());
	CHECK(!ec);
	const gmem::range half(buffer.data(), 2 * page), other(buffer.data() + 2 * page, 2 * page);
	const std::vector<gmem::range> halves{half, other};
	CHECK_EQUAL(gmem::prefetch(halves, {}, options).bytes(), buffer.size());
	CHECK_EQUAL(gmem::prefetch(halves, nullptr, ec, options).bytes(), buffer.size());
	CHECK_EQUAL(gmem::prefetch({half, other}).bytes(), buffer.size());
	CHECK_EQUAL(gmem::prefetch({half, other}, stream).bytes(), buffer.size());
	CHECK_EQUAL(gmem::prefetch({half, other}, nullptr, ec).bytes(), buffer.size());
	CHECK(!ec);
	gmem::prefetch({half, other}, reinterpret_cast<gmemStream_t>(16), ec); // NOLINT(*-int-to-ptr)
	CHECK(ec == std::errc::invalid_argument);
}

void prefetches_take_pointers_and_arrays() {
	const int node = gmem::device::numa_id();
	const gmem::stream stream;
	std::error_code ec;
	const void *const start = bytes_of_program;
	CHECK_EQUAL(gmem::prefetch(start, sizeof bytes_of_program, node).bytes(), sizeof bytes_of_program);
	CHECK_EQUAL(gmem::prefetch(bytes_of_program, 10, node, stream).bytes(), 10);
	CHECK_EQUAL(gmem::prefetch(start, 10, node, nullptr, ec).bytes(), 10);
	CHECK(!ec);
	CHECK_EQUAL(gmem::prefetch(bytes_of_program, node).bytes(), sizeof bytes_of_program);
	CHECK_EQUAL(gmem::prefetch(constants, node).bytes(), sizeof constants);
	static_assert(!std::is_convertible_v<const float(&)[3], gmem::mutable_range>);
	static_assert(!std::is_convertible_v<const char *, gmem::range>);
	bytes_of_program[50000] = 1;
	gmem::free_eager(bytes_of_program);
	CHECK_EQUAL(bytes_of_program[50000], 1);
#if __cplusplus >= 202002L
	const std::span<const float, 1000> view(constants);
	CHECK_EQUAL(gmem::prefetch(view, node).bytes(), sizeof constants);
	CHECK_EQUAL(gmem::prefetch(std::ranges::subrange(view.data(), view.data() + 10), node).bytes(), 40);
	CHECK_EQUAL(gmem::prefetch(view | std::views::drop(990), node).bytes(), 40);
	const std::vector<std::span<const float>> views{view, view.first(10)};
	CHECK_EQUAL(gmem::prefetch(views, node).bytes(), sizeof constants);
#endif
}

bool is_aligned(const void *memory, std::size_t alignment) {
	return reinterpret_cast<std::uintptr_t>(memory) % alignment == 0;
}

void buffers_are_aligned_and_released() {
	std::error_code ec;
	CHECK(is_aligned(gmem::buffer<char>(1).data(), 64) && is_aligned(gmem::buffer<char>(1, 16).data(), 64));
	CHECK(is_aligned(gmem::buffer<char>(100, 4096).data(), 4096));
	CHECK(is_aligned(gmem::buffer<char>(gmem::page_size()).data(), gmem::page_size()));
	CHECK(is_aligned(gmem::buffer<char>::create(100, ec, 1 << 16).data(), 1 << 16) && !ec);
	CHECK(gmem::buffer<char>::create(100, ec, 48).empty() && ec == std::errc::invalid_argument);
	try {
		gmem::buffer<char>(100, 48);
		CHECK(!"a failure throws");
	} catch (const std::system_error &failure) {
		CHECK(failure.code() == std::errc::invalid_argument);
		CHECK(std::string(failure.what()).find("alignment = 48") != std::string::npos);
	}
	gmem::buffer<int> buffer(1000);
	buffer[999] = 7;
	const gmem::unique_ptr<int[]> owner(buffer.release());
	CHECK(buffer.empty() && buffer.data() == nullptr && owner[999] == 7);
	CHECK(buffer.release() == nullptr);
}

void unique_pointers_free_with_the_heap() {
	static_assert(sizeof(gmem::unique_ptr<float[]>) == sizeof(float *));
	auto floats = gmem::make_unique_for_overwrite<float[]>(1 << 20, 4096);
	CHECK(is_aligned(floats.get(), gmem::page_size()));
	floats[(1 << 20) - 1] = 1;
	std::error_code ec;
	auto none = gmem::make_unique_for_overwrite<float[]>(SIZE_MAX, ec);
	CHECK(none == nullptr && ec == std::errc::not_enough_memory);
	none = gmem::make_unique_for_overwrite<float[]>(10, ec);
	CHECK(none != nullptr && !ec);
	const gmem::unique_ptr<void> untyped(gmem_malloc(10));
	const std::shared_ptr<const int> shared(static_cast<const int *>(gmem_malloc(sizeof(int))), gmem::deleter());
}

void blocks_of_a_ready_heap_take_no_fault() {
	using gmem::engines::ready_heap;
	const int node = gmem::device::numa_id();
	const ready_heap memory, weights(node, gmem::engines::release::on_free), elsewhere(-1);
	CHECK(memory == weights && memory.is_equal(weights) && memory != elsewhere && memory.hnid() == node);
	const std::size_t size = 4 * gmem::page_size();
	for (const ready_heap &heap : {memory, weights}) {
		void *const block = heap.allocate(size, 4096);
		CHECK(!FAULTS_ARE_THE_TESTS || faults_of_writing(static_cast<char *>(block), size) == 0);
		heap.deallocate(block, size, 4096);
	}
	// What is released is not in memory when the heap gives it out again.
	void *const again = elsewhere.allocate(size);
	CHECK(gmem::residency({again, size}).count(gmem::residency::flag::resident) == 0);
	elsewhere.deallocate(again, size);
	std::error_code ec;
	CHECK(memory.allocate(SIZE_MAX / 2, 64, ec) == nullptr && ec == std::errc::not_enough_memory);
	CHECK(memory.allocate(8, 3, ec) == nullptr && ec == std::errc::invalid_argument);
	void *const small = memory.allocate(8);
	memory.deallocate(small, 8);
	memory.deallocate(nullptr, 0);
	// No node of that number: an ordinary block.
	void *const ordinary = ready_heap(12345).allocate(size);
	static_cast<char *>(ordinary)[size - 1] = 1;
	memory.deallocate(ordinary, size);
}

void a_mapped_file_is_found() {
	const std::size_t page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
	std::string path = "/tmp/mapped file.XXXXXX";
	const int file = mkstemp(path.data());
	NEED(file >= 0 && ftruncate(file, static_cast<off_t>(4 * page)) == 0);
	CHECK(gmem::mappings_of(path.c_str()).empty());
	char *const whole = static_cast<char *>(mmap(nullptr, 4 * page, PROT_READ, MAP_SHARED, file, 0));
	char *const copy = static_cast<char *>(
		mmap(nullptr, page, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, static_cast<off_t>(2 * page)));
	NEED(whole != MAP_FAILED && copy != MAP_FAILED);
	auto found = gmem::mappings_of(path.c_str());
	CHECK_EQUAL(found.size(), 2);
	if (found.size() == 2) {
		if (found[0].data() != whole) {
			std::swap(found[0], found[1]);
		}
		CHECK(found[0].data() == whole && found[0].size_bytes() == 4 * page && found[0].offset() == 0);
		CHECK(found[0].is_shared() && !found[0].is_writable());
		CHECK(found[1].data() == copy && found[1].offset() == 2 * page);
		CHECK(!found[1].is_shared() && found[1].is_writable());
		CHECK_EQUAL(gmem::prefetch(found, gmem::device::numa_id()).bytes(), 5 * page);
	}
	if (found.size() == 2) {
		std::error_code refused;
		gmem::free_eager_file(found[0], file, {}, refused);
		CHECK(!refused);
		gmem::free_eager_file(found[1], -1, {}, refused);
		CHECK(refused == std::errc::bad_file_descriptor);
		gmem::free_eager_file(found[0], file);
	}
	// Another name of the same file.
	const std::string other = path + ".link";
	NEED(link(path.c_str(), other.c_str()) == 0);
	std::error_code ec;
	CHECK(gmem::mappings_of(other.c_str(), ec).size() == 2 && !ec);
	gmemMapping_t one;
	CHECK_EQUAL(gmemMappingsOf(path.c_str(), &one, 1), 2);
	NEED(munmap(whole, 4 * page) == 0 && munmap(copy, page) == 0 && close(file) == 0);
	CHECK(gmem::mappings_of(path.c_str()).empty());
	NEED(unlink(path.c_str()) == 0 && unlink(other.c_str()) == 0);
	CHECK(gmem::mappings_of(path.c_str(), ec).empty() && ec == std::errc::no_such_file_or_directory);
	CHECK(std::string(gmemLastError()).find(path) != std::string::npos);
}

void fault_scopes_are_reset() {
	const std::size_t size = std::size_t{8} << 20;
	char *const start = map_private(size, gmem::page_size());
	NEED(madvise(start, size, MADV_NOHUGEPAGE) == 0);
	gmem::fault_scope program(gmem::fault_scope::whose::program), process(gmem::fault_scope::whose::process);
	const auto pages = static_cast<long long>(size / static_cast<std::size_t>(sysconf(_SC_PAGESIZE)));
	gmem::prefetch(start, size, gmem::device::numa_id());
	CHECK(program.count() < pages / 2);
	CHECK(process.count() >= pages);
	gmem::free_eager({start, size});
	process.reset();
	CHECK(process.count() < pages / 2);
	// A thread that began after the scope.
	std::thread([&] { (void)faults_of_writing(start, size); }).join();
	std::error_code ec;
	CHECK(program.count(ec) >= pages && !ec && process.count(ec) >= pages && !ec);
	program.reset(ec);
	CHECK(!ec && program.count() < pages / 2);
	munmap(start, size);
}

} // namespace

int main() {
	prefetches_need_no_node();
	prefetches_take_pointers_and_arrays();
	buffers_are_aligned_and_released();
	unique_pointers_free_with_the_heap();
	blocks_of_a_ready_heap_take_no_fault();
	a_mapped_file_is_found();
	fault_scopes_are_reset();
	return checks_result("forms");
}
