/* SPDX-License-Identifier: Apache-2.0 */
/* The device "gmem": on a machine without a GMEM kernel clear errors, and ordinary memory as ever; on a stand-in for
 * that kernel, in the virtual machine (guest.py --gmem), all that it documents, through the library. */
#include <sys/ioctl.h>

#include "../nodes/nodes.h"

enum { FIRST_BIT = 0x10000000 };

static const char parameters[] = "/sys/module/gmem_kernel/parameters/";
static int device; /* its node */

static int prefetch(const void *start, size_t size) {
	return gmemPrefetch((unsigned long)(uintptr_t)start, size, device, NULL);
}

static int free_eager(const void *start, size_t size) {
	return gmemFreeEager((unsigned long)(uintptr_t)start, size, NULL);
}

static void says(const char *what) {
	if (strstr(gmemLastError(), what) == NULL) {
		fprintf(stderr, "the message does not say \"%s\": %s\n", what, gmemLastError());
		++checks_failed;
	}
}

/* ---- without a GMEM kernel ----------------------------------------------------------------------------- */

/* Also of private memory when the kernel is there: it is none of the device's. */
static void ordinary_memory_is_as_ever(void) {
	char *start = map_private(2 * page, page);
	CHECK_EQUAL(prefetch_to(start, 2 * page, nodes[0]), 0);
	CHECK_EQUAL(resident_pages(start, 2 * page), 2 * page / base);
	memset(start, 'x', 2 * page);
	CHECK_EQUAL(free_eager(start + 1, 2 * page - 1), 0);
	CHECK(is_all(start, page, 'x'));
	CHECK_EQUAL(resident_pages(start + page, page), 0);
	CHECK(is_all(start + page, page, 0));
	munmap(start, 2 * page);
	CHECK_EQUAL(free_eager(start, 2 * page), -ENOMEM);
	const int fd = file_of(page);
	char *file = map_at_page(page, page, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd);
	CHECK_EQUAL(free_eager(file, page), -EINVAL);
	munmap(file, page);
	close(fd);
}

static void blocks_are_usable(void) {
	char *block = (char *)gmem_malloc(5 * page);
	NEED(block != NULL);
	memset(block, 'b', 5 * page);
	block = (char *)gmem_realloc(block, 9 * page);
	NEED(block != NULL);
	CHECK(is_all(block, 5 * page, 'b'));
	gmem_free(block);
}

static int without_a_kernel(void) {
	/* To choose it is allowed; what needs it says why it cannot be. */
	CHECK_EQUAL(gmemSetDevice("gmem"), 0);
	CHECK(strcmp(gmemGetDevice(), "gmem") == 0);
	CHECK_EQUAL(gmemGetNumaId(), -ENODEV);
	says("/dev/gmem");
	says("gmem=on");
	char *start = map_private(page, page);
	CHECK_EQUAL(gmemPrefetch((unsigned long)(uintptr_t)start, page, 1000, NULL), -ENODEV);
	says("/dev/gmem");
	CHECK_EQUAL(gmemPrefetch((unsigned long)(uintptr_t)start, page, -1, NULL), -EINVAL);
	says("hnid = -1");
	CHECK_EQUAL(gmemPrefetch((unsigned long)(uintptr_t)start, page, INT32_MAX, NULL), -EINVAL);
	munmap(start, page);
	ordinary_memory_is_as_ever();
	blocks_are_usable();
	return checks_result("gmem");
}

/* ---- with one ------------------------------------------------------------------------------------------ */

static void set(const char *parameter, long value) {
	char path[128], text[24];
	snprintf(path, sizeof path, "%s%s", parameters, parameter);
	snprintf(text, sizeof text, "%ld", value);
	NEED(write_file(path, text) == 0);
}

static long get(const char *parameter) {
	char path[128];
	snprintf(path, sizeof path, "%s%s", parameters, parameter);
	return read_number(path, "");
}

/* Pages on a device. */
static long on_device(int hnid) {
	char path[128];
	snprintf(path, sizeof path, "/sys/kernel/mm/gmem/hnode%d/nr_activepages", hnid);
	return read_number(path, "");
}

/* ---- the kernel itself: that the stand-in keeps to the documentation ---------------------------------------- */

struct madvise_argument {
	int hnid;
	unsigned long start;
	size_t length;
	int behavior;
};

