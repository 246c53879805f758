/* SPDX-License-Identifier: Apache-2.0 */
/* The small functions: device, version, page size, last error. */
#include <pthread.h>

#include <libgmem.h>

#include "../check.h"

static void *error_of_a_fresh_thread(void *arg) {
	(void)arg;
	CHECK_EQUAL(strlen(gmemLastError()), 0);
	return NULL;
}

static void the_last_error_stays_where_it_is(void) {
	const char *text = gmemLastError();
	CHECK_EQUAL(gmemSetDevice(NULL), -EINVAL);
	CHECK(strstr(text, "name is NULL") != NULL);
	CHECK_EQUAL(gmemSetDevice("toaster"), -EINVAL);
	CHECK(strstr(text, "toaster") != NULL && strstr(text, "host") != NULL);
	/* Success does not wipe it, and other threads have their own. */
	CHECK_EQUAL(gmemSetDevice("host"), 0);
	CHECK(strstr(text, "toaster") != NULL && text == gmemLastError());
	pthread_t thread;
	NEED(pthread_create(&thread, NULL, error_of_a_fresh_thread, NULL) == 0);
	pthread_join(thread, NULL);
	/* Longer than any buffer: cut, not overrun. */
	char *name = malloc(100000);
	NEED(name != NULL);
	memset(name, 'n', 99999);
	name[99999] = 0;
	CHECK_EQUAL(gmemSetDevice(name), -EINVAL);
	CHECK(strlen(text) < 99999 && strstr(text, "nnnn") != NULL);
	free(name);
}

/* Whatever GMEM_DEVICE says, and where it is none: the heap's memory. */
static void without_a_device_its_memory_is_the_heaps(void) {
	for (size_t alignment = 1; alignment <= (size_t)4 << 20; alignment *= 2) {
		for (size_t size = 0; size < (size_t)8 << 20; size = size * 5 + 1) {
			char *block = gmem_device_alloc(alignment, size);
			NEED(block != NULL);
			CHECK_EQUAL((uintptr_t)block % alignment, 0);
			CHECK(gmem_malloc_usable_size(block) >= size);
			memset(block, 7, size);
			block = gmem_realloc(block, size + 1000);
			NEED(block != NULL);
			CHECK(is_all(block, size, 7));
			gmem_free(block);
		}
	}
	const size_t bad[] = {0, 3, 24, SIZE_MAX};
	for (size_t i = 0; i < sizeof bad / sizeof *bad; ++i) {
		errno = 0;
		CHECK(gmem_device_alloc(bad[i], 100) == NULL && errno == EINVAL);
	}
	errno = 0;
	CHECK(gmem_device_alloc(16, SIZE_MAX / 2) == NULL && errno == ENOMEM);
}

