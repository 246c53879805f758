// SPDX-License-Identifier: Apache-2.0
// Loads the weights of a multi-layer network from a file and computes with them, in ggml:
//
//     engine_ggml --memory engine|mmap|libgmem|device [--mib 512] [--folder FOLDER]
//
// engine: ggml allocates, and the file is read. mmap: the weights are the file's pages. libgmem:
// gmem::engines::ggml_memory. device: the same for a device of ggml, here its CPU's.
#include <algorithm>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <ggml-cpp.h>
#include <ggml-cpu.h>

#include <libgmem.hpp>
#include <libgmem/engines/ggml.hpp>

#include "measure.hpp"

namespace {

constexpr std::int64_t width = 4096;
constexpr std::size_t layer_bytes = width * width * sizeof(float);
constexpr int threads = 2;

/// A file as it is mapped or read.
class file {
public:
	explicit file(const std::string &path) : descriptor_(open(path.c_str(), O_RDONLY | O_CLOEXEC)) {}
	file(const file &) = delete;
	file &operator=(const file &) = delete;
	~file() { close(descriptor_); }

	void read(void *to, std::size_t bytes) const {
		for (char *at = static_cast<char *>(to); bytes > 0;) {
			const ssize_t got = ::read(descriptor_, at, bytes);
			if (got <= 0) {
				std::perror("read");
				std::exit(1);
			}
			at += got;
			bytes -= static_cast<std::size_t>(got);
		}
	}
	[[nodiscard]] void *map(std::size_t bytes) const {
		void *const start = mmap(nullptr, bytes, PROT_READ, MAP_SHARED | MAP_POPULATE, descriptor_, 0);
		if (start == MAP_FAILED) {
			std::perror("mmap");
			std::exit(1);
		}
		return start;
	}

private:
	int descriptor_;
};

/// The network: each layer normalises its input and multiplies it with a square matrix.
class network {
public:
	network(const std::string &path, std::size_t layers) : path_(path) {
		const ggml_init_params only_shapes{(layers + 4) * ggml_tensor_overhead(), nullptr, true};
		weights_.reset(ggml_init(only_shapes));
		for (std::size_t i = 0; i < layers; ++i) {
			layers_.push_back(ggml_new_tensor_2d(weights_.get(), GGML_TYPE_F32, width, width));
		}
	}
	network(const network &) = delete;
	network &operator=(const network &) = delete;
	~network() = default;

	void load_into_engines_memory() {
		engine_.reset(ggml_backend_alloc_ctx_tensors_from_buft(weights_.get(), ggml_backend_cpu_buffer_type()));
		read();
	}
	void load_into_libgmem(ggml_backend_dev_t device) {
		gmem_ = gmem::engines::ggml_memory(weights_.get(), device, gmem::device::numa_id());
		read();
	}
	void map_file() {
		const std::size_t bytes = layers_.size() * layer_bytes;
		mapped_ = {file(path_).map(bytes), bytes};
		engine_.reset(ggml_backend_cpu_buffer_from_ptr(mapped_.data(), bytes));
		ggml_tallocr places = ggml_tallocr_new(engine_.get());
		for (ggml_tensor *layer : layers_) {
			ggml_tallocr_alloc(&places, layer);
		}
	}

	/// Everything that a pass needs beside the weights.
	void build_graph() {
		const std::size_t nodes = 4 * layers_.size() + 8;
		graph_.reset(ggml_init({nodes * ggml_tensor_overhead() + ggml_graph_overhead(), nullptr, true}));
		input_ = ggml_new_tensor_1d(graph_.get(), GGML_TYPE_F32, width);
		ggml_set_input(input_);
		output_ = input_;
		for (ggml_tensor *layer : layers_) {
			output_ = ggml_mul_mat(graph_.get(), layer, ggml_rms_norm(graph_.get(), output_, 1e-5F));
		}
		ggml_set_output(output_);
		nodes_ = ggml_new_graph(graph_.get());
		ggml_build_forward_expand(nodes_, output_);
		places_.reset(ggml_gallocr_new(ggml_backend_cpu_buffer_type()));
		ggml_gallocr_alloc_graph(places_.get(), nodes_);
		backend_.reset(ggml_backend_cpu_init());
		ggml_backend_cpu_set_n_threads(backend_.get(), threads);
	}

	[[nodiscard]] std::vector<float> pass() {
		std::vector<float> values(width);
		measure::fill(values.data(), values.size());
		ggml_backend_tensor_set(input_, values.data(), 0, width * sizeof(float));
		ggml_backend_graph_compute(backend_.get(), nodes_);
		ggml_backend_tensor_get(output_, values.data(), 0, width * sizeof(float));
		return values;
	}

	void free_weights() {
		engine_.reset();
		if (mapped_.size_bytes() > 0) {
			munmap(mapped_.data(), mapped_.size_bytes());
		}
		if (gmem_.size() > 0) {
			// Back to the kernel now; the heap would keep it for half a minute.
			gmem::free_eager(gmem_.bytes());
			gmem_ = {};
		}
	}

private:
	void read() {
		const file from(path_);
		for (ggml_tensor *layer : layers_) {
			from.read(layer->data, layer_bytes);
		}
	}

	std::string path_;
	ggml_context_ptr weights_, graph_;
	std::vector<ggml_tensor *> layers_;
	ggml_backend_buffer_ptr engine_;
	gmem::engines::ggml_memory gmem_;
	gmem::mutable_range mapped_;
	ggml_backend_ptr backend_;
	ggml_gallocr_ptr places_;
	ggml_cgraph *nodes_ = nullptr;
	ggml_tensor *input_ = nullptr;
	ggml_tensor *output_ = nullptr;
};

} // namespace

int main(int argc, char **argv) {
	const std::string memory = measure::option(argc, argv, "memory", "libgmem");
	const std::size_t layers =
		std::max<std::size_t>(1, std::stoul(measure::option(argc, argv, "mib", "512")) * 1048576 / layer_bytes);
	const std::string path = measure::option(argc, argv, "folder", ".") + "/weights." + std::to_string(layers) + ".f32";
	measure::need_file(path, layers * layer_bytes / sizeof(float));

	measure::report report;
	std::vector<float> result;
	network net(path, layers);
	report.phase("load", [&] {
		if (memory == "engine") {
			net.load_into_engines_memory();
		} else if (memory == "mmap") {
			net.map_file();
		} else if (memory == "libgmem") {
			net.load_into_libgmem(nullptr);
		} else if (memory == "device") {
			net.load_into_libgmem(ggml_backend_reg_dev_get(ggml_backend_cpu_reg(), 0));
		} else {
			std::fprintf(stderr, "--memory is %s; it is engine, mmap, libgmem or device\n", memory.c_str());
			std::exit(2);
		}
	});
	net.build_graph();
	report.phase("first", [&] { result = net.pass(); });
	report.phase("steady", [&] { result = net.pass(); }, 5);
	report.phase("free", [&] { net.free_weights(); });
	report.result(result.data(), result.size() * sizeof(float));
	report.print();
}
