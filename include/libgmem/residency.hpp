// SPDX-License-Identifier: Apache-2.0
/// @file
/// gmem::residency: where each page of a range is.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <string>
#include <vector>

#include <unistd.h>

#include <libgmem.h>
#include <libgmem/detail/text.hpp>
#include <libgmem/error.hpp>
#include <libgmem/range.hpp>

namespace gmem {

/// The pages of a range at the moment of construction; see gmemResidency() for what each state means.
///
///     gmem::prefetch(weights, node);
///     const gmem::residency map(weights);
///     assert(map.on_node(node) == map.size());
///     std::cout << map.to_text();
class residency {
public:
	/// What may hold for a page, see GMEM_PAGE_*.
	enum class flag : std::uint16_t { // NOLINT(performance-enum-size): there will be more
		mapped = GMEM_PAGE_MAPPED,
		resident = GMEM_PAGE_RESIDENT,
		huge = GMEM_PAGE_HUGE,
		swapped = GMEM_PAGE_SWAPPED,
		shared = GMEM_PAGE_SHARED,
		zero = GMEM_PAGE_ZERO,
		hot = GMEM_PAGE_HOT
	};

	/// Whether hot pages are looked for, which takes twenty times as long as all the rest.
	enum class ask : unsigned { // NOLINT(performance-enum-size): as C has it
		defaults = 0,
		hot = GMEM_ASK_HOT
	};

	/// One base page.
	class page {
	public:
		page(std::uintptr_t address, gmemPageState_t state) noexcept : address_(address), state_(state) {}

		[[nodiscard]] std::uintptr_t address() const noexcept { return address_; }
		/// @return its memory node; -1 where it has none, or the kernel does not tell
		[[nodiscard]] int node() const noexcept { return state_.node; }
		[[nodiscard]] bool is(flag which) const noexcept { return (state_.flags & static_cast<unsigned>(which)) != 0; }
		[[nodiscard]] bool mapped() const noexcept { return is(flag::mapped); }
		[[nodiscard]] bool resident() const noexcept { return is(flag::resident); }
		[[nodiscard]] bool huge() const noexcept { return is(flag::huge); }
		[[nodiscard]] bool swapped() const noexcept { return is(flag::swapped); }
		[[nodiscard]] bool shared() const noexcept { return is(flag::shared); }
		[[nodiscard]] bool zero() const noexcept { return is(flag::zero); }
		[[nodiscard]] bool hot() const noexcept { return is(flag::hot); }

	private:
		std::uintptr_t address_;
		gmemPageState_t state_;
	};

	/// Goes from page to page.
	class iterator {
	public:
		// NOLINTBEGIN(readability-identifier-naming): as std::iterator_traits has them
		using iterator_category = std::input_iterator_tag;
		using value_type = page;
		using difference_type = std::ptrdiff_t;
		using pointer = void;
		using reference = page;
		// NOLINTEND(readability-identifier-naming)

		iterator(const residency &of, std::size_t index) noexcept : of_(&of), index_(index) {}
		[[nodiscard]] page operator*() const noexcept { return (*of_)[index_]; }
		iterator &operator++() noexcept {
			++index_;
			return *this;
		}
		iterator operator++(int) noexcept {
			const iterator before = *this;
			++index_;
			return before;
		}
		[[nodiscard]] friend bool operator==(const iterator &a, const iterator &b) noexcept {
			return a.index_ == b.index_;
		}
		[[nodiscard]] friend bool operator!=(const iterator &a, const iterator &b) noexcept { return !(a == b); }

	private:
		const residency *of_;
		std::size_t index_;
	};

	/// @throws error (EINVAL) where the range exceeds the address space, std::bad_alloc
	explicit residency(range what, ask more = ask::defaults) {
		summary_.size = sizeof summary_;
		const auto base_page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
		// Two more, because the range may begin and end inside a page.
		states_.resize(what.size_bytes() / base_page + 2);
		detail::throw_if_failed(gmemResidency(
			what.address(), what.size_bytes(), static_cast<unsigned>(more), states_.data(), states_.size(), &summary_));
		states_.resize(summary_.pages);
	}

	/// @return number of base pages
	[[nodiscard]] std::size_t size() const noexcept { return states_.size(); }
	[[nodiscard]] bool empty() const noexcept { return states_.empty(); }
	/// @return a page; `index` is less than size()
	[[nodiscard]] page operator[](std::size_t index) const noexcept {
		return {summary_.addr + index * summary_.page_size, states_[index]};
	}
	[[nodiscard]] iterator begin() const noexcept { return {*this, 0}; }
	[[nodiscard]] iterator end() const noexcept { return {*this, size()}; }

	/// @return bytes in a base page
	[[nodiscard]] std::size_t page_size() const noexcept { return summary_.page_size; }
	/// @return how many pages have it
	[[nodiscard]] std::size_t count(flag which) const noexcept {
		return count_if([which](gmemPageState_t state) { return (state.flags & static_cast<unsigned>(which)) != 0; });
	}
	/// @return how many pages are resident on a node
	[[nodiscard]] std::size_t on_node(int node) const noexcept {
		return count_if([node](gmemPageState_t state) { return state.node == node; });
	}
	/// Whether this kernel tells it this process. If not, no page has it here, and may have it all the same.
	[[nodiscard]] bool knows(flag which) const noexcept { return (summary_.known & static_cast<unsigned>(which)) != 0; }
	[[nodiscard]] bool knows_nodes() const noexcept { return (summary_.known & GMEM_KNOWS_NODE) != 0; }
	/// The numbers as C has them.
	[[nodiscard]] const gmemResidency_t &summary() const noexcept { return summary_; }

	/// Its numbers, and a line for each GMEM page.
	/// @throws error, std::bad_alloc
	[[nodiscard]] std::string to_text() const { return in_words(gmemResidencyText); }
	/// One JSON object.
	/// @throws error, std::bad_alloc
	[[nodiscard]] std::string to_json() const { return in_words(gmemResidencyJson); }
	/// A picture, as an SVG document.
	/// @throws error, std::bad_alloc
	[[nodiscard]] std::string to_svg() const { return in_words(gmemResidencySvg); }

private:
	template <class Holds>
	[[nodiscard]] std::size_t count_if(Holds holds) const noexcept {
		return static_cast<std::size_t>(std::count_if(states_.begin(), states_.end(), holds));
	}

	template <class Write>
	[[nodiscard]] std::string in_words(Write write) const {
		return detail::text_of(
			[&](char *buffer, std::size_t size) { return write(&summary_, states_.data(), buffer, size); });
	}

	gmemResidency_t summary_{};
	std::vector<gmemPageState_t> states_;
};

} // namespace gmem
