// SPDX-License-Identifier: Apache-2.0
// Counts which members of OrtAllocator ONNX Runtime calls by itself, and checks what those of
// gmem::engines::onnxruntime_allocator give. Prints a line for each.
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <string>
#include <unordered_map>
#include <vector>

#include <onnxruntime_cxx_api.h>
#include <onnxruntime_run_options_config_keys.h>

#include <libgmem.hpp>
#include <libgmem/engines/onnxruntime.hpp>

#include "measure.hpp"
#include "onnx_model.hpp"

namespace {

constexpr std::int64_t width = 1024;
constexpr std::int64_t rows = 16;
constexpr std::size_t layers = 4;
constexpr std::size_t weight_bytes = layers * width * width * sizeof(float);

void require(bool holds, const char *what) {
	if (!holds) {
		std::fprintf(stderr, "wrong: %s\n", what);
		std::exit(1);
	}
}

/// The adapter, with a count of calls for each member.
struct counted {
	OrtAllocator adapter{};
	std::atomic<int> alloc{0}, reserve{0}, free{0}, info{0}, get_stats{0}, alloc_on_stream{0}, shrink{0};
};
counted calls;

void count_calls_of(OrtAllocator &adapter) {
	calls.adapter = adapter;
	adapter.Alloc = [](OrtAllocator *self, std::size_t size) {
		++calls.alloc;
		return calls.adapter.Alloc(self, size);
	};
	adapter.Reserve = [](OrtAllocator *self, std::size_t size) {
		++calls.reserve;
		return calls.adapter.Reserve(self, size);
	};
	adapter.Free = [](OrtAllocator *self, void *block) {
		++calls.free;
		calls.adapter.Free(self, block);
	};
	adapter.Info = [](const OrtAllocator *self) {
		++calls.info;
		return calls.adapter.Info(self);
	};
#if ORT_API_VERSION >= 23
	adapter.GetStats = [](const OrtAllocator *self, OrtKeyValuePairs **out) noexcept -> OrtStatusPtr {
		++calls.get_stats;
		return calls.adapter.GetStats(self, out);
	};
	adapter.AllocOnStream = [](OrtAllocator *self, std::size_t size, OrtSyncStream *stream) {
		++calls.alloc_on_stream;
		return calls.adapter.AllocOnStream(self, size, stream);
	};
#endif
#if ORT_API_VERSION >= 25
	adapter.Shrink = [](OrtAllocator *self) noexcept -> OrtStatusPtr {
		++calls.shrink;
		return calls.adapter.Shrink(self);
	};
#endif
}

void print_calls(const char *when) {
	std::printf("%-40s Alloc %d, Reserve %d, Free %d, Info %d, GetStats %d, AllocOnStream %d, Shrink %d\n", when,
		calls.alloc.load(), calls.reserve.load(), calls.free.load(), calls.info.load(), calls.get_stats.load(),
		calls.alloc_on_stream.load(), calls.shrink.load());
}

void run(Ort::Session &session, const Ort::RunOptions &how) {
	std::vector<float> values(rows * width);
	measure::fill(values.data(), values.size());
	const Ort::MemoryInfo cpu = Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeDefault);
	const std::int64_t shape[] = {rows, width};
	const Ort::Value in = Ort::Value::CreateTensor<float>(cpu, values.data(), values.size(), shape, 2);
	const char *const input = "input";
	const char *const output = "output";
	static_cast<void>(session.Run(how, &input, &in, 1, &output, 1));
}

/// Ask a run to shrink the session's arenas. ONNX Runtime refuses, because an allocator that is registered is none.
void run_and_shrink(Ort::Session &session) {
	Ort::RunOptions shrink;
	shrink.AddConfigEntry(kOrtRunOptionsConfigEnableMemoryArenaShrinkage, "cpu:0");
	try {
		run(session, shrink);
		std::printf("a run with cpu:0 to shrink succeeds\n");
	} catch (const Ort::Exception &refused) {
		std::printf("a run with cpu:0 to shrink is refused: %s\n", refused.what());
	}
}

