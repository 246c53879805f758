// SPDX-License-Identifier: Apache-2.0
/// stream_weights [--mib N] [--folder DIR]: the forward pass of a model that is four times as large as the memory that
/// it may use, with four ways to get at the weights. Each runs in a process of its own under the limit.
///
/// The model is a file of safetensors with random weights, made on first use: a stack of square layers, each followed
/// by a normalization. What is computed is the same, bit for bit, whatever way the weights take.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <fstream>
#include <string>
#include <vector>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <libgmem.hpp>

#include "../minilm/safetensors.hpp"
#include "memory_limit.hpp"

namespace {

constexpr std::size_t mib = std::size_t{1} << 20;
/// A layer has width x width floats: 16 MiB.
constexpr std::size_t width = 2048, layer_bytes = width * width * sizeof(float);

std::string name_of(std::size_t layer) { return "layers." + std::to_string(layer) + ".weight"; }

// ---- the file -------------------------------------------------------------------------------------

void write_model(const std::string &path, std::size_t layers) {
	std::string header = "{";
	for (std::size_t i = 0; i < layers; ++i) {
		const std::string w = std::to_string(width);
		header += (i == 0 ? "\"" : ",\"") + name_of(i) + "\":{\"dtype\":\"F32\",\"shape\":[" + w + "," + w +
				  "],\"data_offsets\":[" + std::to_string(i * layer_bytes) + "," +
				  std::to_string((i + 1) * layer_bytes) + "]}";
	}
	header += "}";
	header.resize((header.size() + 7) / 8 * 8, ' ');
	const auto length = static_cast<std::uint64_t>(header.size());
	std::ofstream file(path, std::ios::binary | std::ios::trunc);
	file.write(reinterpret_cast<const char *>(&length), sizeof length);
	file << header;
	std::vector<float> row(width);
	std::uint32_t state = 1;
	for (std::size_t i = 0; i < layers * width; ++i) {
		for (float &weight : row) {
			state = state * 1664525 + 1013904223;
			weight = static_cast<float>(static_cast<std::int32_t>(state)) * 0x1p-31F;
		}
		file.write(reinterpret_cast<const char *>(row.data()), static_cast<std::streamsize>(width * sizeof(float)));
	}
	if (!file.flush()) {
		std::fprintf(stderr, "%s cannot be written\n", path.c_str());
		std::exit(1);
	}
}

void drop_from_page_cache(const std::string &path) {
	const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
	(void)fdatasync(file);
	(void)posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
	close(file);
}

// ---- the computation ------------------------------------------------------------------------------

using vector = std::vector<float>;

/// x becomes the layer's product with it, normalized.
void forward(const float *weights, vector &x) {
	vector y(width);
	float square = 0;
	for (std::size_t row = 0; row < width; ++row) {
		float lanes[16] = {};
		for (std::size_t column = 0; column < width; column += 16) {
			for (std::size_t lane = 0; lane < 16; ++lane) {
				lanes[lane] += weights[row * width + column + lane] * x[column + lane];
			}
		}
		for (const float lane : lanes) {
			y[row] += lane;
		}
		square += y[row] * y[row];
	}
	const float scale = 1 / std::sqrt(square + 1e-12F);
	std::transform(y.begin(), y.end(), x.begin(), [scale](float value) { return value * scale; });
}

/// What is compared: the bits of the last activations.
std::uint64_t digest(const vector &x) {
	std::uint64_t sum = 1469598103934665603U;
	for (const float value : x) {
		std::uint32_t bits = 0;
		std::memcpy(&bits, &value, sizeof bits);
		sum = (sum ^ bits) * 1099511628211U;
	}
	return sum;
}

// ---- the ways -------------------------------------------------------------------------------------

struct model {
	std::string path;
	std::vector<std::uint64_t> positions; ///< of the layers in the file
	std::size_t budget;                   ///< bytes of weights in memory at a time
};

void by_mmap(const model &of, vector &x, bool announced) {
	const int file = open(of.path.c_str(), O_RDONLY | O_CLOEXEC);
	const std::size_t size = of.positions.back() + layer_bytes;
	void *const view = mmap(nullptr, size, PROT_READ, MAP_SHARED, file, 0);
	if (announced) {
		madvise(view, size, MADV_WILLNEED);
	}
	for (const std::uint64_t position : of.positions) {
		forward(reinterpret_cast<const float *>(static_cast<const char *>(view) + position), x);
	}
	munmap(view, size);
	close(file);
}

void by_pread(const model &of, vector &x) {
	const int file = open(of.path.c_str(), O_RDONLY | O_CLOEXEC);
	for (const std::uint64_t position : of.positions) {
		auto *const weights = static_cast<char *>(std::malloc(layer_bytes));
		for (std::size_t done = 0; done < layer_bytes;) {
			const ssize_t got = pread(file, weights + done, layer_bytes - done, static_cast<off_t>(position + done));
			if (got <= 0) {
				std::perror("pread");
				std::exit(1);
			}
			done += static_cast<std::size_t>(got);
		}
		forward(reinterpret_cast<const float *>(weights), x);
		std::free(weights);
	}
	close(file);
}

void by_pipeline(const model &of, vector &x) {
	const gmem::model_file file(of.path);
	std::vector<gmem::model_range> layers;
	for (const std::uint64_t position : of.positions) {
		layers.push_back(file.range(position, layer_bytes));
	}
	gmem::prefetch_pipeline pipeline(layers, {of.budget, 4});
	for (std::size_t i = 0; i < layers.size(); ++i) {
		pipeline.want(i);
		forward(reinterpret_cast<const float *>(layers[i].data()), x);
		pipeline.done(i);
	}
	std::printf("  (%s, waited %.2f s for weights)", file.mode() == gmem::model_mode::shared ? "shared" : "private",
		std::chrono::duration<double>(pipeline.waited()).count());
}

struct way {
	const char *name;
	void (*run)(const model &, vector &);
};

constexpr way ways[] = {
	{"mmap", [](const model &of, vector &x) { by_mmap(of, x, false); }},
	{"mmap, MADV_WILLNEED", [](const model &of, vector &x) { by_mmap(of, x, true); }},
	{"pread into malloc", by_pread},
	{"gmem::prefetch_pipeline", by_pipeline},
};

/// What the process of a way sends back.
struct result {
	std::uint64_t digest;
	double seconds;
	long peak_kib, major_faults;
};

/// Run a way in a process of its own; false if it did not end well.
bool run(const way &how, const model &of, const stream_weights::memory_limit &limit, result &out) {
	drop_from_page_cache(of.path);
	int ends[2];
	if (pipe(ends) != 0) {
		return false;
	}
	std::printf("%-24s", how.name);
	std::fflush(stdout);
	const pid_t child = fork();
	if (child == 0) {
		limit.enter();
		vector x(width, 1);
		const auto begun = std::chrono::steady_clock::now();
		try {
			how.run(of, x);
		} catch (const std::exception &failure) {
			std::fprintf(stderr, "%s\n", failure.what());
			_exit(1);
		}
		std::fflush(stdout);
		rusage usage{};
		getrusage(RUSAGE_SELF, &usage);
		const std::chrono::duration<double> time = std::chrono::steady_clock::now() - begun;
		const result mine{digest(x), time.count(), usage.ru_maxrss, usage.ru_majflt};
		_exit(write(ends[1], &mine, sizeof mine) == sizeof mine ? 0 : 1);
	}
	close(ends[1]);
	const bool is_whole = read(ends[0], &out, sizeof out) == sizeof out;
	close(ends[0]);
	int status = 0;
	waitpid(child, &status, 0);
	if (!is_whole || status != 0) {
		std::printf(" %s\n", WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL ? "KILLED: out of memory" : "FAILED");
		return false;
	}
	std::printf("%8.2f s, peak %6ld MiB, %7ld major faults, result %016llx\n", out.seconds, out.peak_kib / 1024,
		out.major_faults, static_cast<unsigned long long>(out.digest));
	return true;
}

} // namespace

