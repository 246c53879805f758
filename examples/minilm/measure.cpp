// SPDX-License-Identifier: Apache-2.0
/// Each pass has a fresh process, and in it a rehearsal: the same pass by another model. It warms
/// up the code, the stack, the heap's own books and the file's pages, and it stays alive, so that
/// the model that is measured gets memory that was never touched.
#include "measure.hpp"

#include <array>
#include <cerrno>
#include <chrono>
#include <iterator>
#include <ostream>
#include <sstream>
#include <stdexcept>
#include <system_error>

#include <spawn.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "input_error.hpp"
#include "memory.hpp"
#include "model.hpp"

extern "C" char **environ; // NOLINT(*-redundant-declaration)

namespace minilm {
namespace {

rusage usage_of(int who) {
	rusage usage{};
	getrusage(who, &usage);
	return usage;
}

/// FNV-1a.
std::uint64_t digest_of(const std::vector<float> &values) {
	std::uint64_t digest = 0xCBF29CE484222325;
	const auto *bytes = reinterpret_cast<const unsigned char *>(values.data());
	for (std::size_t i = 0; i < values.size() * sizeof(float); ++i) {
		digest = (digest ^ bytes[i]) * 0x100000001B3;
	}
	return digest;
}

template <class Memory>
pass first_pass(const std::string &file, const std::vector<sentence> &batch) {
	model<Memory> rehearsal(file), measured(file);
	std::vector<float> embeddings;
	rehearsal.embed(batch, embeddings);
	// Small blocks, such as the list of word vectors, come from pages of the heap that were used before.
	{
		const std::vector<char> touched(std::size_t{100} << 10, 1);
	}

	// RUSAGE_THREAD: a fault on this thread is time that the pass loses. The stream's thread
	// faults pages in as well, but beside the pass: only the process's total has those.
	const rusage process_before = usage_of(RUSAGE_SELF), before = usage_of(RUSAGE_THREAD);
	const auto start = std::chrono::steady_clock::now();
	measured.embed(batch, embeddings);
	const std::chrono::duration<double, std::milli> time = std::chrono::steady_clock::now() - start;
	const rusage after = usage_of(RUSAGE_THREAD), process_after = usage_of(RUSAGE_SELF);

	pass out;
	out.milliseconds = time.count();
	out.thread_minor = after.ru_minflt - before.ru_minflt;
	out.thread_major = after.ru_majflt - before.ru_majflt;
	out.process =
		process_after.ru_minflt + process_after.ru_majflt - process_before.ru_minflt - process_before.ru_majflt;
	out.digest = digest_of(embeddings);
	return out;
}

/// Run this program again with these arguments.
/// @return what it wrote to its standard output
std::string run_self(std::vector<std::string> arguments) {
	std::array<int, 2> ends{};
	if (pipe(ends.data()) != 0) {
		throw std::system_error(errno, std::generic_category(), "pipe");
	}
	posix_spawn_file_actions_t actions;
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
	posix_spawn_file_actions_addclose(&actions, ends[0]);
	posix_spawn_file_actions_addclose(&actions, ends[1]);
	std::vector<char *> argv;
	for (std::string &argument : arguments) {
		argv.push_back(argument.data());
	}
	argv.push_back(nullptr);
	pid_t child = 0;
	const int error = posix_spawn(&child, "/proc/self/exe", &actions, nullptr, argv.data(), environ);
	posix_spawn_file_actions_destroy(&actions);
	close(ends[1]);
	std::string output;
	std::array<char, 4096> chunk{};
	for (ssize_t n = 0; error == 0 && (n = read(ends[0], chunk.data(), chunk.size())) > 0;) {
		output.append(chunk.data(), static_cast<std::size_t>(n));
	}
	close(ends[0]);
	if (error != 0) {
		throw std::system_error(error, std::generic_category(), "cannot start /proc/self/exe");
	}
	int status = 0;
	while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
	}
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
		throw std::runtime_error("the measuring process failed; run it by hand: minilm --pass " + arguments[2]);
	}
	return output;
}

} // namespace

pass run_pass(const std::string &key, const std::string &directory, const std::vector<std::string> &sentences) {
	const tokenizer words(directory + "/vocab.txt");
	std::vector<sentence> batch;
	for (const std::string &text : sentences) {
		batch.push_back(words.encode(text));
	}
	const std::string file = directory + "/model.safetensors";
	if (key == memory_kinds[0].key) {
		return first_pass<standard_memory>(file, batch);
	}
	if (key == memory_kinds[1].key) {
		return first_pass<gmem_memory>(file, batch);
	}
	if (key == memory_kinds[2].key) {
		return first_pass<prefetched_memory>(file, batch);
	}
	throw input_error("--pass " + key + ": give standard, gmem or prefetched");
}

void print(std::ostream &out, const pass &p) {
	out << p.milliseconds << ' ' << p.thread_minor << ' ' << p.thread_major << ' ' << p.process << ' ' << p.digest
		<< '\n';
}

std::vector<std::vector<pass>> measure(
	const std::string &directory, const std::vector<std::string> &sentences, int repeat) {
	constexpr std::size_t kinds = std::size(memory_kinds);
	std::vector<std::vector<pass>> passes(kinds);
	for (int round = 0; round < repeat; ++round) {
		for (std::size_t turn = 0; turn < kinds; ++turn) {
			const std::size_t kind = (turn + static_cast<std::size_t>(round)) % kinds;
			std::vector<std::string> arguments = {
				"minilm", "--pass", memory_kinds[kind].key, "--model", directory, "--"};
			arguments.insert(arguments.end(), sentences.begin(), sentences.end());
			std::istringstream line(run_self(std::move(arguments)));
			pass p;
			line >> p.milliseconds >> p.thread_minor >> p.thread_major >> p.process >> p.digest;
			if (!line) {
				throw std::runtime_error("the measuring process wrote no result");
			}
			passes[kind].push_back(p);
		}
	}
	return passes;
}

} // namespace minilm
