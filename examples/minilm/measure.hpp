// SPDX-License-Identifier: Apache-2.0
/// Page faults and time of a model's first pass, with each of the three memories.
#pragma once

#include <cstdint>
#include <iosfwd>
#include <string>
#include <vector>

namespace minilm {

/// One first pass, measured in a process of its own.
struct pass {
	double milliseconds = 0;
	long thread_minor = 0, thread_major = 0; ///< faults that the computing thread waited for
	long process = 0;                        ///< faults of all threads, prefetching ones too
	std::uint64_t digest = 0;                ///< of the bits of the embeddings
};

struct memory_kind {
	const char *key, *name;
};
inline constexpr memory_kind memory_kinds[] = {
	{"standard", "std::allocator"},
	{"gmem", "gmem allocator"},
	{"prefetched", "gmem allocator, prefetch on a stream"},
};

/// Run one pass here; for the process that measure() starts.
/// @param key of a memory kind
[[nodiscard]] pass run_pass(
	const std::string &key, const std::string &directory, const std::vector<std::string> &sentences);

/// Start `repeat` processes for each kind of memory, the kinds taking turns.
/// @return the passes of each kind, in the order of memory_kinds
[[nodiscard]] std::vector<std::vector<pass>> measure(
	const std::string &directory, const std::vector<std::string> &sentences, int repeat);

void print(std::ostream &out, const pass &p);

} // namespace minilm
