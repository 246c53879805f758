// SPDX-License-Identifier: Apache-2.0
/// @file
/// CUDA's driver for tests and figures, opened at run time, so that neither a toolkit nor a GPU is needed to build
/// them.
#pragma once

#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>

#include <dlfcn.h>

namespace cuda {

using handle = void *;
using address = std::uintptr_t;

inline void need(int code, const char *call) {
	if (code != 0) {
		// Containers often have no more of the driver than they say they need.
		constexpr int jit_not_found = 221;
		std::fprintf(stderr, "%s failed with CUDA's code %d%s\n", call, code,
			code == jit_not_found ? ": libnvidia-ptxjitcompiler.so.1 is missing" : "");
		std::exit(1);
	}
}

/// One of its functions, looked up when it is first called.
template <class... Arguments>
class function {
public:
	explicit constexpr function(const char *name) : name_(name) {}
	bool exists() {
		if (call_ == nullptr) {
			static void *const library = dlopen("libcuda.so.1", RTLD_NOW);
			call_ = library == nullptr ? nullptr : reinterpret_cast<int (*)(Arguments...)>(dlsym(library, name_));
		}
		return call_ != nullptr;
	}
	/// The code.
	int ask(Arguments... arguments) {
		if (!exists()) {
			std::fprintf(stderr, "libcuda.so.1 has no %s: %s\n", name_, dlerror());
			std::exit(1);
		}
		return call_(arguments...);
	}
	void operator()(Arguments... arguments) { need(ask(arguments...), name_); }

private:
	const char *name_;
	int (*call_)(Arguments...) = nullptr;
};

struct location {
	int kind, id;
};

inline function<int *> driver_version("cuDriverGetVersion");
inline function<handle *> current_context("cuCtxGetCurrent");
inline function<handle> set_context("cuCtxSetCurrent");
inline function<> synchronize_context("cuCtxSynchronize");
inline function<std::size_t *, std::size_t *> memory_info("cuMemGetInfo_v2");
inline function<address *, std::size_t> allocate("cuMemAlloc_v2");
inline function<address *, std::size_t, unsigned> allocate_managed("cuMemAllocManaged");
inline function<address> release("cuMemFree_v2");
inline function<void **, std::size_t> allocate_pinned("cuMemAllocHost_v2");
inline function<void *> release_pinned("cuMemFreeHost");
inline function<address, address, std::size_t, handle> copy("cuMemcpyAsync");
inline function<address, unsigned char, std::size_t, handle> fill("cuMemsetD8Async");
inline function<address, std::size_t, location, unsigned, handle> prefetch_to_location("cuMemPrefetchAsync_v2");
inline function<address, std::size_t, int, handle> prefetch_to_device("cuMemPrefetchAsync");
inline function<handle *, unsigned> create_stream("cuStreamCreate");
inline function<handle> destroy_stream("cuStreamDestroy_v2");
inline function<handle> synchronize("cuStreamSynchronize");
inline function<handle> query("cuStreamQuery");
inline function<handle, int> begin_capture("cuStreamBeginCapture_v2");
inline function<handle, handle *> end_capture("cuStreamEndCapture");
inline function<handle, void (*)(void *), void *> launch_host("cuLaunchHostFunc");
inline function<handle *, const void *> load_module("cuModuleLoadData");
inline function<handle *, handle, const char *> get_function("cuModuleGetFunction");
inline function<handle, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, handle, void **, void **>
	launch_kernel("cuLaunchKernel");

constexpr int processor = -1;

/// The bare call, of drivers since CUDA 12.2 or before: to a GPU by its ordinal, or to the processor's memory.
inline void prefetch(address start, std::size_t size, int to, handle stream) {
	constexpr int device = 1, host = 2;
	if (prefetch_to_location.exists()) {
		prefetch_to_location(start, size, {to == processor ? host : device, to == processor ? 0 : to}, 0, stream);
	} else {
		prefetch_to_device(start, size, to, stream);
	}
}

/// A stream that does not wait for the default one.
class stream {
public:
	stream() { create_stream(&handle_, 1); }
	stream(const stream &) = delete;
	stream &operator=(const stream &) = delete;
	~stream() { destroy_stream.ask(handle_); }
	[[nodiscard]] handle get() const { return handle_; }
	void synchronize() const { cuda::synchronize(handle_); }

private:
	handle handle_ = nullptr;
};

/// Both kernels begin with this: %rd3 is the thread's first element, %rd5 how many further the next one is, and %f2
/// holds the one at %rd7. Written for sm_50, which every driver since translates for its GPU.
inline const std::string each_element = R"(
	.reg .pred %p<2>;
	.reg .f32 %f<5>;
	.reg .b32 %r<5>;
	.reg .b64 %rd<9>;
	mov.f32 %f1, 0f00000000;
	ld.param.u64 %rd1, [data];
	ld.param.u64 %rd2, [count];
	mov.u32 %r1, %ctaid.x;
	mov.u32 %r2, %ntid.x;
	mov.u32 %r3, %tid.x;
	mov.u32 %r4, %nctaid.x;
	mul.wide.u32 %rd3, %r1, %r2;
	cvt.u64.u32 %rd4, %r3;
	add.u64 %rd3, %rd3, %rd4;
	mul.wide.u32 %rd5, %r4, %r2;
again:
	setp.ge.u64 %p1, %rd3, %rd2;
	@%p1 bra done;
	shl.b64 %rd6, %rd3, 2;
	add.u64 %rd7, %rd1, %rd6;
	ld.f32 %f2, [%rd7];
	add.u64 %rd3, %rd3, %rd5;
)";

inline const std::string source = R"(
.version 6.0
.target sm_50
.address_size 64

.visible .entry add(.param .u64 data, .param .u64 count, .param .f32 value)
{)" + each_element + R"(
	ld.param.f32 %f1, [value];
	add.f32 %f3, %f2, %f1;
	st.f32 [%rd7], %f3;
	bra again;
done:
	ret;
}

.visible .entry sum(.param .u64 data, .param .u64 count, .param .u64 result)
{)" + each_element + R"(
	add.f32 %f1, %f1, %f2;
	bra again;
done:
	ld.param.u64 %rd8, [result];
	atom.add.f32 %f3, [%rd8], %f1;
	ret;
}
)";

/// The two kernels, in the context that is current when it is made.
class kernels {
public:
	kernels() {
		load_module(&module_, source.c_str());
		get_function(&add_, module_, "add");
		get_function(&sum_, module_, "sum");
	}

	/// data[i] += value
	void add(float *data, std::uint64_t count, float value, handle on) const { run(add_, data, count, value, on); }

	/// *result += the sum of data
	void sum(const float *data, std::uint64_t count, float *result, handle on) const {
		run(sum_, data, count, result, on);
	}

private:
	template <class Data, class Last>
	static void run(handle kernel, Data *data, std::uint64_t count, Last last, handle on) {
		std::array<void *, 3> arguments = {&data, &count, &last};
		constexpr unsigned blocks = 1056, threads = 256;
		launch_kernel(kernel, blocks, 1, 1, threads, 1, 1, 0, on, arguments.data(), nullptr);
	}

	handle module_ = nullptr, add_ = nullptr, sum_ = nullptr;
};

} // namespace cuda
