// SPDX-License-Identifier: Apache-2.0
// Calls that must not compile. Each value of CASE is one call; CMakeLists.txt has the words of its message.
#include <list>
#include <map>
#include <string>
#include <vector>

#include <libgmem.hpp>

int main() {
#if CASE == 0
	// Compiles, or the others prove nothing.
	gmem::prefetch(std::vector<float>(8), 0);
#elif CASE == 1
	gmem::prefetch(std::vector<bool>(8), 0);
#elif CASE == 2
	gmem::prefetch(std::list<float>{1, 2}, 0);
#elif CASE == 3
	const std::map<int, float> map;
	std::error_code ec;
	gmem::prefetch(map, 0, nullptr, ec);
#elif CASE == 4
	std::list<float> list;
	gmem::free_eager(list);
#elif CASE == 5
	gmem::prefetch(std::vector<gmem::buffer<float>>(2), 0);
#elif CASE == 6
	std::vector<std::vector<float>> rows;
	gmem::free_eager(rows);
#elif CASE == 7
	gmem::prefetch(std::vector<std::string>(2));
#elif CASE == 8
	gmem::free_eager(std::vector<gmem::range>(2));
#elif CASE == 9
	gmem::range(std::vector<gmem::range>(2));
#elif CASE == 10
	gmem::prefetch({std::vector<float>(2), std::vector<std::vector<float>>(2)}, 0);
#elif CASE == 11
	std::vector<float> rows[2];
	gmem::prefetch(rows, 0);
#elif CASE == 12
	gmem::unique_ptr<std::string>{};
#endif
}
