// SPDX-License-Identifier: Apache-2.0
// Smooths a picture and runs a convolutional network on it, in OpenCV:
//
//     engine_opencv --memory engine|libgmem [--mib 512] [--rest 60]
//
// engine: OpenCV's own allocator. libgmem: gmem::engines::opencv_allocator for all matrices. --mib: the size of what
// the network computes. --rest: idle memory is not trimmed, and the memory is measured up to so many seconds later.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <optional>
#include <string>

#include <opencv2/dnn.hpp>
#include <opencv2/imgproc.hpp>

#include <libgmem.hpp>
#include <libgmem/engines/opencv.hpp>

#include "measure.hpp"

namespace {

constexpr int channels = 16;

void add_convolution(cv::dnn::Net &net, int from, int to, std::uint32_t seed) {
	cv::dnn::LayerParams layer;
	layer.name = "convolution" + std::to_string(seed);
	layer.type = "Convolution";
	layer.set("kernel_size", 3);
	layer.set("pad", 1);
	layer.set("num_output", to);
	layer.set("bias_term", false);
	const int shape[] = {to, from, 3, 3};
	cv::Mat weights(4, shape, CV_32F);
	measure::fill(weights.ptr<float>(), weights.total(), seed);
	layer.blobs.push_back(weights);
	net.addLayerToPrev(layer.name, layer.type, layer);
	cv::dnn::LayerParams relu;
	net.addLayerToPrev("relu" + std::to_string(seed), "ReLU", relu);
}

struct pipeline {
	explicit pipeline(int side) : picture(side, side, CV_32FC3) {
		measure::fill(picture.ptr<float>(), picture.total() * 3);
		add_convolution(net, 3, channels, 1);
		add_convolution(net, channels, channels, 2);
		add_convolution(net, channels, 3, 3);
		net.setPreferableBackend(cv::dnn::DNN_BACKEND_OPENCV);
	}

	[[nodiscard]] cv::Mat run() {
		cv::Mat smooth;
		cv::GaussianBlur(picture, smooth, {5, 5}, 1.5);
		net.setInput(cv::dnn::blobFromImage(smooth));
		return net.forward().clone();
	}

	cv::Mat picture;
	cv::dnn::Net net;
};

} // namespace

int main(int argc, char **argv) {
	const std::string memory = measure::option(argc, argv, "memory", "libgmem");
	if (memory != "engine" && memory != "libgmem") {
		std::fprintf(stderr, "--memory is %s; it is engine or libgmem\n", memory.c_str());
		return 2;
	}
	const double bytes = std::stod(measure::option(argc, argv, "mib", "512")) * 1048576;
	// Two layers of channels, and a third for the matrices in between.
	const int side = static_cast<int>(std::sqrt(bytes / (3 * channels * sizeof(float))));
	cv::setNumThreads(2);

	gmem::engines::opencv_allocator ours;
	if (memory == "libgmem") {
		cv::Mat::setDefaultAllocator(&ours);
	}
	measure::report report;
	std::optional<pipeline> work;
	cv::Mat result;
	report.phase("load", [&] { work.emplace(side); });
	report.phase("first", [&] { result = work->run(); });
	report.phase("steady", [&] { result = work->run(); }, 3);
	report.result(result.ptr(), result.total() * result.elemSize());
	const int rest = std::stoi(measure::option(argc, argv, "rest", "0"));
	report.phase("free", [&] {
		work.reset();
		result.release();
		if (rest == 0) {
			gmemHeapTrim();
		}
	});
	report.rest(rest);
	report.print();
	cv::Mat::setDefaultAllocator(nullptr);
}