enum { GMEM_GET_HNUMA_ID = 0x40085501, GMEM_MADVISE = 0x40205502, MADV_PREFETCH = 0x1000 };

/* 0, a positive code, or a negative errno. */
static int advise(int node, int hnid, const void *start, size_t size, int behavior) {
	struct madvise_argument argument = {hnid, (unsigned long)(uintptr_t)start, size, behavior};
	const int result = ioctl(node, GMEM_MADVISE, &argument);
	return result == -1 ? -errno : result;
}

/* 0, or why there is no mapping. */
static int map_errno(void *at, size_t size, int flags) {
	void *start = mmap(at, size, PROT_READ | PROT_WRITE, flags | FIRST_BIT, -1, 0);
	if (start == MAP_FAILED) {
		return errno;
	}
	munmap(start, page);
	return 0;
}

static void ioctls_are_as_documented(char *start) {
	const int node = open("/dev/gmem", O_RDONLY | O_CLOEXEC);
	int *none = NULL;
	NEED(node >= 0);
	CHECK(ioctl(node, GMEM_GET_HNUMA_ID, NULL) == -1 && errno == EFAULT);
	CHECK(ioctl(node, GMEM_GET_HNUMA_ID, &none) == -1 && errno == EFAULT);
	CHECK(ioctl(node, GMEM_MADVISE, NULL) == -1 && errno == EFAULT);
	CHECK(ioctl(node, GMEM_MADVISE + 1, start) == -1 && errno == EINVAL);
	CHECK_EQUAL(advise(node, -1, start, page, MADV_PREFETCH), -EINVAL);
	CHECK_EQUAL(advise(node, -2, start, page, MADV_DONTNEED), -EINVAL);
	CHECK_EQUAL(advise(node, 0, start, page, MADV_DONTNEED), -EINVAL);
	CHECK_EQUAL(advise(node, device, start, page, MADV_PAGEOUT), -EINVAL);
	CHECK_EQUAL(advise(node, device, start, page, MADV_DONTNEED), 0);
	CHECK_EQUAL(advise(node, device, start, UINTPTR_MAX, MADV_PREFETCH), -EINVAL);
	CHECK_EQUAL(advise(node, -1, (void *)UINTPTR_MAX, 0, MADV_DONTNEED), -EINVAL);
	CHECK_EQUAL(advise(node, -1, (void *)UINTPTR_MAX, UINTPTR_MAX, MADV_DONTNEED), -EINVAL);
	CHECK_EQUAL(advise(node, device, start, 0, MADV_PREFETCH), 0);
	CHECK_EQUAL(on_device(device), 0);
	CHECK_EQUAL(advise(node, device, start + 1, 0, MADV_PREFETCH), 0);
	CHECK_EQUAL(on_device(device), 1);
	CHECK_EQUAL(advise(node, device, start, 2 * page, MADV_PREFETCH), 5);
	CHECK_EQUAL(advise(node, -1, start, 2 * page, MADV_DONTNEED), 0);
	CHECK_EQUAL(on_device(device), 0);
	close(node);
}

static void mappings_are_as_documented(char *start) {
	CHECK_EQUAL(map_errno(NULL, page, MAP_SHARED | MAP_ANONYMOUS), EINVAL);
	CHECK_EQUAL(map_errno(NULL, page, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB), EINVAL);
	CHECK_EQUAL(map_errno(NULL, page, MAP_PRIVATE), EINVAL);
	CHECK_EQUAL(map_errno(start, page, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED), EEXIST);
	CHECK_EQUAL(map_errno(start, page, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE), EEXIST);
	CHECK_EQUAL(map_errno(NULL, 1, MAP_PRIVATE | MAP_ANONYMOUS), 0);
	CHECK_EQUAL((uintptr_t)start % page, 0);
	start[page - 1] = 1; /* of 4096 bytes that were asked for */
	set("attached", 0);
	CHECK_EQUAL(map_errno(NULL, page, MAP_PRIVATE | MAP_ANONYMOUS), ENOMEM);
	set("attached", 1);
	CHECK(munmap(start + base, base) == -1 && errno == EINVAL);
	CHECK(munmap(start, base) == 0); /* all of it */
	CHECK(msync(start + base, base, MS_ASYNC) == -1 && errno == ENOMEM);
}

