// SPDX-License-Identifier: Apache-2.0
/// @file
/// gmem::residency: the location and state of each page of a range.
#pragma once

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <string>
#include <system_error>
#include <vector>

#include <unistd.h>

#include <libgmem.h>
#include <libgmem/detail/text.hpp>
#include <libgmem/error.hpp>
#include <libgmem/range.hpp>

namespace gmem {

/// The pages of a range at construction; see gmemResidency() for each state:
///
///     gmem::prefetch(weights, node);
///     const gmem::residency map(weights);
///     assert(map.on_node(node) == map.size());
///     std::cout << map.to_text();
class residency {
public:
	/// States of a page.
	enum class flag : std::uint16_t {  // NOLINT(performance-enum-size): there will be more
		mapped = GMEM_PAGE_MAPPED,     ///< something is mapped there
		resident = GMEM_PAGE_RESIDENT, ///< in memory and in the page table
		huge = GMEM_PAGE_HUGE,         ///< part of a huge page
		swapped = GMEM_PAGE_SWAPPED,   ///< private and swapped out
		shared = GMEM_PAGE_SHARED,     ///< of a file or shared memory
		zero = GMEM_PAGE_ZERO,         ///< the kernel's zero page
		hot = GMEM_PAGE_HOT            ///< referenced or active
	};

	/// The page states to look up.
	enum class ask : unsigned { // NOLINT(performance-enum-size): as C has it
		defaults = 0,           ///< everything but hot pages
		hot = GMEM_ASK_HOT      ///< hot pages, too: takes twenty times as long, and requires root
	};

	/// One base page.
	class page {
	public:
		/// A page at an address.
		page(std::uintptr_t address, gmemPageState_t state) noexcept : address_(address), state_(state) {}

		/// Its first byte.
		[[nodiscard]] std::uintptr_t address() const noexcept { return address_; }
		/// Its memory node; -1: not resident, or unknown.
		[[nodiscard]] int node() const noexcept { return state_.node; }
		/// Whether it is in a state.
		[[nodiscard]] bool is(flag which) const noexcept { return (state_.flags & static_cast<unsigned>(which)) != 0; }
		/// See flag::mapped.
		[[nodiscard]] bool mapped() const noexcept { return is(flag::mapped); }
		/// See flag::resident.
		[[nodiscard]] bool resident() const noexcept { return is(flag::resident); }
		/// See flag::huge.
		[[nodiscard]] bool huge() const noexcept { return is(flag::huge); }
		/// See flag::swapped.
		[[nodiscard]] bool swapped() const noexcept { return is(flag::swapped); }
		/// See flag::shared.
		[[nodiscard]] bool shared() const noexcept { return is(flag::shared); }
		/// See flag::zero.
		[[nodiscard]] bool zero() const noexcept { return is(flag::zero); }
		/// See flag::hot.
		[[nodiscard]] bool hot() const noexcept { return is(flag::hot); }

	private:
		std::uintptr_t address_;
		gmemPageState_t state_;
	};

	/// Iterates over the pages.
	class iterator {
	public:
		// NOLINTBEGIN(readability-identifier-naming): as std::iterator_traits has them
		/// Pages are made on the fly, so it is an input iterator.
		using iterator_category = std::input_iterator_tag;
		/// A page.
		using value_type = page;
		/// A number of pages.
		using difference_type = std::ptrdiff_t;
		/// There is no page to point to.
		using pointer = void;
		/// A page by value.
		using reference = page;
		// NOLINTEND(readability-identifier-naming)

		/// An iterator to a page of `of`.
		iterator(const residency &of, std::size_t index) noexcept : of_(&of), index_(index) {}
		/// The page.
		[[nodiscard]] page operator*() const noexcept { return (*of_)[index_]; }
		/// Go to the next page.
		iterator &operator++() noexcept {
			++index_;
			return *this;
		}
		/// Go to the next page, and return an iterator to this one.
		iterator operator++(int) noexcept {
			const iterator before = *this;
			++index_;
			return before;
		}
		/// Whether both are at the same page.
		[[nodiscard]] friend bool operator==(const iterator &a, const iterator &b) noexcept {
			return a.index_ == b.index_;
		}
		/// Whether they are at different pages.
		[[nodiscard]] friend bool operator!=(const iterator &a, const iterator &b) noexcept { return !(a == b); }

