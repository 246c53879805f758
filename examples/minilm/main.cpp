// SPDX-License-Identifier: Apache-2.0
/// minilm: how alike are these sentences, and what did the first pass cost?
#include <algorithm>
#include <charconv>
#include <exception>
#include <iostream>
#include <string>
#include <vector>

#include "input_error.hpp"
#include "measure.hpp"
#include "memory.hpp"
#include "model.hpp"
#include "report.hpp"
#include "tokenizer.hpp"

namespace minilm {
namespace {

constexpr const char *help =
	R"(minilm: compare sentences with all-MiniLM-L6-v2, and measure the model's first pass

  minilm [--model DIR] [--repeat N] [--json] [SENTENCE...]
         the similarity of each sentence to each, then page faults and time of a first pass
         with std::allocator, with libgmem's allocator, and with prefetch on a stream
  minilm --embed [--model DIR]
         read sentences from standard input, one a line, and write their tokens and
         embeddings as JSON

  --model DIR   folder with model.safetensors and vocab.txt ("model" unless given);
                python3 fetch_model.py DIR fills it
  --repeat N    first passes for each kind of memory, 1 to 1000 (7 unless given)
  --json        everything as JSON
  --help        this text

Exit code: 0, 2 for input that cannot be used, 1 for any other failure.
)";

const std::vector<std::string> default_sentences = {
	"The cat sits outside in the garden.",
	"A kitten is playing on the lawn.",
	"The engine loads its weights into memory before it computes.",
	"Model parameters are copied to RAM ahead of inference.",
	"She bought fresh bread at the bakery this morning.",
	"How long does it take to bake a loaf?",
};

struct options {
	enum { compare, embed, one_pass, show_help } action = compare;
	std::string model = "model", memory;
	int repeat = 7;
	bool json = false;
	std::vector<std::string> sentences;
};

options parse(const std::vector<std::string> &arguments) {
	options out;
	for (std::size_t i = 0; i < arguments.size(); ++i) {
		const std::string &argument = arguments[i];
		const auto value = [&]() -> const std::string & {
			if (++i == arguments.size()) {
				throw input_error(argument + " needs a value; see minilm --help");
			}
			return arguments[i];
		};
		if (argument == "--") {
			out.sentences.insert(
				out.sentences.end(), arguments.begin() + static_cast<std::ptrdiff_t>(i) + 1, arguments.end());
			break;
		}
		if (argument == "--help" || argument == "-h") {
			out.action = options::show_help;
		} else if (argument == "--model") {
			out.model = value();
		} else if (argument == "--repeat") {
			const std::string &text = value();
			const char *end = text.data() + text.size();
			const auto [stop, error] = std::from_chars(text.data(), end, out.repeat);
			if (error != std::errc() || stop != end || out.repeat < 1 || out.repeat > 1000) {
				throw input_error("--repeat " + text + ": give a whole number from 1 to 1000");
			}
		} else if (argument == "--json") {
			out.json = true;
		} else if (argument == "--embed") {
			out.action = options::embed;
		} else if (argument == "--pass") { // what measure() starts
			out.action = options::one_pass;
			out.memory = value();
		} else if (argument.size() > 1 && argument[0] == '-') {
			throw input_error("unknown option " + argument +
							  "; see minilm --help, and put -- before a sentence that begins "
							  "with a hyphen");
		} else {
			out.sentences.push_back(argument);
		}
	}
	if (out.action == options::embed && !out.sentences.empty()) {
		throw input_error(
			"--embed reads its sentences from standard input, one a line; leave '" + out.sentences.front() + "' away");
	}
	if (out.sentences.empty()) {
		out.sentences = default_sentences;
	}
	return out;
}

embedded embed(const std::string &directory, const std::vector<std::string> &texts) {
	const tokenizer words(directory + "/vocab.txt");
	embedded out;
	for (const std::string &text : texts) {
		out.sentences.push_back(words.encode(text));
	}
	model<prefetched_memory> engine(directory + "/model.safetensors");
	constexpr std::ptrdiff_t batch_size = 32; // bounds the workspace, however long the input
	std::vector<float> vectors;
	for (auto at = out.sentences.begin(); at != out.sentences.end();) {
		const auto end = at + std::min(batch_size, out.sentences.end() - at);
		engine.embed({at, end}, vectors);
		out.embeddings.insert(out.embeddings.end(), vectors.begin(), vectors.end());
		at = end;
	}
	return out;
}

std::vector<std::string> read_lines() {
	std::vector<std::string> lines;
	for (std::string line; std::getline(std::cin, line);) {
		lines.push_back(line);
	}
	return lines;
}

void run(const options &given) {
	switch (given.action) {
	case options::show_help: std::cout << help; break;
	case options::embed: write_embeddings(embed(given.model, read_lines())); break;
	case options::one_pass: print(std::cout, run_pass(given.memory, given.model, given.sentences)); break;
	case options::compare: {
		const embedded result = embed(given.model, given.sentences);
		const auto passes = measure(given.model, given.sentences, given.repeat);
		if (given.json) {
			write_table_json(result, passes);
		} else {
			write_table(result, given.sentences, passes);
		}
		break;
	}
	}
}

} // namespace
} // namespace minilm

int main(int argc, char **argv) {
	try {
		minilm::run(minilm::parse({argv + std::min(argc, 1), argv + argc}));
		return 0;
	} catch (const minilm::input_error &e) {
		std::cerr << "minilm: " << e.what() << '\n';
		return 2;
	} catch (const std::exception &e) {
		std::cerr << "minilm: " << e.what() << '\n';
		return 1;
	}
}
