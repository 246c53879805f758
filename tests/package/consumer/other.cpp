// SPDX-License-Identifier: Apache-2.0
#include <vector>

#include <libgmem.hpp>

int other_file(const std::vector<float, gmem_allocator<float>> &weights) {
	gmem::buffer<float> copy(weights.size());
	copy.free_eager();
	return weights[0] == 2.0F && copy[0] == 0.0F ? 0 : 3;
}
