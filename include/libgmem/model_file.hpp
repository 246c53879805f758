// SPDX-License-Identifier: Apache-2.0
/// @file
/// gmem::model_file and gmem::model_files: files of weights whose bytes come by prefetch and go by eager free.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <system_error>
#include <type_traits>
#include <utility>
#include <vector>

#include <libgmem/error.hpp>
#include <libgmem/prefetch_report.hpp>
#include <libgmem/range.hpp>

namespace gmem {

/// How the bytes of a file get into memory.
enum class model_mode : std::uint8_t {
	automatic = GMEM_MODEL_AUTOMATIC,  ///< the best way; model_file::mode() tells which
	shared = GMEM_MODEL_SHARED,        ///< the pages of the page cache are mapped
	private_pages = GMEM_MODEL_PRIVATE ///< private huge pages are filled by reads past the page cache
};

/// Whose private memory is.
enum class model_copy : std::uint8_t {
	own = GMEM_COPY_OWN,       ///< this process's
	common = GMEM_COPY_COMMON, ///< this process's, and that of others which join: model_file::copy_descriptor()
	join = GMEM_COPY_JOIN      ///< that of another process
};

/// How to open a file; the defaults are those of gmemModelOpen().
struct model_options {
	/// How the bytes get into memory.
	model_mode mode = model_mode::automatic;
	/// Huge pages for private memory, where a prefetch asks for none; as_is prefers them.
	huge_pages huge = huge_pages::as_is;
	/// Whose the private memory is.
	model_copy copy = model_copy::own;
	/// For model_copy::join: a descriptor of the copy, which may be closed afterwards.
	int copy_descriptor = -1;
};

/// A part of a model file. Does not own it. It can be prefetched, and freed: its bytes come back from the file.
class model_range {
public:
	/// An empty range.
	constexpr model_range() noexcept = default;
	/// A range that gmemModelRange() gave.
	explicit model_range(gmemRange_t part) noexcept
		: data_(reinterpret_cast<std::byte *>(part.addr)), // NOLINT(performance-no-int-to-ptr): C gives addresses so
		  size_bytes_(part.size) {}

	/// The first byte.
	[[nodiscard]] constexpr const std::byte *data() const noexcept { return data_; }
	/// Number of bytes.
	[[nodiscard]] constexpr std::size_t size_bytes() const noexcept { return size_bytes_; }
	/// For prefetch().
	operator range() const noexcept { return {data_, size_bytes_}; } // NOLINT(*-explicit-*)
	/// For free_eager(). The memory itself is read-only.
	operator mutable_range() const noexcept { return {data_, size_bytes_}; } // NOLINT(*-explicit-*)

private:
	std::byte *data_ = nullptr;
	std::size_t size_bytes_ = 0;
};

/// @cond PRIVATE
namespace detail {
template <>
struct is_view<model_range> : std::true_type {};
} // namespace detail
/// @endcond

/// Owns an open file of weights. Its bytes are read-only memory: prefetch() brings them, free_eager() drops them, any
/// number of times. Movable, not copyable.
///
///     gmem::model_file file("model.safetensors");
///     gmem::prefetch(file.range(offset, bytes), gmem::device::numa_id());
///     use(file.data() + offset);
///     gmem::free_eager(file.range(offset, bytes));
class model_file {
public:
	/// No file.
	model_file() noexcept = default;
#if LIBGMEM_HAS_EXCEPTIONS
	/// Open a file. Nothing is read, but for 2 MiB once for each file system in the automatic mode (gmemModelOpen()).
	/// @throws error as gmemModelOpen()
	explicit model_file(const char *path, model_options options = {}) { detail::throw_if_failed(start(path, options)); }
	/// Open a file. Nothing is read, but for 2 MiB once for each file system in the automatic mode (gmemModelOpen()).
	/// @throws error as gmemModelOpen()
	explicit model_file(const std::string &path, model_options options = {}) : model_file(path.c_str(), options) {}
#endif
	/// Open a file. A failure gives no file and is in `ec`, which is cleared on success.
	[[nodiscard]] static model_file open(const char *path, std::error_code &ec, model_options options = {}) noexcept {
		model_file made;
		ec = detail::to_error_code(made.start(path, options));
		return made;
	}
	/// Take over what `other` owns.
	model_file(model_file &&other) noexcept
		: handle_(std::exchange(other.handle_, nullptr)), bytes_(std::exchange(other.bytes_, {})) {}
	/// Take over what `other` owns, and close what this one owned.
	model_file &operator=(model_file &&other) noexcept {
		model_file moved(std::move(other));
		std::swap(handle_, moved.handle_);
		std::swap(bytes_, moved.bytes_);
		return *this;
	}
	model_file(const model_file &) = delete;
	model_file &operator=(const model_file &) = delete;
	/// Close the file. Synchronize streams with work on it first.
	~model_file() {
		if (handle_ != nullptr) {
			gmemModelClose(handle_);
		}
	}

