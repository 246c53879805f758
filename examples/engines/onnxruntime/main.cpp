// SPDX-License-Identifier: Apache-2.0
// Loads a multi-layer network and infers with it, in ONNX Runtime:
//
//     engine_onnxruntime --memory engine|libgmem [--mib 256] [--folder FOLDER]
//     engine_onnxruntime --memory engine|libgmem --minilm FOLDER
//
// engine: as ONNX Runtime does by itself, with its arena. libgmem: gmem::engines::onnxruntime_allocator. --minilm
// computes the embeddings of examples/minilm.
#include <algorithm>
#include <array>
#include <cstdio>
#include <fstream>
#include <optional>
#include <string>
#include <vector>

#include <onnxruntime_cxx_api.h>

#include <libgmem.hpp>
#include <libgmem/engines/onnxruntime.hpp>

#include "measure.hpp"
#include "minilm.hpp"
#include "onnx_model.hpp"

namespace {

constexpr std::int64_t width = 2048;
constexpr std::int64_t rows = 32;
constexpr std::size_t layer_values = width * width;

Ort::Env &environment() {
	static Ort::Env only(ORT_LOGGING_LEVEL_ERROR, "engine_onnxruntime");
	return only;
}

/// A session, and how it is run.
class network {
public:
	network(const std::string &model, bool is_ours) {
		Ort::SessionOptions options;
		options.SetIntraOpNumThreads(2);
		if (is_ours) {
			// Else the session has an arena of its own. What it makes of the weights goes here, too.
			options.AddConfigEntry("session.use_env_allocators", "1");
		}
		session_ = Ort::Session(environment(), model.c_str(), options);
	}

	void run(std::vector<float> &input, std::vector<float> &output) {
		const std::array<std::int64_t, 2> shape{rows, width};
		const auto tensor = [&](std::vector<float> &of) {
			return Ort::Value::CreateTensor<float>(cpu_, of.data(), of.size(), shape.data(), shape.size());
		};
		const Ort::Value in = tensor(input);
		Ort::Value out = tensor(output);
		const char *const input_name = "input";
		const char *const output_name = "output";
		session_.Run(Ort::RunOptions(), &input_name, &in, 1, &output_name, &out, 1);
	}

	std::vector<float> embed(std::vector<std::int64_t> tokens) {
		const std::array<std::int64_t, 2> shape{1, static_cast<std::int64_t>(tokens.size())};
		const Ort::Value in =
			Ort::Value::CreateTensor<std::int64_t>(cpu_, tokens.data(), tokens.size(), shape.data(), shape.size());
		const char *const input_name = "tokens";
		const char *const output_name = "embedding";
		const std::vector<Ort::Value> out = session_.Run(Ort::RunOptions(), &input_name, &in, 1, &output_name, 1);
		const float *const first = out.at(0).GetTensorData<float>();
		return {first, first + minilm::width};
	}

	void free() {
		session_ = Ort::Session(nullptr);
		gmemHeapTrim();
	}

private:
	Ort::MemoryInfo cpu_ = Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeDefault);
	Ort::Session session_{nullptr};
};

} // namespace

int main(int argc, char **argv) {
	const std::string memory = measure::option(argc, argv, "memory", "libgmem");
	if (memory != "engine" && memory != "libgmem") {
		std::fprintf(stderr, "--memory is %s; it is engine or libgmem\n", memory.c_str());
		return 2;
	}
	// Before the environment, because it must outlive it.
	static gmem::engines::onnxruntime_allocator ours(Ort::GetApi());
	if (memory == "libgmem") {
		Ort::ThrowOnError(Ort::GetApi().RegisterAllocator(environment(), &ours));
	}
	const std::string minilm_folder = measure::option(argc, argv, "minilm", "");
	if (!minilm_folder.empty()) {
		network model(minilm_folder + "/minilm.onnx", memory == "libgmem");
		minilm::compare(minilm_folder, [&](const std::vector<std::int64_t> &tokens) { return model.embed(tokens); });
		return 0;
	}
	const std::size_t layers = std::max<std::size_t>(
		1, std::stoul(measure::option(argc, argv, "mib", "256")) * 1048576 / (layer_values * sizeof(float)));
	const std::string folder = measure::option(argc, argv, "folder", ".");
	const std::string weights = "onnx." + std::to_string(layers) + ".bin";
	const std::string model = folder + "/network." + std::to_string(layers) + ".onnx";
	measure::need_file(folder + "/" + weights, layers * layer_values);
	std::ofstream(model, std::ios::binary) << onnx_model::network(layers, rows, width, weights);

	measure::report report;
	std::optional<network> net;
	std::vector<float> input(rows * width), output(rows * width);
	measure::fill(input.data(), input.size());
	report.phase("load", [&] { net.emplace(model, memory == "libgmem"); });
	report.phase("first", [&] { net->run(input, output); });
	report.phase("steady", [&] { net->run(input, output); }, 10);
	report.phase("free", [&] { net->free(); });
	report.result(output.data(), output.size() * sizeof(float));
	report.print();
}
