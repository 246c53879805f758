// SPDX-License-Identifier: Apache-2.0
/// The output of minilm: as text, and as JSON.
#pragma once

#include <string>
#include <vector>

#include "measure.hpp"
#include "tokenizer.hpp"

namespace minilm {

struct embedded {
	std::vector<std::vector<token_id>> sentences;
	std::vector<float> embeddings;
};

void write_embeddings(const embedded &result);

void write_table(
	const embedded &result, const std::vector<std::string> &texts, const std::vector<std::vector<pass>> &passes);
void write_table_json(const embedded &result, const std::vector<std::vector<pass>> &passes);

} // namespace minilm
