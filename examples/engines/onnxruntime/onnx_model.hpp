// SPDX-License-Identifier: Apache-2.0
// Writes a network in the format ONNX: layers of tanh(x * weights), with the weights in a file of their own.
#pragma once

#include <cstdint>
#include <string>

namespace onnx_model {

/// A message of protobuf, written field by field.
class message {
public:
	message &number(unsigned field, std::uint64_t value) {
		varint(field << 3U);
		varint(value);
		return *this;
	}
	message &text(unsigned field, const std::string &value) {
		varint(field << 3U | 2U);
		varint(value.size());
		bytes_ += value;
		return *this;
	}
	message &part(unsigned field, const message &value) { return text(field, value.bytes_); }

	[[nodiscard]] const std::string &bytes() const { return bytes_; }

private:
	void varint(std::uint64_t value) {
		for (; value >= 0x80U; value >>= 7U) {
			bytes_ += static_cast<char>(value | 0x80U);
		}
		bytes_ += static_cast<char>(value);
	}

	std::string bytes_;
};

constexpr unsigned type_float = 1;

/// The shape and type of an input or output.
inline message value(const std::string &name, std::uint64_t rows, std::uint64_t columns) {
	const message shape = message().part(1, message().number(1, rows)).part(1, message().number(1, columns));
	return message().text(1, name).part(2, message().part(1, message().number(1, type_float).part(2, shape)));
}

/// The name of a layer's weights.
inline std::string weights(std::size_t layer) { return "weights" + std::to_string(layer); }

/// Weights in a file beside the model's.
inline message external(const std::string &name, std::uint64_t width, const std::string &file, std::uint64_t offset) {
	const auto entry = [](const std::string &key, const std::string &of) { return message().text(1, key).text(2, of); };
	return message()
		.number(1, width)
		.number(1, width)
		.number(2, type_float)
		.text(8, name)
		.part(13, entry("location", file))
		.part(13, entry("offset", std::to_string(offset)))
		.part(13, entry("length", std::to_string(width * width * sizeof(float))))
		.number(14, 1);
}

/// The whole model: `layers` square matrices of `width`, one after the other in `file`.
inline std::string network(std::size_t layers, std::uint64_t rows, std::uint64_t width, const std::string &file) {
	message graph;
	std::string last = "input";
	for (std::size_t i = 0; i < layers; ++i) {
		const std::string product = "product" + std::to_string(i);
		const std::string next = i + 1 == layers ? "output" : "layer" + std::to_string(i);
		graph.part(1, message().text(1, last).text(1, weights(i)).text(2, product).text(4, "MatMul"));
		graph.part(1, message().text(1, product).text(2, next).text(4, "Tanh"));
		graph.part(5, external(weights(i), width, file, i * width * width * sizeof(float)));
		last = next;
	}
	graph.text(2, "network").part(11, value("input", rows, width)).part(12, value("output", rows, width));
	return message().number(1, 8).part(7, graph).part(8, message().text(1, "").number(2, 13)).bytes();
}

} // namespace onnx_model
