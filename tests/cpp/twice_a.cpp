// SPDX-License-Identifier: Apache-2.0
// With twice_b.cpp: two files that include everything, each twice, link into one program.
#include <libgmem.hpp>

int other_file();

int main() {
	gmem::stream stream;
	int value = 1;
	stream.launch([&value] { value = 0; });
	stream.synchronize();
	return value + other_file();
}
