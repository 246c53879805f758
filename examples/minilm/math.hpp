// SPDX-License-Identifier: Apache-2.0
/// The five operations of a BERT layer, on row-major float matrices. Plain loops over vector types
/// of the compiler: no BLAS, no intrinsics. Widths are multiples of 24.
#pragma once

#include <cstddef>

namespace minilm {

/// y = x wᵀ + b, with x of tokens × in, w of out × in and y of tokens × out.
void linear(
	const float *x, std::size_t tokens, std::size_t in, const float *w, const float *b, std::size_t out, float *y);

/// x = normalise(x + y) · scale + shift, row by row (the residual connection and its layer norm).
void add_and_normalise(
	float *x, const float *y, std::size_t tokens, std::size_t width, const float *scale, const float *shift);

/// x = x Φ(x), with the exact error function that this model was trained with.
void gelu(float *x, std::size_t n);

/// Self-attention of one sentence. A row of `qkv` holds query, key and value, each of
/// heads × head_size; a row of `out` is as wide as one of them. At most 512 tokens; head_size is a
/// multiple of 8.
void attention(const float *qkv, std::size_t tokens, std::size_t heads, std::size_t head_size, float *out);

} // namespace minilm
