// SPDX-License-Identifier: Apache-2.0
// A model of any size in the shape of Llama, with random weights.
#pragma once

#include <cstddef>
#include <string>

namespace random_model {

/// Tokens are the numbers below this one; there is no text.
constexpr int vocabulary = 2048;

/// Write a GGUF file of about so many MiB with weights of 16 bits, unless it is there. Ends the program if it cannot.
/// @return its path
std::string need(const std::string &folder, std::size_t mebibytes);

} // namespace random_model
