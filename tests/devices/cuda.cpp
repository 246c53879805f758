// SPDX-License-Identifier: Apache-2.0
// The device "cuda" through the public interface, on a libcuda.so.1 that is none (tests/standins/cuda), which counts
// what it is asked for and tells where it has put what. Run with GMEM_DEVICE=cuda; one argument names what the library
// is like: managed, pageable, old, two.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include <sys/wait.h>

#include <libgmem.hpp>

#include "../check.h"
#include "../gpu/driver.hpp"

namespace {

/// Functions of the stand-in that CUDA does not have.
template <class Result, class... Arguments>
Result stand_in(const char *name, Arguments... arguments) {
	static void *const library = dlopen("libcuda.so.1", RTLD_NOW);
	NEED(library != nullptr);
	auto *const call = reinterpret_cast<Result (*)(Arguments...)>(dlsym(library, name));
	NEED(call != nullptr);
	return call(arguments...);
}
long count(const char *function) { return stand_in<long>("standin_cuda_count", function); }
std::size_t bytes_on(int where, gmem::range what) {
	return stand_in<std::size_t>("standin_cuda_bytes_on", where, what.address(), what.size_bytes());
}
constexpr int nowhere = -2, processor = -1, gpu = 0;

using floats = std::vector<float, gmem_allocator<float>>;
using blank_floats = std::vector<float, gmem::default_init_allocator<float>>;

gmemHeapStats_t heap_stats() {
	gmemHeapStats_t stats{};
	stats.size = sizeof stats;
	CHECK_EQUAL(gmemHeapStats(&stats), 0);
	return stats;
}

/// Ordinary memory on a GMEM page; not map_private(), whose addresses ThreadSanitizer does not know.
char *ordinary_memory(std::size_t size) {
	const std::size_t page = gmem::page_size();
	void *const mapped = mmap(nullptr, size + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	NEED(mapped != MAP_FAILED);
	const auto address = reinterpret_cast<std::uintptr_t>(mapped);
	return static_cast<char *>(mapped) + (page - address % page) % page;
}

gmem::stream_ref raw(const cuda::stream &stream) { return static_cast<gmemStream_t>(stream.get()); }

bool all_are(const floats &data, float value) {
	return std::all_of(data.begin(), data.end(), [=](float each) { return each == value; });
}

bool said(const char *words) {
	if (std::strstr(gmemLastError(), words) != nullptr) {
		return true;
	}
	std::fprintf(stderr, "no %s in: %s\n", words, gmemLastError());
	return false;
}

/// A stream that stands still until it is opened.
class gate {
public:
	explicit gate(const cuda::stream &stream) {
		mutex_.lock();
		cuda::launch_host(
			stream.get(),
			[](void *self) {
				auto *const mutex = static_cast<std::mutex *>(self);
				while (!mutex->try_lock()) {
					usleep(200);
				}
				mutex->unlock();
			},
			&mutex_);
	}
	void open() { mutex_.unlock(); }

private:
	std::mutex mutex_;
};

void there_and_back(const cuda::kernels &kernels) {
	const int node = gmem::device::numa_id();
	const int host = 0;
	const cuda::stream stream;
	for (const std::size_t length : {std::size_t{600'000}, std::size_t{1'048'576}, std::size_t{3'000'001}}) {
		floats data(length, 1.0F);
		// Odd offsets and sizes, too.
		const gmem::mutable_range odd(data.data() + 77, (data.size() - 1077) * sizeof(float));
		for (const gmem::mutable_range what : {gmem::mutable_range(data), odd}) {
			const auto report = gmem::prefetch(what, node);
			CHECK(bytes_on(gpu, what) >= what.size_bytes());
			CHECK(report.already_resident() == GMEM_UNKNOWN && report.migrated() == GMEM_UNKNOWN);
			CHECK(report.populated() == GMEM_UNKNOWN && report.failed() == 0);
			kernels.add(data.data(), data.size(), 1.0F, stream.get());
			stream.synchronize();
			gmem::prefetch(what, host);
			CHECK(bytes_on(processor, what) >= what.size_bytes());
			for (float &each : data) {
				each -= 1.0F;
			}
		}
		CHECK(all_are(data, 1.0F));
	}
}

void prefetches_stand_in_the_streams_order(const cuda::kernels &kernels) {
	const int node = gmem::device::numa_id();
	floats data(1 << 20, 0.0F);
	const cuda::stream stream;
	gate before(stream);
	const long host_functions = count("cuLaunchHostFunc");
	const auto address = reinterpret_cast<unsigned long>(data.data());
	CHECK_EQUAL(gmemPrefetch(address, data.size() * sizeof(float), node, stream.get()), 0);
	CHECK_EQUAL(bytes_on(gpu, data), 0);
	CHECK(!raw(stream).query());
	// The driver does it itself.
	CHECK_EQUAL(count("cuLaunchHostFunc"), host_functions);
	std::size_t on_gpu = 0;
	raw(stream).launch([&] { on_gpu = bytes_on(gpu, data); });
	kernels.add(data.data(), data.size(), 3.0F, stream.get());
	gmem::prefetch(data, 0, raw(stream));
	before.open();
	raw(stream).synchronize();
	CHECK(raw(stream).query());
	CHECK_EQUAL(on_gpu, data.size() * sizeof(float));
	CHECK_EQUAL(bytes_on(processor, data), data.size() * sizeof(float));
	CHECK(all_are(data, 3.0F));
	gmemStreamDestroy(static_cast<gmemStream_t>(stream.get()));
}

void frees_stand_in_the_streams_order(const cuda::kernels &kernels) {
	floats data(1 << 20, 0.0F);
	const cuda::stream stream;
	gate before(stream);
	kernels.add(data.data(), data.size(), 1.0F, stream.get());
	std::size_t during = 0, after = 0;
	raw(stream).launch([&] { during = bytes_on(gpu, data); });
	gmem::free_eager(data, raw(stream));
	raw(stream).launch([&] { after = bytes_on(nowhere, data); });
	cuda::fill(reinterpret_cast<cuda::address>(data.data()), 0, data.size() * sizeof(float), stream.get());
	kernels.add(data.data(), data.size(), 5.0F, stream.get());
	before.open();
	raw(stream).synchronize();
	CHECK_EQUAL(during, data.size() * sizeof(float));
	CHECK_EQUAL(after, data.size() * sizeof(float));
	CHECK(all_are(data, 5.0F));
	// Without a stream, and on the two that have names.
	for (auto *const named : {static_cast<void *>(nullptr), reinterpret_cast<void *>(1), reinterpret_cast<void *>(2)}) {
		gmem::prefetch(data, gmem::device::numa_id());
		const gmem::stream_ref order(static_cast<gmemStream_t>(named));
		gmem::free_eager(data, order);
		if (named != nullptr) {
			order.synchronize();
		}
		CHECK_EQUAL(bytes_on(nowhere, data), data.size() * sizeof(float));
	}
}

void two_streams_wait_for_each_other(const cuda::kernels &kernels) {
	floats data(1 << 19, 0.0F);
	const cuda::stream first, second;
	for (int round = 0; round < 20; ++round) {
		gate before(first);
		kernels.add(data.data(), data.size(), 1.0F, first.get());
		bool added = false;
		raw(first).launch([&] { added = true; });
		const gmem::event done;
		raw(first).record(done);
		raw(second).wait(done);
		bool waited = false;
		raw(second).launch([&] { waited = added; });
		kernels.add(data.data(), data.size(), -1.0F, second.get());
		CHECK(!done.query());
		before.open();
		raw(second).synchronize();
		CHECK(waited && done.query());
		CHECK(all_are(data, 0.0F));
	}
	// A stream of libgmem's own among them.
	const gmem::stream own;
	const gmem::event prepared;
	own.launch([&] { data[0] = 9.0F; });
	own.record(prepared);
	raw(first).wait(prepared);
	kernels.add(data.data(), 1, 1.0F, first.get());
	raw(first).synchronize();
	CHECK(data[0] == 10.0F);
}

/// A context of the program's may end, and the next one may have its address. Events of the first have ended with it.
void events_end_with_their_context() {
	void *first = nullptr;
	for (int round = 0; round < 3; ++round) {
		void *context = nullptr;
		NEED(stand_in<int>("cuCtxCreate_v2", &context, 0U, 0) == 0);
		CHECK(first == nullptr || first == context);
		first = context;
		const gmem::event place;
		const gmem::event unreached;
		{
			const cuda::stream stream;
			raw(stream).record(place);
			raw(stream).synchronize();
			CHECK(place.query());
			// Never destroyed: the stand-in's stream runs on to its end.
			auto *const before = new gate(stream);
			raw(stream).record(unreached);
			CHECK(!unreached.query());
			NEED(stand_in<int>("cuCtxDestroy_v2", context) == 0);
			// Nobody knows any more whether it was reached.
			CHECK_EQUAL(gmemEventQuery(unreached.get()), -EINVAL);
			CHECK(said("CUDA_ERROR_CONTEXT_IS_DESTROYED"));
			before->open();
		}
	}
}

/// CU_STREAM_PER_THREAD is a stream of its own for each thread.
void threads_have_streams_by_one_name() {
	auto *const per_thread = reinterpret_cast<gmemStream_t>(2);
	const gmem::stream_ref own(per_thread);
	floats data(1 << 20, 1.0F);
	const auto address = reinterpret_cast<unsigned long>(data.data());
	const std::size_t size = data.size() * sizeof(float);
	std::mutex closed;
	closed.lock();
	std::atomic<bool> recorded{false};
	const gmem::event place;
	std::thread other([&] {
		cuda::set_context(gmem::device::context());
		own.launch([&] { const std::lock_guard<std::mutex> wait(closed); });
		own.record(place);
		recorded = true;
		own.synchronize();
		CHECK_EQUAL(gmemStreamDestroy(per_thread), 0);
	});
	while (!recorded) {
		std::this_thread::yield();
	}
	// The other thread's stands still and this one goes on, until it waits for that.
	CHECK_EQUAL(gmemPrefetch(address, size, gmemGetNumaId(), per_thread), 0);
	own.synchronize();
	CHECK_EQUAL(bytes_on(gpu, data), size);
	CHECK(!place.query());
	own.wait(place);
	CHECK_EQUAL(gmemPrefetch(address, size, 0, per_thread), 0);
	usleep(20'000);
	CHECK(!own.query());
	CHECK_EQUAL(bytes_on(gpu, data), size);
	closed.unlock();
	own.synchronize();
	CHECK_EQUAL(bytes_on(processor, data), size);
	CHECK(place.query());
	other.join();
	CHECK_EQUAL(gmemStreamDestroy(per_thread), 0);
}

/// An empty range makes no call of the driver.
void nothing_is_nothing() {
	const floats data(1 << 20, 1.0F);
	const auto address = reinterpret_cast<unsigned long>(data.data());
	const cuda::stream stream;
	const long moved = count("cuMemPrefetchAsync_v2"), freed = count("cuMemDiscardBatchAsync");
	CHECK_EQUAL(gmemPrefetch(address, 0, gmemGetNumaId(), stream.get()), 0);
	CHECK_EQUAL(gmemFreeEager(address + 1, gmem::page_size(), stream.get()), 0);
	raw(stream).synchronize();
	CHECK_EQUAL(count("cuMemPrefetchAsync_v2"), moved);
	CHECK_EQUAL(count("cuMemDiscardBatchAsync"), freed);
}

void reports_come_with_the_stream() {
	floats data(1 << 20, 0.0F);
	const cuda::stream stream;
	gate before(stream);
	gmemPrefetchReport_t report{};
	report.size = sizeof report;
	const auto address = reinterpret_cast<unsigned long>(data.data());
	const std::size_t size = data.size() * sizeof(float);
	CHECK_EQUAL(gmemPrefetchEx(address, size, gmemGetNumaId(), stream.get(), nullptr, &report), 0);
	CHECK_EQUAL(report.result, -EINPROGRESS);
	before.open();
	raw(stream).synchronize();
	CHECK_EQUAL(report.result, 0);
	CHECK_EQUAL(report.bytes, size);
	CHECK(report.already_resident == GMEM_UNKNOWN && report.migrated == GMEM_UNKNOWN && report.huge == GMEM_UNKNOWN);
	CHECK_EQUAL(report.failed, 0);
	// A prefetch cancelled before the call is not registered.
	const int cancel = 1;
	gmemPrefetchOptions_t options{};
	options.size = sizeof options;
	options.cancel = &cancel;
	CHECK_EQUAL(gmemPrefetchEx(address, size, 0, stream.get(), &options, &report), -ECANCELED);
	CHECK_EQUAL(report.result, -ECANCELED);
	CHECK_EQUAL(bytes_on(gpu, data), size);
	options.cancel = nullptr;
	options.huge = GMEM_HUGE_REQUIRE;
	CHECK_EQUAL(gmemPrefetchEx(address, size, gmemGetNumaId(), stream.get(), &options, &report), -EOPNOTSUPP);
}

/// Memory of the heap's that is the GPU's in part, the processor's in part.
void mixed_ranges_go_back_and_are_freed() {
	const std::size_t page = gmem::page_size();
	cuda::address managed = 0;
	cuda::allocate_managed(&managed, 3 * page, 1);
	const gmem::mutable_range own(reinterpret_cast<void *>((managed + page - 1) / page * page), 2 * page);
	// The program's own managed memory goes there, too.
	gmem::prefetch(own, gmem::device::numa_id());
	CHECK_EQUAL(bytes_on(gpu, own), 2 * page);
	const cuda::stream stream;
	gmem::prefetch(own, 0, raw(stream));
	gmem::free_eager(own, raw(stream));
	raw(stream).synchronize();
	CHECK_EQUAL(bytes_on(nowhere, own), 2 * page);
	cuda::release(managed);

	char *const ordinary = ordinary_memory(2 * page);
	const auto address = reinterpret_cast<unsigned long>(ordinary);
	CHECK_EQUAL(gmemPrefetch(address, 2 * page, 0, stream.get()), 0);
	raw(stream).synchronize();
	CHECK_EQUAL(resident_pages(ordinary, 2 * page), 2 * page / 4096);
	CHECK_EQUAL(gmemFreeEager(address, 2 * page, stream.get()), 0);
	raw(stream).synchronize();
	CHECK_EQUAL(resident_pages(ordinary, 2 * page), 0);
	CHECK_EQUAL(gmemPrefetch(address, 2 * page, gmemGetNumaId(), nullptr), -EINVAL);
	CHECK(said("memory that this GPU can have"));
	CHECK_EQUAL(gmemPrefetch(address, 2 * page, gmemGetNumaId(), stream.get()), -EINVAL);
}

void captured_streams_refuse() {
	floats data(1 << 20, 0.0F);
	const cuda::stream stream;
	const auto address = reinterpret_cast<unsigned long>(data.data());
	const std::size_t size = data.size() * sizeof(float);
	auto *const handle = static_cast<gmemStream_t>(stream.get());
	cuda::begin_capture(stream.get(), 0);
	CHECK_EQUAL(gmemPrefetch(address, size, gmemGetNumaId(), stream.get()), -EOPNOTSUPP);
	CHECK(said("captured into a graph"));
	CHECK_EQUAL(gmemFreeEager(address, size, stream.get()), -EOPNOTSUPP);
	CHECK_EQUAL(gmemStreamLaunch(handle, [](void *) {}, nullptr), -EOPNOTSUPP);
	CHECK_EQUAL(gmemStreamQuery(handle), -EOPNOTSUPP);
	CHECK_EQUAL(gmemStreamSynchronize(handle), -EOPNOTSUPP);
	const gmem::event event;
	CHECK_EQUAL(gmemEventRecord(event.get(), handle), -EOPNOTSUPP);
	std::atomic<bool> is_over = false;
	const gmem::stream own;
	own.launch([&is_over] {
		while (!is_over) {
			std::this_thread::yield();
		}
	});
	own.record(event);
	CHECK_EQUAL(gmemStreamWaitEvent(handle, event.get()), -EOPNOTSUPP);
	is_over = true;
	own.synchronize();
	// Allocations during the capture leave the graph alone.
	gmemHeapTrim();
	const long allocated = count("cuMemAllocManaged");
	CHECK(floats(5 << 20, 1.0F).size() == 5 << 20);
	gmemHeapTrim();
	CHECK(count("cuMemAllocManaged") > allocated);
	CHECK_EQUAL(count("spoiled captures"), 0);
	cuda::handle graph = nullptr;
	cuda::end_capture(stream.get(), &graph);
	CHECK_EQUAL(gmemPrefetch(address, size, gmemGetNumaId(), stream.get()), 0);
	CHECK_EQUAL(gmemStreamSynchronize(handle), 0);
}

void bad_arguments_are_refused() {
	floats data(1 << 20, 0.0F);
	const auto address = reinterpret_cast<unsigned long>(data.data());
	const std::size_t size = data.size() * sizeof(float);
	CHECK_EQUAL(gmemPrefetch(address, size, -1, nullptr), -EINVAL);
	CHECK(said(("," + std::to_string(gmemGetNumaId()) + " ").c_str()));
	CHECK_EQUAL(gmemPrefetch(address, size, gmemGetNumaId() + 1, nullptr), -EINVAL);
	cuda::handle gone = nullptr;
	{
		const cuda::stream stream;
		gone = stream.get();
		CHECK_EQUAL(gmemPrefetch(address, size, gmemGetNumaId(), gone), 0);
		CHECK_EQUAL(gmemStreamSynchronize(static_cast<gmemStream_t>(gone)), 0);
	}
	// A destroyed one, one that lies nowhere, one that is no address.
	for (auto *const stream : {gone, reinterpret_cast<cuda::handle>(0x7000), reinterpret_cast<cuda::handle>(6)}) {
		auto *const handle = static_cast<gmemStream_t>(stream);
		CHECK_EQUAL(gmemPrefetch(address, size, gmemGetNumaId(), stream), -EINVAL);
		CHECK_EQUAL(gmemFreeEager(address, size, stream), -EINVAL);
		CHECK_EQUAL(gmemStreamLaunch(handle, [](void *) {}, nullptr), -EINVAL);
		CHECK_EQUAL(gmemStreamSynchronize(handle), -EINVAL);
	}
	CHECK_EQUAL(gmemStreamDestroy(static_cast<gmemStream_t>(gone)), 0);
}

void more_than_there_is_free_is_refused() {
	floats data(32 << 20, 0.0F);
	const auto address = reinterpret_cast<unsigned long>(data.data());
	const std::size_t size = data.size() * sizeof(float);
	const cuda::stream stream;
	stand_in<void>("standin_cuda_take", (std::size_t{1} << 30U) - (size / 2));
	usleep(150'000); // an answer of the driver's holds for 100 ms
	const long asked = count("cuMemPrefetchAsync_v2");
	CHECK_EQUAL(gmemPrefetch(address, size, gmemGetNumaId(), nullptr), -ENOMEM);
	CHECK(said("GPU 0 (stand-in 0)") && said("nothing was moved"));
	CHECK_EQUAL(gmemPrefetch(address, size, gmemGetNumaId(), stream.get()), -ENOMEM);
	CHECK_EQUAL(count("cuMemPrefetchAsync_v2"), asked);
	CHECK_EQUAL(bytes_on(gpu, data), 0);
	stand_in<void>("standin_cuda_take", std::size_t{0});
	CHECK_EQUAL(gmemPrefetch(address, size, gmemGetNumaId(), nullptr), 0);
	// Memory that was sent to the GPU before needs no further space, whole or in part.
	stand_in<void>("standin_cuda_take", std::size_t{0});
	CHECK_EQUAL(gmemPrefetch(address, size, 0, nullptr), 0);
	CHECK_EQUAL(gmemPrefetch(address, size / 2, gmemGetNumaId(), nullptr), 0);
	stand_in<void>("standin_cuda_take", (std::size_t{1} << 30U) - (size + size / 4));
	usleep(150'000);
	CHECK_EQUAL(gmemPrefetch(address, size, gmemGetNumaId(), nullptr), 0);
	stand_in<void>("standin_cuda_take", std::size_t{1} << 30U);
	usleep(150'000);
	CHECK_EQUAL(gmemPrefetch(address, size, gmemGetNumaId(), nullptr), 0);
	stand_in<void>("standin_cuda_take", std::size_t{0});
}

/// Leaves so much of the GPU's 1 GiB, until the test ends.
class tight {
public:
	explicit tight(std::size_t left) { leave(left); }
	tight(const tight &) = delete;
	tight &operator=(const tight &) = delete;
	~tight() { leave(std::size_t{1} << 30U); }
	static void leave(std::size_t left) {
		stand_in<void>("standin_cuda_take", (std::size_t{1} << 30U) - left);
		usleep(150'000); // an answer of the driver's holds for 100 ms
	}
};

/// The driver keeps the room of what went back, and has it counted as taken.
void room_that_nothing_uses_is_room() {
	const std::size_t size = std::size_t{48} << 20U;
	const int node = gmemGetNumaId();
	gmemHeapTrim(); // whatever has room there from before
	const tight gpu_memory(3 * size);
	blank_floats data(size / sizeof(float)), others(size / sizeof(float));
	for (int round = 0; round < 2; ++round) {
		for (const blank_floats *each : {&data, &others}) {
			const auto address = reinterpret_cast<unsigned long>(each->data());
			CHECK_EQUAL(gmemPrefetch(address, size, node, nullptr), 0);
			CHECK_EQUAL(bytes_on(gpu, *each), size);
			CHECK_EQUAL(gmemPrefetch(address, size, 0, nullptr), 0);
		}
	}
	// Two thirds are kept for the two.
	tight::leave(2 * size);
	CHECK_EQUAL(gmemPrefetch(reinterpret_cast<unsigned long>(data.data()), size, node, nullptr), 0);
	CHECK_EQUAL(gmemPrefetch(reinterpret_cast<unsigned long>(others.data()), size, node, nullptr), 0);
}

/// Prefetches that wait in a stream count against the free memory.
void what_is_underway_needs_its_room() {
	const std::size_t size = std::size_t{48} << 20U;
	gmemHeapTrim(); // whatever has room there from before
	blank_floats data(size / sizeof(float)), others(size / sizeof(float));
	const tight gpu_memory(size + size / 2);
	const cuda::stream stream;
	const int node = gmemGetNumaId();
	gate closed(stream);
	CHECK_EQUAL(gmemPrefetch(reinterpret_cast<unsigned long>(data.data()), size, node, stream.get()), 0);
	CHECK_EQUAL(bytes_on(gpu, data), 0);
	CHECK_EQUAL(gmemPrefetch(reinterpret_cast<unsigned long>(others.data()), size, node, nullptr), -ENOMEM);
	closed.open();
	CHECK_EQUAL(gmemStreamSynchronize(static_cast<gmemStream_t>(stream.get())), 0);
	CHECK_EQUAL(bytes_on(gpu, data), size);
	// Memory already on the GPU needs no space, even while a transfer is under way.
	tight::leave(2 * size);
	gate closed_again(stream);
	CHECK_EQUAL(gmemPrefetch(reinterpret_cast<unsigned long>(data.data()), size, node, stream.get()), 0);
	CHECK_EQUAL(gmemPrefetch(reinterpret_cast<unsigned long>(others.data()), size, node, nullptr), 0);
	closed_again.open();
	CHECK_EQUAL(gmemStreamSynchronize(static_cast<gmemStream_t>(stream.get())), 0);
}

/// cuMemFree waits for the GPU, and what the GPU does may wait for who calls free().
void free_does_not_wait_for_the_gpu() {
	auto *const block = static_cast<char *>(gmem_malloc(std::size_t{100} << 20U));
	const long freed = count("cuMemFree_v2");
	const cuda::stream stream;
	gate closed(stream);
	gmem_free(block);
	gmemHeapTrim();
	CHECK(!raw(stream).query());
	closed.open();
	raw(stream).synchronize(); // it looks at the gate until then
	for (int i = 0; i < 1000 && count("cuMemFree_v2") == freed; ++i) {
		usleep(10'000);
	}
	CHECK(count("cuMemFree_v2") > freed);
}

/// Never more managed memory than the GPU has free: ordinary memory takes its place.
void blocks_stay_within_the_gpus_memory() {
	const std::size_t refused = heap_stats().device_refused;
	std::vector<void *> blocks;
	for (int i = 0; i < 6; ++i) {
		blocks.push_back(gmem_malloc(std::size_t{200} << 20U));
		CHECK(blocks.back() != nullptr);
	}
	CHECK(heap_stats().device_refused > refused);
	CHECK(heap_stats().device_live <= std::size_t{1} << 30U);
	for (void *block : blocks) {
		gmem_free(block);
	}
	gmemHeapTrim();
	CHECK_EQUAL(heap_stats().device_idle, 0);
	// Not cleared by the driver; calloc's are.
	for (int round = 0; round < 3; ++round) {
		auto *const cleared = static_cast<char *>(gmem_calloc(1, 5 * gmem::page_size()));
		CHECK(is_all(cleared, 5 * gmem::page_size(), 0));
		std::memset(cleared, 7, 5 * gmem::page_size());
		gmem_free(cleared);
	}
}

/// A kernel reads a container by its address, however small that is.
void small_containers_are_the_drivers(const cuda::kernels &kernels) {
	const int node = gmemGetNumaId();
	const cuda::stream stream;
	std::vector<floats> all;
	for (std::size_t count = 1; count < 300'000; count = count * 3 + 1) {
		floats &data = all.emplace_back(count, 1.0F);
		CHECK_EQUAL(
			gmemPrefetch(reinterpret_cast<unsigned long>(data.data()), count * sizeof(float), node, stream.get()), 0);
		CHECK_EQUAL(stand_in<int>(
						"standin_cuda_is_intact", reinterpret_cast<std::uintptr_t>(data.data()), count * sizeof(float)),
			1);
		kernels.add(data.data(), data.size(), 1.0F, stream.get());
	}
	raw(stream).synchronize();
	CHECK(std::all_of(all.begin(), all.end(), [](const floats &data) { return all_are(data, 2.0F); }));
	// They stay there when they grow, and what is freed is given out again, to nobody but such.
	for (const std::size_t size : {std::size_t{24}, std::size_t{3000}, std::size_t{200'000}, std::size_t{1'500'000}}) {
		auto *block = static_cast<char *>(gmem_device_alloc(16, size));
		NEED(block != nullptr);
		std::memset(block, 3, size);
		block = static_cast<char *>(gmem_realloc(block, 2 * size));
		CHECK(is_all(block, size, 3));
		CHECK(gmem_malloc_usable_size(block) >= 2 * size);
		CHECK_EQUAL(stand_in<int>("standin_cuda_is_intact", reinterpret_cast<std::uintptr_t>(block), 2 * size), 1);
		gmem_free(block);
		void *const ordinary = gmem_malloc(size);
		CHECK_EQUAL(stand_in<int>("standin_cuda_is_intact", reinterpret_cast<std::uintptr_t>(ordinary), size), 0);
		gmem_free(ordinary);
	}
	for (std::size_t alignment = 1; alignment <= gmem::page_size(); alignment *= 2) {
		void *const block = gmem_device_alloc(alignment, 100);
		CHECK_EQUAL(reinterpret_cast<std::uintptr_t>(block) % alignment, 0);
		CHECK_EQUAL(stand_in<int>("standin_cuda_is_intact", reinterpret_cast<std::uintptr_t>(block), 100), 1);
		gmem_free(block);
	}
	errno = 0;
	CHECK(gmem_device_alloc(24, 100) == nullptr && errno == EINVAL);
	const long maps = count("cuMemAllocManaged");
	for (int round = 0; round < 100; ++round) {
		std::vector<std::thread> threads;
		for (int i = 0; i < 4; ++i) {
			threads.emplace_back([] {
				std::vector<floats> mine(50, floats(100, 5.0F));
				CHECK(all_are(mine.back(), 5.0F));
			});
		}
		std::for_each(threads.begin(), threads.end(), [](std::thread &each) { each.join(); });
	}
	CHECK(count("cuMemAllocManaged") <= maps + 1);
}

/// From ordinary memory into the driver's and on: the bytes come along, and the driver's mapping stays the driver's.
void blocks_grow_into_the_drivers_memory() {
	const std::size_t size = 32 * gmem::page_size();
	CHECK_EQUAL(gmemSetDevice("host"), 0);
	auto *block = static_cast<char *>(gmem_malloc(size));
	std::memset(block, 7, size);
	CHECK_EQUAL(gmemSetDevice("cuda"), 0);
	for (std::size_t length = 2 * size; length <= 4 * size; length *= 2) {
		block = static_cast<char *>(gmem_realloc(block, length));
		NEED(block != nullptr);
		CHECK(is_all(block, size, 7));
		CHECK_EQUAL(stand_in<int>("standin_cuda_is_intact", reinterpret_cast<std::uintptr_t>(block), length), 1);
		CHECK_EQUAL(gmemPrefetch(reinterpret_cast<unsigned long>(block), length, gmemGetNumaId(), nullptr), 0);
	}
	gmem_free(block);
}

/// The driver allocates with its lock held, and calls functions in which it must not be called.
void the_driver_is_not_called_from_within(bool heap_is_the_processs) {
	const std::size_t refused = heap_stats().device_refused;
	const cuda::kernels compiled;
	if (heap_is_the_processs) {
		CHECK(heap_stats().device_refused > refused);
	}
	floats data(4 << 20, 0.0F);
	auto *kept = new floats(4 << 20, 0.0F);
	gmemHeapTrim();
	const cuda::stream stream;
	const gmem::event behind;
	const gmem::event other;
	std::atomic<bool> is_recorded = false;
	raw(stream).launch([&] {
		delete std::exchange(kept, nullptr);
		const floats ordinary(4 << 20, 1.0F);
		CHECK(all_are(ordinary, 1.0F));
		CHECK_EQUAL(gmemPrefetch(reinterpret_cast<unsigned long>(data.data()), data.size(), gmemGetNumaId(), nullptr),
			-EDEADLK);
		CHECK(said("a function that the driver calls"));
		auto *const handle = static_cast<gmemStream_t>(stream.get());
		CHECK_EQUAL(gmemStreamSynchronize(handle), -EDEADLK);
		CHECK_EQUAL(gmemStreamQuery(handle), -EDEADLK);
		CHECK_EQUAL(gmemStreamLaunch(handle, [](void *) {}, nullptr), -EDEADLK);
		CHECK_EQUAL(gmemFreeEager(reinterpret_cast<unsigned long>(data.data()), data.size(), handle), -EDEADLK);
		CHECK_EQUAL(gmemEventRecord(other.get(), handle), -EDEADLK);
		while (!is_recorded) {
			std::this_thread::yield();
		}
		CHECK_EQUAL(gmemEventQuery(behind.get()), -EDEADLK);
		CHECK_EQUAL(gmemStreamWaitEvent(handle, behind.get()), -EDEADLK);
	});
	raw(stream).record(behind);
	is_recorded = true;
	// The program's own host functions as well.
	cuda::launch_host(
		stream.get(),
		[](void *) {
			std::vector<void *> blocks(40);
			for (void *&block : blocks) {
				block = gmem_malloc(3 * gmem::page_size());
			}
			std::for_each(blocks.begin(), blocks.end(), gmem_free);
		},
		nullptr);
	raw(stream).synchronize();
	CHECK(kept == nullptr);
	CHECK_EQUAL(count("violations"), 0);
}

[[maybe_unused]] void a_child_has_no_gpu() {
	floats data(1 << 20, 0.0F);
	const pid_t child = fork();
	NEED(child >= 0);
	if (child == 0) {
		alarm(20);
		checks_failed = 0;
		const auto address = reinterpret_cast<unsigned long>(data.data());
		CHECK_EQUAL(gmemPrefetch(address, data.size(), gmemGetNumaId(), nullptr), -ENODEV);
		CHECK(said("before fork()"));
		const std::size_t page = gmem::page_size();
		char *const ordinary = ordinary_memory(page);
		CHECK_EQUAL(gmemPrefetch(reinterpret_cast<unsigned long>(ordinary), page, 0, nullptr), 0);
		CHECK_EQUAL(gmemFreeEager(reinterpret_cast<unsigned long>(ordinary), page, nullptr), 0);
		CHECK_EQUAL(gmemSetDevice("host"), 0);
		gmem_free(gmem_malloc(4 * page));
		_exit(checks_failed);
	}
	int status = 0;
	NEED(waitpid(child, &status, 0) == child);
	CHECK_EQUAL(status, 0);
}

/// Nothing runs any more, and nothing waits for ever.
void a_lost_context_is_an_error() {
	floats data(1 << 20, 0.0F);
	const cuda::stream stream;
	auto *const handle = static_cast<gmemStream_t>(stream.get());
	gate before(stream);
	CHECK_EQUAL(gmemStreamLaunch(handle, [](void *) {}, nullptr), 0);
	const gmem::event place;
	raw(stream).record(place);
	stand_in<void>("standin_cuda_lose_context");
	CHECK_EQUAL(gmemEventQuery(place.get()), -EIO);
	CHECK_EQUAL(gmemEventSynchronize(place.get()), -EIO);
	CHECK_EQUAL(gmemStreamQuery(handle), -EIO);
	CHECK_EQUAL(gmemStreamSynchronize(handle), -EIO);
	CHECK(said("CUDA_ERROR_ILLEGAL_ADDRESS") && said("context is lost"));
	const auto address = reinterpret_cast<unsigned long>(data.data());
	CHECK_EQUAL(gmemPrefetch(address, data.size() * sizeof(float), gmemGetNumaId(), nullptr), -EIO);
	CHECK_EQUAL(gmemPrefetch(address, data.size() * sizeof(float), gmemGetNumaId(), stream.get()), -EIO);
	CHECK_EQUAL(gmemFreeEager(address, data.size() * sizeof(float), nullptr), -EIO);
	before.open();
}

/// A GPU that reads all memory of the process: what is large is ordinary, and goes there all the same.
void ordinary_memory_goes_to_a_gpu_that_reads_it() {
	CHECK_EQUAL(heap_stats().device_live, 0);
	floats data(1 << 20, 1.0F);
	const auto address = reinterpret_cast<unsigned long>(data.data());
	const std::size_t size = data.size() * sizeof(float);
	const long asked = count("cuMemPrefetchAsync_v2");
	CHECK_EQUAL(gmemPrefetch(address, size, gmemGetNumaId(), nullptr), 0);
	CHECK_EQUAL(count("cuMemPrefetchAsync_v2"), asked + 1);
	const cuda::stream stream;
	CHECK_EQUAL(gmemPrefetch(address, size, 0, stream.get()), 0);
	CHECK_EQUAL(gmemFreeEager(address, size, stream.get()), 0);
	raw(stream).synchronize();
	CHECK_EQUAL(count("cuMemPrefetchAsync_v2"), asked + 2);
	CHECK_EQUAL(count("cuMemDiscardBatchAsync"), 0);
	// The kernel has dropped it, so these are zeros.
	CHECK(all_are(data, 0.0F));
	// Shared memory and file pages stay where they are, which the driver would not report.
	void *const shared = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	NEED(shared != MAP_FAILED);
	CHECK_EQUAL(gmemPrefetch(reinterpret_cast<unsigned long>(shared), 4096, gmemGetNumaId(), nullptr), -EINVAL);
	CHECK(said("files, shared memory and hugetlb never go"));
	CHECK_EQUAL(gmemPrefetch(reinterpret_cast<unsigned long>(shared), 4096, 0, nullptr), 0);
	char *const hole = map_private(4096, gmem::page_size());
	NEED(munmap(hole, 4096) == 0);
	CHECK_EQUAL(gmemPrefetch(reinterpret_cast<unsigned long>(hole), 4096, gmemGetNumaId(), nullptr), -ENOMEM);
	CHECK_EQUAL(count("cuMemAllocManaged"), 0);
}

void an_old_driver_does_what_it_can(const cuda::kernels &kernels) {
	floats data(1 << 20, 1.0F);
	const cuda::stream stream;
	gmem::prefetch(data, gmem::device::numa_id(), raw(stream));
	kernels.add(data.data(), data.size(), 1.0F, stream.get());
	gmem::prefetch(data, 0, raw(stream));
	raw(stream).synchronize();
	CHECK_EQUAL(bytes_on(processor, data), data.size() * sizeof(float));
	CHECK_EQUAL(count("cuMemPrefetchAsync"), 2);
	const auto address = reinterpret_cast<unsigned long>(data.data());
	for (auto *const on : {static_cast<void *>(nullptr), stream.get()}) {
		CHECK_EQUAL(gmemFreeEager(address, data.size() * sizeof(float), on), -EOPNOTSUPP);
		CHECK(said("before CUDA 13.0"));
	}
	CHECK(all_are(data, 2.0F));
}

void two_gpus_have_a_node_each() {
	const int node = gmem::device::numa_id();
	floats data(1 << 20, 1.0F);
	for (const int other : {0, 1, 0}) {
		gmem::prefetch(data, node - 1 + other);
		CHECK_EQUAL(bytes_on(other, data), data.size() * sizeof(float));
	}
	// Making a context takes long, so it is made once and kept.
	CHECK_EQUAL(count("cuDevicePrimaryCtxRetain"), 2);
	CHECK_EQUAL(count("cuDevicePrimaryCtxRelease_v2"), 0);
}

} // namespace

int main(int argc, char **argv) {
	alarm(250);
	NEED(argc >= 2);
	const std::string like = argv[1];
	if (gmemGetNumaId() < 0) {
		std::fprintf(stderr, "%s\n", gmemLastError());
		return 1;
	}
	CHECK(std::strcmp(gmem::device::current(), "cuda") == 0);
	CHECK(gmem::device::context() != nullptr);
	cuda::set_context(gmem::device::context());
	const cuda::kernels kernels;
	if (like == "managed") {
		CHECK_EQUAL(reinterpret_cast<std::uintptr_t>(floats(1 << 20).data()) % gmem::page_size(), 0);
		CHECK(heap_stats().device_live + heap_stats().device_idle > 0);
		there_and_back(kernels);
		prefetches_stand_in_the_streams_order(kernels);
		frees_stand_in_the_streams_order(kernels);
		two_streams_wait_for_each_other(kernels);
		events_end_with_their_context();
		threads_have_streams_by_one_name();
		nothing_is_nothing();
		reports_come_with_the_stream();
		mixed_ranges_go_back_and_are_freed();
		captured_streams_refuse();
		bad_arguments_are_refused();
		more_than_there_is_free_is_refused();
		room_that_nothing_uses_is_room();
		what_is_underway_needs_its_room();
		free_does_not_wait_for_the_gpu();
		blocks_stay_within_the_gpus_memory();
		blocks_grow_into_the_drivers_memory();
		small_containers_are_the_drivers(kernels);
		the_driver_is_not_called_from_within(argc > 2);
#if !defined(__SANITIZE_THREAD__)
		// jemalloc unlocks in the child what it locked in the parent, which that sanitizer takes amiss.
		a_child_has_no_gpu();
#endif
		CHECK_EQUAL(count("violations"), 0);
		a_lost_context_is_an_error();
	} else if (like == "pageable") {
		ordinary_memory_goes_to_a_gpu_that_reads_it();
	} else if (like == "old") {
		an_old_driver_does_what_it_can(kernels);
	} else if (like == "two") {
		two_gpus_have_a_node_each();
	}
	return checks_result("cuda");
}
