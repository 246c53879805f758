// SPDX-License-Identifier: Apache-2.0
// Calls each name of malloc in a program that is linked to the C library alone, and counts the blocks that are
// libgmem's. All are when libgmem.so is preloaded: a symbol version on its malloc would keep the program's
// malloc@GLIBC_2.2.5 with the C library.
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>

namespace {

constexpr std::size_t page = std::size_t{2} << 20U;
constexpr std::size_t size = 2 * page;
constexpr int rounds = 20;

struct name {
	const char *text;
	void *(*allocate)();
};

// Blocks of whole pages begin on a page in libgmem, and 16 bytes after one in glibc.
bool is_libgmems(const void *block) { return reinterpret_cast<std::uintptr_t>(block) % page == 0; }

char *long_text() {
	static char text[size];
	std::memset(text, 'x', size - 1);
	return text;
}

const name names[] = {
	{"malloc", [] { return std::malloc(size); }},
	{"calloc", [] { return std::calloc(1, size); }},
	{"realloc", [] { return std::realloc(std::malloc(page), size); }},
	{"reallocarray", [] { return reallocarray(nullptr, 2, page); }},
	{"aligned_alloc", [] { return std::aligned_alloc(64, size); }},
	{"strdup", [] { return static_cast<void *>(strdup(long_text())); }},
	{"operator new", [] { return ::operator new(size); }},
	{"operator new[]", [] { return ::operator new[](size, std::nothrow); }},
};

} // namespace

int main() {
	int missed = 0;
	for (const name &each : names) {
		int counted = 0;
		for (int round = 0; round < rounds; ++round) {
			void *volatile block = each.allocate();
			counted += is_libgmems(block) ? 1 : 0;
			std::free(block);
		}
		std::printf("%s: %d of %d blocks are libgmem's\n", each.text, counted, rounds);
		missed += rounds - counted;
	}
	return missed == 0 ? 0 : 1;
}
