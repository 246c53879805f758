// SPDX-License-Identifier: Apache-2.0
// gmem::streams::cuda, hip and ascend, whichever RUNTIME_... names. Where there is no device, that the runtime refuses.
#include <cstring>
#include <string>
#include <vector>

#include <libgmem.hpp>

#if defined(RUNTIME_CUDA)
#include <libgmem/streams/cuda.hpp>
static cudaStream_t new_stream() {
	cudaStream_t stream = nullptr;
	return cudaStreamCreate(&stream) == cudaSuccess ? stream : nullptr;
}
static gmem::external_stream wrap(cudaStream_t stream) { return gmem::streams::cuda(stream); }
#elif defined(RUNTIME_HIP)
#include <libgmem/streams/hip.hpp>
static hipStream_t new_stream() {
	hipStream_t stream = nullptr;
	return hipStreamCreate(&stream) == hipSuccess ? stream : nullptr;
}
static gmem::external_stream wrap(hipStream_t stream) { return gmem::streams::hip(stream); }
#elif defined(RUNTIME_ASCEND)
#include <libgmem/streams/ascend.hpp>
static aclrtStream new_stream() {
	aclrtStream stream = nullptr;
	return aclrtSetDevice(0) == 0 && aclrtCreateStream(&stream) == 0 ? stream : nullptr;
}
static gmem::external_stream wrap(aclrtStream stream) { return gmem::streams::ascend(stream); }
#endif

#include "../check.h"

int main() {
	alarm(120);
	auto *native = new_stream();
	const gmem::external_stream stream = wrap(native);
	gmem::buffer<char> memory(gmem::page_size());
	std::vector<int> seen;
	memory[0] = 'a';
	if (native == nullptr) {
		for (int i = 0; i < 100; ++i) {
			try {
				stream.launch([&seen] { seen.push_back(0); });
				CHECK(!"refused");
			} catch (const gmem::error &failure) {
				CHECK(failure.code() == std::errc::io_error);
				CHECK(std::string(failure.what()).find("refused") != std::string::npos);
			}
		}
		CHECK(stream.query() && seen.empty());
		stream.synchronize();
		puts("note: streams: no device of CUDA or HIP here; their adapters were tested up to the runtime's refusal");
		return checks_result("runtime");
	}
	for (int round = 0; round < 100; ++round) {
		seen.clear();
		stream.launch([&] { seen.push_back(memory[0]); });
		gmem::free_eager(memory, stream);
		stream.launch([&] { seen.push_back(memory[0]); });
		gmem::prefetch(memory, gmem::device::numa_id(), stream);
		stream.launch([&] { memory[0] = 'a'; });
		stream.synchronize();
		CHECK(seen == (std::vector<int>{'a', 0}));
	}
	return checks_result("runtime");
}
