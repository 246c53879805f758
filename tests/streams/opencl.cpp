// SPDX-License-Identifier: Apache-2.0
// gmem::streams::opencl on a real queue: kernels before, kernels behind, in both ways of taking a place.
#include <cstring>
#include <string>
#include <vector>

#include <libgmem.hpp>
#include <libgmem/streams/opencl.hpp>

#include "../check.h"

namespace {

// Writes `value` to all, after a while; and adds all up.
const char *const source = R"(
kernel void fill(global uint *data, uint count, uint value) {
	uint busy = 1;
	for (uint i = 0; i < 20000000; ++i) busy = busy * 1664525 + 1013904223;
	for (uint i = 0; i < count; ++i) data[i] = busy == 0 ? 0 : value;
}
kernel void sum(global const uint *data, uint count, global uint *result) {
	uint total = 0;
	for (uint i = 0; i < count; ++i) total += data[i];
	*result = total;
}
)";

void need(cl_int code, const char *what) {
	if (code != CL_SUCCESS) {
		std::fprintf(stderr, "%s: OpenCL error %d\n", what, code);
		std::exit(1);
	}
}

struct machine {
	cl_device_id device = nullptr;
	cl_context context = nullptr;
	cl_program program = nullptr;

	bool find() {
		cl_platform_id platform = nullptr;
		cl_uint count = 0;
		if (clGetPlatformIDs(1, &platform, &count) != CL_SUCCESS || count == 0 ||
			clGetDeviceIDs(platform, CL_DEVICE_TYPE_ALL, 1, &device, nullptr) != CL_SUCCESS) {
			return false;
		}
		cl_int code = CL_SUCCESS;
		context = clCreateContext(nullptr, 1, &device, nullptr, nullptr, &code);
		need(code, "clCreateContext");
		const char *text = source;
		program = clCreateProgramWithSource(context, 1, &text, nullptr, &code);
		need(code, "clCreateProgramWithSource");
		need(clBuildProgram(program, 1, &device, "", nullptr, nullptr), "clBuildProgram");
		return true;
	}
	cl_command_queue queue(cl_command_queue_properties properties) const {
		const cl_queue_properties list[] = {CL_QUEUE_PROPERTIES, properties, 0};
		cl_int code = CL_SUCCESS;
		cl_command_queue made = clCreateCommandQueueWithProperties(context, device, list, &code);
		need(code, "clCreateCommandQueueWithProperties");
		return made;
	}
	cl_kernel kernel(const char *name) const {
		cl_int code = CL_SUCCESS;
		cl_kernel made = clCreateKernel(program, name, &code);
		need(code, "clCreateKernel");
		return made;
	}
};

template <class T>
void set(cl_kernel kernel, cl_uint index, const T &value) {
	need(clSetKernelArg(kernel, index, sizeof value, &value), "clSetKernelArg");
}

void enqueue(cl_command_queue queue, cl_kernel kernel) {
	const std::size_t one = 1;
	need(clEnqueueNDRangeKernel(queue, kernel, 1, nullptr, &one, &one, 0, nullptr, nullptr), "clEnqueueNDRangeKernel");
}

/// A slow kernel writes; libgmem looks, frees and prefetches; another kernel reads zeros. In that order each time.
void calls_take_their_place_among_kernels(
	const machine &on, cl_command_queue queue, const gmem::external_stream &stream) {
	using word = cl_uint;
	const std::size_t size = 2 * gmem::page_size();
	const auto count = static_cast<word>(size / sizeof(word));
	gmem::buffer<word> memory(count), result(1024);
	cl_int code = CL_SUCCESS;
	cl_mem data = clCreateBuffer(on.context, CL_MEM_USE_HOST_PTR, size, memory.data(), &code);
	need(code, "clCreateBuffer");
	cl_mem total = clCreateBuffer(on.context, CL_MEM_USE_HOST_PTR, 4096, result.data(), &code);
	need(code, "clCreateBuffer");
	cl_kernel fill = on.kernel("fill"), sum = on.kernel("sum");
	set(fill, 0, data);
	set(fill, 1, count);
	set(fill, 2, word{1});
	set(sum, 0, data);
	set(sum, 1, count);
	set(sum, 2, total);
	for (int round = 0; round < 5; ++round) {
		word before = 0, freed = 1;
		enqueue(queue, fill);
		stream.launch([&] { before = memory[count - 1]; });
		gmem::free_eager(memory, stream);
		stream.launch([&] { freed = memory[count - 1]; });
		gmem::prefetch(memory, gmem::device::numa_id(), stream);
		enqueue(queue, sum);
		word read = 1;
		need(clEnqueueReadBuffer(queue, total, CL_FALSE, 0, sizeof read, &read, 0, nullptr, nullptr),
			"clEnqueueReadBuffer");
		stream.synchronize();
		CHECK_EQUAL(before, 1);
		CHECK_EQUAL(freed, 0);
		need(clFinish(queue), "clFinish");
		CHECK_EQUAL(read, 0);
	}
	clReleaseKernel(fill);
	clReleaseKernel(sum);
	clReleaseMemObject(data);
	clReleaseMemObject(total);
}

