// SPDX-License-Identifier: Apache-2.0
/// @file
/// Tensors of OpenVINO in memory of libgmem. Needs OpenVINO's headers and library. docs/engines/openvino.md has an
/// example. gmem::heap and gmem::engines::ready_heap are also accepted by ov::Allocator as they are.
#pragma once

#include <fstream>
#include <memory>
#include <sstream>
#include <string>

#include <openvino/openvino.hpp>

#include <libgmem/engines/ready_heap.hpp>
#include <libgmem/range.hpp>

namespace gmem::engines {

/// The bytes of a tensor, for prefetch() and free_eager().
[[nodiscard]] inline mutable_range range_of(ov::Tensor &tensor) { return {tensor.data(), tensor.get_byte_size()}; }

/// A tensor whose first use takes no page fault: for inputs and outputs, passed to ov::InferRequest::set_tensor().
/// @throws ov::Exception; out_of_memory
[[nodiscard]] inline ov::Tensor ready_tensor(
	const ov::element::Type &type, const ov::Shape &shape, const ready_heap &memory = ready_heap()) {
	return {type, shape, ov::Allocator(memory)};
}

/// Read a model in OpenVINO's own format, with its weights in memory of libgmem. Where the plugin computes with the
/// weights as they are in the file, it uses that memory; where it repacks them, it has its own.
/// @param core    OpenVINO
/// @param xml     path of the model; the weights are expected in the file .bin beside it
/// @param weights where they go. Their memory goes back to the kernel when the model is gone.
/// @throws ov::Exception; std::ios_base::failure if a file cannot be read; out_of_memory
[[nodiscard]] inline std::shared_ptr<ov::Model> read_model(
	ov::Core &core, const std::string &xml, const ready_heap &weights = ready_heap(release::on_free)) {
	std::ifstream text;
	text.exceptions(std::ios::failbit | std::ios::badbit);
	text.open(xml);
	std::ostringstream model;
	model << text.rdbuf();
	std::ifstream file;
	file.exceptions(std::ios::failbit | std::ios::badbit);
	file.open(xml.substr(0, xml.rfind('.')) + ".bin", std::ios::binary | std::ios::ate);
	const auto bytes = static_cast<std::size_t>(file.tellg());
	file.seekg(0);
	ov::Tensor memory = ready_tensor(ov::element::u8, {bytes}, weights);
	file.read(static_cast<char *>(memory.data()), static_cast<std::streamsize>(bytes));
	return core.read_model(model.str(), memory);
}

} // namespace gmem::engines
