// SPDX-License-Identifier: Apache-2.0
/// all-MiniLM-L6-v2: a BERT of six layers, mean pooling and L2 normalisation.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "safetensors.hpp"
#include "tokenizer.hpp"

namespace minilm {

inline constexpr std::size_t layers = 6, hidden = 384, heads = 12, inner = 1536, positions = 512;

/// One sentence's tokens.
using sentence = std::vector<token_id>;

struct tensor_name;

/// The engine. Weights stay in the file until the first pass, which reads each layer into memory
/// of its own just before it computes it: an embedding is there as soon as its last layer is.
/// Not thread-safe: one model for each thread.
template <class Memory>
class model {
public:
	/// Take the memory, and find every tensor in the file. No weight is read yet.
	/// @throws input_error when the file is not this model
	explicit model(const std::string &path);

	/// @param out becomes a vector of `hidden` floats and length 1 for each sentence, one behind
	///   the other; its memory is used again from call to call
	void embed(const std::vector<sentence> &batch, std::vector<float> &out);

private:
	using floats = typename Memory::floats;

	/// Where a tensor is in its block.
	struct piece {
		std::size_t offset, count;
	};

	/// Tensors that are needed together, in one array, and where they are in the file.
	struct block {
		floats values;
		std::vector<piece> pieces;
		std::vector<gmem::model_range> in_file;
		bool loaded = false;

		[[nodiscard]] const float *operator[](std::size_t i) const { return values.data() + pieces[i].offset; }
	};

	template <std::size_t Count>
	[[nodiscard]] block find(const std::string &prefix, const tensor_name (&names)[Count]) const;
	void bring(const block &weights);
	void load(block &weights);
	void find_words(const std::vector<sentence> &batch);
	void embed_tokens(const std::vector<sentence> &batch, float *x, float *scratch) const;
	void run_layer(
		const block &weights, const std::vector<sentence> &batch, std::size_t tokens, float *x, float *scratch) const;

	safetensors file_;
	std::uint64_t word_vectors_;
	block embeddings_;
	std::array<block, layers> layers_;
	std::vector<gmem::model_range> words_; ///< the word vectors of a pass
	Memory memory_;                        ///< last, so that it is done with the arrays before they go
};

} // namespace minilm
