// SPDX-License-Identifier: Apache-2.0
/// @file
/// gmem::engines::executorch_loader and executorch_allocator: programs of ExecuTorch in memory of libgmem. Needs
/// ExecuTorch's headers and library; works without exceptions and RTTI. docs/engines/executorch.md has an example.
#pragma once

#include <cerrno>
#include <cstddef>
#include <utility>
#include <vector>

#include <executorch/runtime/core/data_loader.h>
#include <executorch/runtime/core/memory_allocator.h>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <libgmem/engines/ready_heap.hpp>

namespace gmem::engines {

/// Loads a program from a file. Segments, such as the weights, are read into blocks that are on a node already, and go
/// back to the kernel when ExecuTorch frees them. Thread-safe. Movable, not copyable.
class executorch_loader final : public executorch::runtime::DataLoader {
public:
	/// Open a file.
	/// @param path   of a .pte or .ptd file
	/// @param memory where its segments go
	[[nodiscard]] static executorch::runtime::Result<executorch_loader> from(
		const char *path, const ready_heap &memory = ready_heap(release::on_free)) noexcept {
		const int file = path == nullptr ? -1 : open(path, O_RDONLY | O_CLOEXEC);
		struct stat about{};
		if (file < 0 || fstat(file, &about) != 0) {
			if (file >= 0) {
				close(file);
			}
			return executorch::runtime::Error::AccessFailed;
		}
		return executorch_loader(file, static_cast<std::size_t>(about.st_size), memory);
	}
	/// Take over the file of `other`.
	executorch_loader(executorch_loader &&other) noexcept
		: file_(std::exchange(other.file_, -1)), bytes_(other.bytes_), memory_(other.memory_) {}
	executorch_loader &operator=(executorch_loader &&) = delete;
	executorch_loader(const executorch_loader &) = delete;
	executorch_loader &operator=(const executorch_loader &) = delete;
	~executorch_loader() override {
		if (file_ >= 0) {
			close(file_);
		}
	}

	/// Read a part of the file into a block of its own.
	executorch::runtime::Result<executorch::runtime::FreeableBuffer> load(
		std::size_t offset, std::size_t size, const SegmentInfo &about) const override {
		std::error_code ec;
		void *const block = memory_.allocate(size, alignment, ec);
		if (block == nullptr) {
			return executorch::runtime::Error::MemoryAllocationFailed;
		}
		const executorch::runtime::Error failure = load_into(offset, size, about, block);
		if (failure != executorch::runtime::Error::Ok) {
			memory_.deallocate(block, size, alignment);
			return failure;
		}
		return executorch::runtime::FreeableBuffer(block, size, free_block);
	}

	/// Read a part of the file into memory of the caller's.
	executorch::runtime::Error load_into(
		std::size_t offset, std::size_t size, const SegmentInfo &, void *buffer) const override {
		if (buffer == nullptr || offset > bytes_ || size > bytes_ - offset) {
			return executorch::runtime::Error::InvalidArgument;
		}
		auto *at = static_cast<char *>(buffer);
		while (size > 0) {
			const ssize_t got = pread(file_, at, size, static_cast<off_t>(offset));
			if (got < 0 && errno == EINTR) {
				continue;
			}
			if (got <= 0) {
				return executorch::runtime::Error::AccessFailed;
			}
			at += got;
			offset += static_cast<std::size_t>(got);
			size -= static_cast<std::size_t>(got);
		}
		return executorch::runtime::Error::Ok;
	}

	/// Bytes in the file.
	executorch::runtime::Result<std::size_t> size() const override { return bytes_; }

private:
	/// For tensors of any type, on a cache line.
	static constexpr std::size_t alignment = 64;

	executorch_loader(int file, std::size_t bytes, const ready_heap &memory) noexcept
		: file_(file), bytes_(bytes), memory_(memory) {}

	/// The loader may be gone by now.
	static void free_block(void *, void *block, std::size_t size) noexcept {
		ready_heap(-1, release::on_free).deallocate(block, size, alignment);
	}

	int file_;
	std::size_t bytes_;
	ready_heap memory_;
};

/// Memory for methods and for scratch tensors, passed to a Module or a MemoryManager. reset() frees all blocks, and so
/// does the destructor. For one thread at a time.
class executorch_allocator final : public executorch::runtime::MemoryAllocator {
public:
	/// Blocks on the current device's node, or where `memory` says.
	explicit executorch_allocator(const ready_heap &memory = ready_heap()) noexcept
		: MemoryAllocator(0, nullptr), memory_(memory) {}
	executorch_allocator(const executorch_allocator &) = delete;
	executorch_allocator &operator=(const executorch_allocator &) = delete;
	~executorch_allocator() override { free_all(); }

	/// Allocate a block; nullptr if there is no memory, or `alignment` is no power of two.
	void *allocate(std::size_t size, std::size_t alignment = kDefaultAlignment) override {
		if (blocks_.size() == blocks_.capacity() && !detail::may_allocate(2 * sizeof(block) * (blocks_.size() + 1))) {
			return nullptr;
		}
		std::error_code ec;
		void *const start = memory_.allocate(size, alignment, ec);
		if (start != nullptr) {
			blocks_.push_back({start, size});
		}
		return start;
	}

	/// Free all blocks.
	void reset() override { free_all(); }

private:
	struct block {
		void *start;
		std::size_t bytes;
	};

	void free_all() noexcept {
		for (const block &each : blocks_) {
			memory_.deallocate(each.start, each.bytes);
		}
		blocks_.clear();
	}

	ready_heap memory_;
	std::vector<block> blocks_{};
};

} // namespace gmem::engines
