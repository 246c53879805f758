// SPDX-License-Identifier: Apache-2.0
// Loads a multi-layer network and infers with it, in OpenVINO:
//
//     engine_openvino --memory engine|libgmem [--mib 256] [--folder FOLDER]
//     engine_openvino --memory engine|libgmem --minilm FOLDER
//
// engine: as OpenVINO does by itself. libgmem: weights, input and output by <libgmem/engines/openvino.hpp>. --minilm
// computes the embeddings of examples/minilm.
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <openvino/openvino.hpp>
#include <openvino/opsets/opset8.hpp>

#include <libgmem.hpp>
#include <libgmem/engines/openvino.hpp>

#include "measure.hpp"
#include "minilm.hpp"

namespace {

constexpr std::size_t width = 2048;
constexpr std::size_t rows = 32;
constexpr std::size_t layer_bytes = width * width * sizeof(float);

/// Write the network once.
void need_model(const std::string &xml, std::size_t layers) {
	if (std::ifstream(xml)) {
		return;
	}
	const auto input = std::make_shared<ov::opset8::Parameter>(ov::element::f32, ov::Shape{rows, width});
	ov::Output<ov::Node> last = input;
	for (std::size_t i = 0; i < layers; ++i) {
		std::vector<float> values(width * width);
		measure::fill(values.data(), values.size(), static_cast<std::uint32_t>(i + 1));
		for (float &value : values) {
			value /= 16;
		}
		const auto weights = std::make_shared<ov::opset8::Constant>(ov::element::f32, ov::Shape{width, width}, values);
		last = std::make_shared<ov::opset8::Tanh>(std::make_shared<ov::opset8::MatMul>(last, weights, false, true));
	}
	ov::serialize(std::make_shared<ov::Model>(ov::OutputVector{last}, ov::ParameterVector{input}), xml);
}

ov::AnyMap settings() { return {ov::inference_num_threads(2), ov::hint::inference_precision(ov::element::f32)}; }

void embed_minilm(ov::Core &core, const std::string &folder, bool is_ours) {
	const std::string xml = folder + "/minilm.xml";
	if (!std::ifstream(xml)) {
		// OpenVINO's own format, which gmem::engines::read_model() takes.
		ov::serialize(core.read_model(folder + "/minilm.onnx"), xml);
	}
	const auto model = is_ours ? gmem::engines::read_model(core, xml) : core.read_model(xml);
	ov::CompiledModel compiled = core.compile_model(model, "CPU", settings());
	ov::InferRequest request = compiled.create_infer_request();
	minilm::compare(folder, [&](const std::vector<std::int64_t> &tokens) {
		const ov::Shape shape{1, tokens.size()};
		ov::Tensor input =
			is_ours ? gmem::engines::ready_tensor(ov::element::i64, shape) : ov::Tensor(ov::element::i64, shape);
		std::copy(tokens.begin(), tokens.end(), input.data<std::int64_t>());
		request.set_input_tensor(input);
		request.infer();
		const float *const first = request.get_output_tensor().data<float>();
		return std::vector<float>(first, first + minilm::width);
	});
}

struct network {
	std::shared_ptr<ov::Model> model;
	ov::CompiledModel compiled;
	ov::InferRequest request;
};

} // namespace

int main(int argc, char **argv) {
	const std::string memory = measure::option(argc, argv, "memory", "libgmem");
	if (memory != "engine" && memory != "libgmem") {
		std::fprintf(stderr, "--memory is %s; it is engine or libgmem\n", memory.c_str());
		return 2;
	}
	const bool is_ours = memory == "libgmem";
	ov::Core core;
	const std::string minilm_folder = measure::option(argc, argv, "minilm", "");
	if (!minilm_folder.empty()) {
		embed_minilm(core, minilm_folder, is_ours);
		return 0;
	}
	const std::size_t layers =
		std::max<std::size_t>(1, std::stoul(measure::option(argc, argv, "mib", "256")) * 1048576 / layer_bytes);
	const std::string xml = measure::option(argc, argv, "folder", ".") + "/network." + std::to_string(layers) + ".xml";
	need_model(xml, layers);

	measure::report report;
	std::optional<network> net(std::in_place);
	std::vector<float> result(rows * width);
	report.phase("load", [&] {
		net->model = is_ours ? gmem::engines::read_model(core, xml) : core.read_model(xml);
		net->compiled = core.compile_model(net->model, "CPU", settings());
		net->request = net->compiled.create_infer_request();
		if (is_ours) {
			net->request.set_input_tensor(gmem::engines::ready_tensor(ov::element::f32, {rows, width}));
			net->request.set_output_tensor(gmem::engines::ready_tensor(ov::element::f32, {rows, width}));
		}
	});
	measure::fill(net->request.get_input_tensor().data<float>(), rows * width);
	report.phase("first", [&] { net->request.infer(); });
	report.phase("steady", [&] { net->request.infer(); }, 10);
	std::copy_n(net->request.get_output_tensor().data<float>(), result.size(), result.begin());
	report.phase("free", [&] { net.reset(); });
	report.result(result.data(), result.size() * sizeof(float));
	report.print();
}
