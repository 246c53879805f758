// SPDX-License-Identifier: Apache-2.0
// operator new and delete of libgmem.so: every overload, new-handlers, and memory that is not there.
#include <cstdint>
#include <new>
#include <thread>
#include <vector>

#include "../check.h"

namespace {

volatile std::size_t too_much = SIZE_MAX / 2;

// Before main and after it: static objects allocate as well.
struct static_object {
	std::vector<int> numbers = std::vector<int>(100000, 1);
	~static_object() { delete[] new char[numbers.size()]; }
} object; // NOLINT

thread_local std::vector<int> per_thread(1000, 1); // NOLINT

void every_pair_works() {
	const auto wide = std::align_val_t(4096);
	for (std::size_t size : {std::size_t{0}, std::size_t{1}, std::size_t{5000}, std::size_t{8} << 20}) {
		::operator delete(::operator new(size));
		::operator delete(::operator new(size), size);
		::operator delete[](::operator new[](size));
		::operator delete[](::operator new[](size), size);
		::operator delete(::operator new(size, std::nothrow), std::nothrow);
		::operator delete[](::operator new[](size, std::nothrow), std::nothrow);
		void *block = ::operator new(size, wide);
		CHECK_EQUAL(reinterpret_cast<std::uintptr_t>(block) % 4096, 0);
		::operator delete(block, wide);
		::operator delete(::operator new(size, wide), size, wide);
		::operator delete[](::operator new[](size, wide), wide);
		::operator delete[](::operator new[](size, wide), size, wide);
		::operator delete(::operator new(size, wide, std::nothrow), wide, std::nothrow);
		::operator delete[](::operator new[](size, wide, std::nothrow), wide, std::nothrow);
	}
}

int handled = 0;
void give_up_the_third_time() {
	if (++handled == 3) {
		std::set_new_handler(nullptr);
	}
}

void new_handlers_are_called_until_they_give_up() {
	for (int form = 0; form < 4; ++form) {
		handled = 0;
		std::set_new_handler(give_up_the_third_time);
		bool thrown = false;
		void *block = nullptr;
		try {
			switch (form) {
			case 0: block = ::operator new(too_much); break;
			case 1: block = ::operator new(too_much, std::align_val_t(64)); break;
			case 2: block = ::operator new(too_much, std::nothrow); break;
			default: block = ::operator new[](too_much, std::align_val_t(64), std::nothrow);
			}
		} catch (const std::bad_alloc &) {
			thrown = true;
		}
		CHECK(block == nullptr && thrown == (form < 2));
		CHECK_EQUAL(handled, 3);
	}
}

} // namespace

int main() {
	every_pair_works();
	new_handlers_are_called_until_they_give_up();
	std::thread([] { CHECK_EQUAL(per_thread.size(), 1000); }).join();
	return checks_result("operators");
}
