// SPDX-License-Identifier: Apache-2.0
// For tools/realworld.py: something for a compiler to chew on, INSTANCES times. Linked and run, it prints one number.
#include <algorithm>
#include <any>
#include <atomic>
#include <bitset>
#include <chrono>
#include <complex>
#include <condition_variable>
#include <deque>
#include <filesystem>
#include <forward_list>
#include <fstream>
#include <functional>
#include <future>
#include <iomanip>
#include <iostream>
#include <list>
#include <map>
#include <memory>
#include <memory_resource>
#include <mutex>
#include <numeric>
#include <optional>
#include <queue>
#include <random>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <thread>
#include <tuple>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <valarray>
#include <variant>
#include <vector>

template <std::size_t N>
struct Key {
	std::size_t value;
	bool operator<(const Key &other) const { return value % (N + 2) < other.value % (N + 2); }
};

template <std::size_t N>
std::size_t work() {
	using Value = std::variant<Key<N>, std::string, std::vector<Key<N>>>;
	std::map<Key<N>, std::vector<Value>> map;
	std::unordered_map<std::string, std::tuple<Key<N>, std::shared_ptr<Value>>> names;
	for (std::size_t i = 0; i < 50; ++i) {
		map[{i}].push_back(std::string(i, 'x'));
		map[{i * i}].push_back(std::vector<Key<N>>(i));
		names.emplace(std::to_string(i), std::make_tuple(Key<N>{i}, std::make_shared<Value>(Key<N>{i})));
	}
	std::size_t sum = names.size();
	for (const auto &[key, values] : map) {
		for (const auto &value : values) {
			sum += std::visit(
				[](const auto &one) {
					if constexpr (std::is_same_v<std::decay_t<decltype(one)>, Key<N>>)
						return one.value;
					else
						return one.size();
				},
				value);
		}
	}
	std::vector<Key<N>> sorted(100);
	for (std::size_t i = 0; i < sorted.size(); ++i)
		sorted[i].value = i * 7919 % 101;
	std::stable_sort(sorted.begin(), sorted.end());
	std::function<std::size_t(std::size_t)> next = [&](std::size_t i) { return sorted[i % 100].value; };
	return sum + next(N);
}

template <std::size_t... N>
std::size_t all(std::index_sequence<N...>) {
	return (work<N>() + ...);
}

int main() {
	std::smatch match;
	const std::string text = "instances: " + std::to_string(INSTANCES);
	std::regex_search(text, match, std::regex("([a-z]+): ([0-9]+)"));
	std::cout << match[2] << ' ' << all(std::make_index_sequence<INSTANCES>()) << '\n';
}
