// SPDX-License-Identifier: Apache-2.0
/// @file
/// gmem::engines::onnxruntime_allocator: ONNX Runtime's memory from libgmem. Needs ONNX Runtime's C header and library.
/// docs/engines/onnxruntime.md has an example.
#pragma once

#include <array>
#include <atomic>
#include <charconv>
#include <cstddef>
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
/// It must outlive the environment. Large blocks take no page fault when they are filled. With headers of ONNX Runtime
/// 1.23 and later it has statistics (Ort::Allocator::GetStats()), with 1.25 and later Shrink(), which returns idle
/// memory to the kernel. Thread-safe. Not movable.
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

	/// Of this allocator's blocks, in usable bytes. They are read one by one, so they may disagree while others
	/// allocate.
	struct counters {
		std::atomic<std::size_t> in_use{0}, max_in_use{0}, max_size{0}, allocations{0}, reserves{0};

		void add(std::size_t bytes) noexcept {
			allocations.fetch_add(1, std::memory_order_relaxed);
			raise(max_size, bytes);
			raise(max_in_use, in_use.fetch_add(bytes, std::memory_order_relaxed) + bytes);
		}
		void remove(std::size_t bytes) noexcept { in_use.fetch_sub(bytes, std::memory_order_relaxed); }

	private:
		static void raise(std::atomic<std::size_t> &maximum, std::size_t to) noexcept {
			std::size_t now = maximum.load(std::memory_order_relaxed);
			while (now < to && !maximum.compare_exchange_weak(now, to, std::memory_order_relaxed)) {
			}
		}
	};

	void begin(std::error_code &ec) noexcept {
		// Members that later versions add are optional, and zero.
		static_cast<OrtAllocator &>(*this) = OrtAllocator{};
		version = ORT_API_VERSION;
		Alloc = allocate;
		Free = deallocate;
		Info = get_info;
#if ORT_API_VERSION >= 18
		Reserve = reserve;
#endif
#if ORT_API_VERSION >= 23
		GetStats = get_stats;
		AllocOnStream = allocate_on_stream;
#endif
#if ORT_API_VERSION >= 25
		Shrink = shrink;
#endif
		ec.clear();
		// An allocator of the device is not wrapped into an arena of ONNX Runtime.
		if (OrtStatus *const failure = api_.CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, &info_)) {
			api_.ReleaseStatus(failure);
			ec = std::make_error_code(std::errc::not_enough_memory);
		}
	}

	static onnxruntime_allocator &of(OrtAllocator *self) noexcept {
		return *static_cast<onnxruntime_allocator *>(self);
	}
	static const onnxruntime_allocator &of(const OrtAllocator *self) noexcept {
		return *static_cast<const onnxruntime_allocator *>(self);
	}

	static void *ORT_API_CALL allocate(OrtAllocator *self, std::size_t size) {
		std::error_code failure;
		void *const block = size == 0 ? nullptr : of(self).memory_.allocate(size, alignment, failure);
		if (block != nullptr) {
			of(self).counters_.add(gmem_malloc_usable_size(block));
		}
		return block;
	}
	static void *ORT_API_CALL reserve(OrtAllocator *self, std::size_t size) {
		of(self).counters_.reserves.fetch_add(1, std::memory_order_relaxed);
		return allocate(self, size);
	}
	static void ORT_API_CALL deallocate(OrtAllocator *self, void *block) {
		const std::size_t bytes = gmem_malloc_usable_size(block);
		of(self).counters_.remove(bytes);
		of(self).memory_.deallocate(block, bytes, alignment);
	}
	static const OrtMemoryInfo *ORT_API_CALL get_info(const OrtAllocator *self) { return of(self).info_; }

#if ORT_API_VERSION >= 23
	/// The host's memory belongs to no stream: a block is ready for all of them when allocate() returns it.
	static void *ORT_API_CALL allocate_on_stream(OrtAllocator *self, std::size_t size, OrtSyncStream *) {
		return allocate(self, size);
	}

	/// The keys that ONNX Runtime knows. Limit and TotalAllocated are the heap's, the others this allocator's.
	static OrtStatus *ORT_API_CALL get_stats(const OrtAllocator *self, OrtKeyValuePairs **out) noexcept {
		const OrtApi &api = of(self).api_;
		gmemHeapStats_t heap{};
		heap.size = sizeof heap;
		if (gmemHeapStats(&heap) != 0) {
			return api.CreateStatus(ORT_FAIL, gmemLastError());
		}
		OrtKeyValuePairs *pairs = nullptr;
		api.CreateKeyValuePairs(&pairs);
		const auto add = [&](const char *key, std::size_t value) {
			std::array<char, 24> text{};
			std::to_chars(text.data(), text.data() + text.size() - 1, value);
			api.AddKeyValuePair(pairs, key, text.data());
		};
		const counters &own = of(self).counters_;
		if (heap.hard_limit == 0) {
			api.AddKeyValuePair(pairs, "Limit", "-1");
		} else {
			add("Limit", heap.hard_limit);
		}
		add("InUse", own.in_use.load(std::memory_order_relaxed));
		add("TotalAllocated", heap.live + heap.idle);
		add("MaxInUse", own.max_in_use.load(std::memory_order_relaxed));
		add("NumAllocs", own.allocations.load(std::memory_order_relaxed));
		add("NumReserves", own.reserves.load(std::memory_order_relaxed));
		add("MaxAllocSize", own.max_size.load(std::memory_order_relaxed));
		*out = pairs;
		return nullptr;
	}
#endif
#if ORT_API_VERSION >= 25
	static OrtStatus *ORT_API_CALL shrink(OrtAllocator *) noexcept {
		gmemHeapTrim();
		return nullptr;
	}
#endif

	ready_heap memory_;
	const OrtApi &api_;
	OrtMemoryInfo *info_ = nullptr;
	counters counters_{};
};

} // namespace gmem::engines
