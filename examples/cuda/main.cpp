// SPDX-License-Identifier: Apache-2.0
// A kernel reads and writes a vector by its address: see README.md.
#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <vector>

#include <libgmem.hpp>
#include <libgmem/streams/cuda_driver.hpp>

namespace {

using floats = std::vector<float, gmem_allocator<float>>;

void check(CUresult code, const char *call) {
	if (code != CUDA_SUCCESS) {
		throw std::runtime_error(std::string(call) + " failed with code " + std::to_string(code));
	}
}

// data[i] += value
const char *const source = R"(
.version 6.0
.target sm_50
.address_size 64
.visible .entry add(.param .u64 data, .param .u64 count, .param .f32 value)
{
	.reg .pred %p;
	.reg .f32 %f<3>;
	.reg .b32 %r<4>;
	.reg .b64 %i, %n, %at, %first, %offset;
	ld.param.u64 %first, [data];
	ld.param.u64 %n, [count];
	ld.param.f32 %f1, [value];
	mov.u32 %r1, %ctaid.x;
	mov.u32 %r2, %ntid.x;
	mov.u32 %r3, %tid.x;
	mul.wide.u32 %i, %r1, %r2;
	cvt.u64.u32 %offset, %r3;
	add.u64 %i, %i, %offset;
	setp.ge.u64 %p, %i, %n;
	@%p bra done;
	shl.b64 %offset, %i, 2;
	add.u64 %at, %first, %offset;
	ld.f32 %f2, [%at];
	add.f32 %f2, %f2, %f1;
	st.f32 [%at], %f2;
done:
	ret;
}
)";

void run() {
	check(cuCtxSetCurrent(static_cast<CUcontext>(gmem::device::context())), "cuCtxSetCurrent");
	CUmodule module = nullptr;
	CUfunction add = nullptr;
	CUstream native = nullptr;
	check(cuModuleLoadData(&module, source), "cuModuleLoadData");
	check(cuModuleGetFunction(&add, module, "add"), "cuModuleGetFunction");
	check(cuStreamCreate(&native, CU_STREAM_NON_BLOCKING), "cuStreamCreate");

	constexpr std::uint64_t count = 8 << 20;
	constexpr unsigned threads = 256;
	floats data(count, 1.0F);
	const gmem::external_stream stream = gmem::streams::cuda_driver(native);

	float *address = data.data();
	std::uint64_t elements = count;
	float value = 2.0F;
	std::array<void *, 3> arguments = {&address, &elements, &value};
	gmem::prefetch(data, gmem::device::numa_id(), stream);
	check(cuLaunchKernel(add, count / threads, 1, 1, threads, 1, 1, 0, native, arguments.data(), nullptr),
		"cuLaunchKernel");
	gmem::prefetch(data, 0, stream);
	stream.synchronize();

	const auto right = std::count(data.begin(), data.end(), 3.0F);
	std::printf("%lld of %llu elements are 3\n", static_cast<long long>(right), static_cast<unsigned long long>(count));
	if (static_cast<std::uint64_t>(right) != count) {
		throw std::runtime_error("that is not what the kernel was to do");
	}
}

} // namespace

int main() {
	constexpr int skipped = 77;
	try {
		gmem::device::set_current("cuda");
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
