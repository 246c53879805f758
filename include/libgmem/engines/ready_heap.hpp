// SPDX-License-Identifier: Apache-2.0
/// @file
/// gmem::engines::ready_heap: blocks whose first use takes no page fault, for engines that take an allocator.
#pragma once

#include <cstddef>
#include <system_error>
#include <utility>

#include <libgmem/device.hpp>
#include <libgmem/free_eager.hpp>
#include <libgmem/heap.hpp>
#include <libgmem/prefetch.hpp>

namespace gmem::engines {

/// When a large block's memory goes back to the kernel.
enum class release : unsigned char {
	by_heap, ///< when the heap no longer needs it (GMEM_HEAP_KEEP, half a minute): for activations and scratch memory
	on_free  ///< when the block is freed: for weights
};

/// gmem::heap with prefetch: a block of at least one GMEM page is brought to a node, on huge pages where there are
/// some, before allocate() returns it. A prefetch that fails leaves an ordinary block, whose first use takes page
/// faults. Equal if the nodes are. Can be copied. Thread-safe.
class ready_heap {
public:
	/// Blocks on the current device's node; on no node in particular if it has none.
	explicit ready_heap(release when = release::by_heap) noexcept : when_(when) {
		std::error_code none;
		const int found = device::numa_id(none);
		hnid_ = none ? -1 : found;
	}
	/// Blocks on a node.
	/// @param hnid as for gmem::prefetch()
	/// @param when when their memory goes back to the kernel
	explicit ready_heap(int hnid, release when = release::by_heap) noexcept : hnid_(hnid), when_(when) {}

#if LIBGMEM_HAS_EXCEPTIONS
	/// Allocate a block.
	/// @throws as gmem::heap::allocate()
	[[nodiscard]] void *allocate(std::size_t bytes, std::size_t alignment = heap::default_alignment) const {
		return ready(heap().allocate(bytes, alignment), bytes);
	}
#else
	/// Allocate a block; nullptr if that fails.
	[[nodiscard]] void *allocate(std::size_t bytes, std::size_t alignment = heap::default_alignment) const noexcept {
		return ready(heap().allocate(bytes, alignment), bytes);
	}
#endif
	/// Allocate a block. A failure gives nullptr and is in `ec`, which is cleared on success.
	[[nodiscard]] void *allocate(std::size_t bytes, std::size_t alignment, std::error_code &ec) const noexcept {
		return ready(heap().allocate(bytes, alignment, ec), bytes);
	}

	/// Free a block of allocate(), or nothing for nullptr.
	void deallocate(void *memory, std::size_t bytes, std::size_t = heap::default_alignment) const noexcept {
		if (when_ == release::on_free && memory != nullptr) {
			std::error_code ignored;
			free_eager({memory, bytes}, nullptr, ignored);
		}
		heap().deallocate(memory, bytes);
	}

	/// Prefetch a block of at least one GMEM page; returns it.
	void *ready(void *memory, std::size_t bytes) const noexcept {
		if (memory != nullptr && hnid_ >= 0 && bytes >= page_size()) {
			prefetch_options how;
			how.huge = huge_pages::prefer;
			std::error_code ignored;
			prefetch(memory, bytes, hnid_, nullptr, ignored, std::move(how));
		}
		return memory;
	}

	/// The node of the blocks; -1: none in particular.
	[[nodiscard]] int hnid() const noexcept { return hnid_; }
	/// Whether both have the same node. Blocks may be freed by any other.
	[[nodiscard]] bool is_equal(const ready_heap &other) const noexcept { return hnid_ == other.hnid_; }

	/// As is_equal().
	friend bool operator==(const ready_heap &a, const ready_heap &b) noexcept { return a.is_equal(b); }
	/// Not equal.
	friend bool operator!=(const ready_heap &a, const ready_heap &b) noexcept { return !a.is_equal(b); }

private:
	int hnid_ = -1;
	release when_;
};

} // namespace gmem::engines
