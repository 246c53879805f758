// SPDX-License-Identifier: Apache-2.0
/// @file
/// gmem::streams::opencl: a command queue. Needs <CL/cl.h> of OpenCL 1.2 or newer and libOpenCL.
#pragma once

#include <cerrno>
#include <memory>
#include <new>
#include <system_error>
#include <utility>

#include <CL/cl.h>

#include <libgmem/stream.hpp>

namespace gmem::streams {

namespace detail {

template <class T, class Get, class Object>
[[nodiscard]] T ask_opencl(Get get, Object object, cl_uint name) {
	T value{};
	get(object, name, sizeof(T), static_cast<void *>(&value), nullptr);
	return value;
}

/// OpenCL's codes are negative, as errnos are here.
[[nodiscard]] inline int positive(cl_int code) noexcept { return code < 0 ? -code : code; }

/// Queue a native kernel, for a device that runs host functions among its kernels.
inline int launch_native_kernel(void *native, gmemHostFn fn, void *arg) noexcept {
	struct call {
		gmemHostFn fn;
		void *arg;
	} copied{fn, arg};
	auto *queue = static_cast<cl_command_queue>(native);
	const auto run = [](void *copy) { static_cast<call *>(copy)->fn(static_cast<call *>(copy)->arg); };
	const cl_int code =
		clEnqueueNativeKernel(queue, run, &copied, sizeof copied, 0, nullptr, nullptr, 0, nullptr, nullptr);
	if (code == CL_SUCCESS) {
		clFlush(queue);
	}
	return positive(code);
}

/// A queue, and the stream that its functions run on, because OpenCL's callbacks must be short.
struct marked_queue {
	marked_queue(cl_command_queue taken, std::error_code &ec) noexcept : queue(taken), runner(stream::create(ec)) {
		clRetainCommandQueue(queue);
	}
	marked_queue(const marked_queue &) = delete;
	marked_queue &operator=(const marked_queue &) = delete;
	~marked_queue() {
		clReleaseCommandQueue(queue);
		// Without waiting for what is on it.
		gmemStreamDestroy(runner.release());
	}

	cl_command_queue queue;
	stream runner;
};

/// A function in a marked queue, and the event that the commands behind it wait for.
struct turn {
	gmemHostFn fn;
	void *arg;
	gmemStream_t runner;
	cl_event gate;

	static void begin(cl_event, cl_int, void *self) noexcept {
		if (gmemStreamLaunch(static_cast<turn *>(self)->runner, take, self) != 0) {
			take(self);
		}
	}
	static void take(void *self) noexcept {
		const std::unique_ptr<turn> owned(static_cast<turn *>(self));
		owned->fn(owned->arg);
		owned->open();
	}
	void open() const noexcept {
		clSetUserEventStatus(gate, CL_COMPLETE);
		clReleaseEvent(gate);
	}
};

/// Queue a function behind a marker, and a barrier that waits until the function has returned.
inline int launch_at_marker(void *native, gmemHostFn fn, void *arg) noexcept {
	const auto *self = static_cast<marked_queue *>(native);
	cl_int code = CL_SUCCESS;
	auto *gate = clCreateUserEvent(ask_opencl<cl_context>(clGetCommandQueueInfo, self->queue, CL_QUEUE_CONTEXT), &code);
	if (code != CL_SUCCESS) {
		return positive(code);
	}
	auto *what = new (std::nothrow) turn{fn, arg, self->runner.get(), gate};
	if (what == nullptr) {
		clReleaseEvent(gate);
		return -ENOMEM;
	}
	cl_event marker = nullptr;
	code = clEnqueueMarkerWithWaitList(self->queue, 0, nullptr, &marker);
	if (code == CL_SUCCESS) {
		code = clEnqueueBarrierWithWaitList(self->queue, 1, &gate, nullptr);
	}
	if (code == CL_SUCCESS) {
		// Called when a command ahead of it has failed, too.
		code = clSetEventCallback(marker, CL_COMPLETE, turn::begin, what);
	}
	if (marker != nullptr) {
		clReleaseEvent(marker);
	}
	if (code != CL_SUCCESS) {
		what->open();
		delete what;
		return positive(code);
	}
	clFlush(self->queue);
	return 0;
}

[[nodiscard]] inline external_stream opencl_at_markers(cl_command_queue queue, std::error_code &ec) noexcept {
	std::shared_ptr<marked_queue> kept;
	gmem::detail::without_bad_alloc(ec, [&] { kept = std::make_shared<marked_queue>(queue, ec); });
	return ec ? external_stream(stream_ref()) : external_stream::create(launch_at_marker, kept.get(), ec, kept);
}

} // namespace detail

/// Wrap a command queue, in order or not. Queued work runs when all earlier commands have ended, and all later ones
/// wait for it. Each call flushes the queue. After a failure, gmemLastError() has OpenCL's code without its sign.
///
/// The queue must outlive the result. Launched functions must not wait for the queue.
///
/// A failure gives a stream that must not be used, and is in `ec`, which is cleared on success.
[[nodiscard]] inline external_stream opencl(cl_command_queue queue, std::error_code &ec) noexcept {
	ec.clear();
	const auto device = detail::ask_opencl<cl_device_id>(clGetCommandQueueInfo, queue, CL_QUEUE_DEVICE);
	const auto able =
		detail::ask_opencl<cl_device_exec_capabilities>(clGetDeviceInfo, device, CL_DEVICE_EXECUTION_CAPABILITIES);
	const auto order =
		detail::ask_opencl<cl_command_queue_properties>(clGetCommandQueueInfo, queue, CL_QUEUE_PROPERTIES);
	if ((able & CL_EXEC_NATIVE_KERNEL) != 0 && (order & CL_QUEUE_OUT_OF_ORDER_EXEC_MODE_ENABLE) == 0) {
		return external_stream::create(detail::launch_native_kernel, queue, ec);
	}
	return detail::opencl_at_markers(queue, ec);
}

#if LIBGMEM_HAS_EXCEPTIONS
/// Wrap a command queue and throw on failure.
/// @throws error: EAGAIN if no thread can be started, ENOMEM
[[nodiscard]] inline external_stream opencl(cl_command_queue queue) {
	std::error_code ec;
	external_stream made = opencl(queue, ec);
	gmem::detail::throw_if_failed(ec);
	return made;
}
#endif

} // namespace gmem::streams
