// SPDX-License-Identifier: Apache-2.0
// consumer LIBRARY [preloaded]: a client of the shape that the known users of libgmem have. It opens the library by
// name, looks up gmemFreeEager alone, maps its whole pool with MAP_PEER_SHARED and frees it in one call. No setting
// names a device. Runs in the virtual machine, on the stand-in for a GMEM kernel.
//
// With "preloaded", malloc is libgmem's. A child of fork() has no peer-shared memory, so malloc must not use it.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>

#include <dlfcn.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/wait.h>

#include "../check.h"

namespace {

constexpr std::size_t page = std::size_t{2} << 20;
constexpr std::size_t pool_pages = 16;
constexpr std::size_t block_bytes = 4 * page;

using free_eager_fn = std::size_t (*)(std::uint64_t, std::size_t, void *);

void *library;

template <typename Function>
Function look_up(const char *name) {
	void *const found = dlsym(library, name);
	NEED(found != nullptr);
	return reinterpret_cast<Function>(found);
}

/// Touch pages as the accelerator's driver would. Returns 0, a positive code, or -1.
int touch_on_device(void *start, std::size_t size) {
	struct {
		int hnid;
		unsigned long start;
		std::size_t length;
		int behavior;
	} argument{0, reinterpret_cast<unsigned long>(start), size, 0x1000};
	struct {
		int *hnid;
	} wanted{&argument.hnid};
	const int node = open("/dev/gmem", O_RDONLY | O_CLOEXEC);
	NEED(node >= 0 && ioctl(node, 0x40085501, &wanted) == 0);
	const int result = ioctl(node, 0x40205502, &argument);
	close(node);
	return result;
}

/// Pages on all accelerators.
long on_device() {
	long sum = 0;
	for (int hnid = 0; hnid < 64; ++hnid) {
		char path[128];
		std::snprintf(path, sizeof path, "/sys/kernel/mm/gmem/hnode%d/nr_activepages", hnid);
		if (std::FILE *const file = std::fopen(path, "re")) {
			long pages = 0;
			NEED(std::fscanf(file, "%ld", &pages) == 1);
			std::fclose(file);
			sum += pages;
		}
	}
	return sum;
}

void pools_are_freed(free_eager_fn free_eager, int flag) {
	std::FILE *const parameter = std::fopen("/sys/module/gmem_kernel/parameters/map_peer_shared", "we");
	NEED(parameter != nullptr && std::fprintf(parameter, "%d", flag) > 0 && std::fclose(parameter) == 0);
	constexpr std::size_t size = pool_pages * page;
	void *const pool = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | flag, -1, 0);
	NEED(pool != MAP_FAILED);
	std::memset(pool, 'p', size);
	CHECK_EQUAL(touch_on_device(pool, size), 0);
	CHECK_EQUAL(on_device(), pool_pages);
	CHECK_EQUAL(free_eager(reinterpret_cast<std::uint64_t>(pool), size, nullptr), 0);
	CHECK_EQUAL(on_device(), 0);
	CHECK(is_all(static_cast<char *>(pool), page, 0));
	munmap(pool, size);
}

char *filled_block(char value) {
	char *const block = static_cast<char *>(std::malloc(block_bytes));
	NEED(block != nullptr);
	std::memset(block, value, block_bytes);
	return block;
}

/// Blocks from before and after the first free, which chooses the device.
void a_child_has_every_block(free_eager_fn free_eager) {
	Dl_info info;
	void *const used = dlsym(RTLD_DEFAULT, "malloc");
	NEED(dladdr(used, &info) != 0 && std::strstr(info.dli_fname, "libgmem") != nullptr);
	char *const before = filled_block('b');
	pools_are_freed(free_eager, 0x10000000);
	char *const after = filled_block('a');
	char *const grown = static_cast<char *>(std::realloc(filled_block('g'), 2 * block_bytes));
	NEED(grown != nullptr);
	// Memory that the program asks for by the name of the device is the device's.
	void *const asked = look_up<void *(*)(std::size_t, std::size_t)>("gmem_device_alloc")(page, block_bytes);
	CHECK_EQUAL(touch_on_device(asked, block_bytes), 0);
	CHECK_EQUAL(on_device(), block_bytes / page);
	CHECK(touch_on_device(after, block_bytes) != 0);
	look_up<void (*)(void *)>("gmem_free")(asked);
	look_up<std::size_t (*)()>("gmemHeapTrim")();
	CHECK_EQUAL(on_device(), 0);
	const pid_t child = fork();
	NEED(child >= 0);
	if (child == 0) {
		checks_failed = 0;
		CHECK(is_all(before, block_bytes, 'b'));
		CHECK(is_all(after, block_bytes, 'a'));
		CHECK(is_all(grown, block_bytes, 'g'));
		std::free(filled_block('c'));
		// The child has the choice of its parent, and opens the kernel's node itself.
		pools_are_freed(free_eager, 0x10000000);
		_exit(checks_failed != 0);
	}
	int status = -1;
	NEED(waitpid(child, &status, 0) == child);
	CHECK_EQUAL(status, 0);
	std::free(before);
	std::free(after);
	std::free(grown);
}

} // namespace

int main(int argc, char **argv) {
	NEED(argc > 1 && std::getenv("GMEM_DEVICE") == nullptr);
	library = dlopen(argv[1], RTLD_NOW);
	if (library == nullptr) {
		std::fprintf(stderr, "%s\n", dlerror());
		return 1;
	}
	const auto free_eager = look_up<free_eager_fn>("gmemFreeEager");
	if (argc > 2) {
		a_child_has_every_block(free_eager);
	}
	for (const int flag : {0x8000000, 0x1000000, 0x10000000}) {
		pools_are_freed(free_eager, flag);
	}
	CHECK(std::strcmp(look_up<const char *(*)()>("gmemGetDevice")(), "gmem") == 0);
	// The whole register, which holds an int.
	CHECK_EQUAL(free_eager(UINT64_MAX, SIZE_MAX, nullptr), -EINVAL);
	CHECK_EQUAL(dlclose(library), 0);
	return checks_result("consumer");
}
