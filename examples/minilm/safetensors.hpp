// SPDX-License-Identifier: Apache-2.0
/// A .safetensors file, opened as a gmem::model_file: its header is parsed once and checked in full, and its tensors
/// are ranges of memory that can be prefetched.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include <libgmem.hpp>

namespace minilm {

class safetensors {
public:
	struct tensor {
		std::string dtype;
		std::vector<std::uint64_t> shape;
		std::uint64_t begin = 0, end = 0; ///< bytes in the data section
	};

	/// @throws input_error when the file is not there, or not a whole and sound safetensors file
	explicit safetensors(std::string path);

	/// @return the position in the file of a float tensor of this shape
	/// @throws input_error when there is none
	[[nodiscard]] std::uint64_t position(std::string_view name, const std::vector<std::uint64_t> &shape) const;

	/// @return `count` floats at a position in the file
	[[nodiscard]] gmem::model_range floats(std::uint64_t position, std::size_t count) const {
		return file_.range(position, count * sizeof(float));
	}

private:
	void parse_header();
	[[noreturn]] void fail(std::string what) const;

	std::string path_;
	gmem::model_file file_;
	std::uint64_t data_begin_ = 0;
	std::map<std::string, tensor, std::less<>> tensors_;
};

} // namespace minilm
