// SPDX-License-Identifier: Apache-2.0
#include "random_model.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <vector>

#include <ggml.h>
#include <gguf.h>

#include "measure.hpp"

namespace random_model {
namespace {

constexpr std::int64_t width = 2048;
constexpr std::int64_t inner = 5632;
constexpr std::int64_t head = 128;
constexpr std::int64_t heads_of_keys = 4;
constexpr std::size_t layer_bytes = 2 * width * (2 * width + 2 * head * heads_of_keys + 3 * inner);

struct gguf_deleter {
	void operator()(gguf_context *file) const { gguf_free(file); }
};
struct ggml_deleter {
	void operator()(ggml_context *shapes) const { ggml_free(shapes); }
};

/// The header of a GGUF file, and its tensors in the order of the file.
class description {
public:
	explicit description(std::uint32_t layers)
		: file_(gguf_init_empty()), shapes_(ggml_init({(9 * layers + 3) * ggml_tensor_overhead(), nullptr, true})) {
		gguf_set_val_str(file_.get(), "general.architecture", "llama");
		gguf_set_val_str(file_.get(), "tokenizer.ggml.model", "none");
		number("vocab_size", vocabulary);
		number("block_count", layers);
		number("context_length", 4096);
		number("embedding_length", width);
		number("feed_forward_length", inner);
		number("attention.head_count", width / head);
		number("attention.head_count_kv", heads_of_keys);
		number("rope.dimension_count", head);
		gguf_set_val_f32(file_.get(), "llama.attention.layer_norm_rms_epsilon", 1e-5F);
		matrix("token_embd", width, vocabulary);
		for (std::uint32_t i = 0; i < layers; ++i) {
			const std::string layer = "blk." + std::to_string(i) + ".";
			vector(layer + "attn_norm", width);
			matrix(layer + "attn_q", width, width);
			matrix(layer + "attn_k", width, head * heads_of_keys);
			matrix(layer + "attn_v", width, head * heads_of_keys);
			matrix(layer + "attn_output", width, width);
			vector(layer + "ffn_norm", width);
			matrix(layer + "ffn_gate", width, inner);
			matrix(layer + "ffn_up", width, inner);
			matrix(layer + "ffn_down", inner, width);
		}
		vector("output_norm", width);
		matrix("output", width, vocabulary);
	}

	[[nodiscard]] const gguf_context *file() const { return file_.get(); }
	[[nodiscard]] const std::vector<ggml_tensor *> &tensors() const { return tensors_; }

private:
	void number(const char *name, std::uint32_t value) {
		gguf_set_val_u32(file_.get(), (std::string("llama.") + name).c_str(), value);
	}
	void matrix(const std::string &name, std::int64_t in, std::int64_t out) {
		add(name, ggml_new_tensor_2d(shapes_.get(), GGML_TYPE_F16, in, out));
	}
	void vector(const std::string &name, std::int64_t size) {
		add(name, ggml_new_tensor_1d(shapes_.get(), GGML_TYPE_F32, size));
	}
	void add(const std::string &name, ggml_tensor *tensor) {
		ggml_set_name(tensor, (name + ".weight").c_str());
		gguf_add_tensor(file_.get(), tensor);
		tensors_.push_back(tensor);
	}

	std::unique_ptr<gguf_context, gguf_deleter> file_;
	std::unique_ptr<ggml_context, ggml_deleter> shapes_;
	std::vector<ggml_tensor *> tensors_;
};

/// Write the values of a matrix: random, and so small that the results of all layers stay near 1.
void write_matrix(std::ofstream &file, const ggml_tensor &tensor, std::uint32_t seed) {
	const float scale = 2 * std::sqrt(3.0F / static_cast<float>(tensor.ne[0]));
	std::vector<float> values(static_cast<std::size_t>(tensor.ne[0]));
	std::vector<ggml_fp16_t> halves(values.size());
	for (std::int64_t row = 0; row < tensor.ne[1]; ++row) {
		measure::fill(values.data(), values.size(), seed + static_cast<std::uint32_t>(row));
		std::for_each(values.begin(), values.end(), [&](float &value) { value *= scale; });
		ggml_fp32_to_fp16_row(values.data(), halves.data(), tensor.ne[0]);
		file.write(reinterpret_cast<const char *>(halves.data()),
			static_cast<std::streamsize>(halves.size() * sizeof(ggml_fp16_t)));
	}
}

void write_ones(std::ofstream &file, const ggml_tensor &tensor) {
	const std::vector<float> ones(static_cast<std::size_t>(tensor.ne[0]), 1.0F);
	file.write(reinterpret_cast<const char *>(ones.data()), static_cast<std::streamsize>(ones.size() * sizeof(float)));
}

} // namespace

std::string need(const std::string &folder, std::size_t mebibytes) {
	const auto layers = static_cast<std::uint32_t>(std::max<std::size_t>(1, mebibytes * 1048576 / layer_bytes));
	const std::string path = folder + "/random." + std::to_string(layers) + ".gguf";
	if (std::ifstream(path)) {
		return path;
	}
	const description model(layers);
	// All sizes are multiples of the alignment, so there is nothing between two tensors.
	const std::string part = path + ".part";
	bool is_written = gguf_write_to_file(model.file(), part.c_str(), true);
	std::ofstream file(part, std::ios::binary | std::ios::app);
	std::uint32_t seed = 1;
	for (const ggml_tensor *tensor : model.tensors()) {
		if (tensor->type == GGML_TYPE_F16) {
			write_matrix(file, *tensor, seed);
			seed += static_cast<std::uint32_t>(tensor->ne[1]);
		} else {
			write_ones(file, *tensor);
		}
	}
	file.close();
	is_written = is_written && file && std::rename(part.c_str(), path.c_str()) == 0;
	if (!is_written) {
		std::fprintf(stderr, "%s cannot be written\n", path.c_str());
		std::exit(1);
	}
	return path;
}

} // namespace random_model
