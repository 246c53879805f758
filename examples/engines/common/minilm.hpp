// SPDX-License-Identifier: Apache-2.0
// Embeddings of examples/minilm in another engine: reads sentences as tokens, with the embeddings that that example
// gives, and tells how far the engine's are from them. tools/minilm.py writes the files.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

namespace minilm {

constexpr std::size_t width = 384;

struct sentence {
	std::vector<std::int64_t> tokens;
	std::vector<float> embedding;
};

/// The sentences of a folder: a line of tokens for each in minilm.tokens, the embeddings in minilm.f32.
inline std::vector<sentence> read(const std::string &folder) {
	std::vector<sentence> all;
	std::ifstream tokens(folder + "/minilm.tokens");
	std::ifstream embeddings(folder + "/minilm.f32", std::ios::binary);
	for (std::string line; std::getline(tokens, line);) {
		sentence one{{}, std::vector<float>(width)};
		std::istringstream words(line);
		for (std::int64_t token = 0; words >> token;) {
			one.tokens.push_back(token);
		}
		if (!embeddings.read(reinterpret_cast<char *>(one.embedding.data()), width * sizeof(float))) {
			std::fprintf(stderr, "%s/minilm.f32 has fewer embeddings than minilm.tokens has lines\n", folder.c_str());
			std::exit(1);
		}
		all.push_back(std::move(one));
	}
	return all;
}

/// Compute the embedding of each sentence with embed(tokens), whose vector need not have the length 1. Print their
/// number, and the largest difference of a component, as JSON.
template <class Embed>
void compare(const std::string &folder, Embed embed) {
	double largest = 0;
	const std::vector<sentence> sentences = read(folder);
	for (const sentence &each : sentences) {
		const std::vector<float> got = embed(each.tokens);
		double length = 0;
		for (const float value : got) {
			length += static_cast<double>(value) * value;
		}
		for (std::size_t i = 0; i < width; ++i) {
			const double difference = std::abs(got.at(i) / std::sqrt(length) - each.embedding[i]);
			// Not std::max, which would drop a NaN.
			largest = difference <= largest ? largest : difference;
		}
	}
	std::printf("{\"sentences\": %zu, \"difference\": %g}\n", sentences.size(), largest);
}

} // namespace minilm
