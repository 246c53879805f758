// SPDX-License-Identifier: Apache-2.0
// Loads a multi-layer network and runs it, in ExecuTorch:
//
//     engine_executorch --memory engine|mmap|libgmem [--mib 1024] [--folder FOLDER]
//
// engine: the file is read by ExecuTorch's own loader. mmap: it is mapped by ExecuTorch's. libgmem:
// gmem::engines::executorch_loader. FOLDER has the program network.LAYERS.pte, which make_program.py writes.
#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include <executorch/extension/module/module.h>
#include <executorch/extension/tensor/tensor.h>

#include <libgmem.hpp>
#include <libgmem/engines/executorch.hpp>

#include "measure.hpp"

namespace {

using executorch::extension::Module;

constexpr int width = 2048;
constexpr int rows = 32;

[[noreturn]] void fail(const char *what, executorch::runtime::Error why) {
	std::fprintf(stderr, "%s failed: %s\n", what, executorch::runtime::to_string(why));
	std::exit(1);
}

std::unique_ptr<Module> open_program(const std::string &memory, const std::string &path) {
	if (memory == "libgmem") {
		auto loader = gmem::engines::executorch_loader::from(path.c_str());
		if (!loader.ok()) {
			fail(path.c_str(), loader.error());
		}
		return std::make_unique<Module>(std::make_unique<gmem::engines::executorch_loader>(std::move(loader.get())),
			std::make_unique<gmem::engines::executorch_allocator>(),
			std::make_unique<gmem::engines::executorch_allocator>());
	}
	if (memory != "engine" && memory != "mmap") {
		std::fprintf(stderr, "--memory is %s; it is engine, mmap or libgmem\n", memory.c_str());
		std::exit(2);
	}
	return std::make_unique<Module>(path, memory == "mmap" ? Module::LoadMode::Mmap : Module::LoadMode::File);
}

} // namespace

int main(int argc, char **argv) {
	const std::string memory = measure::option(argc, argv, "memory", "libgmem");
	const std::size_t layers = std::max<std::size_t>(
		1, std::stoul(measure::option(argc, argv, "mib", "1024")) * 1048576 / (sizeof(float) * width * width));
	const std::string path = measure::option(argc, argv, "folder", ".") + "/network." + std::to_string(layers) + ".pte";

	measure::report report;
	std::unique_ptr<Module> module;
	std::vector<float> values(rows * width), result(rows * width);
	measure::fill(values.data(), values.size());
	const auto input = executorch::extension::from_blob(values.data(), {rows, width});
	const auto pass = [&] {
		const auto outputs = module->forward(input);
		if (!outputs.ok()) {
			fail("forward()", outputs.error());
		}
		const auto tensor = outputs->at(0).toTensor();
		std::copy_n(tensor.const_data_ptr<float>(), result.size(), result.begin());
	};
	report.phase("load", [&] {
		module = open_program(memory, path);
		if (const auto failure = module->load_method("forward"); failure != executorch::runtime::Error::Ok) {
			fail("load_method()", failure);
		}
	});
	report.phase("first", pass);
	report.phase("steady", pass, 5);
	report.phase("free", [&] { module.reset(); });
	report.result(result.data(), result.size() * sizeof(float));
	report.print();
}
