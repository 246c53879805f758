// SPDX-License-Identifier: Apache-2.0
/// @file
/// The cost of a call on a stream for its caller: on libgmem's own streams with little and much waiting, and on those
/// of other executors above what the executor itself takes for a function. And what a stream takes of memory.
#include <atomic>
#include <thread>
#include <vector>

#include <malloc.h>

#include <libgmem.hpp>
#include <libgmem/streams/executor.hpp>
#ifdef HAS_OPENCL
#include <libgmem/streams/opencl.hpp>
#endif

#ifdef HAS_ASCEND
#include "../tests/standins/ascendcl/acl/acl.h"
#endif

#include "../tests/thread_pool.hpp"
#include "compare.hpp"

namespace {

void need(int result) {
	if (result < 0) {
		std::fprintf(stderr, "%s\n", gmemLastError());
		std::exit(1);
	}
}

void nothing(void * /*arg*/) {}

/// Nanoseconds of each call, less what reading the clock takes.
class stopwatch {
public:
	template <class Call>
	void time(Call &&call) {
		times_.push_back(bench::time_of(call) * 1e9);
		clock_.push_back(bench::time_of([] {}) * 1e9);
	}
	[[nodiscard]] double at(double part) const {
		std::vector<double> sorted = times_;
		std::sort(sorted.begin(), sorted.end());
		const double time = sorted[static_cast<std::size_t>(part * static_cast<double>(sorted.size() - 1))];
		return std::max(0.0, time - bench::spread_of(clock_).median);
	}

private:
	std::vector<double> times_, clock_;
};

/// Keeps a stream from going on.
class gate {
public:
	void close(gmemStream_t stream) {
		open_ = false;
		need(gmemStreamLaunch(
			stream,
			[](void *self) {
				auto *gate = static_cast<class gate *>(self);
				gate->reached_ = true;
				while (!gate->open_) {
					std::this_thread::sleep_for(std::chrono::microseconds(50));
				}
			},
			this));
		while (!reached_.exchange(false)) {
			std::this_thread::yield();
		}
	}
	void open() { open_ = true; }

private:
	std::atomic<bool> open_{false}, reached_{false};
};

struct cost {
	std::vector<double> median, late;
};

/// So many calls in a row on a stream that does not go on: from none waiting to all.
void one_after_the_other(gmemStream_t stream, int calls, cost &result) {
	gate gate;
	stopwatch watch;
	for (int done = 0; done < 2000; done += calls) {
		gate.close(stream);
		for (int i = 0; i < calls; ++i) {
			watch.time([&] { need(gmemStreamLaunch(stream, nothing, nullptr)); });
		}
		gate.open();
		need(gmemStreamSynchronize(stream));
	}
	result.median.push_back(watch.at(0.5));
	result.late.push_back(watch.at(0.99));
}

/// A call while the stream is being served.
template <class Call>
cost while_served(Call &&call) {
	constexpr int samples = 10, calls = 5000;
	cost result;
	const gmem::stream stream;
	for (int sample = 0; sample < samples; ++sample) {
		stopwatch watch;
		for (int i = 0; i < calls; ++i) {
			watch.time([&] { call(stream.get()); });
		}
		stream.synchronize();
		result.median.push_back(watch.at(0.5));
		result.late.push_back(watch.at(0.99));
	}
	return result;
}

void print(const std::string &figure, const cost &found, double goal = 150) {
	bench::print_row(figure, found.median, bench::goal::at_most, goal, "ns");
	bench::print_row("  the 99th of a hundred", found.late, bench::goal::at_most, 1000, "ns");
}

/// Extra time of a call through libgmem, against one to the executor; the two take turns to begin.
template <class Ours, class Theirs, class Done, class Begin = void (*)()>
void print_above(const std::string &figure, Ours &&ours, Theirs &&theirs, Done &&done, Begin &&begin = [] {}) {
	constexpr int pairs = 20, calls = 500;
	const auto median = [&](auto &&call) {
		stopwatch watch;
		begin();
		for (int i = 0; i < calls; ++i) {
			watch.time(call);
		}
		done();
		return watch.at(0.5);
	};
	std::vector<double> above, alone;
	for (int pair = -1; pair < pairs; ++pair) { // the first pair warms up
		double a = 0, b = 0;
		if (pair % 2 == 0) {
			a = median(ours);
			b = median(theirs);
		} else {
			b = median(theirs);
			a = median(ours);
		}
		if (pair >= 0) {
			above.push_back(a - b);
			alone.push_back(b);
		}
	}
	bench::print_row(figure + " (" + std::to_string(static_cast<int>(bench::spread_of(alone).median)) + " ns)", above,
		bench::goal::at_most, 100, "ns");
}

/// A queue that the bench runs itself: nothing but the cost of handing over.
struct bare_queue {
	std::vector<std::pair<gmemHostFn, void *>> items;

