// SPDX-License-Identifier: Apache-2.0
// Uses libgmem as frameworks do: finds it by the unversioned name, maps one pool, and frees all of it. The function's
// type has 64 bits where libgmem's has an int.
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>

#include <dlfcn.h>
#include <sys/mman.h>

int main() {
	void *library = dlopen("libgmem.so", RTLD_NOW);
	if (library == nullptr) {
		std::printf("%s\n", dlerror());
		return 1;
	}
	const auto free_eager =
		reinterpret_cast<std::size_t (*)(std::uint64_t, std::size_t, void *)>(dlsym(library, "gmemFreeEager"));
	constexpr std::size_t size = std::size_t{64} << 20U;
	void *pool = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | 0x8000000, -1, 0);
	if (free_eager == nullptr || pool == MAP_FAILED) {
		std::printf("no gmemFreeEager, or no memory\n");
		return 1;
	}
	std::memset(pool, 'x', size);
	const std::size_t result = free_eager(reinterpret_cast<std::uint64_t>(pool), size, nullptr);
	// A pool begins anywhere, so its first bytes may lie before the first whole page.
	const char middle = static_cast<const char *>(pool)[size / 2];
	std::printf("gmemFreeEager: %zu, the middle of the pool holds %d\n", result, middle);
	return result == 0 && middle == 0 ? 0 : 1;
}