int main(int argc, char **argv) {
	std::size_t size = 8192 * mib;
	std::string folder = ".";
	for (int i = 1; i + 1 < argc; i += 2) {
		if (std::string(argv[i]) == "--mib") {
			size = std::max<std::size_t>(std::strtoul(argv[i + 1], nullptr, 10), 64) * mib;
		} else if (std::string(argv[i]) == "--folder") {
			folder = argv[i + 1];
		}
	}
	const std::size_t layers = size / layer_bytes;
	// The file, the limit, and what the limit leaves beside the weights for the program itself.
	const std::string path = folder + "/stream_weights-" + std::to_string(layers) + ".safetensors";
	struct stat known{};
	if (stat(path.c_str(), &known) != 0 || static_cast<std::size_t>(known.st_size) < layers * layer_bytes) {
		std::printf("writing %zu layers to %s (once)\n", layers, path.c_str());
		write_model(path, layers);
	}
	model of{path, {}, size / 4 * 3 / 4};
	const minilm::safetensors header(path);
	for (std::size_t i = 0; i < layers; ++i) {
		of.positions.push_back(header.position(name_of(i), {width, width}));
	}
	const stream_weights::memory_limit limit(size / 4);
	std::printf("%zu MiB of weights in %zu MiB of memory, enforced by %s\n", size / mib, size / 4 / mib,
		limit.description().c_str());

	bool is_sound = true;
	std::uint64_t expected = 0;
	for (const way &how : ways) {
		result done{};
		const bool is_ours = &how == std::end(ways) - 1;
		if (!run(how, of, limit, done)) {
			is_sound = is_sound && !is_ours;
			continue;
		}
		expected = expected == 0 ? done.digest : expected;
		is_sound = is_sound && done.digest == expected;
		if (is_ours && static_cast<std::size_t>(done.peak_kib) * 1024 > size / 4) {
			std::printf("the peak exceeds the limit\n");
			is_sound = false;
		}
	}
	std::printf(is_sound ? "the results are equal bit for bit\n" : "FAILED\n");
	return is_sound ? 0 : 1;
}
