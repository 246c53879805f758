// SPDX-License-Identifier: Apache-2.0
/// @file
/// gmem::engines::ggml_memory: tensors of ggml and llama.cpp in memory of libgmem. Needs ggml's headers and library;
/// uses its public functions only. docs/engines/ggml.md has an example.
#pragma once

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <string>
#include <system_error>
#include <utility>

#include <ggml-alloc.h>
#include <ggml-backend.h>
#include <ggml.h>

#include <libgmem/buffer.hpp>
#include <libgmem/free_eager.hpp>
#include <libgmem/prefetch.hpp>
#include <libgmem/range.hpp>
#include <libgmem/stream.hpp>

namespace gmem::engines {

/// The bytes of a tensor, for prefetch() and free_eager().
[[nodiscard]] inline mutable_range range_of(const ggml_tensor *tensor) noexcept {
	return {tensor->data, ggml_nbytes(tensor)};
}

/// Owns the memory of tensors: weights, or a cache of keys and values. It starts on a GMEM page, so with base pages of
/// 4 KiB all of it can be huge pages. It belongs to ggml's CPU backend, or to a device that computes with the host's
/// memory (the capability buffer_from_host_ptr). The tensors must not be used when it is gone. Movable, not copyable.
class ggml_memory {
public:
	/// No memory.
	ggml_memory() noexcept = default;

#if LIBGMEM_HAS_EXCEPTIONS
	/// Allocate all tensors of a context that have no memory yet, as ggml_backend_alloc_ctx_tensors() does, and bring
	/// the memory to a node: loading and computing then take no page fault.
	/// @param context made with no_alloc
	/// @param hnid    where the tensors go, as for gmem::prefetch()
	/// @param order   the stream that prefetches, if any
	/// @param how     options of the prefetch; huge pages unless you choose otherwise
	/// @throws error as gmem::prefetch(); out_of_memory
	ggml_memory(ggml_context *context, int hnid, stream_ref order = {}, prefetch_options how = huge())
		: ggml_memory(context, nullptr, hnid, order, std::move(how)) {}
	/// As above, for a device of ggml (ggml_backend_dev_buffer_from_host_ptr()); nullptr: the CPU backend.
	/// @throws as above; std::system_error: ENOTSUP if the device does not take the host's memory
	ggml_memory(ggml_context *context, ggml_backend_dev_t device, int hnid, stream_ref order = {},
		prefetch_options how = huge())
		: ggml_memory() { // so that the destructor runs after a failure
		const int result = allocate(context, device);
		if (result == -ENOTSUP) {
			throw std::system_error(std::make_error_code(std::errc::not_supported),
				std::string("gmem::engines::ggml_memory: the device ") + ggml_backend_dev_name(device) +
					" takes no memory of the host; pass one with the capability buffer_from_host_ptr, or none");
		}
		if (result < 0) {
			throw out_of_memory(sizes_of(context, buffer_type(device)).all);
		}
		gmem::prefetch(memory_, hnid, order, std::move(how));
		place(context);
	}
#endif
	/// Allocate without exceptions. A failure gives no memory and is in `ec`, which is cleared on success.
	[[nodiscard]] static ggml_memory create(ggml_context *context, int hnid, stream_ref order, std::error_code &ec,
		prefetch_options how = huge()) noexcept {
		return create(context, nullptr, hnid, order, ec, std::move(how));
	}
	/// As above, for a device of ggml; ENOTSUP if it does not take the host's memory.
	[[nodiscard]] static ggml_memory create(ggml_context *context, ggml_backend_dev_t device, int hnid,
		stream_ref order, std::error_code &ec, prefetch_options how = huge()) noexcept {
		ggml_memory made;
		ec = detail::to_error_code(made.allocate(context, device));
		if (!ec) {
			gmem::prefetch(made.memory_, hnid, order, ec, std::move(how));
		}
		if (ec) {
			return {};
		}
		made.place(context);
		return made;
	}