/* As frameworks do it that know the flag. */
static char *map_peer_shared(size_t size) {
	char *start = (char *)mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | FIRST_BIT, -1, 0);
	NEED(start != MAP_FAILED);
	return start;
}

/* The next call of the kernel's ends with `code`. */
static void refuses(int code, int expected) {
	char *start = map_peer_shared(page);
	set("inject", code);
	set("inject_count", 1);
	errno = EXDEV; /* of a call before */
	CHECK_EQUAL(prefetch(start, page), expected);
	if (code > 0) {
		char text[24];
		snprintf(text, sizeof text, code == 5 ? "MAP_PEER_SHARED" : "code %d", code);
		says(text);
	}
	CHECK_EQUAL(on_device(device), 0);
	memset(start, 'r', page);
	set("inject_count", 1);
	CHECK_EQUAL(free_eager(start, page), expected);
	CHECK(is_all(start, page, 'r'));
	CHECK_EQUAL(prefetch(start, page), 0);
	CHECK(is_all(start, page, 'r'));
	munmap(start, page);
}

static void codes_become_errnos(void) {
	static const int codes[][2] = {{1, -ENOMEM}, {2, -EEXIST}, {3, -EIO}, {4, -EAGAIN}, {5, -EINVAL}, {6, -EOPNOTSUPP},
		{7, -EIO}, {1000, -EIO}, {-EFAULT, -EFAULT}, {-EINVAL, -EINVAL}, {-ENODEV, -ENODEV}};
	for (size_t i = 0; i < sizeof codes / sizeof *codes; ++i) {
		refuses(codes[i][0], codes[i][1]);
	}
}

static void ids(void) {
	CHECK_EQUAL(gmemGetNumaId(), device);
	set("attached", 0);
	CHECK_EQUAL(gmemGetNumaId(), -ENODEV);
	says("aclrtSetDevice");
	set("attached", 1);
	CHECK_EQUAL(gmemGetNumaId(), device); /* that there was none is not remembered */
	char *start = map_peer_shared(page);
	const long calls = get("calls");
	static const int wrong[] = {-1, -2, INT32_MIN, INT32_MAX, 64, 1023, 1024, 1 << 20};
	for (size_t i = 0; i < sizeof wrong / sizeof *wrong; ++i) {
		CHECK_EQUAL(gmemPrefetch((unsigned long)(uintptr_t)start, page, wrong[i], NULL), -EINVAL);
		says("/sys/kernel/mm/gmem");
	}
	CHECK_EQUAL(gmemPrefetch((unsigned long)(uintptr_t)start, page, device + 2, NULL), -EINVAL);
	CHECK_EQUAL(get("calls"), calls); /* the kernel has not seen them */
	CHECK_EQUAL(gmemPrefetch((unsigned long)(uintptr_t)start, page, device + 1, NULL), 0);
	CHECK_EQUAL(on_device(device + 1), 1);
	munmap(start, page);
}

static void pages_go_and_come_back(void) {
	char *start = map_peer_shared(4 * page);
	/* Never touched: on the device, of zeros. */
	CHECK_EQUAL(prefetch(start, 4 * page), 0);
	CHECK_EQUAL(on_device(device), 4);
	CHECK_EQUAL(resident_pages(start, 4 * page), 0);
	CHECK(is_all(start, 4 * page, 0));
	CHECK_EQUAL(on_device(device), 0);
	/* On the processor: copied, and gone from here. */
	fill(start, 4 * page, 1);
	CHECK_EQUAL(prefetch(start, 4 * page), 0);
	CHECK_EQUAL(resident_pages(start, 4 * page), 0);
	/* There already: nothing but a mark. */
	const long moved = get("to_device"), hot = get("hot");
	CHECK_EQUAL(prefetch(start, 4 * page), 0);
	CHECK_EQUAL(get("to_device"), moved);
	CHECK_EQUAL(get("hot"), hot + 4);
	/* On another device: stays there. */
	CHECK_EQUAL(gmemPrefetch((unsigned long)(uintptr_t)start, 4 * page, device + 1, NULL), 0);
	CHECK_EQUAL(on_device(device), 4);
	CHECK_EQUAL(on_device(device + 1), 0);
	/* To a memory node: back. */
	CHECK_EQUAL(prefetch_to(start, page, nodes[0]), 0);
	CHECK_EQUAL(on_device(device), 3);
	CHECK_EQUAL(resident_pages(start, page), page / base);
	CHECK(is_filled(start, 4 * page, 1));
	CHECK_EQUAL(on_device(device), 0);
	munmap(start, 4 * page);
}

