// SPDX-License-Identifier: Apache-2.0
// gmem::streams::cuda_driver on the device "cuda", over the stand-in for its driver: the stream itself is used, so that
// nothing that needs CUDA runs in a host function of CUDA's. Run with GMEM_DEVICE=cuda.
#include <vector>

#include <libgmem/streams/cuda_driver.hpp>

#include <libgmem.hpp>

#include "../check.h"
#include "../gpu/driver.hpp"

int main() {
	alarm(60);
	if (gmemGetNumaId() < 0) {
		std::fprintf(stderr, "%s\n", gmemLastError());
		return 1;
	}
	cuda::set_context(gmem::device::context());
	std::vector<float, gmem_allocator<float>> data(1 << 20, 1.0F);
	const cuda::stream stream;
	for (auto *const native : {static_cast<CUstream>(stream.get()), static_cast<CUstream>(nullptr)}) {
		for (int round = 0; round < 5; ++round) {
			const gmem::external_stream order = gmem::streams::cuda_driver(native);
			CHECK(order.get() == static_cast<void *>(native != nullptr ? native : CU_STREAM_LEGACY));
			int seen = 0;
			gmem::prefetch(data, gmem::device::numa_id(), order);
			order.launch([&] { ++seen; });
			gmem::free_eager(data, order);
			order.launch([&] { ++seen; });
			order.synchronize();
			CHECK_EQUAL(seen, 2);
		}
	}
	// On another device it is one of libgmem's.
	gmem::device::set_current("host");
	const gmem::external_stream order = gmem::streams::cuda_driver(static_cast<CUstream>(stream.get()));
	CHECK(order.get() != stream.get());
	bool called = false;
	order.launch([&] { called = true; });
	order.synchronize();
	CHECK(called);
	return checks_result("cuda_adapters");
}
