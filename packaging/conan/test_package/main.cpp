// SPDX-License-Identifier: Apache-2.0
#include <vector>

#include <libgmem.hpp>

int main() {
	std::vector<float, gmem_allocator<float>> weights(1 << 20, 1.0F);
	gmem::stream stream;
	gmem::prefetch(weights, gmem::device::numa_id(), stream);
	stream.launch([&weights] { weights[0] = 2.0F; });
	stream.synchronize();
	return weights[0] == 2.0F ? 0 : 1;
}
