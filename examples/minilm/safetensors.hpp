// SPDX-License-Identifier: Apache-2.0
/// A .safetensors file: its header is parsed once and checked in full, its tensors are read on
/// demand, so that weights go from the page cache straight to where they are used.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

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
	safetensors(const safetensors &) = delete;
	safetensors &operator=(const safetensors &) = delete;
	~safetensors();

	/// @return the position in the file of a float tensor of this shape
	/// @throws input_error when there is none
	[[nodiscard]] std::uint64_t position(std::string_view name, const std::vector<std::uint64_t> &shape) const;

	/// Read `count` floats at a position in the file.
	void read(std::uint64_t position, float *to, std::size_t count) const;

private:
	void parse_header();
	[[noreturn]] void fail(std::string what) const;

	std::string path_;
	int file_ = -1;
	std::uint64_t file_size_ = 0, data_begin_ = 0;
	std::map<std::string, tensor, std::less<>> tensors_;
};

} // namespace minilm
