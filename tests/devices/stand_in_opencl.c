/* SPDX-License-Identifier: Apache-2.0 */
/* Test code: a libOpenCL.so.1 that is broken. Either it lacks all functions but one, or (WITH_A_DEVICE) it lists a
 * device and then can do nothing with it. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef void *handle;

int clGetPlatformIDs(unsigned room, handle *out, unsigned *count);

#ifndef WITH_A_DEVICE

int clGetPlatformIDs(unsigned room, handle *out, unsigned *count) {
	(void)room;
	(void)out;
	(void)count;
	return -1001;
}

#else

enum { INVALID_VALUE = -30, OUT_OF_HOST_MEMORY = -6, NAME = 0x102B, VERSION = 0x102F, SVM = 0x1053, FINE_GRAIN = 2 };

static int thing;

static int list_one(handle *out, unsigned *count) {
	*out = &thing;
	*count = 1;
	return 0;
}

int clGetPlatformIDs(unsigned room, handle *out, unsigned *count) {
	(void)room;
	return list_one(out, count);
}

int clGetDeviceIDs(handle platform, uint64_t type, unsigned room, handle *out, unsigned *count);
int clGetDeviceIDs(handle platform, uint64_t type, unsigned room, handle *out, unsigned *count) {
	(void)platform;
	(void)type;
	(void)room;
	return list_one(out, count);
}

int clGetDeviceInfo(handle device, unsigned what, size_t room, void *out, size_t *size);
int clGetDeviceInfo(handle device, unsigned what, size_t room, void *out, size_t *size) {
	(void)device;
	(void)size;
	const uint64_t fine_grain = FINE_GRAIN;
	switch (what) {
	case NAME:
		/* With no end. */
		memset(out, 'n', room);
		return 0;
	case VERSION: memcpy(out, "OpenCL 3.0 stand-in", sizeof "OpenCL 3.0 stand-in"); return 0;
	case SVM: memcpy(out, &fine_grain, sizeof fine_grain); return 0;
	default: return INVALID_VALUE;
	}
}

handle clCreateContext(
	const intptr_t *list, unsigned count, const handle *devices, void *notify, void *data, int *code);
handle clCreateContext(
	const intptr_t *list, unsigned count, const handle *devices, void *notify, void *data, int *code) {
	(void)list;
	(void)count;
	(void)devices;
	(void)notify;
	(void)data;
	*code = OUT_OF_HOST_MEMORY;
	return NULL;
}

/* Looked for, and not called. */
#define UNUSED(name)                                                                                                   \
	void name(void);                                                                                                   \
	void name(void) { __builtin_trap(); }
UNUSED(clReleaseContext)
UNUSED(clCreateCommandQueueWithProperties)
UNUSED(clReleaseCommandQueue)
UNUSED(clSVMAlloc)
UNUSED(clSVMFree)
UNUSED(clEnqueueSVMMemFill)
UNUSED(clEnqueueSVMMigrateMem)
UNUSED(clWaitForEvents)
UNUSED(clReleaseEvent)

#endif
