// SPDX-License-Identifier: Apache-2.0
// The program of ./dev gpu, with GMEM_DEVICE=cuda:
//   gpu check             everything but figures; on the stand-in for the driver as well
//   gpu figures [FILE]    side by side with the bare driver, as a table; FILE are weights that a kernel goes over
// and, for the first, in processes of their own: gpu lost, gpu destroyed, gpu exits.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <csignal>
#include <cstring>
#include <ctime>
#include <fstream>
#include <functional>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include <spawn.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include <libgmem.hpp>

#include "../check.h"
#include "driver.hpp"

namespace {

using floats = std::vector<float, gmem_allocator<float>>;
/// Whose elements are not touched before somebody writes to them.
using blank_floats = std::vector<float, gmem::default_init_allocator<float>>;
using seconds = double;

constexpr std::size_t mib = std::size_t{1} << 20U;
constexpr std::size_t gib = std::size_t{1} << 30U;
constexpr double per_gib = 1.0 / static_cast<double>(gib);

bool is_stand_in() {
	void *const library = dlopen("libcuda.so.1", RTLD_NOW);
	return library != nullptr && dlsym(library, "standin_cuda_count") != nullptr;
}

seconds now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

seconds time_of(const std::function<void()> &what) {
	const seconds begun = now();
	what();
	return now() - begun;
}

double median(std::vector<double> values) {
	std::sort(values.begin(), values.end());
	return values[values.size() / 2];
}

std::size_t free_bytes() {
	std::size_t free = 0, total = 0;
	cuda::memory_info(&free, &total);
	return free;
}

gmem::stream_ref raw(const cuda::stream &stream) { return static_cast<gmemStream_t>(stream.get()); }
unsigned long address_of(const void *data) { return reinterpret_cast<unsigned long>(data); }
cuda::address device_address(const void *data) { return reinterpret_cast<cuda::address>(data); }

template <class Floats>
bool all_are(const Floats &data, float value) {
	return std::all_of(data.begin(), data.end(), [=](float each) { return each == value; });
}

/// Whether what the heap gives for large blocks is the driver's.
bool heap_is_managed() {
	gmemHeapStats_t stats{};
	stats.size = sizeof stats;
	const floats large(8 * mib / sizeof(float), 0.0F);
	CHECK_EQUAL(gmemHeapStats(&stats), 0);
	return stats.device_live > 0;
}

// ---- everything but figures --------------------------------------------------------------------------

void contents_are_exact(const cuda::kernels &kernels) {
	const cuda::stream stream;
	const int node = gmem::device::numa_id();
	for (const std::size_t count : {std::size_t{524'288}, std::size_t{600'001}, std::size_t{3'141'593}}) {
		for (const std::size_t offset : {std::size_t{0}, std::size_t{1}, std::size_t{1023}}) {
			floats data(count);
			for (std::size_t i = 0; i < count; ++i) {
				data[i] = static_cast<float>(i % 1000);
			}
			const std::size_t part = count - 2 * offset;
			const gmem::mutable_range what(data.data() + offset, part * sizeof(float));
			gmem::prefetch(what, node, raw(stream));
			kernels.add(data.data() + offset, part, 0.5F, stream.get());
			gmem::prefetch(what, 0, raw(stream));
			raw(stream).synchronize();
			std::size_t wrong = 0;
			for (std::size_t i = 0; i < count; ++i) {
				const bool inside = i >= offset && i < offset + part;
				wrong += data[i] == static_cast<float>(i % 1000) + (inside ? 0.5F : 0.0F) ? 0 : 1;
			}
			CHECK_EQUAL(wrong, 0);
		}
	}
}

void calls_stand_in_order(const cuda::kernels &kernels) {
	const int node = gmem::device::numa_id();
	floats data(16 * mib / sizeof(float), 0.0F);
	const cuda::stream first, second;
	for (int round = 1; round <= 20; ++round) {
		kernels.add(data.data(), data.size(), 1.0F, first.get());
		CHECK_EQUAL(gmemPrefetch(address_of(data.data()), data.size() * sizeof(float), 0, first.get()), 0);
		kernels.add(data.data(), data.size(), 1.0F, first.get());
		const gmem::event done;
		raw(first).record(done);
		raw(second).wait(done);
		gmem::prefetch(data, node, raw(second));
		kernels.add(data.data(), data.size(), 1.0F, second.get());
		float seen = 0;
		raw(second).launch([&] { seen = 1.0F; });
		raw(second).synchronize();
		CHECK(seen == 1.0F && all_are(data, static_cast<float>(3 * round)));
	}
}

void frees_lie_between_kernels(const cuda::kernels &kernels) {
	floats data(64 * mib / sizeof(float), 1.0F);
	const cuda::stream stream;
	gmem::prefetch(data, gmem::device::numa_id(), raw(stream));
	for (int round = 0; round < 5; ++round) {
		kernels.add(data.data(), data.size(), 1.0F, stream.get());
		std::error_code refused;
		gmem::free_eager(data, raw(stream), refused);
		if (refused == std::errc::operation_not_supported) {
			std::printf("note: %s\n", gmemLastError());
			stream.synchronize();
			return;
		}
		CHECK(!refused);
		// Released memory may hold anything until it is written.
		cuda::fill(device_address(data.data()), 0, data.size() * sizeof(float), stream.get());
		kernels.add(data.data(), data.size(), 7.0F, stream.get());
		raw(stream).synchronize();
		CHECK(all_are(data, 7.0F));
	}
}

void errors_are_errors() {
	const cuda::stream stream;
	gmemHeapTrim(); // a block that was there before would still have its room
	floats data(64 * mib / sizeof(float), 1.0F);
	const std::size_t size = data.size() * sizeof(float);
	const int node = gmem::device::numa_id();
	CHECK_EQUAL(gmemPrefetch(address_of(data.data()), size, node + 500, nullptr), -EINVAL);
	CHECK_EQUAL(gmemPrefetch(address_of(data.data()), size, node, reinterpret_cast<void *>(0x7000)), -EINVAL);
	cuda::handle graph = nullptr;
	cuda::begin_capture(stream.get(), 2);
	CHECK_EQUAL(gmemPrefetch(address_of(data.data()), size, node, stream.get()), -EOPNOTSUPP);
	cuda::end_capture(stream.get(), &graph);
	// Plain memory takes the room, so that nothing is evicted.
	const std::size_t free = free_bytes();
	cuda::address taken = 0;
	// As much as is to be had in one piece: the rest has to be less than what is asked for.
	for (std::size_t left = size / 4; taken == 0 && left < size && left < free; left += size / 4) {
		static_cast<void>(cuda::allocate.ask(&taken, free - left));
	}
	if (taken == 0) {
		std::puts("note: a prefetch of more than is free was not tried: the rest could not be taken in one piece");
	} else {
		usleep(150'000);
		CHECK_EQUAL(gmemPrefetch(address_of(data.data()), size, node, nullptr), -ENOMEM);
		CHECK(std::strstr(gmemLastError(), "nothing was moved") != nullptr);
		cuda::release(taken);
	}
	CHECK(all_are(data, 1.0F));
}

/// A kernel writes where nothing is.
int lose_the_context(const cuda::kernels &kernels) {
	const cuda::stream stream;
	auto *const handle = static_cast<gmemStream_t>(stream.get());
	kernels.add(reinterpret_cast<float *>(std::uintptr_t{64}), 1, 1.0F, stream.get());
	gmemStreamLaunch(handle, [](void *) {}, nullptr);
	CHECK_EQUAL(gmemStreamSynchronize(handle), -EIO);
	std::printf("lost: %s\n", gmemLastError());
	return checks_result("lost");
}

int use_a_destroyed_stream() {
	cuda::handle gone = nullptr;
	{
		const cuda::stream stream;
		gone = stream.get();
	}
	const floats data(mib, 1.0F);
	const int result = gmemPrefetch(address_of(data.data()), data.size() * sizeof(float), gmemGetNumaId(), gone);
	std::printf("destroyed: %d, %s\n", result, gmemLastError());
	return result == -EINVAL ? 0 : 1;
}

/// Made before the driver was opened, so destroyed behind it.
floats *last_block = nullptr;
[[gnu::destructor]] void touch_it_at_the_very_end() {
	if (last_block != nullptr) {
		(*last_block)[last_block->size() / 2] += 1.0F;
		delete last_block;
	}
}

/// A global container frees device memory when the process ends.
int keep_a_block_to_the_end() {
	last_block = new floats(10 * mib, 1.0F);
	gmem::prefetch(*last_block, gmem::device::numa_id());
	return 0;
}

/// In a process of its own; whatever comes of it.
std::string outcome_of(const char *what) {
	std::string self(4096, '\0');
	const ssize_t length = readlink("/proc/self/exe", self.data(), self.size());
	NEED(length > 0);
	self.resize(static_cast<std::size_t>(length));
	std::string argument = what;
	char *arguments[] = {self.data(), argument.data(), nullptr};
	pid_t child = 0;
	NEED(posix_spawn(&child, self.c_str(), nullptr, nullptr, arguments, environ) == 0);
	int status = 0;
	NEED(waitpid(child, &status, 0) == child);
	if (WIFSIGNALED(status)) {
		return "ended by signal " + std::to_string(WTERMSIG(status));
	}
	return WEXITSTATUS(status) == 0 ? "as it should be" : "status " + std::to_string(WEXITSTATUS(status));
}

int check(const cuda::kernels &kernels) {
	contents_are_exact(kernels);
	calls_stand_in_order(kernels);
	if (heap_is_managed()) {
		frees_lie_between_kernels(kernels);
	}
	errors_are_errors();
	// The driver alone can say what a stream is that was destroyed: this is told, not demanded.
	std::printf("note: a destroyed stream: %s\n", outcome_of("destroyed").c_str());
	std::printf("note: a block that is touched when the driver has gone: %s\n", outcome_of("exits").c_str());
	if (!is_stand_in()) {
		const std::string lost = outcome_of("lost");
		std::printf("note: a lost context: %s\n", lost.c_str());
		CHECK(lost == "as it should be");
	}
	return checks_result("gpu");
}

// ---- figures -------------------------------------------------------------------------------------------

void row(const char *figure, double value, const char *unit, const char *goal = "", bool met = true) {
	std::printf("| %s | %.3f %s | %s%s |\n", figure, value, unit, goal,
		*goal == '\0' ? ""
		: met         ? ": met"
					  : ": MISSED");
	std::fflush(stdout);
}

/// 4 GiB on the real thing, if that is a small part of it; ordinary memory, which the kernel moves page by page, takes
/// too long for that.
std::size_t large() {
	const std::size_t wanted = is_stand_in() ? 16 * mib : heap_is_managed() ? 4 * gib : gib;
	return std::min(wanted, free_bytes() / 8 / mib * mib);
}

/// A kernel over memory that is there, was prefetched, is fetched by faults, and was copied to plain memory.
void first_kernels(const cuda::kernels &kernels, const cuda::stream &stream) {
	const std::size_t size = large(), count = size / sizeof(float);
	const int node = gmem::device::numa_id();
	blank_floats data(count);
	floats result(mib, 0.0F);
	std::fill(data.begin(), data.end(), 1.0F);
	std::ptrdiff_t sums = 0;
	const auto sum = [&] {
		return time_of([&] {
			kernels.sum(data.data(), count, result.data() + sums++, stream.get());
			stream.synchronize();
		});
	};
	const auto bring_back = [&] { gmem::prefetch(data, 0); };
	gmem::prefetch(result, node);
	std::vector<double> there, prefetched, faulted, moved, copied;
	constexpr int rounds = 5;
	for (int round = 0; round < rounds; ++round) {
		bring_back();
		moved.push_back(time_of([&] { gmem::prefetch(data, node); }));
		prefetched.push_back(sum());
		there.push_back(sum());
		bring_back();
		faulted.push_back(sum());
	}
	cuda::address plain = 0;
	void *pinned = nullptr;
	cuda::allocate(&plain, size);
	cuda::allocate_pinned(&pinned, size);
	std::memcpy(pinned, data.data(), size);
	for (int round = 0; round < rounds; ++round) {
		copied.push_back(time_of([&] {
			cuda::copy(plain, device_address(pinned), size, stream.get());
			kernels.sum(reinterpret_cast<const float *>(plain), count, result.data() + sums++, stream.get());
			stream.synchronize();
		}));
	}
	cuda::release(plain);
	cuda::release_pinned(pinned);
	// Of so many ones, as exactly as a float that grows by the parts of threads can hold it.
	gmem::prefetch(result, 0);
	const auto is_right = [&](float each) { return std::fabs(each / static_cast<float>(count) - 1) < 0.02F; };
	CHECK(std::all_of(result.begin(), result.begin() + sums, is_right));
	const double wide = static_cast<double>(size) * per_gib;
	row("sum over memory already there", wide / median(there), "GiB/s");
	const double ratio = median(there) / median(prefetched);
	row("sum right after a prefetch, against already there", ratio, "x", ">= 0.9", ratio >= 0.9);
	row("sum of memory that comes by faults", wide / median(faulted), "GiB/s");
	row("first kernel: prefetch and sum", 1e3 * (median(moved) + median(prefetched)), "ms");
	row("first kernel: faults", 1e3 * median(faulted), "ms");
	row("first kernel: copy from pinned memory and sum", 1e3 * median(copied), "ms");
	// The copy has touched all of it.
	gmem::prefetch(data, node);
	bring_back();
	gmem::fault_scope faults;
	bool same = true;
	for (std::size_t i = 0; i < count; i += 1024) {
		same = same && data[i] == 1.0F;
	}
	CHECK(same);
	row("page faults of the processor after the way back", static_cast<double>(faults.count()), "");
}

/// By turns, each on its own memory of 1 GiB that lies in the processor's before.
void throughput(const cuda::stream &stream) {
	const std::size_t size = std::min(large(), gib);
	const int node = gmem::device::numa_id();
	const int ordinal = 0;
	const bool is_managed = heap_is_managed();
	blank_floats ours(size / sizeof(float));
	std::fill(ours.begin(), ours.end(), 1.0F);
	cuda::address bare = 0, plain = 0;
	void *pinned = nullptr;
	// Of the kind that libgmem's is.
	if (is_managed) {
		cuda::allocate_managed(&bare, size, 1);
	} else {
		bare = device_address(map_private(size, gmem::page_size()));
	}
	cuda::allocate(&plain, size);
	cuda::allocate_pinned(&pinned, size);
	std::memset(reinterpret_cast<void *>(bare), 1, size);
	std::memset(pinned, 1, size);
	std::vector<double> to_copy, to_bare, rates, of_bare;
	constexpr int pairs = 15;
	for (int pair = 0; pair < pairs; ++pair) {
		gmem::prefetch(ours, 0);
		cuda::prefetch(bare, size, cuda::processor, stream.get());
		stream.synchronize();
		seconds a = 0, b = 0, c = 0;
		const auto first = [&] {
			a = time_of([&] {
				CHECK_EQUAL(gmemPrefetch(address_of(ours.data()), size, node, stream.get()), 0);
				stream.synchronize();
			});
		};
		const auto second = [&] {
			b = time_of([&] {
				cuda::prefetch(bare, size, ordinal, stream.get());
				stream.synchronize();
			});
		};
		if (pair % 2 == 0) {
			first();
			second();
		} else {
			second();
			first();
		}
		c = time_of([&] {
			cuda::copy(plain, device_address(pinned), size, stream.get());
			stream.synchronize();
		});
		to_bare.push_back(b / a);
		to_copy.push_back(c / a);
		of_bare.push_back(c / b);
		rates.push_back(static_cast<double>(size) * per_gib / a);
	}
	if (is_managed) {
		cuda::release(bare);
	} else {
		munmap(reinterpret_cast<void *>(bare), size);
	}
	cuda::release(plain);
	cuda::release_pinned(pinned);
	row("prefetch to the GPU", median(rates), "GiB/s");
	const double copy = median(to_copy), prefetch = median(to_bare);
	row("against cuMemcpyAsync from pinned memory", copy, "x", ">= 0.9", copy >= 0.9);
	row("the same of bare cuMemPrefetchAsync", median(of_bare), "x");
	row("against bare cuMemPrefetchAsync of such memory", prefetch, "x", ">= 0.99", prefetch >= 0.99);
}

/// Calls that find everything there, by turns. The stream is idle, or the driver would do some at once and others
/// later.
void overhead(const cuda::stream &stream) {
	const int node = gmem::device::numa_id();
	const std::size_t size = gmem::page_size();
	floats ours(size / sizeof(float), 1.0F);
	gmem::prefetch(ours, node);
	std::vector<double> bare, extra, asking;
	constexpr int rounds = 31, calls = 100;
	for (int round = 0; round < rounds; ++round) {
		seconds of_bare = 0, of_libgmem = 0;
		for (int i = 0; i < calls; ++i) {
			of_bare += time_of([&] { cuda::prefetch(device_address(ours.data()), size, 0, stream.get()); });
			stream.synchronize();
			int result = 0;
			of_libgmem += time_of([&] { result = gmemPrefetch(address_of(ours.data()), size, node, stream.get()); });
			CHECK_EQUAL(result, 0);
			stream.synchronize();
		}
		bare.push_back(1e6 * of_bare / calls);
		extra.push_back(1e6 * (of_libgmem - of_bare) / calls);
		asking.push_back(1e6 * time_of([] { free_bytes(); }));
	}
	const double microseconds = median(extra);
	row("a call of cuMemPrefetchAsync", median(bare), "us");
	row("a call of gmemPrefetch over that", microseconds, "us", "<= 1", microseconds <= 1);
	row("cuMemGetInfo, which a large block and a large prefetch ask", median(asking), "us");
}

/// A kernel over the weights of a model as they are in its file.
void weights(const cuda::kernels &kernels, const cuda::stream &stream, const char *path) {
	std::ifstream file(path, std::ios::binary);
	const std::vector<char> bytes{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
	if (bytes.size() < sizeof(std::uint64_t)) {
		std::printf("note: %s is no file of weights\n", path);
		return;
	}
	// safetensors: the length of a header, the header, and then numbers.
	std::uint64_t header = 0;
	std::memcpy(&header, bytes.data(), sizeof header);
	const std::size_t begin = sizeof header + header;
	if (begin > bytes.size()) {
		std::printf("note: %s is no file of weights\n", path);
		return;
	}
	floats data((bytes.size() - begin) / sizeof(float));
	std::memcpy(data.data(), bytes.data() + begin, data.size() * sizeof(float));
	const double before = static_cast<double>(data.front());
	gmem::prefetch(data, gmem::device::numa_id(), raw(stream));
	const seconds taken = time_of([&] {
		kernels.add(data.data(), data.size(), 1.0F, stream.get());
		kernels.add(data.data(), data.size(), -1.0F, stream.get());
		gmem::prefetch(data, 0, raw(stream));
		raw(stream).synchronize();
	});
	CHECK(std::fabs(static_cast<double>(data.front()) - before) < 1e-5);
	row("two kernels over the weights of examples/minilm, and back", 1e3 * taken, "ms");
}

int figures(const cuda::kernels &kernels, const char *file) {
	const cuda::stream stream;
	int version = 0;
	cuda::driver_version(&version);
	std::printf("CUDA %d.%d, %s\n\n", version / 1000, version % 1000 / 10,
		heap_is_managed() ? "large blocks are managed memory" : "large blocks are ordinary memory");
	if (is_stand_in()) {
		std::puts("**On a stand-in for the driver: these say nothing of any GPU.**\n");
	}
	std::puts("| figure | median | goal |\n| --- | --- | --- |");
	first_kernels(kernels, stream);
	throughput(stream);
	overhead(stream);
	if (file != nullptr) {
		weights(kernels, stream, file);
	}
	return checks_result("figures");
}

} // namespace

int main(int argc, char **argv) {
	const std::string what = argc > 1 ? argv[1] : "check";
	const bool is_child = what == "lost" || what == "destroyed" || what == "exits";
	alarm(is_child ? 20 : 85);
	if (is_child) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
	}
	if (gmemGetNumaId() < 0) {
		// Whatever else is the matter is a failure.
		const std::string why = gmemLastError();
		const bool is_absent = why.find("libcuda.so.1 could not be opened") != std::string::npos ||
							   why.find("NO_DEVICE") != std::string::npos;
		std::printf("%s\n", why.c_str());
		return is_absent ? SKIPPED : 1;
	}
	cuda::set_context(gmem::device::context());
	if (what == "destroyed") {
		return use_a_destroyed_stream();
	}
	if (what == "exits") {
		return keep_a_block_to_the_end();
	}
	const cuda::kernels kernels;
	if (what == "lost") {
		return lose_the_context(kernels);
	}
	return what == "figures" ? figures(kernels, argc > 2 ? argv[2] : nullptr) : check(kernels);
}
