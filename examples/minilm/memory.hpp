// SPDX-License-Identifier: Apache-2.0
/// Where the engine's large arrays come from: three policies with the same five members, so that
/// the engine is written once and does the same work on each of them.
#pragma once

#include <memory>
#include <new>
#include <system_error>
#include <type_traits>
#include <utility>
#include <vector>

#include <libgmem.hpp>

namespace minilm {

/// std::allocator, except that std::vector<T>(n) leaves trivial elements unwritten, as
/// gmem::default_init_allocator does: weights are overwritten anyway.
template <class T>
class standard_allocator : public std::allocator<T> {
public:
	template <class U>
	struct rebind {
		using other = standard_allocator<U>;
	};
	standard_allocator() = default;
	template <class U>
	standard_allocator(const standard_allocator<U> &) noexcept {}

	template <class U, class... Args>
	void construct(U *at, Args &&...args) {
		if constexpr (sizeof...(Args) == 0) {
			::new (static_cast<void *>(at)) U;
		} else {
			::new (static_cast<void *>(at)) U(std::forward<Args>(args)...);
		}
	}
};

/// A program without libgmem.
class standard_memory {
public:
	using floats = std::vector<float, standard_allocator<float>>;

	template <class Ranges>
	void bring(const Ranges &) {}                    ///< ask for the pages of arrays, or of a file; returns at once
	void wait() {}                                   ///< until all that was asked for is there
	int drop_at_end_of_scope(floats &) { return 0; } ///< give an array's pages back early
};

/// libgmem as an allocator only.
class gmem_memory {
public:
	using floats = std::vector<float, gmem::default_init_allocator<float>>;

	template <class Ranges>
	void bring(const Ranges &) {}
	void wait() {}
	gmem::eager_free_guard drop_at_end_of_scope(floats &array) { return gmem::eager_free_guard(array); }
};

/// libgmem, and the engine says which array it needs next.
class prefetched_memory : public gmem_memory {
public:
	prefetched_memory() = default;
	prefetched_memory(const prefetched_memory &) = delete;
	prefetched_memory &operator=(const prefetched_memory &) = delete;
	~prefetched_memory() {
		std::error_code ignored; // no array may go away while its prefetch is still to come
		stream_.synchronize(ignored);
	}

	template <class Ranges>
	void bring(const Ranges &what) {
		gmem::prefetch(what, node_, stream_);
	}
	void wait() { stream_.synchronize(); }

private:
	gmem::stream stream_;
	int node_ = gmem::device::numa_id();
};

} // namespace minilm