	static int add(void *self, gmemHostFn fn, void *arg) {
		static_cast<bare_queue *>(self)->items.emplace_back(fn, arg);
		return 0;
	}
	void run() {
		for (const auto &[fn, arg] : items) {
			fn(arg);
		}
		items.clear();
	}
};

void adapters() {
	bare_queue bare;
	const gmem::external_stream over_bare(bare_queue::add, &bare);
	print_above(
		"wrapped, above a queue that only keeps it", [&] { need(gmemStreamLaunch(over_bare.get(), nothing, nullptr)); },
		[&] { need(bare_queue::add(&bare, nothing, nullptr)); }, [&] { bare.run(); });

	thread_pool thread(1);
	const gmem::external_stream over_thread = gmem::streams::executor(thread);
	print_above(
		"executor.hpp, above a thread's std::function queue",
		[&] { need(gmemStreamLaunch(over_thread.get(), nothing, nullptr)); },
		[&] { thread.execute([] { nothing(nullptr); }); }, [&] { over_thread.synchronize(); });

#ifdef HAS_OPENCL
	cl_platform_id platform = nullptr;
	cl_device_id device = nullptr;
	cl_uint count = 0;
	if (clGetPlatformIDs(1, &platform, &count) != CL_SUCCESS || count == 0 ||
		clGetDeviceIDs(platform, CL_DEVICE_TYPE_ALL, 1, &device, nullptr) != CL_SUCCESS) {
		std::puts("opencl.hpp: no OpenCL device here (apt-get install pocl-opencl-icd)");
		return;
	}
	cl_int code = CL_SUCCESS;
	cl_context context = clCreateContext(nullptr, 1, &device, nullptr, nullptr, &code);
	cl_command_queue queue = clCreateCommandQueueWithProperties(context, device, nullptr, &code);
	{
		const auto native = [&] {
			void *arguments[2] = {};
			need(-clEnqueueNativeKernel(queue, nothing, static_cast<void *>(arguments), sizeof arguments, 0, nullptr,
				nullptr, 0, nullptr, nullptr));
			clFlush(queue);
		};
		const gmem::external_stream stream = gmem::streams::opencl(queue);
		print_above(
			"opencl.hpp, above clEnqueueNativeKernel", [&] { need(gmemStreamLaunch(stream.get(), nothing, nullptr)); },
			native, [&] { clFinish(queue); });
	}
	clReleaseCommandQueue(queue);
	clReleaseContext(context);
#else
	std::puts("opencl.hpp: built without OpenCL's headers (./dev test installs them as root)");
#endif
}

#ifdef HAS_ASCEND
/// On a stand-in for Ascend's runtime, whose call is a queue under a lock. The stream is held meanwhile: what its
/// thread does would be most of the figure.
void raw_streams() {
	const std::string before = gmemGetDevice();
	need(gmemSetDevice("ascend"));
	aclrtStream native = nullptr;
	need(-aclrtSetDevice(0));
	need(-aclrtCreateStream(&native));
	auto *const stream = static_cast<gmemStream_t>(native);
	std::atomic<bool> held{false};
	const auto hold = [&] {
		held = true;
		const auto wait = [](void *flag) {
			while (*static_cast<std::atomic<bool> *>(flag)) {
				std::this_thread::sleep_for(std::chrono::microseconds(50));
			}
		};
		need(-ascend_stand_in_run(native, wait, &held));
	};
	const auto let_go = [&] {
		held = false;
		aclrtSynchronizeStream(native);
	};
	print_above(
		"raw aclrtStream, above aclrtLaunchHostFunc itself", [&] { need(gmemStreamLaunch(stream, nothing, nullptr)); },
		[&] { need(-aclrtLaunchHostFunc(native, nothing, nullptr)); }, let_go, hold);
	need(gmemStreamDestroy(stream));
	aclrtDestroyStream(native);
	need(gmemSetDevice(before.c_str()));
}
#endif

/// A thousand streams that all have work, and what each takes when it is done.
void many() {
	constexpr int streams = 1000, each = 100, rounds = 10;
	std::vector<gmem::stream> all;
	all.reserve(streams);
	const std::size_t before = mallinfo2().uordblks;
	for (int i = 0; i < streams; ++i) {
		all.emplace_back();
	}
	const auto per_stream = [&] { return static_cast<double>(mallinfo2().uordblks - before) / streams; };
	bench::print_row("memory of a stream, never used", {per_stream()}, bench::goal::at_most, 1024, "B");
	const auto use_all = [&] {
		for (int i = 0; i < streams * each; ++i) {
			need(gmemStreamLaunch(all[static_cast<std::size_t>(i % streams)].get(), nothing, nullptr));
		}
		for (const gmem::stream &stream : all) {
			stream.synchronize();
		}
	};
	use_all();
	bench::print_row("  idle again", {per_stream()}, bench::goal::at_most, 1024, "B");
	std::vector<double> ratios;
	for (int round = 0; round < rounds; ++round) {
		const auto spread = bench::time_of(use_all);
		const auto one = bench::time_of([&] {
			for (int i = 0; i < streams * each; ++i) {
				need(gmemStreamLaunch(all.front().get(), nothing, nullptr));
			}
			all.front().synchronize();
		});
		ratios.push_back(spread / one);
	}
	bench::print_row("100,000 functions: on 1,000 streams / on one", ratios, bench::goal::at_most, 10);
}

} // namespace

