// SPDX-License-Identifier: Apache-2.0
/// @file
/// gmem::engines::torch_allocator: PyTorch's tensors on the processor in memory of libgmem. Needs libtorch's headers
/// and library. docs/engines/torch.md has an example.
#pragma once

#include <cstddef>

#include <c10/core/Allocator.h>
#include <torch/version.h>

#include <libgmem/engines/ready_heap.hpp>
#include <libgmem/range.hpp>

namespace gmem::engines {

/// The bytes of a tensor on the processor whose elements lie side by side, for prefetch() and free_eager(). A template,
/// so that the header needs no more of libtorch than the allocator does.
template <class Tensor>
[[nodiscard]] mutable_range range_of(const Tensor &tensor) {
	return tensor.is_contiguous() ? mutable_range(tensor.data_ptr(), tensor.nbytes()) : mutable_range();
}

/// An allocator for tensors, whose large ones take no page fault when they are filled. Give it to libtorch once, before
/// the first tensor; it must live as long as the process:
///
///     static gmem::engines::torch_allocator memory;
///     c10::SetAllocator(c10::DeviceType::CPU, &memory);
///
/// Thread-safe.
class torch_allocator final : public c10::Allocator {
public:
	/// Tensors on the current device's node, or where `memory` says.
	explicit torch_allocator(const ready_heap &memory = ready_heap()) noexcept : memory_(memory) {}

#if TORCH_VERSION_MAJOR > 2 || (TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR >= 3)
	/// Allocate the memory of a tensor.
	c10::DataPtr allocate(std::size_t bytes) override { return block(bytes); }
	/// Copy between tensors.
	void copy_data(void *to, const void *from, std::size_t bytes) const override { default_copy_data(to, from, bytes); }
#else
	/// Allocate the memory of a tensor.
	c10::DataPtr allocate(std::size_t bytes) const override { return block(bytes); }
#endif
	/// The function that frees a tensor's memory.
	c10::DeleterFnPtr raw_deleter() const override { return free_block; }

private:
	/// As that of libtorch's own.
	static constexpr std::size_t alignment = 64;

	[[nodiscard]] c10::DataPtr block(std::size_t bytes) const {
		void *const start = bytes == 0 ? nullptr : memory_.allocate(bytes, alignment);
		return {start, start, free_block, c10::Device(c10::DeviceType::CPU)};
	}

	static void free_block(void *start) { ready_heap(-1).deallocate(start, gmem_malloc_usable_size(start)); }

	ready_heap memory_;
};

} // namespace gmem::engines
