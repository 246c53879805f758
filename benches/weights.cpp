// SPDX-License-Identifier: Apache-2.0
/// @file
/// bench_weights [--folder DIR] [--mib N] [--rounds N]: model files beside the ways in which programs load weights
/// today, and beside the disk. The file is made on first use and kept; two ways of doing the same take turns.
///
/// Set FIO to a program to have it measure the disk, too.
#include <array>
#include <atomic>
#include <cstring>
#include <functional>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "compare.hpp"
#include "mapping.hpp"

namespace {

using bench::seconds;

constexpr std::size_t mib = std::size_t{1} << 20;

struct settings {
	std::string folder = ".";
	std::size_t bytes = 2048 * mib;
	int rounds = 5;
};

class file {
public:
	explicit file(const settings &chosen) : path_(chosen.folder + "/bench-weights.bin"), size_(chosen.bytes) {
		struct stat now{};
		if (stat(path_.c_str(), &now) != 0 || static_cast<std::size_t>(now.st_size) != size_) {
			write();
		}
		buffered_ = open(path_.c_str(), O_RDONLY | O_CLOEXEC);
		direct_ = open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_DIRECT);
		if (buffered_ < 0 || direct_ < 0) {
			std::perror(path_.c_str());
			std::exit(1);
		}
	}
	file(const file &) = delete;
	file &operator=(const file &) = delete;
	~file() {
		close(buffered_);
		close(direct_);
	}

	[[nodiscard]] const std::string &path() const { return path_; }
	[[nodiscard]] std::size_t size() const { return size_; }
	[[nodiscard]] int buffered() const { return buffered_; }
	[[nodiscard]] int direct() const { return direct_; }

