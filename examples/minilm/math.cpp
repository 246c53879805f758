// SPDX-License-Identifier: Apache-2.0
/// The matrix product is blocked so that its sums stay in registers and its operands in the first
/// levels of cache; the compiler makes a version of it for each level of x86-64 and picks at start.
#include "math.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#if defined(__x86_64__) && defined(__GLIBC__) && !defined(__clang__) && __GNUC__ >= 12 && !defined(__SANITIZE_ADDRESS__)
#define MINILM_FOR_EACH_CPU __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#else
#define MINILM_FOR_EACH_CPU
#endif

namespace minilm {
namespace {

constexpr std::size_t lanes = 8;
using lane_vector = float __attribute__((vector_size(lanes * sizeof(float))));
using half_vector = float __attribute__((vector_size(lanes * sizeof(float) / 2)));

constexpr std::size_t tile_tokens = 4, tile_outputs = 3; ///< 12 sums fill 16 vector registers
constexpr std::size_t block_tokens = 16;                 ///< rows of x that stay in the cache

/// By reference: a wide vector as a result would be another ABI on each CPU.
[[gnu::always_inline]] inline void load(lane_vector &to, const float *from) { std::memcpy(&to, from, sizeof to); }

[[gnu::always_inline]] inline float sum(const lane_vector &v) {
	half_vector halves[2];
	std::memcpy(halves, &v, sizeof halves);
	const half_vector four = halves[0] + halves[1];
	return (four[0] + four[1]) + (four[2] + four[3]);
}

/// y for Tokens × Outputs dot products at once.
template <std::size_t Tokens, std::size_t Outputs>
[[gnu::always_inline]] inline void tile(
	const float *x, std::size_t in, const float *w, const float *b, std::size_t out, float *y) {
	lane_vector sums[Tokens][Outputs] = {};
	for (std::size_t k = 0; k < in; k += lanes) {
		lane_vector weights[Outputs];
		for (std::size_t o = 0; o < Outputs; ++o) {
			load(weights[o], w + o * in + k);
		}
		for (std::size_t t = 0; t < Tokens; ++t) {
			lane_vector values;
			load(values, x + t * in + k);
			for (std::size_t o = 0; o < Outputs; ++o) {
				sums[t][o] += values * weights[o];
			}
		}
	}
	for (std::size_t t = 0; t < Tokens; ++t) {
		for (std::size_t o = 0; o < Outputs; ++o) {
			y[t * out + o] = b[o] + sum(sums[t][o]);
		}
	}
}

} // namespace

MINILM_FOR_EACH_CPU
void linear(
	const float *x, std::size_t tokens, std::size_t in, const float *w, const float *b, std::size_t out, float *y) {
	for (std::size_t block = 0; block < tokens; block += block_tokens) {
		const std::size_t block_end = std::min(block + block_tokens, tokens);
		for (std::size_t o = 0; o < out; o += tile_outputs) {
			const float *w_rows = w + o * in;
			std::size_t t = block;
			for (; t + tile_tokens <= block_end; t += tile_tokens) {
				tile<tile_tokens, tile_outputs>(x + t * in, in, w_rows, b + o, out, y + t * out + o);
			}
			for (; t < block_end; ++t) {
				tile<1, tile_outputs>(x + t * in, in, w_rows, b + o, out, y + t * out + o);
			}
		}
	}
}

void add_and_normalise(
	float *x, const float *y, std::size_t tokens, std::size_t width, const float *scale, const float *shift) {
	constexpr double epsilon = 1e-12; // below what a float's variance resolves, but not zero
	for (; tokens != 0; --tokens, x += width, y += width) {
		double sum = 0, squares = 0;
		for (std::size_t i = 0; i < width; ++i) {
			x[i] += y[i];
			sum += static_cast<double>(x[i]);
			squares += static_cast<double>(x[i]) * static_cast<double>(x[i]);
		}
		const double mean = sum / static_cast<double>(width);
		const double variance = std::max(squares / static_cast<double>(width) - mean * mean, 0.0);
		const auto offset = static_cast<float>(mean);
		const auto factor = static_cast<float>(1 / std::sqrt(variance + epsilon));
		for (std::size_t i = 0; i < width; ++i) {
			x[i] = (x[i] - offset) * factor * scale[i] + shift[i];
		}
	}
}

void gelu(float *x, std::size_t n) {
	constexpr float half_root = 0.70710678F; // 1/√2
	for (std::size_t i = 0; i < n; ++i) {
		x[i] = 0.5F * x[i] * (1 + std::erf(x[i] * half_root));
	}
}

MINILM_FOR_EACH_CPU
void attention(const float *qkv, std::size_t tokens, std::size_t heads, std::size_t head_size, float *out) {
	const std::size_t width = heads * head_size, row = 3 * width;
	const float scale = 1 / std::sqrt(static_cast<float>(head_size));
	std::array<float, 512> weights;
	for (std::size_t head = 0; head < heads; ++head) {
		const float *queries = qkv + head * head_size;
		const float *keys = queries + width, *values = keys + width;
		for (std::size_t t = 0; t < tokens; ++t) {
			float highest = -INFINITY;
			for (std::size_t s = 0; s < tokens; ++s) {
				lane_vector dot = {}, a, b;
				for (std::size_t i = 0; i < head_size; i += lanes) {
					load(a, queries + t * row + i);
					load(b, keys + s * row + i);
					dot += a * b;
				}
				weights[s] = sum(dot) * scale;
				highest = std::max(highest, weights[s]);
			}
			float total = 0;
			for (std::size_t s = 0; s < tokens; ++s) {
				weights[s] = std::exp(weights[s] - highest); // never overflows
				total += weights[s];
			}
			for (std::size_t i = 0; i < head_size; i += lanes) {
				lane_vector mixed = {}, v;
				for (std::size_t s = 0; s < tokens; ++s) {
					load(v, values + s * row + i);
					mixed += weights[s] * v;
				}
				mixed /= total;
				std::memcpy(out + t * width + head * head_size + i, &mixed, sizeof mixed);
			}
		}
	}
}

} // namespace minilm
