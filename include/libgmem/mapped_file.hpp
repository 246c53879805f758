// SPDX-License-Identifier: Apache-2.0
/// @file
/// gmem::mappings_of: where a file lies in the address space of this process. gmem::free_eager_file: return its memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <system_error>
#include <vector>

#include <libgmem.h>
#include <libgmem/error.hpp>
#include <libgmem/range.hpp>
#include <libgmem/stream.hpp>

namespace gmem {

/// A mapping of a file. Does not own it.
class file_mapping {
public:
	/// The mappings that gmemMappingsOf() found.
	explicit file_mapping(const gmemMapping_t &found) noexcept : found_(found) {}

	/// Its bytes.
	operator range() const noexcept { return {data(), size_bytes()}; } // NOLINT(*-explicit-*)
	/// The first byte.
	[[nodiscard]] const void *data() const noexcept {
		return reinterpret_cast<const void *>(found_.addr); // NOLINT(performance-no-int-to-ptr)
	}
	/// Number of bytes.
	[[nodiscard]] std::size_t size_bytes() const noexcept { return found_.size; }
	/// Where the first byte is in the file.
	[[nodiscard]] std::uint64_t offset() const noexcept { return found_.offset; }
	/// Whether the program may write to it.
	[[nodiscard]] bool is_writable() const noexcept { return found_.writable != 0; }
	/// Whether writing changes the file.
	[[nodiscard]] bool is_shared() const noexcept { return found_.shared != 0; }

private:
	gmemMapping_t found_;
};

namespace detail {

template <>
struct is_view<file_mapping> : std::true_type {};

/// Fill `found`; returns a negative errno, or 0.
[[nodiscard]] inline int find_mappings(const char *path, std::vector<file_mapping> &found) {
	std::vector<gmemMapping_t> in_c;
	for (;;) {
		const int count = gmemMappingsOf(path, in_c.data(), in_c.size());
		if (count < 0) {
			return count;
		}
		const auto wanted = static_cast<std::size_t>(count);
		if (wanted <= in_c.size()) {
			in_c.resize(wanted);
			break;
		}
		// More may come until the next call.
		if (!may_allocate((wanted + 8) * sizeof(gmemMapping_t))) {
			return -ENOMEM;
		}
		in_c.resize(wanted + 8);
	}
	if (!may_allocate(in_c.size() * sizeof(file_mapping))) {
		return -ENOMEM;
	}
	found = std::vector<file_mapping>(in_c.begin(), in_c.end());
	return 0;
}

} // namespace detail

#if LIBGMEM_HAS_EXCEPTIONS
/// Find where a file lies in memory, such as a model that an engine has mapped:
///
///     gmem::prefetch(gmem::mappings_of("model.gguf"), node);
///
/// @throws error as gmemMappingsOf(); std::bad_alloc
[[nodiscard]] inline std::vector<file_mapping> mappings_of(const char *path) {
	std::vector<file_mapping> found;
	detail::throw_if_failed(detail::find_mappings(path, found));
	return found;
}
#endif

/// Find a file as above. A failure gives none and is in `ec`, which is cleared on success.
[[nodiscard]] inline std::vector<file_mapping> mappings_of(const char *path, std::error_code &ec) noexcept {
	std::vector<file_mapping> found;
	ec.clear();
	detail::without_bad_alloc(ec, [&] { ec = detail::to_error_code(detail::find_mappings(path, found)); });
	return found;
}

#if LIBGMEM_HAS_EXCEPTIONS
/// Release the pages of a file that is mapped in `what`, from this process and from the page cache:
///
///     for (const gmem::file_mapping &part : gmem::mappings_of("model.gguf")) {
///         gmem::free_eager_file(part, descriptor);
///     }
///
/// @param what       memory into which the file is mapped; whole GMEM pages of it are released
/// @param descriptor of the file, open for reading
/// @param order      the stream, if any
/// @throws error as gmemFreeEagerFile()
inline void free_eager_file(range what, int descriptor, stream_ref order = {}) {
	detail::throw_if_failed(gmemFreeEagerFile(what.address(), what.size_bytes(), descriptor, order.get()));
}
#endif

/// Release the pages of a mapped file without exceptions; a failure is in `ec`, which is cleared on success.
inline void free_eager_file(range what, int descriptor, stream_ref order, std::error_code &ec) noexcept {
	ec = detail::to_error_code(gmemFreeEagerFile(what.address(), what.size_bytes(), descriptor, order.get()));
}

} // namespace gmem
