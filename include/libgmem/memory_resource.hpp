// SPDX-License-Identifier: Apache-2.0
/// @file
/// gmem::memory_resource: libgmem's heap for std::pmr containers. Needs std::pmr, exceptions and RTTI; <libgmem.hpp>
/// leaves it out where they are missing.
#pragma once

#include <cstddef>
#include <memory_resource>

#include <libgmem/detail/memory.hpp>
#include <libgmem/error.hpp>

namespace gmem {

/// A std::pmr::memory_resource on libgmem's heap. All instances are equal, because there is one heap. Thread-safe.
class memory_resource final : public std::pmr::memory_resource {
private:
	void *do_allocate(std::size_t bytes, std::size_t alignment) override {
		void *const memory = detail::allocate(bytes, alignment);
		if (memory == nullptr) {
			throw out_of_memory(bytes);
		}
		return memory;
	}
	void do_deallocate(void *memory, std::size_t bytes, std::size_t) override { detail::deallocate(memory, bytes); }
	[[nodiscard]] bool do_is_equal(const std::pmr::memory_resource &other) const noexcept override {
		return dynamic_cast<const memory_resource *>(&other) != nullptr;
	}
};

} // namespace gmem
