// SPDX-License-Identifier: Apache-2.0
/// @file
/// gmem::engines::arrow_memory_pool: Apache Arrow's buffers in memory of libgmem. Needs Arrow's headers and library.
/// docs/engines/arrow.md has an example.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>

#include <arrow/buffer.h>
#include <arrow/memory_pool.h>
#include <arrow/status.h>

#include <libgmem/engines/ready_heap.hpp>
#include <libgmem/range.hpp>

namespace gmem::engines {

/// The bytes of a buffer, for prefetch(). A mutable one gives bytes for free_eager() as well.
[[nodiscard]] inline range range_of(const arrow::Buffer &buffer) noexcept {
	return {buffer.data(), static_cast<std::size_t>(buffer.size())};
}

/// A pool on libgmem's heap, whose large buffers take no page fault when they are filled. Pass it to readers and, in an
/// arrow::compute::ExecContext, to functions. It must outlive its buffers. Thread-safe.
class arrow_memory_pool final : public arrow::MemoryPool {
public:
	/// A pool whose buffers are on the current device's node, or where `memory` says.
	explicit arrow_memory_pool(const ready_heap &memory = ready_heap()) noexcept : memory_(memory) {}

	using arrow::MemoryPool::Allocate;
	using arrow::MemoryPool::Free;
	using arrow::MemoryPool::Reallocate;

	/// Allocate a buffer.
	arrow::Status Allocate(std::int64_t size, std::int64_t alignment, std::uint8_t **out) override {
		if (size < 0) {
			return arrow::Status::Invalid("arrow_memory_pool: size = ", size, " is negative");
		}
		std::error_code ec;
		void *const block = memory_.allocate(as_size(size), as_size(alignment), ec);
		if (block == nullptr) {
			return failed(size, alignment, ec);
		}
		allocated(size);
		*out = static_cast<std::uint8_t *>(block);
		return arrow::Status::OK();
	}

	/// Resize a buffer. Large ones move by remapping pages.
	arrow::Status Reallocate(
		std::int64_t old_size, std::int64_t new_size, std::int64_t alignment, std::uint8_t **ptr) override {
		if (new_size < 0) {
			return arrow::Status::Invalid("arrow_memory_pool: new_size = ", new_size, " is negative");
		}
		// A size of 0 would free the block.
		auto *const block = static_cast<std::uint8_t *>(
			gmem_aligned_realloc(*ptr, as_size(alignment), new_size == 0 ? 1 : as_size(new_size)));
		if (block == nullptr) {
			return failed(new_size, alignment, {errno, std::generic_category()});
		}
		*ptr = block;
		if (new_size > old_size) {
			memory_.ready(block + old_size, as_size(new_size - old_size));
		}
		allocated(new_size);
		bytes_ -= old_size;
		return arrow::Status::OK();
	}

	/// Free a buffer.
	void Free(std::uint8_t *buffer, std::int64_t size, std::int64_t alignment) override {
		memory_.deallocate(buffer, as_size(size), as_size(alignment));
		bytes_ -= size;
	}

	/// Return idle memory of the heap to the kernel.
	void ReleaseUnused() override { gmemHeapTrim(); }

	/// Bytes in buffers of this pool.
	std::int64_t bytes_allocated() const override { return bytes_; }
	/// The most there were.
	std::int64_t max_memory() const override { return most_; }
	/// Bytes allocated so far, freed or not.
	std::int64_t total_bytes_allocated() const override { return total_; }
	/// Number of allocations and reallocations so far.
	std::int64_t num_allocations() const override { return count_; }
	/// "libgmem".
	std::string backend_name() const override { return "libgmem"; }

private:
	[[nodiscard]] static std::size_t as_size(std::int64_t number) noexcept { return static_cast<std::size_t>(number); }

	[[nodiscard]] static arrow::Status failed(std::int64_t size, std::int64_t alignment, std::error_code why) {
		return why == std::errc::invalid_argument
				   ? arrow::Status::Invalid("arrow_memory_pool: alignment = ", alignment, " is no power of two")
				   : arrow::Status::OutOfMemory("arrow_memory_pool: no memory for ", size, " bytes");
	}

	void allocated(std::int64_t size) noexcept {
		const std::int64_t now = bytes_ += size;
		std::int64_t most = most_;
		while (now > most && !most_.compare_exchange_weak(most, now)) {
		}
		total_ += size;
		++count_;
	}

	ready_heap memory_;
	std::atomic<std::int64_t> bytes_{0}, most_{0}, total_{0}, count_{0};
};

} // namespace gmem::engines
