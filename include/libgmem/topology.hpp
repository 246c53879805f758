// SPDX-License-Identifier: Apache-2.0
/// @file
/// gmem::topology: the machine's memory nodes, and what its kernel can do.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include <libgmem.h>
#include <libgmem/detail/text.hpp>
#include <libgmem/error.hpp>

namespace gmem {

/// The machine at the moment of construction:
///
///     for (const gmem::topology::node &node : gmem::topology().nodes()) {
///         std::cout << node.id() << (node.has_cpus() ? "" : " is memory alone") << '\n';
///     }
class topology {
public:
	/// What not every kernel has, see GMEM_HAS_*.
	enum class feature : unsigned { // NOLINT(performance-enum-size): as C has it
		populate = GMEM_HAS_POPULATE,
		dontneed_locked = GMEM_HAS_DONTNEED_LOCKED,
		collapse = GMEM_HAS_COLLAPSE,
		pagemap_scan = GMEM_HAS_PAGEMAP_SCAN,
		procmap_query = GMEM_HAS_PROCMAP_QUERY,
		fault_counter = GMEM_HAS_FAULT_COUNTER
	};

	/// A memory node; the fields are those of gmemNode_t.
	class node {
	public:
		explicit node(const gmemNode_t &known) noexcept : known_(known) {}

		/// @return what prefetch() takes
		[[nodiscard]] int id() const noexcept { return known_.node; }
		/// @return -1 where the kernel has no tiers; the lower the faster
		[[nodiscard]] int tier() const noexcept { return known_.tier; }
		[[nodiscard]] int cpus() const noexcept { return known_.cpus; }
		/// @return false for memory alone, also that of a device
		[[nodiscard]] bool has_cpus() const noexcept { return known_.cpus > 0; }
		/// @return whether this process may take memory from it
		[[nodiscard]] bool allowed() const noexcept { return known_.allowed != 0; }
		/// @return "host" for the machine's own memory, else the name of the current device
		[[nodiscard]] std::string_view device() const noexcept { return known_.device; }
		/// @return 0 where a device does not say
		[[nodiscard]] std::size_t total_bytes() const noexcept { return known_.total; }
		[[nodiscard]] std::size_t free_bytes() const noexcept { return known_.free; }
		/// @return pages of the GMEM page's size
		[[nodiscard]] std::size_t hugetlb_total() const noexcept { return known_.hugetlb_total; }
		[[nodiscard]] std::size_t hugetlb_free() const noexcept { return known_.hugetlb_free; }
		/// @return how far the memory of `other` is; 10 is a node's own
		/// @throws error also for the nodes of devices
		[[nodiscard]] int distance_to(const node &other) const { return topology::distance(id(), other.id()); }

	private:
		gmemNode_t known_;
	};

	/// @throws error, std::bad_alloc
	topology() {
		machine_.size = sizeof machine_;
		std::vector<gmemNode_t> found;
		// Memory may be plugged in between two calls.
		for (std::size_t count = 8;; count *= 2) {
			found.resize(count);
			const int nodes = gmemTopology(&machine_, found.data(), found.size(), sizeof(gmemNode_t));
			detail::throw_if_failed(nodes);
			if (static_cast<std::size_t>(nodes) <= count) {
				nodes_ = std::vector<node>(found.begin(), found.begin() + nodes);
				return;
			}
		}
	}

	/// The nodes with memory, ascending by id; those of the current device behind the machine's.
	[[nodiscard]] const std::vector<node> &nodes() const noexcept { return nodes_; }
	/// What the machine and its kernel have beside nodes.
	[[nodiscard]] const gmemTopology_t &machine() const noexcept { return machine_; }
	/// Whether the kernel has it and this process may use it.
	[[nodiscard]] bool has(feature which) const noexcept {
		return (machine_.features & static_cast<unsigned>(which)) != 0;
	}

	/// See gmemNodeDistance().
	/// @throws error
	[[nodiscard]] static int distance(int from, int to) {
		const int tenths = gmemNodeDistance(from, to);
		detail::throw_if_failed(tenths);
		return tenths;
	}

	/// A table and three lines about the machine, as it is now.
	/// @throws error, std::bad_alloc
	[[nodiscard]] static std::string to_text() { return detail::text_of(gmemTopologyText); }
	/// One JSON object, of the machine as it is now.
	/// @throws error, std::bad_alloc
	[[nodiscard]] static std::string to_json() { return detail::text_of(gmemTopologyJson); }

private:
	gmemTopology_t machine_{};
	std::vector<node> nodes_;
};

} // namespace gmem
