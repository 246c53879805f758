// SPDX-License-Identifier: Apache-2.0
// Reads the weights of a multi-layer network from a file and computes with them, in libtorch:
//
//     engine_torch --memory engine|libgmem [--mib 1024] [--folder FOLDER]
//
// engine: libtorch's own allocator. libgmem: gmem::engines::torch_allocator for all tensors.
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <string>
#include <vector>

#include <torch/torch.h>

#include <libgmem.hpp>
#include <libgmem/engines/torch.hpp>

#include "measure.hpp"

namespace {

constexpr std::int64_t width = 4096;
constexpr std::int64_t rows = 256;
constexpr std::size_t layer_bytes = width * width * sizeof(float);

} // namespace

int main(int argc, char **argv) {
	const std::string memory = measure::option(argc, argv, "memory", "libgmem");
	if (memory != "engine" && memory != "libgmem") {
		std::fprintf(stderr, "--memory is %s; it is engine or libgmem\n", memory.c_str());
		return 2;
	}
	const std::size_t layers =
		std::max<std::size_t>(1, std::stoul(measure::option(argc, argv, "mib", "1024")) * 1048576 / layer_bytes);
	const std::string path = measure::option(argc, argv, "folder", ".") + "/weights." + std::to_string(layers) + ".f32";
	measure::need_file(path, layers * layer_bytes / sizeof(float));

	static gmem::engines::torch_allocator ours;
	if (memory == "libgmem") {
		c10::SetAllocator(c10::DeviceType::CPU, &ours);
	}
	torch::set_num_threads(2);
	const torch::NoGradGuard inference;
	measure::report report;
	std::vector<torch::Tensor> weights;
	torch::Tensor input = torch::empty({rows, width}), output;
	measure::fill(input.data_ptr<float>(), static_cast<std::size_t>(input.numel()));
	report.phase("load", [&] {
		std::ifstream file(path, std::ios::binary);
		for (std::size_t i = 0; i < layers; ++i) {
			weights.push_back(torch::empty({width, width}));
			file.read(static_cast<char *>(weights.back().data_ptr()), static_cast<std::streamsize>(layer_bytes));
		}
	});
	const auto pass = [&] {
		output = input;
		for (const torch::Tensor &layer : weights) {
			output = torch::layer_norm(torch::linear(output, layer), {width});
		}
	};
	report.phase("first", pass);
	report.phase("steady", pass, 3);
	report.phase("free", [&] {
		weights.clear();
		gmemHeapTrim();
	});
	report.result(output.data_ptr(), output.nbytes());
	report.print();
}
