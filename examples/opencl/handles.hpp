// SPDX-License-Identifier: Apache-2.0
// OpenCL's objects, released by themselves; its codes, as exceptions.
#pragma once

#include <memory>
#include <stdexcept>
#include <string>
#include <type_traits>

#include <CL/cl.h>

inline void check(cl_int code, const char *call) {
	if (code != CL_SUCCESS) {
		throw std::runtime_error(std::string(call) + " failed with code " + std::to_string(code));
	}
}

template <auto Release>
struct releases {
	template <class T>
	void operator()(T *handle) const noexcept {
		Release(handle);
	}
};

template <class Handle, auto Release>
using owned = std::unique_ptr<std::remove_pointer_t<Handle>, releases<Release>>;

using queue_handle = owned<cl_command_queue, clReleaseCommandQueue>;
using program_handle = owned<cl_program, clReleaseProgram>;
using kernel_handle = owned<cl_kernel, clReleaseKernel>;
using buffer_handle = owned<cl_mem, clReleaseMemObject>;
