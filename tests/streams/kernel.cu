// SPDX-License-Identifier: Apache-2.0
// The headers through nvcc, as a program with kernels includes them: compiling it is the test.
#include <cstddef>
#include <vector>

#include <libgmem.hpp>
#include <libgmem/streams/cuda.hpp>
#include <libgmem/streams/cuda_driver.hpp>

__global__ void add(float *data, std::size_t count, float value) {
	for (std::size_t i = blockIdx.x * std::size_t{blockDim.x} + threadIdx.x; i < count;
		i += std::size_t{gridDim.x} * blockDim.x) {
		data[i] += value;
	}
}

float second_of_three(cudaStream_t stream) {
	std::vector<float, gmem_allocator<float>> data(3, 1.0F);
	const gmem::external_stream order = gmem::streams::cuda(stream);
	gmem::prefetch(data, gmem::device::numa_id(), order);
	add<<<1, 32, 0, stream>>>(data.data(), data.size(), 1.0F);
	const gmem::prefetch_report back = gmem::prefetch(data, 0, order);
	order.launch([&data] { data.at(0) = 0; });
	order.synchronize();
	return !back.result() ? data[1] : 0;
}
