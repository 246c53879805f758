// SPDX-License-Identifier: Apache-2.0
// Uses a bit of everything, and finds out whose malloc the process has.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include <libgmem.hpp>

int other_file(const std::vector<float, gmem_allocator<float>> &weights);

int main() {
	std::vector<float, gmem_allocator<float>> weights(1 << 20, 1.0F);
	gmem::stream stream;
	gmem::prefetch(weights, gmem::device::numa_id(), stream);
	stream.launch([&weights] { weights[0] = 2.0F; });
	stream.synchronize();
	try {
		gmem::prefetch(weights, -1);
		return 1;
	} catch (const gmem::error &failure) {
		std::printf("%s\n", failure.what());
	}
	// glibc's large blocks start behind a header, libgmem's on a GMEM page.
	volatile std::size_t size = 4 * gmem::page_size();
	void *block = std::malloc(size);
	const bool ours = reinterpret_cast<std::uintptr_t>(block) % gmem::page_size() == 0;
	std::free(block);
	return ours == (MALLOC_IS_LIBGMEM != 0) ? other_file(weights) : 2;
}
