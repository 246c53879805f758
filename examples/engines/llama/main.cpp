// SPDX-License-Identifier: Apache-2.0
// Loads a model, reads a prompt and generates tokens, in llama.cpp:
//
//     engine_llama --memory engine|mmap|libgmem|mapped [--mib 4096] [--folder FOLDER] [--cold 1]
//     engine_llama --memory ... --minilm FOLDER
//
// engine: llama.cpp allocates, and reads the file (--no-mmap). mmap: the weights are the file's pages, its default.
// libgmem: as engine, and the memory that it will allocate is prefetched before; for engine_llama_malloc, whose malloc
// is libgmem's. mapped: as mmap, and the file is read into the page cache before, on several threads. --cold 1 drops
// the file from the page cache first.
// --minilm computes the embeddings of examples/minilm.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include <fcntl.h>
#include <unistd.h>

#include <llama-cpp.h>

#include <libgmem.hpp>

#include "measure.hpp"
#include "minilm.hpp"
#include "random_model.hpp"

namespace {

constexpr int threads = 2;
constexpr int prompt_tokens = 32;
constexpr int generated_tokens = 8;

[[noreturn]] void fail(const char *what) {
	std::fprintf(stderr, "%s\n", what);
	std::exit(1);
}

void log_errors(ggml_log_level level, const char *text, void *) {
	if (level == GGML_LOG_LEVEL_ERROR) {
		std::fputs(text, stderr);
	}
}

/// Drop the clean pages of a file from the page cache.
void drop_from_cache(const std::string &path) {
	const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
	if (file < 0 || fdatasync(file) != 0 || posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED) != 0) {
		fail("the file cannot be dropped from the page cache");
	}
	close(file);
}

/// Prefetch memory on huge pages, and leave it with the heap, which serves the next large blocks of malloc with it.
void make_room(std::size_t bytes) {
	gmem::buffer<std::byte> room(bytes);
	gmem::prefetch_options how;
	how.huge = gmem::huge_pages::prefer;
	gmem::prefetch(room, gmem::device::numa_id(), nullptr, how);
}

/// A model in memory, and what it takes to compute with it.
class engine {
public:
	engine(const std::string &path, const std::string &memory, llama_context_params how) {
		llama_model_params from = llama_model_default_params();
		from.load_mode = LLAMA_LOAD_MODE_NONE;
		// The same weights in each way, not rearranged.
		from.use_extra_bufts = false;
		if (memory == "mmap" || memory == "mapped") {
			from.load_mode = LLAMA_LOAD_MODE_MMAP;
		}
		if (memory == "mapped") {
			gmem::model_options shared;
			shared.mode = gmem::model_mode::shared;
			const gmem::model_file file(path, shared);
			gmem::prefetch(file.range(), gmem::device::numa_id());
		} else if (memory == "libgmem") {
			make_room(std::filesystem::file_size(path));
		} else if (memory != "engine" && memory != "mmap") {
			fail("--memory is engine, mmap, libgmem or mapped");
		}
		model_.reset(llama_model_load_from_file(path.c_str(), from));
		if (model_ == nullptr) {
			fail("the model cannot be loaded");
		}
		how.n_threads = how.n_threads_batch = threads;
		context_.reset(llama_init_from_model(model_.get(), how));
		if (context_ == nullptr) {
			fail("there is no context");
		}
	}

	/// Append tokens; returns the most likely one to follow.
	llama_token decode(std::vector<llama_token> tokens) {
		if (llama_decode(context_.get(), llama_batch_get_one(tokens.data(), static_cast<int>(tokens.size()))) != 0) {
			fail("llama_decode() failed");
		}
		const float *const first = logits();
		return static_cast<llama_token>(std::max_element(first, first + random_model::vocabulary) - first);
	}
	[[nodiscard]] const float *logits() const { return llama_get_logits_ith(context_.get(), -1); }

	std::vector<float> embed(const std::vector<std::int64_t> &sentence) {
		std::vector<llama_token> tokens(sentence.begin(), sentence.end());
		if (llama_encode(context_.get(), llama_batch_get_one(tokens.data(), static_cast<int>(tokens.size()))) != 0) {
			fail("llama_encode() failed");
		}
		const float *const first = llama_get_embeddings_seq(context_.get(), 0);
		return {first, first + minilm::width};
	}

	void free() {
		context_.reset();
		model_.reset();
		// Idle memory of the heap, back to the kernel now; the heap would keep it for a while.
		gmemHeapTrim();
	}

private:
	llama_model_ptr model_;
	llama_context_ptr context_;
};

void embed_minilm(const std::string &folder, const std::string &memory) {
	llama_context_params how = llama_context_default_params();
	how.n_ctx = how.n_batch = how.n_ubatch = 512;
	how.embeddings = true;
	// Its sums are of 16 bits.
	how.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
	engine model(folder + "/minilm.gguf", memory, how);
	minilm::compare(folder, [&](const std::vector<std::int64_t> &tokens) { return model.embed(tokens); });
}

void generate(const std::string &path, const std::string &memory) {
	llama_context_params how = llama_context_default_params();
	how.n_ctx = 512;
	std::vector<llama_token> prompt(prompt_tokens);
	for (int i = 0; i < prompt_tokens; ++i) {
		prompt[static_cast<std::size_t>(i)] = i * 61 % random_model::vocabulary;
	}
	measure::report report;
	std::optional<engine> model;
	llama_token next = 0;
	report.phase("load", [&] { model.emplace(path, memory, how); });
	report.phase("first", [&] { next = model->decode(prompt); });
	report.phase("steady", [&] { next = model->decode({next}); }, generated_tokens);
	const std::vector<float> result(model->logits(), model->logits() + random_model::vocabulary);
	report.phase("free", [&] { model->free(); });
	report.result(result.data(), result.size() * sizeof(float));
	report.print();
}

} // namespace

int main(int argc, char **argv) {
	llama_log_set(log_errors, nullptr);
	llama_backend_init();
	const std::string memory = measure::option(argc, argv, "memory", "libgmem");
	const std::string folder = measure::option(argc, argv, "minilm", "");
	if (!folder.empty()) {
		embed_minilm(folder, memory);
		return 0;
	}
	const std::string path = random_model::need(
		measure::option(argc, argv, "folder", "."), std::stoul(measure::option(argc, argv, "mib", "4096")));
	if (measure::option(argc, argv, "cold", "0") == "1") {
		drop_from_cache(path);
	}
	generate(path, memory);
}
