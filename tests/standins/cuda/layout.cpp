// SPDX-License-Identifier: Apache-2.0
// Compares the numbers in src/device/cuda/driver/ and the stand-in with NVIDIA's header: compiling it is the test.
#include <cstddef>
#include <type_traits>

#include <cuda.h>

// Structures that cross by value or by address.
static_assert(sizeof(CUmemLocation) == 8 && offsetof(CUmemLocation, type) == 0 && offsetof(CUmemLocation, id) == 4);
static_assert(sizeof(CUuuid) == 16 && sizeof(CUdeviceptr) == sizeof(void *) && sizeof(CUdevice) == 4);

// Numbers.
static_assert(CU_DEVICE_ATTRIBUTE_MANAGED_MEMORY == 83 && CU_DEVICE_ATTRIBUTE_PAGEABLE_MEMORY_ACCESS == 88);
static_assert(CU_DEVICE_ATTRIBUTE_CONCURRENT_MANAGED_ACCESS == 89);
static_assert(CU_DEVICE_ATTRIBUTE_NUMA_CONFIG == 130 && CU_DEVICE_ATTRIBUTE_NUMA_ID == 131);
static_assert(CU_DEVICE_NUMA_CONFIG_NUMA_NODE == 1);
static_assert(CU_MEM_LOCATION_TYPE_DEVICE == 1 && CU_MEM_LOCATION_TYPE_HOST_NUMA == 3);
static_assert(static_cast<int>(CU_DEVICE_CPU) == -1 && CU_MEM_ATTACH_GLOBAL == 1);
static_assert(CU_POINTER_ATTRIBUTE_IS_MANAGED == 8 && CU_POINTER_ATTRIBUTE_RANGE_START_ADDR == 11);
static_assert(CU_POINTER_ATTRIBUTE_RANGE_SIZE == 12 && CU_MEM_RANGE_ATTRIBUTE_LAST_PREFETCH_LOCATION == 4);
static_assert(CU_STREAM_NON_BLOCKING == 1 && CU_EVENT_DISABLE_TIMING == 2 && CU_STREAM_CAPTURE_STATUS_NONE == 0);
static_assert(CUDA_ERROR_OUT_OF_MEMORY == 2 && CUDA_ERROR_NO_DEVICE == 100 && CUDA_ERROR_INVALID_HANDLE == 400);
static_assert(CUDA_ERROR_NOT_READY == 600 && CUDA_ERROR_CONTEXT_IS_DESTROYED == 709);
static_assert(CUDA_ERROR_ILLEGAL_ADDRESS == 700 && CUDA_ERROR_NOT_PERMITTED == 800 && CUDA_ERROR_NOT_SUPPORTED == 801);
static_assert(CUDA_ERROR_SYSTEM_DRIVER_MISMATCH == 803 && CUDA_ERROR_STUB_LIBRARY == 34);

// Arguments of the functions whose header names stand for a later version of them.
template <class Function, class... Arguments>
constexpr bool takes = std::is_same_v<Function, CUresult(Arguments...)>;
static_assert(takes<decltype(cuMemPrefetchAsync), CUdeviceptr, std::size_t, CUmemLocation, unsigned, CUstream>);
static_assert(
	takes<decltype(cuMemDiscardBatchAsync), CUdeviceptr *, std::size_t *, std::size_t, unsigned long long, CUstream>);
static_assert(
	takes<decltype(cuMemRangeGetAttribute), void *, std::size_t, CUmem_range_attribute, CUdeviceptr, std::size_t>);
static_assert(takes<decltype(cuPointerGetAttribute), void *, CUpointer_attribute, CUdeviceptr>);
static_assert(takes<decltype(cuMemAllocManaged), CUdeviceptr *, std::size_t, unsigned>);
static_assert(takes<decltype(cuLaunchHostFunc), CUstream, CUhostFn, void *>);
static_assert(takes<decltype(cuStreamIsCapturing), CUstream, CUstreamCaptureStatus *>);
static_assert(takes<decltype(cuStreamWaitEvent), CUstream, CUevent, unsigned>);
static_assert(takes<decltype(cuStreamGetCtx), CUstream, CUcontext *>);
static_assert(takes<decltype(cuCtxGetId), CUcontext, unsigned long long *>);
static_assert(takes<decltype(cuStreamGetId), CUstream, unsigned long long *>);
static_assert(takes<decltype(cuThreadExchangeStreamCaptureMode), CUstreamCaptureMode *>);
static_assert(takes<decltype(cuEventQuery), CUevent> && takes<decltype(cuEventSynchronize), CUevent>);
static_assert(CU_STREAM_CAPTURE_MODE_RELAXED == 2 && CUDA_ERROR_STREAM_CAPTURE_IMPLICIT == 906);
static_assert(takes<decltype(cuDeviceGetUuid), CUuuid *, CUdevice>);
static_assert(takes<decltype(cuDeviceTotalMem), std::size_t *, CUdevice>);
