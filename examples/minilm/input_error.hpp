// SPDX-License-Identifier: Apache-2.0
/// Input that cannot be used: the message names what is wrong and what to do; exit code 2.
#pragma once

#include <stdexcept>

namespace minilm {

class input_error : public std::runtime_error {
public:
	using std::runtime_error::runtime_error;
};

} // namespace minilm
