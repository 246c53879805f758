// SPDX-License-Identifier: Apache-2.0
/// @file
/// The array of ranges that a batch passes to C.
#pragma once

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <type_traits>
#include <utility>

#include <libgmem.h>
#include <libgmem/range.hpp>

namespace gmem::detail {

/// Ranges one after the other. Never throws; a few need no memory of the heap.
class batch {
public:
	batch() noexcept = default;
	/// All ranges of a range of ranges, each as a Range: gmem::range, or gmem::mutable_range where they are released.
	template <class Range, class Ranges>
	[[nodiscard]] static batch of(Ranges &&ranges) noexcept {
		batch made;
		for (auto &&each : ranges) {
			using type = std::remove_cv_t<std::remove_reference_t<decltype(each)>>;
			if constexpr (std::is_same_v<type, gmemRange_t>) {
				made.add(each);
			} else {
				static_assert(std::is_convertible_v<decltype(each), Range>,
					"the elements do not convert: gmem::free_eager() releases writable memory only, so pass "
					"gmem::mutable_range");
				const Range bytes = each;
				made.add({bytes.address(), bytes.size_bytes()});
			}
		}
		return made;
	}
	batch(batch &&other) noexcept
		: few_(other.few_), many_(std::exchange(other.many_, nullptr)), capacity_(std::exchange(other.capacity_, few)),
		  size_(std::exchange(other.size_, 0)), is_complete_(std::exchange(other.is_complete_, true)) {}
	batch &operator=(batch &&) = delete;
	batch(const batch &) = delete;
	batch &operator=(const batch &) = delete;
	~batch() { gmem_free(many_); }

	/// Append a range, or return false if there is no memory for it.
	[[nodiscard]] bool try_add(gmemRange_t next) noexcept {
		if (size_ == capacity_ && !grow()) {
			return false;
		}
		(many_ == nullptr ? few_.data() : many_)[size_++] = next;
		return true;
	}

	/// Forget all ranges, and keep the memory for others.
	void clear() noexcept { size_ = 0; }

	[[nodiscard]] const gmemRange_t *data() const noexcept { return many_ == nullptr ? few_.data() : many_; }
	[[nodiscard]] std::size_t size() const noexcept { return size_; }

	/// Whether there was memory for all ranges.
	[[nodiscard]] bool is_complete() const noexcept { return is_complete_; }
	/// The result of `call`, or -ENOMEM if there was no memory for all ranges.
	template <class Call>
	[[nodiscard]] int apply(Call call) const noexcept {
		return is_complete_ ? call(data(), size_) : -ENOMEM;
	}

private:
	static constexpr std::size_t few = 16;

	void add(gmemRange_t next) noexcept { is_complete_ = try_add(next) && is_complete_; }

	[[nodiscard]] bool grow() noexcept {
		void *const larger = gmem_reallocarray(many_, 2 * capacity_, sizeof(gmemRange_t));
		if (larger == nullptr) {
			return false;
		}
		if (many_ == nullptr) {
			std::memcpy(larger, few_.data(), sizeof few_);
		}
		many_ = static_cast<gmemRange_t *>(larger);
		capacity_ *= 2;
		return true;
	}

	std::array<gmemRange_t, few> few_{};
	/// nullptr while they are few.
	gmemRange_t *many_ = nullptr;
	std::size_t capacity_ = few;
	std::size_t size_ = 0;
	bool is_complete_ = true;
};

/// For static assertions that fail wherever they are instantiated.
template <class>
inline constexpr bool never = false;

template <class C>
constexpr void refuse_scattered() noexcept {
	static_assert(never<C>,
		"the elements do not lie side by side in memory (std::vector<bool>, std::list, std::map and the like): pass a "
		"contiguous container, a gmem::range, or a range of ranges");
}

} // namespace gmem::detail
