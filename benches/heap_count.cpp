// SPDX-License-Identifier: Apache-2.0
/// @file
/// heap_count WORK SIZE COUNT: calls of malloc and its like, for tools/bench_instructions.py, which counts
/// instructions. Compiled with -fno-builtin.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>

namespace {

constexpr int batch = 64;
void *volatile sink;

/// COUNT units of work; a unit is one block's whole life.
int work(const char *what, std::size_t size, long count) {
	const auto is = [what](const char *name) { return std::strcmp(what, name) == 0; };
	if (is("none")) {
		for (long i = 0; i < count; ++i) {
			sink = nullptr;
		}
	} else if (is("pair")) {
		for (long i = 0; i < count; ++i) {
			sink = std::malloc(size);
			std::free(sink);
		}
	} else if (is("batch")) {
		void *blocks[batch];
		for (long i = 0; i < count; i += batch) {
			for (void *&block : blocks) {
				block = std::malloc(size);
			}
			for (void *block : blocks) {
				std::free(block);
			}
		}
	} else if (is("new")) {
		for (long i = 0; i < count; ++i) {
			sink = ::operator new(size);
			::operator delete(sink, size);
		}
	} else if (is("calloc")) {
		for (long i = 0; i < count; ++i) {
			sink = std::calloc(1, size);
			std::free(sink);
		}
	} else if (is("realloc")) {
		for (long i = 0; i < count; ++i) {
			sink = std::malloc(size);
			sink = std::realloc(sink, 2 * size);
			std::free(sink);
		}
	} else {
		return 2;
	}
	return 0;
}

} // namespace

int main(int argc, char **argv) {
	if (argc != 4) {
		std::fputs("usage: heap_count none|pair|batch|new|calloc|realloc SIZE COUNT\n", stderr);
		return 2;
	}
	return work(argv[1], std::strtoul(argv[2], nullptr, 10), std::strtol(argv[3], nullptr, 10));
}