int main() {
	std::printf("%-58s %10s  %-20s  %-10s\n", "figure (median [spread])", "", "", "goal");
	const std::vector<int> lengths = {10, 100, 1000, 10000};
	std::vector<cost> rows(lengths.size());
	const gmem::stream stream;
	for (int sample = -1; sample < 15; ++sample) { // by turns; the first warms up
		std::vector<cost> unused(lengths.size());
		for (std::size_t i = 0; i < lengths.size(); ++i) {
			one_after_the_other(stream.get(), lengths[i], (sample < 0 ? unused : rows)[i]);
		}
	}
	for (std::size_t i = 0; i < lengths.size(); ++i) {
		print("launch, " + std::to_string(lengths[i]) + " in a row, all of which wait", rows[i]);
	}
	std::vector<double> ratios;
	for (std::size_t i = 0; i < rows.front().median.size(); ++i) {
		ratios.push_back(rows.back().median[i] / rows.front().median[i]);
	}
	bench::print_row("  10,000 in a row / 10", ratios, bench::goal::at_most, 1.25);
	print("launch on a stream that is being served",
		while_served([](gmemStream_t stream) { need(gmemStreamLaunch(stream, nothing, nullptr)); }));
	print("an eager free of nothing", while_served([](gmemStream_t stream) { need(gmemFreeEager(0, 0, stream)); }));
	const gmem::event event;
	print("an event recorded", while_served([&](gmemStream_t stream) { need(gmemEventRecord(event.get(), stream)); }),
		300);
	adapters();
#ifdef HAS_ASCEND
	raw_streams();
#else
	std::puts("raw aclrtStream: built without the tests, which have the stand-in for its runtime");
#endif
	many();
	return 0;
}
