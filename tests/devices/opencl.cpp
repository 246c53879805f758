// SPDX-License-Identifier: Apache-2.0
// The device "opencl" through the public interface, on whatever OpenCL device runs its kernels on the processor.
// Run with GMEM_DEVICE=opencl.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include <sys/wait.h>

#include <libgmem.hpp>
#include <libgmem/streams/opencl.hpp>

#include "../check.h"

namespace {

const char *const source = R"(
kernel void add(global uint *data, uint value) { data[get_global_id(0)] += value; }
)";

void need(cl_int code, const char *what) {
	if (code != CL_SUCCESS) {
		std::fprintf(stderr, "%s: OpenCL error %d\n", what, code);
		std::exit(1);
	}
}

/// Memory that the driver gives in libgmem's context, whole GMEM pages of it.
class shared_words {
public:
	shared_words(cl_context in, std::size_t pages) : context(in), size(pages * gmem::page_size()) {
		const cl_svm_mem_flags flags = CL_MEM_READ_WRITE | CL_MEM_SVM_FINE_GRAIN_BUFFER;
		block = clSVMAlloc(context, flags, size + gmem::page_size(), 0);
		NEED(block != nullptr);
		const auto address = reinterpret_cast<std::uintptr_t>(block);
		start = static_cast<char *>(block) + (gmem::page_size() - address % gmem::page_size()) % gmem::page_size();
		gmem::free_eager({start, size});
	}
	shared_words(const shared_words &) = delete;
	shared_words &operator=(const shared_words &) = delete;
	~shared_words() { clSVMFree(context, block); }

	[[nodiscard]] cl_uint *words() const { return reinterpret_cast<cl_uint *>(start); }
	[[nodiscard]] std::size_t count() const { return size / sizeof(cl_uint); }
	[[nodiscard]] gmem::mutable_range range() const { return {start, size}; }

	cl_context context;
	std::size_t size;
	void *block;
	char *start;
};

/// A kernel in libgmem's context, and a queue for it.
class adder {
public:
	explicit adder(cl_context context) {
		cl_device_id device = nullptr;
		need(clGetContextInfo(context, CL_CONTEXT_DEVICES, sizeof device, &device, nullptr), "clGetContextInfo");
		cl_device_type type = 0;
		need(clGetDeviceInfo(device, CL_DEVICE_TYPE, sizeof type, &type, nullptr), "clGetDeviceInfo");
		is_processor = (type & CL_DEVICE_TYPE_CPU) != 0;
		cl_int code = CL_SUCCESS;
		queue = clCreateCommandQueueWithProperties(context, device, nullptr, &code);
		need(code, "clCreateCommandQueueWithProperties");
		const char *text = source;
		program = clCreateProgramWithSource(context, 1, &text, nullptr, &code);
		need(code, "clCreateProgramWithSource");
		need(clBuildProgram(program, 1, &device, "", nullptr, nullptr), "clBuildProgram");
		kernel = clCreateKernel(program, "add", &code);
		need(code, "clCreateKernel");
	}
	adder(const adder &) = delete;
	adder &operator=(const adder &) = delete;
	~adder() {
		clReleaseKernel(kernel);
		clReleaseProgram(program);
		clReleaseCommandQueue(queue);
	}

	void add(const shared_words &data, cl_uint value) const { add(data.words(), data.count(), value); }
	void add(cl_uint *words, std::size_t count, cl_uint value) const {
		need(clSetKernelArgSVMPointer(kernel, 0, words), "clSetKernelArgSVMPointer");
		need(clSetKernelArg(kernel, 1, sizeof value, &value), "clSetKernelArg");
		need(clEnqueueNDRangeKernel(queue, kernel, 1, nullptr, &count, nullptr, 0, nullptr, nullptr),
			"clEnqueueNDRangeKernel");
	}

	bool is_processor = false;
	cl_command_queue queue = nullptr;
	cl_program program = nullptr;
	cl_kernel kernel = nullptr;
};

bool all_are(const shared_words &data, cl_uint value) {
	for (std::size_t i = 0; i < data.count(); ++i) {
		if (data.words()[i] != value) {
			return false;
		}
	}
	return true;
}

void prefetched_memory_takes_no_fault(const shared_words &data) {
	CHECK_EQUAL(resident_pages(data.start, data.size), 0);
	gmemPrefetchReport_t report{};
	report.size = sizeof report;
	gmemPrefetchOptions_t options{};
	options.size = sizeof options;
	const auto address = reinterpret_cast<unsigned long>(data.start);
	CHECK_EQUAL(gmemPrefetchEx(address, data.size, gmemGetNumaId(), nullptr, &options, &report), 0);
	const long pages = static_cast<long>(data.size) / sysconf(_SC_PAGESIZE);
	CHECK_EQUAL(report.populated, pages);
	CHECK_EQUAL(report.failed, 0);
	CHECK_EQUAL(resident_pages(data.start, data.size), pages);
	if (FAULTS_ARE_THE_TESTS) {
		CHECK_EQUAL(faults_of_writing(data.start, data.size), 0);
	}
	// Ordinary memory goes where it went before.
	gmem::buffer<char> ordinary(gmem::page_size());
	gmem::prefetch(ordinary, gmem::device::numa_id());
	CHECK_EQUAL(resident_pages(ordinary.data(), ordinary.size()), gmem::page_size() / sysconf(_SC_PAGESIZE));
}