	/// Take over what `other` owns.
	ggml_memory(ggml_memory &&other) noexcept
		: memory_(std::move(other.memory_)), buffer_(std::exchange(other.buffer_, nullptr)) {}
	/// Take over what `other` owns, and release what this one owned.
	ggml_memory &operator=(ggml_memory &&other) noexcept {
		ggml_memory moved(std::move(other));
		memory_.swap(moved.memory_);
		std::swap(buffer_, moved.buffer_);
		return *this;
	}
	ggml_memory(const ggml_memory &) = delete;
	ggml_memory &operator=(const ggml_memory &) = delete;
	~ggml_memory() {
		if (buffer_ != nullptr) {
			ggml_backend_buffer_free(buffer_);
		}
	}

	/// ggml's view of the memory; nullptr without any. For ggml_backend_buffer_set_usage().
	[[nodiscard]] ggml_backend_buffer_t buffer() const noexcept { return buffer_; }
	/// All of the memory, for prefetch() and free_eager().
	[[nodiscard]] mutable_range bytes() noexcept { return memory_; }
	/// Number of bytes.
	[[nodiscard]] std::size_t size() const noexcept { return memory_.size(); }

	/// Options with GMEM_HUGE_PREFER.
	[[nodiscard]] static prefetch_options huge() noexcept {
		prefetch_options options;
		options.huge = huge_pages::prefer;
		return options;
	}

private:
	/// Tensors without memory. A view lies in the tensor that it views.
	[[nodiscard]] static bool needs_memory(const ggml_tensor *tensor) noexcept {
		return tensor->data == nullptr && tensor->view_src == nullptr;
	}

	[[nodiscard]] static ggml_backend_buffer_type_t buffer_type(ggml_backend_dev_t device) noexcept {
		return device == nullptr ? ggml_backend_cpu_buffer_type() : ggml_backend_dev_buffer_type(device);
	}

	/// Bytes of all tensors without memory, with padding, and of the largest.
	struct sizes {
		std::size_t all = 0, largest = 0;
	};
	[[nodiscard]] static sizes sizes_of(ggml_context *context, ggml_backend_buffer_type_t type) noexcept {
		const std::size_t alignment = ggml_backend_buft_get_alignment(type);
		sizes found;
		for (ggml_tensor *each = ggml_get_first_tensor(context); each != nullptr;
			each = ggml_get_next_tensor(context, each)) {
			if (needs_memory(each)) {
				const std::size_t bytes = ggml_backend_buft_get_alloc_size(type, each);
				found.all += (bytes + alignment - 1) / alignment * alignment;
				found.largest = std::max(found.largest, bytes);
			}
		}
		return found;
	}

	/// Whether a device computes with the host's memory.
	[[nodiscard]] static bool takes_host_memory(ggml_backend_dev_t device) noexcept {
		ggml_backend_dev_props properties{};
		ggml_backend_dev_get_props(device, &properties);
		return properties.caps.buffer_from_host_ptr;
	}

	[[nodiscard]] int allocate(ggml_context *context, ggml_backend_dev_t device) noexcept {
		if (device != nullptr && !takes_host_memory(device)) {
			return -ENOTSUP;
		}
		const ggml_backend_buffer_type_t type = buffer_type(device);
		const sizes needed = sizes_of(context, type);
		std::error_code ec;
		memory_ = gmem::buffer<std::byte>::create(needed.all, ec, ggml_backend_buft_get_alignment(type));
		if (ec || memory_.empty()) {
			return -ec.value();
		}
		buffer_ = device == nullptr
					  ? ggml_backend_cpu_buffer_from_ptr(memory_.data(), memory_.size())
					  : ggml_backend_dev_buffer_from_host_ptr(device, memory_.data(), memory_.size(), needed.largest);
		return buffer_ == nullptr ? -ENOMEM : 0;
	}

	/// Give each tensor its place. Their sizes were added up before, so it cannot fail.
	void place(ggml_context *context) noexcept {
		if (buffer_ == nullptr) {
			return;
		}
		ggml_tallocr places = ggml_tallocr_new(buffer_);
		for (ggml_tensor *each = ggml_get_first_tensor(context); each != nullptr;
			each = ggml_get_next_tensor(context, each)) {
			if (needs_memory(each)) {
				static_cast<void>(ggml_tallocr_alloc(&places, each));
			} else if (each->buffer == nullptr && each->view_src != nullptr) {
				static_cast<void>(ggml_backend_view_init(each));
			}
		}
	}

	gmem::buffer<std::byte> memory_{};
	ggml_backend_buffer_t buffer_ = nullptr;
};

} // namespace gmem::engines
