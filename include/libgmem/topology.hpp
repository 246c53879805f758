// SPDX-License-Identifier: Apache-2.0
/// @file
/// gmem::topology: the machine's memory nodes, and the features of its kernel.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include <libgmem.h>
#include <libgmem/detail/text.hpp>
#include <libgmem/error.hpp>

namespace gmem {

/// The machine at construction:
///
///     for (const gmem::topology::node &node : gmem::topology().nodes()) {
///         std::cout << node.id() << (node.has_cpus() ? "" : " is memory alone") << '\n';
///     }
class topology {
public:
	/// Kernel features, see GMEM_HAS_POPULATE and its neighbours.
	enum class feature : unsigned {                 // NOLINT(performance-enum-size): as C has it
		populate = GMEM_HAS_POPULATE,               ///< required by prefetch()
		dontneed_locked = GMEM_HAS_DONTNEED_LOCKED, ///< eager free of locked memory
		collapse = GMEM_HAS_COLLAPSE,               ///< required huge pages
		pagemap_scan = GMEM_HAS_PAGEMAP_SCAN,       ///< exact residency maps
		procmap_query = GMEM_HAS_PROCMAP_QUERY,     ///< fast look-up of mappings
		fault_counter = GMEM_HAS_FAULT_COUNTER,     ///< exact fault counts
		memory_policy = GMEM_HAS_MEMORY_POLICY,     ///< pages are placed by policy
		move_pages = GMEM_HAS_MOVE_PAGES            ///< pages move between nodes
	};

	/// A memory node; the fields are those of gmemNode_t.
	class node {
	public:
		/// A node from the C structure.
		explicit node(const gmemNode_t &known) noexcept : known_(known) {}

		/// Its id, for prefetch().
		[[nodiscard]] int id() const noexcept { return known_.node; }
		/// Its memory tier, lower is faster; -1: unknown.
		[[nodiscard]] int tier() const noexcept { return known_.tier; }
		/// Online processors.
		[[nodiscard]] int cpus() const noexcept { return known_.cpus; }
		/// Whether it has processors; false for memory-only nodes and devices.
		[[nodiscard]] bool has_cpus() const noexcept { return known_.cpus > 0; }
		/// Whether this process may use its memory.
		[[nodiscard]] bool allowed() const noexcept { return known_.allowed != 0; }
		/// "host" for the machine's memory, else the name of the current device.
		[[nodiscard]] std::string_view device() const noexcept { return known_.device; }
		/// Bytes; 0: the device does not say.
		[[nodiscard]] std::size_t total_bytes() const noexcept { return known_.total; }
		/// Unused bytes; 0: none, or the device does not say.
		[[nodiscard]] std::size_t free_bytes() const noexcept { return known_.free; }
		/// Pages in the hugetlb pool, of the GMEM page's size.
		[[nodiscard]] std::size_t hugetlb_total() const noexcept { return known_.hugetlb_total; }
		/// Unused pages of that pool.
		[[nodiscard]] std::size_t hugetlb_free() const noexcept { return known_.hugetlb_free; }
#if LIBGMEM_HAS_EXCEPTIONS
		/// Distance to the memory of another node; 10 is local.
		/// @throws error as gmemNodeDistance()
		[[nodiscard]] int distance_to(const node &other) const { return topology::distance(id(), other.id()); }
#endif
		/// Distance without exceptions; a failure gives a negative number and is in `ec`, which is cleared on success.
		[[nodiscard]] int distance_to(const node &other, std::error_code &ec) const noexcept {
			return topology::distance(id(), other.id(), ec);
		}

	private:
		gmemNode_t known_;
	};

#if LIBGMEM_HAS_EXCEPTIONS
	/// Read the machine.
	/// @throws error, std::bad_alloc
	topology() { detail::throw_if_failed(read()); }
#endif
	/// Read the machine. A failure gives a machine without nodes and is in `ec`, which is cleared on success.
	[[nodiscard]] static topology create(std::error_code &ec) noexcept {
		topology made(nullptr);
		ec.clear();
		detail::without_bad_alloc(ec, [&] { ec = detail::to_error_code(made.read()); });
		return made;
	}

	/// The nodes with memory in ascending order; those of the current device follow the machine's.
	[[nodiscard]] const std::vector<node> &nodes() const noexcept { return nodes_; }
	/// The machine and its kernel as the C structure.
	[[nodiscard]] const gmemTopology_t &machine() const noexcept { return machine_; }
	/// Whether the kernel has a feature and this process may use it.
	[[nodiscard]] bool has(feature which) const noexcept {
		return (machine_.features & static_cast<unsigned>(which)) != 0;
	}

#if LIBGMEM_HAS_EXCEPTIONS
	/// Distance from node `from` to the memory of node `to`; 10 is local.
	/// @throws error as gmemNodeDistance()
	[[nodiscard]] static int distance(int from, int to) {
		const int tenths = gmemNodeDistance(from, to);
		detail::throw_if_failed(tenths);
		return tenths;
	}

	/// The machine as it is now: a table of nodes, and three lines.
	/// @throws error, std::bad_alloc
	[[nodiscard]] static std::string to_text() { return detail::text_of(gmemTopologyText); }
	/// The machine as it is now, as one JSON object.
	/// @throws error, std::bad_alloc
	[[nodiscard]] static std::string to_json() { return detail::text_of(gmemTopologyJson); }
#endif
	/// Distance without exceptions; a failure gives a negative number and is in `ec`, which is cleared on success.
	[[nodiscard]] static int distance(int from, int to, std::error_code &ec) noexcept {
		const int tenths = gmemNodeDistance(from, to);
		ec = detail::to_error_code(tenths);
		return tenths;
	}
	/// The machine in words; a failure gives no text and is in `ec`, which is cleared on success.
	[[nodiscard]] static std::string to_text(std::error_code &ec) noexcept {
		return detail::text_of(gmemTopologyText, ec);
	}
	/// The machine as JSON; a failure gives no text and is in `ec`, which is cleared on success.
	[[nodiscard]] static std::string to_json(std::error_code &ec) noexcept {
		return detail::text_of(gmemTopologyJson, ec);
	}

private:
	/// No machine.
	explicit topology(std::nullptr_t) noexcept {}

	[[nodiscard]] int read() {
		machine_.size = sizeof machine_;
		std::vector<gmemNode_t> found;
		// Memory may be plugged in between two calls.
		for (std::size_t count = 8;; count *= 2) {
			found.resize(count);
			const int nodes = gmemTopology(&machine_, found.data(), found.size(), sizeof(gmemNode_t));
			if (nodes < 0) {
				return nodes;
			}
			if (static_cast<std::size_t>(nodes) <= count) {
				nodes_ = std::vector<node>(found.begin(), found.begin() + nodes);
				return 0;
			}
		}
	}

	gmemTopology_t machine_{};
	std::vector<node> nodes_{};
};

} // namespace gmem
