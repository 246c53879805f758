// SPDX-License-Identifier: Apache-2.0
/// The similarity matrix and the table of first passes.
#include "report.hpp"

#include <algorithm>
#include <cstdio>
#include <iomanip>
#include <iostream>
#include <iterator>
#include <limits>
#include <numeric>
#include <string_view>

#include <dlfcn.h>

#include "model.hpp"

namespace minilm {
namespace {

/// Write [a, b, ...], each element by write(element).
template <class List, class Write>
void write_list(const List &list, Write write) {
	const char *separator = "[";
	for (const auto &element : list) {
		std::cout << separator;
		write(element);
		separator = ", ";
	}
	std::cout << (std::empty(list) ? "[]" : "]");
}

constexpr auto write_value = [](const auto &value) { std::cout << value; };
constexpr auto write_row = [](const auto &row) { write_list(row, write_value); };

std::vector<std::vector<float>> rows_of(const embedded &result) {
	std::vector<std::vector<float>> rows;
	for (auto at = result.embeddings.begin(); at != result.embeddings.end(); at += hidden) {
		rows.emplace_back(at, at + hidden);
	}
	return rows;
}

/// The vectors have length 1, so the cosine is their product.
std::vector<std::vector<float>> similarity(const embedded &result) {
	const auto rows = rows_of(result);
	std::vector<std::vector<float>> out(rows.size());
	for (std::size_t i = 0; i < rows.size(); ++i) {
		for (const std::vector<float> &other : rows) {
			out[i].push_back(std::inner_product(rows[i].begin(), rows[i].end(), other.begin(), 0.0F));
		}
	}
	return out;
}

struct spread {
	double low, median, high;
};

template <class Value>
spread spread_of(const std::vector<pass> &passes, Value pass::*member) {
	std::vector<double> values;
	for (const pass &p : passes) {
		values.push_back(static_cast<double>(p.*member));
	}
	std::sort(values.begin(), values.end());
	const std::size_t n = values.size();
	return {values.front(), (values[(n - 1) / 2] + values[n / 2]) / 2, values.back()};
}

/// std::allocator takes its memory from malloc. Whose is that?
std::string malloc_library() {
	Dl_info about{};
	void *function = dlsym(RTLD_DEFAULT, "malloc");
	if (function == nullptr || dladdr(function, &about) == 0) {
		return "the program";
	}
	const std::string_view path = about.dli_fname;
	return std::string(path.substr(path.rfind('/') + 1));
}

bool all_the_same(const std::vector<std::vector<pass>> &passes) {
	const std::uint64_t digest = passes.front().front().digest;
	return std::all_of(passes.begin(), passes.end(), [&](const std::vector<pass> &of_kind) {
		return std::all_of(of_kind.begin(), of_kind.end(), [&](const pass &p) { return p.digest == digest; });
	});
}

/// At most `width` bytes of a text, none of its characters cut in two.
std::string shortened(const std::string &text, std::size_t width) {
	const auto inside = [&](std::size_t at) { return (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80; };
	if (text.size() <= width) {
		return text;
	}
	while (width != 0 && inside(width)) {
		--width;
	}
	return text.substr(0, width) + "...";
}

} // namespace

void write_embeddings(const embedded &result) {
	std::cout << std::setprecision(std::numeric_limits<float>::max_digits10) << "{\"tokens\": ";
	write_list(result.sentences, write_row);
	std::cout << ",\n\"embeddings\": ";
	write_list(rows_of(result), write_row);
	std::cout << "}\n";
}

void write_table(
	const embedded &result, const std::vector<std::string> &texts, const std::vector<std::vector<pass>> &passes) {
	const auto cosines = similarity(result);
	std::size_t tokens = 0;
	for (std::size_t i = 0; i < texts.size(); ++i) {
		std::printf("%3zu ", i + 1);
		for (const float cosine : cosines[i]) {
			std::printf(" %5.2f", static_cast<double>(cosine));
		}
		std::printf("  %s\n", shortened(texts[i], 60).c_str());
		tokens += result.sentences[i].size();
	}

	std::printf("\nFirst pass: %zu sentences, %zu tokens, %zu passes of each kind; median "
				"[lowest .. highest].\n\n%-36s %13s  %7s  %29s  %5s\n",
		texts.size(), tokens, passes.front().size(), "", "thread faults", "process", "time of the pass", "ratio");
	const double baseline = spread_of(passes.front(), &pass::milliseconds).median;
	for (std::size_t kind = 0; kind < passes.size(); ++kind) {
		const spread time = spread_of(passes[kind], &pass::milliseconds);
		std::printf("%-36s %7.0f + %3.0f  %7.0f  %7.1f ms [%6.1f .. %6.1f]  %5.2f\n", memory_kinds[kind].name,
			spread_of(passes[kind], &pass::thread_minor).median, spread_of(passes[kind], &pass::thread_major).median,
			spread_of(passes[kind], &pass::process).median, time.median, time.low, time.high, time.median / baseline);
	}
	std::printf("\nthread: minor + major page faults of the computing thread during the pass;\n"
				"process: of all threads, the prefetching one too. malloc is that of %s.\n"
				"The embeddings of all passes are %s.\n",
		malloc_library().c_str(), all_the_same(passes) ? "the same, bit for bit" : "NOT THE SAME");
}

void write_table_json(const embedded &result, const std::vector<std::vector<pass>> &passes) {
	std::cout << std::setprecision(9) << "{\"similarity\": ";
	write_list(similarity(result), write_row);
	std::cout << ",\n\"malloc\": \"" << malloc_library()
			  << "\",\n\"same_embeddings\": " << (all_the_same(passes) ? "true" : "false") << ",\n\"first_pass\": {";
	for (std::size_t kind = 0; kind < passes.size(); ++kind) {
		const auto values = [&](const char *name, auto member) {
			std::cout << '"' << name << "\": ";
			write_list(passes[kind], [&](const pass &p) { std::cout << p.*member; });
		};
		std::cout << (kind == 0 ? "\n" : ",\n") << '"' << memory_kinds[kind].key << "\": {";
		values("thread_minor_faults", &pass::thread_minor);
		std::cout << ", ";
		values("thread_major_faults", &pass::thread_major);
		std::cout << ", ";
		values("process_faults", &pass::process);
		std::cout << ", ";
		values("milliseconds", &pass::milliseconds);
		std::cout << '}';
	}
	std::cout << "}}\n";
}

} // namespace minilm
