// SPDX-License-Identifier: Apache-2.0
/// The forward pass. The tokens of all sentences lie one behind the other without padding: only
/// attention and pooling look at where a sentence begins.
#include "model.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <iterator>
#include <numeric>

#include "math.hpp"
#include "memory.hpp"

namespace minilm {

struct tensor_name {
	const char *name;
	std::size_t rows, columns; ///< rows 0: a vector
};

namespace {

enum embedding_weight : std::size_t { position_table, type_table, first_norm, first_norm_shift };

constexpr tensor_name embedding_tensors[] = {
	{"position_embeddings.weight", positions, hidden},
	{"token_type_embeddings.weight", 2, hidden},
	{"LayerNorm.weight", 0, hidden},
	{"LayerNorm.bias", 0, hidden},
};

/// Query, key and value are neighbours, so that one product computes all three.
enum layer_weight : std::size_t {
	query,
	key,
	value,
	query_bias,
	key_bias,
	value_bias,
	mix,
	mix_bias,
	mix_norm,
	mix_norm_shift,
	up,
	up_bias,
	down,
	down_bias,
	out_norm,
	out_norm_shift,
};

constexpr tensor_name layer_tensors[] = {
	{"attention.self.query.weight", hidden, hidden},
	{"attention.self.key.weight", hidden, hidden},
	{"attention.self.value.weight", hidden, hidden},
	{"attention.self.query.bias", 0, hidden},
	{"attention.self.key.bias", 0, hidden},
	{"attention.self.value.bias", 0, hidden},
	{"attention.output.dense.weight", hidden, hidden},
	{"attention.output.dense.bias", 0, hidden},
	{"attention.output.LayerNorm.weight", 0, hidden},
	{"attention.output.LayerNorm.bias", 0, hidden},
	{"intermediate.dense.weight", inner, hidden},
	{"intermediate.dense.bias", 0, inner},
	{"output.dense.weight", hidden, inner},
	{"output.dense.bias", 0, hidden},
	{"output.LayerNorm.weight", 0, hidden},
	{"output.LayerNorm.bias", 0, hidden},
};

/// Floats that the activations of one token take.
constexpr std::size_t activations = hidden + 3 * hidden + hidden + hidden + inner;

std::size_t count_tokens(const std::vector<sentence> &batch) {
	return std::accumulate(
		batch.begin(), batch.end(), std::size_t{0}, [](std::size_t n, const sentence &s) { return n + s.size(); });
}

/// The mean of each sentence's tokens, brought to length 1.
void pool(const std::vector<sentence> &batch, const float *x, std::vector<float> &out) {
	out.assign(batch.size() * hidden, 0);
	float *mean = out.data();
	for (const sentence &s : batch) {
		for (std::size_t t = 0; t < s.size(); ++t, x += hidden) {
			for (std::size_t i = 0; i < hidden; ++i) {
				mean[i] += x[i] / static_cast<float>(s.size());
			}
		}
		const float length = std::sqrt(std::inner_product(mean, mean + hidden, mean, 0.0F)) + 1e-12F;
		std::for_each_n(mean, hidden, [&](float &v) { v /= length; });
		mean += hidden;
	}
}

/// @return the address behind the copy
float *copy(const gmem::model_range &floats, float *to) {
	std::memcpy(to, floats.data(), floats.size_bytes());
	return to + floats.size_bytes() / sizeof(float);
}

} // namespace

template <class Memory>
model<Memory>::model(const std::string &path)
	: file_(path),
	  word_vectors_(file_.position("embeddings.word_embeddings.weight", {tokenizer::vocabulary_size, hidden})),
	  embeddings_(find("embeddings.", embedding_tensors)) {
	words_.reserve(positions); // so that a pass needs no more of the heap
	for (std::size_t n = 0; n < layers; ++n) {
		layers_[n] = find("encoder.layer." + std::to_string(n) + ".", layer_tensors);
	}
}

template <class Memory>
template <std::size_t Count>
typename model<Memory>::block model<Memory>::find(const std::string &prefix, const tensor_name (&names)[Count]) const {
	block out;
	std::size_t total = 0;
	for (const tensor_name &t : names) {
		std::vector<std::uint64_t> shape = {t.columns};
		if (t.rows != 0) {
			shape.insert(shape.begin(), t.rows);
		}
		const std::size_t n = std::max<std::size_t>(t.rows, 1) * t.columns;
		out.pieces.push_back({total, n});
		out.in_file.push_back(file_.floats(file_.position(prefix + t.name, shape), n));
		total += n;
	}
	out.values = floats(total); // unwritten: no page of it is there yet
	return out;
}

template <class Memory>
void model<Memory>::bring(const block &weights) {
	if (!weights.loaded) {
		memory_.bring(weights.values);
		memory_.bring(weights.in_file);
	}
}

template <class Memory>
void model<Memory>::load(block &weights) {
	if (!std::exchange(weights.loaded, true)) {
		float *to = weights.values.data();
		for (const gmem::model_range &tensor : weights.in_file) {
			to = copy(tensor, to);
		}
	}
}

template <class Memory>
void model<Memory>::embed(const std::vector<sentence> &batch, std::vector<float> &out) {
	const std::size_t tokens = count_tokens(batch);
	// Whole GMEM pages, so that all of the workspace can be dropped when the pass ends.
	const std::size_t page = gmem::page_size() / sizeof(float);
	floats workspace((tokens * activations + page - 1) / page * page);
	[[maybe_unused]] const auto guard = memory_.drop_at_end_of_scope(workspace);
	float *x = workspace.data(), *scratch = x + tokens * hidden;

	find_words(batch);
	bring(embeddings_);
	memory_.bring(words_);
	memory_.bring(workspace);
	memory_.wait();
	bring(layers_[0]);
	load(embeddings_);
	embed_tokens(batch, x, scratch);

	for (std::size_t n = 0; n < layers; ++n) {
		memory_.wait();
		if (n + 1 < layers) {
			bring(layers_[n + 1]); // while this layer is read and computed
		}
		load(layers_[n]);
		run_layer(layers_[n], batch, tokens, x, scratch);
	}
	pool(batch, x, out);
}

/// A pass needs few of the word vectors, which are half of the model: just these rows.
template <class Memory>
void model<Memory>::find_words(const std::vector<sentence> &batch) {
	words_.clear();
	for (const sentence &s : batch) {
		for (const token_id id : s) {
			words_.push_back(file_.floats(word_vectors_ + id * hidden * sizeof(float), hidden));
		}
	}
}

/// x = normalise(word + position + type).
template <class Memory>
void model<Memory>::embed_tokens(const std::vector<sentence> &batch, float *x, float *scratch) const {
	const float *type = embeddings_[type_table];
	float *row = x;
	float *sum = scratch;
	auto word = words_.begin();
	for (const sentence &s : batch) {
		const float *position = embeddings_[position_table];
		for (std::size_t token = 0; token < s.size(); ++token) {
			row = copy(*word++, row);
			for (std::size_t i = 0; i < hidden; ++i) {
				sum[i] = position[i] + type[i];
			}
			sum += hidden;
			position += hidden;
		}
	}
	add_and_normalise(x, scratch, count_tokens(batch), hidden, embeddings_[first_norm], embeddings_[first_norm_shift]);
}

template <class Memory>
void model<Memory>::run_layer(
	const block &w, const std::vector<sentence> &batch, std::size_t tokens, float *x, float *scratch) const {
	float *qkv = scratch;
	float *context = qkv + tokens * 3 * hidden;
	float *result = context + tokens * hidden;
	float *wide = result + tokens * hidden;

	linear(x, tokens, hidden, w[query], w[query_bias], 3 * hidden, qkv);
	std::size_t begin = 0;
	for (const sentence &s : batch) {
		attention(qkv + begin * 3 * hidden, s.size(), heads, hidden / heads, context + begin * hidden);
		begin += s.size();
	}
	linear(context, tokens, hidden, w[mix], w[mix_bias], hidden, result);
	add_and_normalise(x, result, tokens, hidden, w[mix_norm], w[mix_norm_shift]);

	linear(x, tokens, hidden, w[up], w[up_bias], inner, wide);
	gelu(wide, tokens * inner);
	linear(wide, tokens, inner, w[down], w[down_bias], hidden, result);
	add_and_normalise(x, result, tokens, hidden, w[out_norm], w[out_norm_shift]);
}

template class model<standard_memory>;
template class model<gmem_memory>;
template class model<prefetched_memory>;

} // namespace minilm
