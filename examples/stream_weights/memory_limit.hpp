// SPDX-License-Identifier: Apache-2.0
/// A memory control group of its own for a child process.
#pragma once

#include <cstddef>
#include <string>

namespace stream_weights {

/// A control group with a memory limit, version 1 or 2, below the group of this process; none where that is not
/// permitted.
class memory_limit {
public:
	explicit memory_limit(std::size_t bytes);
	memory_limit(const memory_limit &) = delete;
	memory_limit &operator=(const memory_limit &) = delete;
	/// All processes in it must have ended.
	~memory_limit();

	/// How the limit is enforced, in words.
	[[nodiscard]] std::string description() const;
	/// Whether there is a group.
	[[nodiscard]] bool is_enforced() const { return !folder_.empty(); }
	/// Move the calling process into it.
	void enter() const;

private:
	std::string folder_;
	int version_ = 0;
};

} // namespace stream_weights
