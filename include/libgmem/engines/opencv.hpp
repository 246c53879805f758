// SPDX-License-Identifier: Apache-2.0
/// @file
/// gmem::engines::opencv_allocator: matrices of OpenCV in memory of libgmem. Needs OpenCV's headers and library.
/// docs/engines/opencv.md has an example.
#pragma once

#include <cstddef>
#include <system_error>

#include <opencv2/core.hpp>

#include <libgmem/engines/ready_heap.hpp>
#include <libgmem/range.hpp>

namespace gmem::engines {

/// The bytes of a matrix whose rows lie side by side (cv::Mat::isContinuous()); an empty range for any other.
[[nodiscard]] inline mutable_range range_of(cv::Mat &matrix) {
	return matrix.isContinuous() ? mutable_range(matrix.data, matrix.total() * matrix.elemSize()) : mutable_range();
}

/// An allocator for cv::Mat, whose large matrices take no page fault when they are filled: set it for one matrix
/// (cv::Mat::allocator) or for all (cv::Mat::setDefaultAllocator()), also those inside cv::dnn. It must outlive its
/// matrices. Thread-safe.
class opencv_allocator final : public cv::MatAllocator {
public:
	/// Matrices on the current device's node, or where `memory` says.
	explicit opencv_allocator(const ready_heap &memory = ready_heap()) : memory_(memory) {}

	/// Allocate a matrix, or wrap `data` if it is not nullptr.
	cv::UMatData *allocate(int dims, const int *sizes, int type, void *data, std::size_t *step, cv::AccessFlag,
		cv::UMatUsageFlags) const override {
		std::size_t bytes = CV_ELEM_SIZE(type);
		for (int i = dims - 1; i >= 0; --i) {
			if (step != nullptr) {
				if (data != nullptr && step[i] != automatic_step) {
					CV_Assert(bytes <= step[i]);
					bytes = step[i];
				} else {
					step[i] = bytes;
				}
			}
			bytes *= static_cast<std::size_t>(sizes[i]);
		}
		auto *const block = static_cast<unsigned char *>(data != nullptr ? data : allocate_block(bytes));
		auto *const made = new cv::UMatData(this);
		made->data = made->origdata = block;
		made->size = bytes;
		if (data != nullptr) {
			made->flags |= cv::UMatData::USER_ALLOCATED;
		}
		return made;
	}

	/// There is no other memory to allocate for a matrix that exists.
	bool allocate(cv::UMatData *matrix, cv::AccessFlag, cv::UMatUsageFlags) const override { return matrix != nullptr; }

	/// Free a matrix that nothing refers to.
	void deallocate(cv::UMatData *matrix) const override {
		if (matrix == nullptr) {
			return;
		}
		CV_Assert(matrix->urefcount == 0 && matrix->refcount == 0);
		if ((matrix->flags & cv::UMatData::USER_ALLOCATED) == 0) {
			memory_.deallocate(matrix->origdata, matrix->size, alignment);
		}
		delete matrix;
	}

private:
	/// CV_AUTOSTEP of OpenCV's C interface.
	static constexpr std::size_t automatic_step = 0x7fffffff;
	/// As cv::fastMalloc().
	static constexpr std::size_t alignment = 64;

	/// OpenCV takes a failure as its own exception.
	[[nodiscard]] void *allocate_block(std::size_t bytes) const {
		std::error_code ec;
		void *const block = memory_.allocate(bytes, alignment, ec);
		if (block == nullptr) {
			CV_Error_(cv::Error::StsNoMem, ("gmem::engines::opencv_allocator: no memory for %zu bytes", bytes));
		}
		return block;
	}

	ready_heap memory_;
};

} // namespace gmem::engines