	/// The file's first byte; nullptr if it is empty.
	[[nodiscard]] const std::byte *data() const noexcept { return bytes_.data(); }
	/// Bytes in the file when it was opened.
	[[nodiscard]] std::size_t size() const noexcept { return bytes_.size_bytes(); }
	/// Whether there are no bytes.
	[[nodiscard]] bool empty() const noexcept { return size() == 0; }

	/// All bytes.
	[[nodiscard]] model_range range() const noexcept { return bytes_; }
#if LIBGMEM_HAS_EXCEPTIONS
	/// `length` bytes from `offset` on.
	/// @throws error: EINVAL if they exceed the file
	[[nodiscard]] model_range range(std::size_t offset, std::size_t length) const {
		gmemRange_t part{};
		detail::throw_if_failed(gmemModelRange(handle_, offset, length, &part));
		return model_range(part);
	}
#endif
	/// `length` bytes from `offset` on; a failure gives an empty range and is in `ec`, which is cleared on success.
	[[nodiscard]] model_range range(std::size_t offset, std::size_t length, std::error_code &ec) const noexcept {
		gmemRange_t part{};
		ec = detail::to_error_code(gmemModelRange(handle_, offset, length, &part));
		return model_range(part);
	}

#if LIBGMEM_HAS_EXCEPTIONS
	/// A descriptor with which other processes can join the copy; the caller closes it.
	/// @throws error as gmemModelCopyDescriptor()
	[[nodiscard]] int copy_descriptor() const {
		const int result = gmemModelCopyDescriptor(handle_);
		detail::throw_if_failed(result < 0 ? result : 0);
		return result;
	}
#endif
	/// A descriptor with which other processes can join the copy; a failure gives -1 and is in `ec`, which is cleared
	/// on success.
	[[nodiscard]] int copy_descriptor(std::error_code &ec) const noexcept {
		const int result = gmemModelCopyDescriptor(handle_);
		ec = detail::to_error_code(result < 0 ? result : 0);
		return result < 0 ? -1 : result;
	}

	/// How the bytes get into memory; never automatic.
	[[nodiscard]] model_mode mode() const noexcept { return static_cast<model_mode>(info().mode); }
	/// Why it is this mode.
	[[nodiscard]] const char *reason() const noexcept { return info().reason; }
	/// Bytes in private memory now, in whole GMEM pages.
	[[nodiscard]] std::size_t loaded_bytes() const noexcept { return info().loaded; }
	/// Bytes that were read into private memory so far.
	[[nodiscard]] std::size_t read_bytes() const noexcept { return info().read; }
	/// All that is known, as gmemModelGetInfo(); zeros and "" without a file.
	[[nodiscard]] gmemModelInfo_t info() const noexcept {
		gmemModelInfo_t all{};
		all.size = sizeof all;
		all.reason = "";
		if (handle_ != nullptr) {
			// A handle of this object is known.
			(void)gmemModelGetInfo(handle_, &all);
		}
		return all;
	}

