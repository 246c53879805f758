// SPDX-License-Identifier: Apache-2.0
// Two kernels and a vector between them that is in memory only while they need it: see README.md.
#include <cstdio>
#include <cstring>
#include <numeric>
#include <vector>

#include <sys/mman.h>
#include <unistd.h>

#include <libgmem.hpp>
#include <libgmem/streams/opencl.hpp>

#include "handles.hpp"

namespace {

using floats = std::vector<float, gmem_allocator<float>>;

constexpr std::size_t chunk = 4096;

const char *const source = R"(
kernel void square(global const float *in, global float *out) {
	size_t i = get_global_id(0);
	out[i] = in[i] * in[i];
}
kernel void sum_chunk(global const float *in, global float *sums, uint chunk) {
	float sum = 0;
	for (uint i = 0; i < chunk; ++i) sum += in[get_global_id(0) * chunk + i];
	sums[get_global_id(0)] = sum;
}
)";

/// A queue, and the kernels, in the context that libgmem's memory belongs to.
class machine {
public:
	machine() : context(static_cast<cl_context>(gmem::device::context())) {
		cl_device_id device = nullptr;
		check(clGetContextInfo(context, CL_CONTEXT_DEVICES, sizeof device, &device, nullptr), "clGetContextInfo");
		cl_int code = CL_SUCCESS;
		queue.reset(clCreateCommandQueueWithProperties(context, device, nullptr, &code));
		check(code, "clCreateCommandQueueWithProperties");
		const char *text = source;
		program.reset(clCreateProgramWithSource(context, 1, &text, nullptr, &code));
		check(code, "clCreateProgramWithSource");
		check(clBuildProgram(program.get(), 1, &device, "", nullptr, nullptr), "clBuildProgram");
		square = kernel("square");
		sum_chunk = kernel("sum_chunk");
	}

	/// The vector's own memory as a buffer, without a copy where the device reads it there.
	[[nodiscard]] buffer_handle over(floats &data) const {
		cl_int code = CL_SUCCESS;
		buffer_handle made(
			clCreateBuffer(context, CL_MEM_USE_HOST_PTR, data.size() * sizeof(float), data.data(), &code));
		check(code, "clCreateBuffer");
		return made;
	}

	template <class... Arguments>
	void enqueue(const kernel_handle &kernel, std::size_t count, const Arguments &...arguments) const {
		cl_uint index = 0;
		(check(clSetKernelArg(kernel.get(), index++, sizeof arguments, &arguments), "clSetKernelArg"), ...);
		check(clEnqueueNDRangeKernel(queue.get(), kernel.get(), 1, nullptr, &count, nullptr, 0, nullptr, nullptr),
			"clEnqueueNDRangeKernel");
	}

	cl_context context;
	queue_handle queue;
	program_handle program;
	kernel_handle square, sum_chunk;

private:
	[[nodiscard]] kernel_handle kernel(const char *name) const {
		cl_int code = CL_SUCCESS;
		kernel_handle made(clCreateKernel(program.get(), name, &code));
		check(code, "clCreateKernel");
		return made;
	}
};

/// While it lives, what is enqueued may use the buffer's memory as the processor does; nothing waits here. OpenCL
/// leaves it open what the processor finds, or changes, in a buffer that is not mapped.
class processors_turn {
public:
	processors_turn(const machine &on, const buffer_handle &what, std::size_t bytes)
		: queue(on.queue.get()), buffer(what.get()) {
		cl_int code = CL_SUCCESS;
		mapped = clEnqueueMapBuffer(
			queue, buffer, CL_FALSE, CL_MAP_WRITE_INVALIDATE_REGION, 0, bytes, 0, nullptr, nullptr, &code);
		check(code, "clEnqueueMapBuffer");
	}
	processors_turn(const processors_turn &) = delete;
	processors_turn &operator=(const processors_turn &) = delete;
	~processors_turn() { clEnqueueUnmapMemObject(queue, buffer, mapped, 0, nullptr, nullptr); }

private:
	cl_command_queue queue;
	cl_mem buffer;
	void *mapped = nullptr;
};

std::size_t megabytes_in_memory(floats &data) {
	const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
	const std::size_t bytes = data.size() * sizeof(float);
	std::vector<unsigned char> present(bytes / page);
	// A large vector of libgmem's starts on a page.
	if (mincore(data.data(), bytes, present.data()) != 0) {
		throw std::runtime_error("mincore failed");
	}
	const auto count = std::accumulate(present.begin(), present.end(), std::size_t{0},
		[](std::size_t sum, unsigned char byte) { return sum + (byte & 1); });
	return count * page >> 20;
}

/// The sum of the squares; `squares` has no memory before and none after.
double sum_of_squares(const machine &on, floats &in, floats &squares) {
	const gmem::external_stream stream = gmem::streams::opencl(on.queue.get());
	const std::size_t bytes = squares.size() * sizeof(float);
	floats sums(in.size() / chunk);
	const buffer_handle from = on.over(in), between = on.over(squares), to = on.over(sums);

	std::size_t while_needed = 0;
	{
		const processors_turn turn(on, between, bytes);
		gmem::prefetch(squares, gmem::device::numa_id(), stream);
		stream.launch([&] { while_needed = megabytes_in_memory(squares); });
	}
	on.enqueue(on.square, in.size(), from.get(), between.get());
	on.enqueue(on.sum_chunk, sums.size(), between.get(), to.get(), static_cast<cl_uint>(chunk));
	{
		const processors_turn turn(on, between, bytes);
		gmem::free_eager(squares, stream);
	}
	std::vector<float> result(sums.size());
	check(clEnqueueReadBuffer(
			  on.queue.get(), to.get(), CL_TRUE, 0, result.size() * sizeof(float), result.data(), 0, nullptr, nullptr),
		"clEnqueueReadBuffer");
	stream.synchronize();

	const std::size_t afterwards = megabytes_in_memory(squares);
	std::printf(
		"the vector between the kernels: %zu MiB in memory for them, %zu afterwards\n", while_needed, afterwards);
	if (while_needed != bytes >> 20 || afterwards != 0) {
		throw std::runtime_error("that is not what was asked for");
	}
	return std::accumulate(result.begin(), result.end(), 0.0);
}

void run() {
	const machine on;
	// 32 MiB each; whole GMEM pages, so that all of it is freed.
	constexpr std::size_t count = 8 << 20;
	floats in(count), squares(count);
	double expected = 0;
	for (std::size_t i = 0; i < count; ++i) {
		in[i] = static_cast<float>(i % 7);
		expected += static_cast<double>(i % 7 * (i % 7));
	}
	for (int round = 0; round < 3; ++round) {
		const double sum = sum_of_squares(on, in, squares);
		std::printf("sum of squares: %.0f\n", sum);
		if (sum != expected) {
			throw std::runtime_error("it should be " + std::to_string(expected));
		}
	}
}

} // namespace

int main() {
	constexpr int skipped = 77;
	try {
		gmem::device::set_current("opencl");
	} catch (const gmem::error &failure) {
		std::printf("%s\n", failure.what());
		return skipped;
	}
	try {
		run();
	} catch (const std::exception &failure) {
		std::fprintf(stderr, "%s\n", failure.what());
		return 1;
	}
	return 0;
}