	void make_cold() const { (void)posix_fadvise(buffered_, 0, 0, POSIX_FADV_DONTNEED); }
	void make_warm() const {
		std::vector<char> block(4 * mib);
		for (std::size_t at = 0; at < size_; at += block.size()) {
			(void)!pread(buffered_, block.data(), block.size(), static_cast<off_t>(at));
		}
	}
	/// Bytes in the page cache.
	[[nodiscard]] std::size_t cached() const {
		const auto base = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
		void *const view = mmap(nullptr, size_, PROT_READ, MAP_SHARED, buffered_, 0);
		std::vector<unsigned char> present(size_ / base);
		mincore(view, size_, present.data());
		munmap(view, size_);
		return base * static_cast<std::size_t>(std::count_if(
						  present.begin(), present.end(), [](unsigned char page) { return (page & 1) != 0; }));
	}

private:
	/// Numbers that no file system can compress.
	void write() const {
		std::printf("writing %zu MiB to %s (once)\n", size_ / mib, path_.c_str());
		const int out = open(path_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
		std::vector<std::uint64_t> block(mib / sizeof(std::uint64_t));
		std::uint64_t state = 1;
		for (std::size_t at = 0; at < size_; at += mib) {
			for (std::uint64_t &word : block) {
				word = state = state * 6364136223846793005U + 1442695040888963407U;
			}
			if (::write(out, block.data(), mib) != static_cast<ssize_t>(mib)) {
				std::perror(path_.c_str());
				std::exit(1);
			}
		}
		fsync(out);
		close(out);
	}

	std::string path_;
	std::size_t size_;
	int buffered_ = -1, direct_ = -1;
};

/// One read per base page, as a first use would do it.
std::uint64_t touch(const void *data, std::size_t size) {
	std::uint64_t sum = 0;
	for (std::size_t at = 0; at < size; at += 4096) {
		sum += *(static_cast<const volatile unsigned char *>(data) + at);
	}
	return sum;
}

/// A stand-in for computation: reads every byte.
std::uint64_t compute(const std::byte *data, std::size_t size) {
	std::uint64_t sum = 0;
	for (std::size_t at = 0; at + 8 <= size; at += 8) {
		std::uint64_t word = 0;
		std::memcpy(&word, data + at, sizeof word);
		sum = (sum ^ word) * 0x9E3779B97F4A7C15U;
	}
	return sum;
}
volatile std::uint64_t result;

// ---- ways to load ---------------------------------------------------------------------------------

/// All of them end when no access to the file's bytes takes a fault any more: the use that follows takes the same time
/// whichever way they came.
seconds by_mmap(const file &from, int flags) {
	void *view = nullptr;
	const seconds time = bench::time_of([&] {
		view = mmap(nullptr, from.size(), PROT_READ, MAP_SHARED | flags, from.buffered(), 0);
		if (flags == 0) {
			result = touch(view, from.size());
		}
	});
	munmap(view, from.size());
	return time;
}

void read_into(int descriptor, char *to, std::size_t size, std::size_t block) {
	for (std::size_t at = 0; at < size; at += block) {
		if (pread(descriptor, to + at, std::min(block, size - at), static_cast<off_t>(at)) <= 0) {
			std::perror("pread");
			std::exit(1);
		}
	}
}

seconds by_pread(const file &from, bool huge) {
	const seconds begun = bench::now();
	if (huge) {
		const bench::mapping memory(from.size());
		read_into(from.buffered(), memory.data(), from.size(), 16 * mib);
		return bench::now() - begun;
	}
	char *const memory = static_cast<char *>(std::malloc(from.size()));
	read_into(from.buffered(), memory, from.size(), 16 * mib);
	const seconds time = bench::now() - begun;
	std::free(memory);
	return time;
}

/// Without a report, for which the pages would be counted.
void bring(const gmem::model_range &part) {
	bench::need(
		gmemPrefetch(reinterpret_cast<std::uintptr_t>(part.data()), part.size_bytes(), gmemGetNumaId(), nullptr));
}

seconds by_prefetch(const file &from, gmem::model_mode mode) {
	gmem::model_file model;
	return bench::time_of([&] {
		model = gmem::model_file(from.path(), {mode});
		bring(model.range());
	});
}

/// Fill the kernel's list of free pages (see warm_free_memory()) for a load of the whole file.
void warm_free_memory(const file &from) {
	const bench::mapping pages(from.size() + from.size() / 8);
	pages.populate();
}

/// Where the disk alone reads to: memory that is there already. A few blocks, again and again, stay in the processor's
/// cache; the whole file does not.
enum class target { few_blocks, whole_file };

/// The disk alone: direct reads of `block` bytes, `depth` at a time.
seconds by_disk(const file &from, unsigned depth, std::size_t block, target where = target::few_blocks) {
	const bench::mapping memory(where == target::few_blocks ? depth * block : from.size());
	memory.populate();
	std::atomic<std::size_t> next{0};
	return bench::time_of([&] {
		std::vector<std::thread> readers;
		for (unsigned i = 0; i < depth; ++i) {
			readers.emplace_back([&, i] {
				for (std::size_t at = 0; (at = next.fetch_add(block)) < from.size();) {
					char *const to = memory.data() + (where == target::few_blocks ? i * block : at);
					if (pread(from.direct(), to, std::min(block, from.size() - at), static_cast<off_t>(at)) <= 0) {
						std::perror("pread");
					}
				}
			});
		}
		for (std::thread &reader : readers) {
			reader.join();
		}
	});
}

struct reading {
	unsigned depth;
	std::size_t block;
};

/// The depth and block with which the disk is fastest.
reading best_reading(const file &from) {
	reading best{1, mib};
	seconds least = 1e9;
	for (const reading how : {reading{1, 16 * mib}, {2, 8 * mib}, {4, 8 * mib}, {8, 4 * mib}, {16, mib}}) {
		const seconds time = by_disk(from, how.depth, how.block);
		std::printf("  raw direct reads, %2u x %2zu MiB: %6.0f MB/s\n", how.depth, how.block / mib,
			static_cast<double>(from.size()) / time / 1e6);
		if (time < least) {
			least = time;
			best = how;
		}
	}
	return best;
}

void ask_fio(const file &from) {
	const char *const fio = std::getenv("FIO"); // NOLINT(concurrency-mt-unsafe)
	if (fio == nullptr) {
		std::printf("  fio: not there\n");
		return;
	}
	std::fflush(stdout);
	const std::string command = std::string(fio) +
								" --name=weights --readonly --rw=read --direct=1 --bs=4M "
								"--iodepth=16 --ioengine=libaio --filename=" +
								from.path() + " | grep -o 'BW=.*' | sed 's/^/  fio, libaio, 16 x 4 MiB: /'";
	(void)!std::system(command.c_str()); // NOLINT(concurrency-mt-unsafe)
	std::fflush(stdout);
}

// ---- rows -----------------------------------------------------------------------------------------

void warm(const file &from, int rounds) {
	from.make_warm();
	const auto ours = [&] { return by_prefetch(from, gmem::model_mode::shared); };
	const auto row = [&](const char *name, double goal, const std::function<seconds()> &theirs) {
		std::vector<double> values = bench::ratios(rounds, theirs, ours);
		bench::print_row(name, values, bench::goal::at_most, goal);
	};
	row("warm: ours / mmap and touch", 0.6, [&] { return by_mmap(from, 0); });
	row("warm: ours / MAP_POPULATE", 0.6, [&] { return by_mmap(from, MAP_POPULATE); });
	row("warm: ours / pread into malloc", 0.95, [&] { return by_pread(from, false); });
	row("warm: ours / pread into huge pages", 0.95, [&] { return by_pread(from, true); });
}

struct mode {
	gmem::model_mode number;
	const char *name;
};
constexpr std::array<mode, 2> modes{
	{{gmem::model_mode::shared, "shared"}, {gmem::model_mode::private_pages, "private"}}};

/// The mode that the library chooses.
void choice(const file &from) {
	from.make_cold();
	const gmem::model_file model(from.path());
	std::printf(
		"automatic is %s: %s\n", model.mode() == gmem::model_mode::shared ? "shared" : "private", model.reason());
}

void cold(const file &from, int rounds) {
	const reading best = best_reading(from);
	ask_fio(from);
	const auto raw = [&] { return by_disk(from, best.depth, best.block); };
	const auto raw_to_memory = [&] { return by_disk(from, best.depth, best.block, target::whole_file); };
	bench::print_row("raw direct reads: into memory of the file's size / into a few blocks",
		bench::ratios(rounds, raw_to_memory, raw), bench::goal::at_most, 1);
	for (const mode &how : modes) {
		const std::string name = std::string("cold, ") + how.name;
		const auto ours = [&] {
			warm_free_memory(from);
			from.make_cold();
			return by_prefetch(from, how.number);
		};
		const auto values = bench::ratios(rounds, ours, raw);
		bench::print_row(name + ": ours in bytes/s / raw direct reads", values, bench::goal::at_least, 0.95);
		bench::print_row("  the same / raw reads into memory of the file's size",
			bench::ratios(rounds, ours, raw_to_memory), bench::goal::at_least, 0.95);
		const auto plain = bench::ratios(std::max(1, rounds / 2), ours, [&] {
			from.make_cold();
			return by_mmap(from, 0);
		});
		bench::print_row(name + ": mmap and touch / ours", plain, bench::goal::at_least, 1);
	}
}

void quality(const file &from) {
	from.make_cold();
	const gmem::model_file model(from.path(), {gmem::model_mode::private_pages});
	bring(model.range());
	const long before = bench::faults();
	result = touch(model.data(), model.size());
	bench::print_row("faults of the first use after a private load", {static_cast<double>(bench::faults() - before)},
		bench::goal::at_most, 0, "");
	bench::print_row("page cache after a private load / the file",
		{static_cast<double>(from.cached()) / static_cast<double>(from.size())}, bench::goal::at_most, 0.02);
}

/// Layers of 64 MiB through a pipeline of a quarter of the file.
std::vector<gmem::model_range> layers_of(const gmem::model_file &model) {
	std::vector<gmem::model_range> layers;
	constexpr std::size_t layer = 64 * mib;
	for (std::size_t at = 0; at < model.size(); at += layer) {
		layers.push_back(model.range(at, std::min(layer, model.size() - at)));
	}
	return layers;
}

seconds in_sequence(const file &from, gmem::model_mode how, const std::function<void(const gmem::model_range &)> &use) {
	warm_free_memory(from);
	from.make_cold();
	return bench::time_of([&] {
		const gmem::model_file model(from.path(), {how});
		const auto layers = layers_of(model);
		gmem::prefetch_pipeline pipeline(layers, {from.size() / 4, 2});
		for (std::size_t i = 0; i < layers.size(); ++i) {
			pipeline.want(i);
			use(layers[i]);
			pipeline.done(i);
		}
	});
}

void streaming(const file &from, const mode &how, int rounds) {
	const reading best{4, 8 * mib};
	const auto first_bytes = [](const gmem::model_range &layer) { result = touch(layer.data(), layer.size_bytes()); };
	const auto values = bench::ratios(
		rounds, [&] { return by_disk(from, best.depth, best.block); },
		[&] { return in_sequence(from, how.number, first_bytes); });
	const std::string name = std::string("layers, ") + how.name;
	bench::print_row(name + ", within a quarter: time / raw reads", values, bench::goal::at_most, 1.10);
	const auto to_memory = bench::ratios(
		rounds, [&] { return by_disk(from, best.depth, best.block, target::whole_file); },
		[&] { return in_sequence(from, how.number, first_bytes); });
	bench::print_row("  the same / raw reads into memory of the file's size", to_memory, bench::goal::at_most, 1.10);

	// Rounds of the stand-in for computation until a layer takes as long as its reading.
	std::vector<double> overlaps;
	for (int i = 0; i < rounds; ++i) {
		const seconds reads = in_sequence(from, how.number, first_bytes);
		const gmem::model_file model(from.path(), {how.number});
		const auto layers = layers_of(model);
		const seconds each = reads / static_cast<double>(layers.size());
		const auto work = [each](const gmem::model_range &layer) {
			// Processor time, so that both take the same however loaded the machine is.
			const seconds end = bench::now() + each;
			do {
				result = compute(layer.data(), std::min(layer.size_bytes(), mib));
			} while (bench::now() < end);
		};
		const seconds both = in_sequence(from, how.number, work);
		overlaps.push_back((2 * reads - both) / reads);
	}
	bench::print_row(name + ": overlap of computing with reading, of perfect", overlaps, bench::goal::at_least, 0.9);
}

void release(const file &from, int rounds) {
	const auto ours = [&] {
		from.make_warm();
		const gmem::model_file model(from.path(), {gmem::model_mode::shared});
		bring(model.range());
		return bench::time_of([&] { gmem::free_eager(model.range()); });
	};
	const auto bare = [&] {
		from.make_warm();
		void *const view = mmap(nullptr, from.size(), PROT_READ, MAP_SHARED | MAP_POPULATE, from.buffered(), 0);
		return bench::time_of([&] {
			munmap(view, from.size());
			from.make_cold();
		});
	};
	bench::print_row(
		"free of a warm file: ours / munmap and fadvise", bench::ratios(rounds, bare, ours), bench::goal::at_most, 1.1);
	(void)ours();
	bench::print_row("  page cache left / the file",
		{static_cast<double>(from.cached()) / static_cast<double>(from.size())}, bench::goal::at_most, 0);
}

} // namespace

int main(int argc, char **argv) {
	settings chosen;
	for (int i = 1; i + 1 < argc; i += 2) {
		const std::string name = argv[i];
		if (name == "--folder") {
			chosen.folder = argv[i + 1];
		} else if (name == "--mib") {
			chosen.bytes = std::strtoul(argv[i + 1], nullptr, 10) * mib;
		} else if (name == "--rounds") {
			chosen.rounds = std::max(1, std::atoi(argv[i + 1]));
		}
	}
	const file from(chosen);
	std::array<double, 3> load{};
	(void)getloadavg(load.data(), 3);
	std::printf("file of %zu MiB; load of the machine %.1f\n", from.size() / mib, load[0]);
	std::printf("%-66s %-10s %-21s  %s\n", "figure (median of pairs [spread])", "   ratio", "", "goal");
	choice(from);
	warm(from, chosen.rounds);
	release(from, chosen.rounds);
	cold(from, chosen.rounds);
	quality(from);
	for (const mode &how : modes) {
		streaming(from, how, chosen.rounds);
	}
	return 0;
}