static void ranges_are_rounded(void) {
	char *start = map_peer_shared(4 * page);
	/* Outward. */
	CHECK_EQUAL(prefetch(start + 2 * page - 1, 2), 0);
	CHECK_EQUAL(on_device(device), 2);
	CHECK_EQUAL(prefetch(start + 5, 0), 0);
	CHECK_EQUAL(on_device(device), 2);
	/* Inward. */
	CHECK_EQUAL(free_eager(start + page + 1, page - 1), 0);
	CHECK_EQUAL(free_eager(start + page, 2), 0);
	CHECK_EQUAL(on_device(device), 2);
	CHECK_EQUAL(free_eager(start + page - 1, page + 2), 0);
	CHECK_EQUAL(on_device(device), 1);
	/* Beyond the end of the addresses. */
	const long calls = get("calls");
	CHECK_EQUAL(prefetch((void *)UINTPTR_MAX, UINTPTR_MAX), -EINVAL);
	CHECK_EQUAL(prefetch((void *)UINTPTR_MAX, 0), 0);
	CHECK_EQUAL(prefetch((void *)(UINTPTR_MAX - 9), 9), -EINVAL);
	CHECK_EQUAL(free_eager((void *)UINTPTR_MAX, UINTPTR_MAX), -EINVAL);
	CHECK_EQUAL(free_eager((void *)UINTPTR_MAX, 0), 0);
	CHECK_EQUAL(get("calls"), calls);
	munmap(start, 4 * page);
	CHECK_EQUAL(on_device(device), 0);
}