	private:
		const residency *of_;
		std::size_t index_;
	};

#if LIBGMEM_HAS_EXCEPTIONS
	/// Look up the pages of a range.
	/// @throws error: EINVAL if the range exceeds the address space; std::bad_alloc
	explicit residency(range what, ask more = ask::defaults) { detail::throw_if_failed(read(what, more)); }
#endif
	/// Look up the pages of a range. A failure gives a residency without pages and is in `ec`, which is cleared on
	/// success.
	[[nodiscard]] static residency create(range what, std::error_code &ec, ask more = ask::defaults) noexcept {
		residency made;
		ec.clear();
		detail::without_bad_alloc(ec, [&] { ec = detail::to_error_code(made.read(what, more)); });
		return made;
	}

	/// Number of base pages.
	[[nodiscard]] std::size_t size() const noexcept { return states_.size(); }
	/// Whether the range has no page.
	[[nodiscard]] bool empty() const noexcept { return states_.empty(); }
	/// A page; `index` is less than size().
	[[nodiscard]] page operator[](std::size_t index) const noexcept {
		return {summary_.addr + index * summary_.page_size, states_[index]};
	}
	/// Iterator to the first page.
	[[nodiscard]] iterator begin() const noexcept { return {*this, 0}; }
	/// Iterator behind the last page.
	[[nodiscard]] iterator end() const noexcept { return {*this, size()}; }

	/// Bytes in a base page.
	[[nodiscard]] std::size_t page_size() const noexcept { return summary_.page_size; }
	/// Number of pages in a state.
	[[nodiscard]] std::size_t count(flag which) const noexcept {
		return count_if([which](gmemPageState_t state) { return (state.flags & static_cast<unsigned>(which)) != 0; });
	}
	/// Number of pages resident on a node.
	[[nodiscard]] std::size_t on_node(int node) const noexcept {
		return count_if([node](gmemPageState_t state) { return state.node == node; });
	}
	/// Whether the kernel tells this process about a state. If not, no page has it here, although it may hold.
	[[nodiscard]] bool knows(flag which) const noexcept { return (summary_.known & static_cast<unsigned>(which)) != 0; }
	/// Whether the nodes of resident pages are known.
	[[nodiscard]] bool knows_nodes() const noexcept { return (summary_.known & GMEM_KNOWS_NODE) != 0; }
	/// The counts as the C structure.
	[[nodiscard]] const gmemResidency_t &summary() const noexcept { return summary_; }

#if LIBGMEM_HAS_EXCEPTIONS
	/// The counts, and a line per GMEM page.
	/// @throws error, std::bad_alloc
	[[nodiscard]] std::string to_text() const { return in_words(gmemResidencyText); }
	/// One JSON object.
	/// @throws error, std::bad_alloc
	[[nodiscard]] std::string to_json() const { return in_words(gmemResidencyJson); }
	/// A picture as an SVG document.
	/// @throws error, std::bad_alloc
	[[nodiscard]] std::string to_svg() const { return in_words(gmemResidencySvg); }
#endif
	/// The counts in words; a failure gives no text and is in `ec`, which is cleared on success.
	[[nodiscard]] std::string to_text(std::error_code &ec) const noexcept { return in_words(gmemResidencyText, ec); }
	/// One JSON object; a failure gives no text and is in `ec`, which is cleared on success.
	[[nodiscard]] std::string to_json(std::error_code &ec) const noexcept { return in_words(gmemResidencyJson, ec); }
	/// A picture; a failure gives no text and is in `ec`, which is cleared on success.
	[[nodiscard]] std::string to_svg(std::error_code &ec) const noexcept { return in_words(gmemResidencySvg, ec); }

private:
	/// No pages.
	residency() noexcept = default;

	[[nodiscard]] int read(range what, ask more) {
		summary_.size = sizeof summary_;
		const auto base_page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
		// Two more, because the range may begin and end inside a page.
		const std::size_t most = what.size_bytes() / base_page + 2;
		if (!detail::may_allocate(most * sizeof(gmemPageState_t))) {
			return -ENOMEM;
		}
		states_.resize(most);
		const int result = gmemResidency(
			what.address(), what.size_bytes(), static_cast<unsigned>(more), states_.data(), states_.size(), &summary_);
		states_.resize(result < 0 ? 0 : summary_.pages);
		return result;
	}

	template <class Holds>
	[[nodiscard]] std::size_t count_if(Holds holds) const noexcept {
		return static_cast<std::size_t>(std::count_if(states_.begin(), states_.end(), holds));
	}

	/// `failure` is a std::error_code, or is left out for an exception.
	template <class Write, class... Failure>
	[[nodiscard]] std::string in_words(Write write, Failure &...failure) const noexcept(sizeof...(Failure) > 0) {
		return detail::text_of(
			[&](char *buffer, std::size_t size) { return write(&summary_, states_.data(), buffer, size); }, failure...);
	}

	gmemResidency_t summary_{};
	std::vector<gmemPageState_t> states_{};
};

} // namespace gmem
