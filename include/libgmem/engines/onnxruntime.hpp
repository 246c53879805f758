// SPDX-License-Identifier: Apache-2.0
/// @file
/// gmem::engines::onnxruntime_allocator: ONNX Runtime's memory from libgmem. Needs ONNX Runtime's C header and library.
/// docs/engines/onnxruntime.md has an example.
#pragma once

#include <cstddef>
#include <string>
#include <system_error>

#include <onnxruntime_c_api.h>

#include <libgmem/engines/ready_heap.hpp>

namespace gmem::engines {

/// An allocator for sessions. Register it, and let the sessions use it:
///
///     gmem::engines::onnxruntime_allocator memory(Ort::GetApi());
///     Ort::ThrowOnError(Ort::GetApi().RegisterAllocator(environment, &memory));
///     options.AddConfigEntry("session.use_env_allocators", "1");
///
/// It must outlive the environment. Large blocks take no page fault when they are filled. Thread-safe. Not movable.
class onnxruntime_allocator final : public OrtAllocator {
public:
#if LIBGMEM_HAS_EXCEPTIONS
	/// Blocks on the current device's node, or where `memory` says.
	/// @param api of the ONNX Runtime in use, not of the header
	/// @throws std::system_error: ENOMEM
	explicit onnxruntime_allocator(const OrtApi &api, const ready_heap &memory = ready_heap())
		: memory_(memory), api_(api) {
		std::error_code ec;
		begin(ec);
		if (ec) {
			throw std::system_error(ec, "gmem::engines::onnxruntime_allocator: CreateCpuMemoryInfo() failed");
		}
	}
#endif
	/// Blocks as above. A failure gives an allocator that must not be used, and is in `ec`, which is cleared on
	/// success.
	onnxruntime_allocator(const OrtApi &api, const ready_heap &memory, std::error_code &ec) noexcept
		: memory_(memory), api_(api) {
		begin(ec);
	}
	onnxruntime_allocator(const onnxruntime_allocator &) = delete;
	onnxruntime_allocator &operator=(const onnxruntime_allocator &) = delete;
	~onnxruntime_allocator() {
		if (info_ != nullptr) {
			api_.ReleaseMemoryInfo(info_);
		}
	}

	/// ONNX Runtime's description of the memory, for tensors over it.
	[[nodiscard]] const OrtMemoryInfo *info() const noexcept { return info_; }

private:
	/// What kernels of ONNX Runtime expect.
	static constexpr std::size_t alignment = 64;

	void begin(std::error_code &ec) noexcept {
		// Members that later versions add are optional, and zero.
		static_cast<OrtAllocator &>(*this) = OrtAllocator{};
		version = ORT_API_VERSION;
		Alloc = allocate;
		Free = deallocate;
		Info = get_info;
#if ORT_API_VERSION >= 18
		Reserve = allocate;
#endif
		ec.clear();
		// An allocator of the device is not wrapped into an arena of ONNX Runtime.
		if (OrtStatus *const failure = api_.CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, &info_)) {
			api_.ReleaseStatus(failure);
			ec = std::make_error_code(std::errc::not_enough_memory);
		}
	}

	static const ready_heap &memory_of(const OrtAllocator *self) noexcept {
		return static_cast<const onnxruntime_allocator *>(self)->memory_;
	}
	static void *ORT_API_CALL allocate(OrtAllocator *self, std::size_t size) {
		std::error_code failure;
		return size == 0 ? nullptr : memory_of(self).allocate(size, alignment, failure);
	}
	static void ORT_API_CALL deallocate(OrtAllocator *self, void *block) {
		memory_of(self).deallocate(block, gmem_malloc_usable_size(block), alignment);
	}
	static const OrtMemoryInfo *ORT_API_CALL get_info(const OrtAllocator *self) {
		return static_cast<const onnxruntime_allocator *>(self)->info_;
	}

	ready_heap memory_;
	const OrtApi &api_;
	OrtMemoryInfo *info_ = nullptr;
};

} // namespace gmem::engines