#if ORT_API_VERSION >= 23
long number(const std::unordered_map<std::string, std::string> &stats, const char *key) {
	const auto found = stats.find(key);
	require(found != stats.end(), key);
	return std::stol(found->second);
}

/// Read the statistics through the session's own allocator, behind which ONNX Runtime calls the adapter.
void check_stats(const Ort::Session &session, const OrtMemoryInfo *info) {
	const Ort::Allocator of_session(session, info);
	const auto stats = of_session.GetStats().GetKeyValuePairs();
	for (const auto &[key, value] : stats) {
		std::printf("  %s=%s\n", key.c_str(), value.c_str());
	}
	require(calls.get_stats == 1, "ONNX Runtime asks the adapter for its statistics once");
	require(number(stats, "NumAllocs") == calls.alloc + calls.reserve, "NumAllocs counts Alloc and Reserve");
	require(number(stats, "NumReserves") == calls.reserve, "NumReserves counts Reserve");
	require(number(stats, "InUse") >= static_cast<long>(weight_bytes), "InUse has the weights");
	require(number(stats, "MaxInUse") >= number(stats, "InUse"), "MaxInUse is InUse at least");
	require(
		number(stats, "MaxAllocSize") >= static_cast<long>(weight_bytes / layers), "MaxAllocSize is that of a layer");
	require(number(stats, "Limit") == -1, "Limit is -1 without a hard limit");
}
#endif

} // namespace

int main(int argc, char **argv) {
	if (OrtGetApiBase()->GetApi(ORT_API_VERSION) == nullptr) {
		std::fprintf(stderr,
			"the library is ONNX Runtime %s, the header has API version %d; use headers that are not newer\n",
			OrtGetApiBase()->GetVersionString(), ORT_API_VERSION);
		return 2;
	}
	std::printf("library %s, API version of the headers %d\n", OrtGetApiBase()->GetVersionString(), ORT_API_VERSION);
	const std::string folder = measure::option(argc, argv, "folder", ".");
	measure::need_file(folder + "/members.bin", weight_bytes / sizeof(float));
	const std::string model = folder + "/members.onnx";
	std::ofstream(model, std::ios::binary) << onnx_model::network(layers, rows, width, "members.bin");

	static gmem::engines::onnxruntime_allocator ours(Ort::GetApi()); // outlives the environment
	count_calls_of(ours);
	static Ort::Env environment(ORT_LOGGING_LEVEL_FATAL, "members");
	Ort::ThrowOnError(Ort::GetApi().RegisterAllocator(environment, &ours));
	Ort::SessionOptions options;
	options.AddConfigEntry("session.use_env_allocators", "1");
	{
		Ort::Session session(environment, model.c_str(), options);
		print_calls("after the session is made:");
		run(session, Ort::RunOptions());
		print_calls("after a run:");
		run_and_shrink(session);
		print_calls("after that run:");
#if ORT_API_VERSION >= 23
		check_stats(session, ours.info());
		print_calls("after the session's statistics:");
#endif
#if ORT_API_VERSION >= 25
		Ort::Allocator(session, ours.info()).Shrink();
		print_calls("after Shrink() of the session's allocator:");
#endif
	}
	print_calls("after the session is gone:");
	require(calls.alloc + calls.reserve == calls.free, "all that was allocated is freed");
#if ORT_API_VERSION >= 25
	gmemHeapStats_t heap{};
	heap.size = sizeof heap;
	gmemHeapStats(&heap);
	const std::size_t idle = heap.idle;
	Ort::UnownedAllocator(&ours).Shrink();
	heap.size = sizeof heap;
	gmemHeapStats(&heap);
	std::printf(
		"idle memory of the heap: %zu KiB, and %zu after Shrink() of the adapter\n", idle >> 10, heap.idle >> 10);
	require(calls.shrink >= 1 && idle >= weight_bytes / 2 && heap.idle <= idle / 4, "Shrink() returns what is idle");
#endif
}
