// SPDX-License-Identifier: Apache-2.0
#include <libgmem.hpp>

int other_file() {
	gmem::buffer<int> buffer(10);
	gmem::stream stream;
	gmem::prefetch(buffer, stream);
	stream.synchronize();
	return 0;
}