/// A kernel enqueued behind a function waits for it.
void kernels_wait_for_functions(const machine &on, cl_command_queue queue, const gmem::external_stream &stream) {
	gmem::buffer<cl_uint> memory(1024), result(1024);
	cl_int code = CL_SUCCESS;
	cl_mem data = clCreateBuffer(on.context, CL_MEM_USE_HOST_PTR, 4096, memory.data(), &code);
	need(code, "clCreateBuffer");
	cl_mem total = clCreateBuffer(on.context, CL_MEM_USE_HOST_PTR, 4096, result.data(), &code);
	need(code, "clCreateBuffer");
	cl_kernel sum = on.kernel("sum");
	set(sum, 0, data);
	set(sum, 1, cl_uint{1});
	set(sum, 2, total);
	stream.launch([&] {
		usleep(100000);
		memory[0] = 7;
	});
	// The order of these two is theirs, where the queue has none.
	cl_event summed = nullptr;
	const std::size_t one = 1;
	need(clEnqueueNDRangeKernel(queue, sum, 1, nullptr, &one, &one, 0, nullptr, &summed), "clEnqueueNDRangeKernel");
	cl_uint read = 0;
	need(clEnqueueReadBuffer(queue, total, CL_TRUE, 0, sizeof read, &read, 1, &summed, nullptr), "clEnqueueReadBuffer");
	clReleaseEvent(summed);
	CHECK_EQUAL(read, 7);
	// Failures stay with the stream, and the queue goes on.
	gmem::prefetch({reinterpret_cast<char *>(gmem::page_size()), 1}, gmem::device::numa_id(), stream);
	std::error_code failure;
	stream.synchronize(failure);
	CHECK(failure == std::errc::not_enough_memory);
	need(clFinish(queue), "clFinish");
	clReleaseKernel(sum);
	clReleaseMemObject(data);
	clReleaseMemObject(total);
}

void on_a_queue(const machine &on, cl_command_queue_properties properties, bool at_markers) {
	cl_command_queue queue = on.queue(properties);
	{
		std::error_code ec;
		const gmem::external_stream stream =
			at_markers ? gmem::streams::detail::opencl_at_markers(queue, ec) : gmem::streams::opencl(queue, ec);
		CHECK(!ec);
		if ((properties & CL_QUEUE_OUT_OF_ORDER_EXEC_MODE_ENABLE) == 0) {
			calls_take_their_place_among_kernels(on, queue, stream);
		}
		kernels_wait_for_functions(on, queue, stream);
		stream.launch([] {});
	}
	// The stream has gone with a function still to run.
	need(clFinish(queue), "clFinish");
	clReleaseCommandQueue(queue);
}

} // namespace

int main() {
	alarm(250);
	machine on;
	if (!on.find()) {
		puts("no OpenCL device; apt-get install pocl-opencl-icd");
		return SKIPPED;
	}
	on_a_queue(on, 0, false);
	on_a_queue(on, 0, true);
	on_a_queue(on, CL_QUEUE_OUT_OF_ORDER_EXEC_MODE_ENABLE, false);
	clReleaseProgram(on.program);
	clReleaseContext(on.context);
	return checks_result("opencl");
}
