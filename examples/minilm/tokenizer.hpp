// SPDX-License-Identifier: Apache-2.0
/// BERT's uncased tokenizer: clean and fold the text, split it into words, and each word into the
/// longest pieces that the vocabulary has.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace minilm {

using token_id = std::uint32_t;

class tokenizer {
public:
	static constexpr std::size_t vocabulary_size = 30522;
	static constexpr std::size_t max_tokens = 256; ///< [CLS] and [SEP] included

	/// @param path vocab.txt: a piece a line, its id is the line's number from 0
	/// @throws input_error when it is not the vocabulary of this model
	explicit tokenizer(const std::string &path);

	/// @return [CLS], the pieces of `text`, [SEP]; at most max_tokens. Any bytes are a text: what
	/// is not UTF-8 is left out, and a text that spells "[SEP]" is only text.
	[[nodiscard]] std::vector<token_id> encode(std::string_view text) const;

private:
	void append_pieces(std::u32string_view word, std::vector<token_id> &out) const;

	std::unordered_map<std::string, token_id> ids_;
	token_id begin_ = 0, end_ = 0, unknown_ = 0;
};

} // namespace minilm