static void memory_is_dropped_wherever_it_is(void) {
	char *start = map_peer_shared(3 * page);
	memset(start, 'd', 3 * page);
	CHECK_EQUAL(prefetch(start + page, page), 0);
	CHECK_EQUAL(free_eager(start, 2 * page), 0);
	CHECK_EQUAL(on_device(device), 0);
	CHECK_EQUAL(resident_pages(start, 2 * page), 0);
	CHECK(is_all(start, 2 * page, 0));
	CHECK(is_all(start + 2 * page, page, 'd'));
	/* Several mappings, and ordinary memory, at once. */
	char *both = map_private(page, page);
	NEED(munmap(both, page) == 0);
	NEED(mmap(both, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE | FIRST_BIT, -1,
			 0) == both);
	char *next = (char *)mmap(
		both + page, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	NEED(next == both + page);
	memset(both, 'd', 2 * page);
	CHECK_EQUAL(prefetch(both, page), 0);
	CHECK_EQUAL(free_eager(both, 2 * page), 0);
	CHECK_EQUAL(on_device(device), 0);
	CHECK_EQUAL(resident_pages(both, 2 * page), 0);
	CHECK(is_all(both, 2 * page, 0));
	munmap(both, page);
	munmap(next, page);
	munmap(start, 3 * page);
}

static void only_peer_shared_memory_goes(void) {
	char *start = map_private(3 * page, page);
	memset(start, 'o', 3 * page);
	CHECK_EQUAL(prefetch(start, page), -EINVAL);
	says("peer-shared");
	says("malloc");
	CHECK(is_all(start, 3 * page, 'o'));
	/* Nothing mapped, and a hole. */
	munmap(start + page, page);
	const long calls = get("calls");
	CHECK_EQUAL(prefetch(start, 3 * page), -ENOMEM);
	CHECK_EQUAL(prefetch(start + page, 1), -ENOMEM);
	CHECK_EQUAL(get("calls"), calls);
	/* Several mappings of it are no obstacle. */
	for (int i = 0; i < 2; ++i) {
		char *at = start + 4 * page + (size_t)i * page;
		NEED(mmap(at, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE | FIRST_BIT, -1,
				 0) == at);
	}
	CHECK_EQUAL(prefetch(start + 4 * page, 2 * page), 0);
	CHECK_EQUAL(on_device(device), 2);
	munmap(start + 4 * page, page);
	munmap(start + 5 * page, page);
	munmap(start, page);
	munmap(start + 2 * page, page);
}

static void a_device_may_fail_or_be_full(void) {
	char *start = map_peer_shared(4 * page);
	fill(start, 4 * page, 2);
	set("broken_pages", 1);
	CHECK_EQUAL(prefetch(start, 4 * page), -EFAULT);
	says("out of memory or faulty");
	CHECK_EQUAL(on_device(device), 3); /* the others went on */
	CHECK(is_filled(start, 4 * page, 2));
	set("capacity", 2);
	gmemPrefetchReport_t report = {.size = sizeof report};
	CHECK_EQUAL(gmemPrefetchEx((unsigned long)(uintptr_t)start, 4 * page, device, NULL, NULL, &report), -EFAULT);
	CHECK_EQUAL(report.result, -EFAULT);
	CHECK_EQUAL(report.first_errno, EFAULT);
	CHECK_EQUAL(on_device(device), 2);
	set("capacity", 64);
	CHECK(is_filled(start, 4 * page, 2));
	CHECK_EQUAL(gmemPrefetchEx((unsigned long)(uintptr_t)start, 4 * page, device, NULL, NULL, &report), 0);
	CHECK_EQUAL(report.bytes, 4 * page);
	CHECK_EQUAL(report.huge, 4);
	CHECK_EQUAL(report.failed, 0);
	CHECK(
		report.populated == GMEM_UNKNOWN && report.already_resident == GMEM_UNKNOWN && report.migrated == GMEM_UNKNOWN);
	munmap(start, 4 * page);
}

static int pieces;

static int count_pieces(size_t done, size_t total, void *last) {
	++pieces;
	CHECK(done <= total);
	return done >= *(size_t *)last;
}

/* Large ranges go in pieces, between which they may be ended. */
static void may_be_cancelled(void) {
	const size_t size = 35 * page;
	char *start = map_peer_shared(size);
	size_t last = SIZE_MAX;
	const gmemPrefetchOptions_t options = {.size = sizeof options, .progress = count_pieces, .progress_arg = &last};
	CHECK_EQUAL(gmemPrefetchEx((unsigned long)(uintptr_t)start, size, device, NULL, &options, NULL), 0);
	CHECK_EQUAL(pieces, 2);
	CHECK_EQUAL(on_device(device), 35);
	CHECK_EQUAL(free_eager(start, size), 0);
	last = page;
	CHECK_EQUAL(gmemPrefetchEx((unsigned long)(uintptr_t)start, size, device, NULL, &options, NULL), -ECANCELED);
	CHECK_EQUAL(on_device(device), 32);
	munmap(start, size);
}

static void in_order_on_a_stream(void) {
	char *start = map_peer_shared(2 * page);
	gmemStream_t stream = NULL;
	memset(start, 's', 2 * page);
	NEED(gmemStreamCreate(&stream) == 0);
	CHECK_EQUAL(gmemPrefetch((unsigned long)(uintptr_t)start, 2 * page, device, stream), 0);
	CHECK_EQUAL(gmemFreeEager((unsigned long)(uintptr_t)start, page, stream), 0);
	CHECK_EQUAL(gmemStreamSynchronize(stream), 0);
	CHECK_EQUAL(on_device(device), 1);
	CHECK(is_all(start, page, 0) && is_all(start + page, page, 's'));
	set("inject", 1);
	set("inject_count", 1);
	CHECK_EQUAL(gmemPrefetch((unsigned long)(uintptr_t)start, page, device, stream), 0);
	CHECK_EQUAL(gmemStreamSynchronize(stream), -ENOMEM);
	CHECK_EQUAL(gmemStreamDestroy(stream), 0);
	munmap(start, 2 * page);
}

static void blocks_are_the_devices(void) {
	char *block = (char *)gmem_malloc(5 * page);
	NEED(block != NULL);
	fill(block, 5 * page, 3);
	CHECK_EQUAL(prefetch(block, 5 * page), 0);
	CHECK_EQUAL(on_device(device), 5);
	CHECK(is_filled(block, 5 * page, 3));
	gmem_free(block);
	gmemHeapTrim();
	CHECK_EQUAL(on_device(device), 0);
	/* Without a device yet there is ordinary memory; later there is the device's. */
	set("attached", 0);
	block = (char *)gmem_malloc(3 * page);
	NEED(block != NULL);
	set("attached", 1);
	CHECK_EQUAL(prefetch(block, 3 * page), -EINVAL);
	char *later = (char *)gmem_malloc(3 * page);
	NEED(later != NULL);
	CHECK_EQUAL(prefetch(later, 3 * page), 0);
	CHECK_EQUAL(on_device(device), 3);
	gmem_free(later);
	gmem_free(block);
	gmemHeapTrim();
}

/* As the header documents for fork(): the child inherits nothing, and opens the node for itself. */
static void a_child_has_fresh_memory(void) {
	char *start = map_peer_shared(page);
	memset(start, 'f', page);
	CHECK_EQUAL(prefetch(start, page), 0);
	const pid_t child = fork();
	NEED(child >= 0);
	if (child == 0) {
		checks_failed = 0;
		CHECK(is_all(start, page, 0));
		CHECK_EQUAL(gmemGetNumaId(), device);
		CHECK_EQUAL(on_device(device), 1);
		blocks_are_usable();
		_exit(checks_failed != 0);
	}
	int status = -1;
	NEED(waitpid(child, &status, 0) == child);
	CHECK_EQUAL(status, 0);
	CHECK_EQUAL(on_device(device), 1);
	CHECK(is_all(start, page, 'f'));
	munmap(start, page);
}

/* Behind the machine's nodes, as gmemTopology() and its texts have them. */
static void the_topology_has_the_devices(void) {
	gmemNode_t all[64];
	const int count = gmemTopology(NULL, all, 64, sizeof *all);
	CHECK_EQUAL(count, node_count + 2);
	char *start = map_peer_shared(3 * page);
	CHECK_EQUAL(gmemPrefetch((unsigned long)(uintptr_t)start, 3 * page, device + 1, NULL), 0);
	CHECK_EQUAL(gmemTopology(NULL, all, 64, sizeof *all), count);
	for (int i = 0; i < node_count; ++i) {
		CHECK(all[i].node == nodes[i] && strcmp(all[i].device, "host") == 0);
	}
	for (int i = 0; i < 2; ++i) {
		const gmemNode_t *node = &all[node_count + i];
		CHECK_EQUAL(node->node, device + i);
		CHECK(strcmp(node->device, gmemGetDevice()) == 0);
		CHECK(node->cpus == 0 && node->tier == -1 && node->allowed == 1 && node->hugetlb_total == 0);
		CHECK_EQUAL(node->total, 64 * page);
		CHECK_EQUAL(node->free, (i == 0 ? 64 : 61) * page);
		CHECK_EQUAL(gmemNodeDistance(nodes[0], node->node), -EINVAL);
		CHECK_EQUAL(gmemNodeDistance(node->node, nodes[0]), -EINVAL);
	}
	static char text[1 << 16], expected[128];
	CHECK(gmemTopologyText(text, sizeof text) > 0);
	CHECK(strstr(text, "GMEM kernel: migrating H2D 0, migrating D2H 0\n") != NULL);
	snprintf(expected, sizeof expected, "\n%4d gmem    none    -     128 MiB     122 MiB", device + 1);
	CHECK(strstr(text, expected) != NULL);
	puts(text);
	CHECK(gmemTopologyJson(text, sizeof text) > 0);
	CHECK(strstr(text, "\"gmem_statistics\":{\"migrating H2D\":0,\"migrating D2H\":0}") != NULL);
	snprintf(expected, sizeof expected, "{\"node\":%d,\"device\":\"gmem\",\"cpus\":0,\"tier\":null,", device);
	CHECK(strstr(text, expected) != NULL);
	/* Another device does not have them. */
	CHECK_EQUAL(gmemSetDevice("host"), 0);
	CHECK_EQUAL(gmemTopology(NULL, NULL, 0, 0), node_count);
	CHECK_EQUAL(gmemSetDevice("ascend"), 0);
	CHECK_EQUAL(gmemTopology(NULL, all, 64, sizeof *all), count);
	CHECK(strcmp(all[count - 1].device, "ascend") == 0);
	CHECK_EQUAL(gmemSetDevice("gmem"), 0);
	munmap(start, 3 * page);
}

static void the_node_is_opened_again(void) {
	/* Closed by the program. */
	CHECK_EQUAL(gmemGetNumaId(), device);
	for (int fd = 3; fd < 1024; ++fd) {
		char path[64], target[64] = "";
		snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
		if (readlink(path, target, sizeof target - 1) > 0 && strcmp(target, "/dev/gmem") == 0) {
			CHECK(fcntl(fd, F_GETFD) == FD_CLOEXEC);
			close(fd);
		}
	}
	CHECK_EQUAL(gmemGetNumaId(), device);
}

/* ---- what is found out once, each in a program of its own -------------------------------------------------- */

/* The library finds the flag, whichever it is. */
static int finds_the_bit(void) {
	blocks_are_the_devices();
	return checks_result("gmem bit");
}

/* There is none: blocks are ordinary memory. */
static int finds_no_bit(void) {
	char *block = (char *)gmem_malloc(3 * page);
	NEED(block != NULL);
	CHECK_EQUAL(prefetch(block, 3 * page), -EINVAL);
	says("peer-shared");
	memset(block, 'n', 3 * page);
	CHECK_EQUAL(free_eager(block, 3 * page), 0);
	gmem_free(block);
	return checks_result("gmem no bit");
}

/* A failed open is not remembered. */
static int opens_late(void) {
	set("open_error", -EACCES);
	CHECK_EQUAL(gmemGetNumaId(), -EACCES);
	says("udev");
	ordinary_memory_is_as_ever();
	set("open_error", -ENXIO);
	CHECK_EQUAL(gmemGetNumaId(), -ENODEV);
	set("open_error", 0);
	CHECK_EQUAL(gmemGetNumaId(), device);
	return checks_result("gmem opened late");
}

static void run_alone(const char *self, const char *what) {
	const pid_t child = fork();
	NEED(child >= 0);
	if (child == 0) {
		execl(self, self, what, (char *)NULL);
		_exit(1);
	}
	int status = -1;
	NEED(waitpid(child, &status, 0) == child);
	if (status != 0) {
		fprintf(stderr, "alone: %s failed\n", what);
		++checks_failed;
	}
}

static void each_kernel(const char *self) {
	static const long bits[] = {0x8000000, 0x1000000, 0x10000000};
	for (int checks_flags = 0; checks_flags < 2; ++checks_flags) {
		set("checks_flags", checks_flags);
		for (size_t i = 0; i < sizeof bits / sizeof *bits; ++i) {
			set("map_peer_shared", bits[i]);
			run_alone(self, "finds_the_bit");
		}
		set("enabled", 0); /* gmem=on is missing: refused, or not heard */
		run_alone(self, "finds_no_bit");
		set("enabled", 1);
	}
	set("map_peer_shared", 0x20000000); /* none of the three */
	run_alone(self, "finds_no_bit");
	set("map_peer_shared", FIRST_BIT);
	NEED(write_file("/sys/kernel/mm/transparent_hugepage/enabled", "never") == 0);
	run_alone(self, "finds_no_bit");
	NEED(write_file("/sys/kernel/mm/transparent_hugepage/enabled", "always") == 0);
	run_alone(self, "opens_late");
}

int main(int argc, char **argv) {
	page = gmemGetPageSize();
	base = (size_t)sysconf(_SC_PAGESIZE);
	find_nodes();
	NEED(node_count > 0);
	if (access(parameters, F_OK) != 0) {
		if (access("/dev/gmem", F_OK) == 0) {
			printf("a GMEM kernel of its own: it cannot be told to fail\n");
			return SKIPPED;
		}
		return without_a_kernel();
	}
	device = nodes[node_count - 1] + 1;
	if (argc > 1) {
		return strcmp(argv[1], "finds_the_bit") == 0  ? finds_the_bit()
			   : strcmp(argv[1], "finds_no_bit") == 0 ? finds_no_bit()
													  : opens_late();
	}
	CHECK(strcmp(gmemGetDevice(), "gmem") == 0);
	ioctls_are_as_documented(map_peer_shared(1));
	mappings_are_as_documented(map_peer_shared(base));
	ids();
	pages_go_and_come_back();
	ranges_are_rounded();
	memory_is_dropped_wherever_it_is();
	only_peer_shared_memory_goes();
	a_device_may_fail_or_be_full();
	codes_become_errnos();
	may_be_cancelled();
	in_order_on_a_stream();
	ordinary_memory_is_as_ever();
	blocks_are_the_devices();
	a_child_has_fresh_memory();
	the_topology_has_the_devices();
	the_node_is_opened_again();
	each_kernel(argv[0]);
	return checks_result("gmem");
}