	/// The handle for C functions.
	[[nodiscard]] gmemModel_t get() const noexcept { return handle_; }

private:
	[[nodiscard]] int start(const char *path, model_options options) noexcept {
		gmemModelOptions_t how{};
		how.size = sizeof how;
		how.mode = static_cast<int>(options.mode);
		how.huge = static_cast<int>(options.huge);
		how.copy = static_cast<int>(options.copy);
		how.copy_descriptor = options.copy_descriptor;
		const int result = gmemModelOpen(path, &how, &handle_);
		if (result == 0) {
			const gmemModelInfo_t all = info();
			bytes_ = model_range({reinterpret_cast<std::uintptr_t>(all.data), all.bytes});
		}
		return result;
	}

	gmemModel_t handle_ = nullptr;
	model_range bytes_{};
};

/// The files of a model in several parts (shards), in order, addressed as one.
class model_files {
public:
	/// Ranges of one or several files: a batch for prefetch() and free_eager().
	using range_list = std::vector<model_range>;

#if LIBGMEM_HAS_EXCEPTIONS
	/// Append a file.
	/// @throws std::bad_alloc
	void add(model_file &&file) {
		files_.push_back(std::move(file));
		size_ += files_.back().size();
	}
	/// `length` bytes from `offset` on, counted from the first byte of the first file.
	/// @throws error: EINVAL if they exceed the files; std::bad_alloc
	[[nodiscard]] range_list range(std::size_t offset, std::size_t length) const {
		range_list parts;
		if (!collect(offset, length, parts)) {
			throw error(-EINVAL);
		}
		return parts;
	}
#endif
	/// Append a file; a failure leaves it closed and is in `ec`, which is cleared on success.
	void add(model_file &&file, std::error_code &ec) noexcept {
		ec = detail::to_error_code(detail::may_allocate(2 * (files_.size() + 1) * sizeof(model_file)) ? 0 : -ENOMEM);
		if (!ec) {
			model_file moved(std::move(file));
			detail::without_bad_alloc(ec, [&] {
				files_.push_back(std::move(moved));
				size_ += files_.back().size();
			});
		}
	}
	/// `length` bytes from `offset` on; a failure gives no ranges and is in `ec`, which is cleared on success.
	[[nodiscard]] range_list range(std::size_t offset, std::size_t length, std::error_code &ec) const noexcept {
		range_list parts;
		ec = detail::to_error_code(detail::may_allocate(2 * (files_.size() + 1) * sizeof(model_range)) ? 0 : -ENOMEM);
		if (!ec) {
			detail::without_bad_alloc(
				ec, [&] { ec = detail::to_error_code(collect(offset, length, parts) ? 0 : -EINVAL); });
		}
		return parts;
	}

	/// Number of files.
	[[nodiscard]] std::size_t count() const noexcept { return files_.size(); }
	/// Bytes in all files.
	[[nodiscard]] std::size_t size() const noexcept { return size_; }
	/// File i, which is less than count().
	[[nodiscard]] const model_file &operator[](std::size_t i) const noexcept { return files_[i]; }

private:
	/// False if the bytes exceed the files.
	[[nodiscard]] bool collect(std::size_t offset, std::size_t length, range_list &parts) const {
		if (offset > size_ || length > size_ - offset) {
			return false;
		}
		for (const model_file &file : files_) {
			if (offset < file.size() && length > 0) {
				const std::size_t here = std::min(length, file.size() - offset);
				parts.push_back(model_range({reinterpret_cast<std::uintptr_t>(file.data() + offset), here}));
				length -= here;
				offset = 0;
			} else {
				offset -= std::min(offset, file.size());
			}
		}
		return true;
	}

	std::vector<model_file> files_{};
	std::size_t size_ = 0;
};

} // namespace gmem