/* Clients that declare a wider result get the int, sign-extended. */
static void results_fill_the_register(void) {
	typedef size_t (*wide)(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t);
#define ANY(function) (wide)(void (*)(void)) function
	const uint64_t most = UINT64_MAX;
	const struct {
		const char *name;
		wide function;
		uint64_t arguments[6];
	} calls[] = {
		{"gmemFreeEager", ANY(gmemFreeEager), {most, most}},
		{"gmemPrefetch", ANY(gmemPrefetch), {most, most}},
		{"gmemPrefetchEx", ANY(gmemPrefetchEx), {most, most}},
		{"gmemSetHugePolicy", ANY(gmemSetHugePolicy), {9}},
		{"gmemSetRangeHugePolicy", ANY(gmemSetRangeHugePolicy), {0, 0, 9}},
		{"gmemTopology", ANY(gmemTopology), {0, 0, 1, 8}},
		{"gmemNodeDistance", ANY(gmemNodeDistance), {0, most}},
		{"gmemTopologyText", ANY(gmemTopologyText), {0, 1}},
		{"gmemTopologyJson", ANY(gmemTopologyJson), {0, 1}},
		{"gmemResidency", ANY(gmemResidency), {most, most}},
		{"gmemResidencyText", ANY(gmemResidencyText), {0}},
		{"gmemResidencyJson", ANY(gmemResidencyJson), {0}},
		{"gmemResidencySvg", ANY(gmemResidencySvg), {0}},
		{"gmemFaultScopeBegin", ANY(gmemFaultScopeBegin), {0}},
		{"gmemSetDevice", ANY(gmemSetDevice), {0}},
		{"gmemStreamCreate", ANY(gmemStreamCreate), {0}},
		{"gmemStreamLaunch", ANY(gmemStreamLaunch), {0}},
		{"gmemStreamQuery", ANY(gmemStreamQuery), {0}},
		{"gmemStreamSynchronize", ANY(gmemStreamSynchronize), {0}},
		{"gmemStreamDestroy", ANY(gmemStreamDestroy), {0}},
		{"gmemStreamWrap", ANY(gmemStreamWrap), {0}},
		{"gmemEventCreate", ANY(gmemEventCreate), {0}},
		{"gmemEventRecord", ANY(gmemEventRecord), {0}},
		{"gmemStreamWaitEvent", ANY(gmemStreamWaitEvent), {0}},
		{"gmemEventQuery", ANY(gmemEventQuery), {0}},
		{"gmemEventSynchronize", ANY(gmemEventSynchronize), {0}},
		{"gmemEventDestroy", ANY(gmemEventDestroy), {0}},
		{"gmemHeapStats", ANY(gmemHeapStats), {0}},
		{"gmemHeapStatsJson", ANY(gmemHeapStatsJson), {0, 1}},
		{"gmemHeapProfileDump", ANY(gmemHeapProfileDump), {0}},
		{"gmemHeapSetLimits", ANY(gmemHeapSetLimits), {2, 1}},
	};
	for (size_t i = 0; i < sizeof calls / sizeof *calls; ++i) {
		const uint64_t *a = calls[i].arguments;
		const size_t result = calls[i].function(a[0], a[1], a[2], a[3], a[4], a[5]);
		if (result != (size_t)-EINVAL) {
			fprintf(stderr, "%s filled the register with %zx\n", calls[i].name, result);
			CHECK(0);
		}
	}
	/* Non-negative results are sign-extended as well. */
	volatile wide huge_policy = ANY(gmemGetHugePolicy), numa_id = ANY(gmemGetNumaId);
	CHECK_EQUAL(huge_policy(0, 0, 0, 0, 0, 0), gmemGetHugePolicy(0));
	CHECK_EQUAL(numa_id(0, 0, 0, 0, 0, 0), gmemGetNumaId());
#undef ANY
}

int main(void) {
	char version[32];
	snprintf(version, sizeof version, "%d.%d.%d", LIBGMEM_VERSION_MAJOR, LIBGMEM_VERSION_MINOR, LIBGMEM_VERSION_PATCH);
	CHECK(strcmp(gmemVersion(), version) == 0);
	/* GMEM_DEVICE is set to something else by a second run of this program. */
	const char *wanted = getenv("GMEM_DEVICE");
	if (wanted != NULL && strcmp(wanted, "host") != 0) {
		without_a_device_its_memory_is_the_heaps();
		CHECK(gmemGetDevice() == NULL);
		CHECK_EQUAL(gmemGetNumaId(), -EINVAL);
		/* One line, with all there are. */
		const char *const words[] = {wanted, "host", "gmem", "ascend", "opencl", "GMEM_DEVICE"};
		for (size_t i = 0; i < sizeof words / sizeof *words; ++i) {
			CHECK(strstr(gmemLastError(), words[i]) != NULL);
		}
		CHECK(strchr(gmemLastError(), '\n') == NULL);
		CHECK_EQUAL(gmemSetDevice("host"), 0);
	}
	CHECK(gmemGetDevice() != NULL && strcmp(gmemGetDevice(), "host") == 0);
	CHECK(gmemGetNumaId() >= 0);
	CHECK(gmemGetDeviceContext() == NULL);
	results_fill_the_register();
	the_last_error_stays_where_it_is();
	without_a_device_its_memory_is_the_heaps();
	return checks_result("misc");
}