void kernels_and_libgmem_take_turns_in_one_queue(const adder &on, const shared_words &data) {
	const gmem::external_stream stream = gmem::streams::opencl(on.queue);
	for (cl_uint round = 1; round < 5; ++round) {
		gmem::prefetch(data.range(), gmem::device::numa_id(), stream);
		on.add(data, round);
		bool added = false;
		stream.launch([&] { added = all_are(data, round); });
		gmem::free_eager(data.range(), stream);
		stream.synchronize();
		CHECK(added);
		CHECK_EQUAL(resident_pages(data.start, data.size), 0);
	}
	on.add(data, 7);
	need(clFinish(on.queue), "clFinish");
	CHECK(all_are(data, 7));
}

/// Not all drivers stand that: libgmem has them take turns.
void threads_may_be_first_at_once() {
	std::vector<int> ids(4);
	std::vector<std::thread> threads;
	for (int &id : ids) {
		threads.emplace_back([&id] { id = gmemGetNumaId(); });
	}
	for (std::thread &thread : threads) {
		thread.join();
	}
	const int id = gmemGetNumaId();
	for (const int other : ids) {
		// The processor's nodes differ from place to place.
		CHECK_EQUAL(other < 0, id < 0);
	}
}

/// Large blocks of the heap are the device's, at first and when they are used again.
void kernels_read_vectors(const adder &on) {
	const std::size_t count = 8 * gmem::page_size() / sizeof(cl_uint);
	gmemHeapStats_t stats{};
	stats.size = sizeof stats;
	for (cl_uint round = 1; round < 20; ++round) {
		std::vector<cl_uint, gmem_allocator<cl_uint>> vector(count + round * gmem::page_size(), round);
		CHECK_EQUAL(reinterpret_cast<std::uintptr_t>(vector.data()) % gmem::page_size(), 0);
		CHECK_EQUAL(gmemHeapStats(&stats), 0);
		CHECK(stats.device_live >= vector.size() * sizeof(cl_uint));
		on.add(vector.data(), vector.size(), 5);
		need(clFinish(on.queue), "clFinish");
		CHECK(std::all_of(vector.begin(), vector.end(), [&](cl_uint value) { return value == round + 5; }));
		vector.resize(2 * vector.size());
		CHECK_EQUAL(vector[count], round + 5);
		gmemHeapTrim();
	}
	CHECK_EQUAL(gmemHeapStats(&stats), 0);
	CHECK_EQUAL(stats.device_refused, 0);
}

void bad_arguments_are_refused() {
	CHECK_EQUAL(gmemPrefetch(0, 1, 1 << 20, nullptr), -EINVAL);
	CHECK_EQUAL(gmemPrefetch(0, 1, -1, nullptr), -EINVAL);
	CHECK_EQUAL(gmemSetDevice("opencl "), -EINVAL);
	CHECK(std::strstr(gmemLastError(), "the devices are host") != nullptr);
	CHECK(std::strcmp(gmem::device::current(), "opencl") == 0);
}

/// OpenCL does not survive a fork; the process's own pages do.
void a_child_goes_on_with_its_pages(const shared_words &data) {
	data.words()[0] = 5;
	const pid_t child = fork();
	NEED(child >= 0);
	if (child == 0) {
		alarm(20);
		checks_failed = 0;
		gmem::prefetch(data.range(), gmem::device::numa_id());
		CHECK_EQUAL(data.words()[0], 5);
		gmem::free_eager(data.range());
		CHECK_EQUAL(data.words()[0], 0);
		CHECK_EQUAL(gmemSetDevice("host"), 0);
		// Large blocks are taken and given back.
		std::free(std::malloc(4 * gmem::page_size()));
		_exit(checks_failed);
	}
	int status = 0;
	NEED(waitpid(child, &status, 0) == child);
	CHECK_EQUAL(status, 0);
	CHECK_EQUAL(data.words()[0], 5);
}

void threads_may_switch_devices(const shared_words &data) {
	std::atomic<int> failures{0};
	std::vector<std::thread> threads;
	for (const char *name : {"host", "opencl", "host", "opencl"}) {
		threads.emplace_back([&, name] {
			for (int i = 0; i < 500; ++i) {
				failures += gmemSetDevice(name) != 0;
				failures += gmemGetDevice() == nullptr;
				failures +=
					gmemPrefetch(reinterpret_cast<unsigned long>(data.start), data.size, gmemGetNumaId(), nullptr) != 0;
			}
		});
	}
	for (std::thread &thread : threads) {
		thread.join();
	}
	CHECK_EQUAL(failures.load(), 0);
	gmem::device::set_current("opencl");
}

} // namespace

int main() {
	alarm(250);
	threads_may_be_first_at_once();
	if (gmemGetNumaId() == -ENODEV) {
		std::printf("%s\n", gmemLastError());
		return SKIPPED;
	}
	CHECK(std::strcmp(gmem::device::current(), "opencl") == 0);
	auto *context = static_cast<cl_context>(gmem::device::context());
	CHECK(context != nullptr && context == gmemGetDeviceContext());
	{
		const adder on(context);
		if (!on.is_processor) {
			std::puts("the OpenCL device has memory of its own; set GMEM_OPENCL_DEVICE to one that is the processor");
			return SKIPPED;
		}
		const shared_words data(context, 4);
		prefetched_memory_takes_no_fault(data);
		std::memset(data.start, 0, data.size);
		kernels_and_libgmem_take_turns_in_one_queue(on, data);
		kernels_read_vectors(on);
		bad_arguments_are_refused();
		a_child_goes_on_with_its_pages(data);
		threads_may_switch_devices(data);
	}
	gmem::device::set_current("host");
	CHECK(gmem::device::context() == nullptr);
	return checks_result("opencl");
}
