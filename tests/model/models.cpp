// SPDX-License-Identifier: Apache-2.0
/// @file
/// models [--seconds N]: gmem::model_file, model_files and prefetch_pipeline; and 64 threads that prefetch and free the
/// same file at random while they read it.
#include <atomic>
#include <chrono>
#include <cstring>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include <libgmem.hpp>

#include "files.h"

namespace {

template <class T>
constexpr bool is_owner = std::is_nothrow_move_constructible_v<T> && std::is_nothrow_move_assignable_v<T> &&
						  !std::is_copy_constructible_v<T> && !std::is_copy_assignable_v<T>;
static_assert(is_owner<gmem::model_file> && is_owner<gmem::prefetch_pipeline>);

const char *at(const gmem::model_range &part) { return reinterpret_cast<const char *>(part.data()); }

void files_are_owned() {
	const std::size_t page = gmem::page_size(), size = 4 * page;
	write_file("models.bin", size);
	gmem::model_file file(std::string("models.bin"), {gmem::model_mode::private_pages});
	const auto report = gmem::prefetch(file.range(page, page), gmem::device::numa_id());
	CHECK_EQUAL(report.populated(), page / static_cast<std::size_t>(sysconf(_SC_PAGESIZE)));
	CHECK_EQUAL(file.loaded_bytes(), page);
	gmem::model_file moved(std::move(file));
	CHECK(file.get() == nullptr && file.empty() && file.info().bytes == 0 && *file.reason() == '\0'); // NOLINT
	CHECK(moved.size() == size && std::strlen(moved.reason()) > 0);
	gmem::stream stream;
	gmem::free_eager(moved.range(page, page), stream);
	stream.synchronize();
	CHECK_EQUAL(moved.loaded_bytes(), 0);
	CHECK(has_the_files_bytes(at(moved.range()), 0, size));
	try {
		(void)moved.range(size, 1);
		CHECK(!"thrown");
	} catch (const gmem::error &failure) {
		CHECK(failure.code() == std::errc::invalid_argument);
	}
	try {
		const gmem::model_file none("/no/such/file");
		CHECK(!"thrown");
	} catch (const gmem::error &failure) {
		CHECK(failure.code() == std::errc::no_such_file_or_directory);
		CHECK(std::strstr(failure.what(), "/no/such/file") != nullptr);
	}
	moved = gmem::model_file();
	CHECK(moved.empty());
}

void a_copy_is_joined() {
	const std::size_t size = 2 * gmem::page_size();
	write_file("models.bin", size);
	gmem::model_options how;
	how.copy = gmem::model_copy::common;
	const gmem::model_file one("models.bin", how);
	how.copy = gmem::model_copy::join;
	how.copy_descriptor = one.copy_descriptor();
	const gmem::model_file two("models.bin", how);
	close(how.copy_descriptor);
	gmem::prefetch(one.range(), gmem::device::numa_id());
	gmem::prefetch(two.range(), gmem::device::numa_id());
	CHECK_EQUAL(one.read_bytes() + two.read_bytes(), size);
	gmem::free_eager(one.range());
	CHECK(two.loaded_bytes() == size && has_the_files_bytes(at(two.range()), 0, size));
	std::error_code ec;
	CHECK_EQUAL(gmem::model_file().copy_descriptor(ec), -1);
	CHECK(ec == std::errc::invalid_argument);
	const int descriptor = two.copy_descriptor(ec);
	CHECK(descriptor >= 0 && !ec);
	close(descriptor);
}

void shards_are_one_model() {
	gmem::model_files shards;
	const std::size_t size = 2 * gmem::page_size();
	for (const char *name : {"shard-1.bin", "shard-2.bin", "shard-3.bin"}) {
		write_file(name, size);
		shards.add(gmem::model_file(name));
	}
	CHECK(shards.count() == 3 && shards.size() == 3 * size);
	const auto parts = shards.range(size - 8, size + 16);
	CHECK(parts.size() == 3 && parts[1].size_bytes() == size && parts[2].size_bytes() == 8);
	gmem::prefetch(parts, gmem::device::numa_id());
	std::uint64_t word = 0;
	std::memcpy(&word, parts[2].data(), sizeof word);
	CHECK(word == word_at(0));
	gmem::free_eager(parts);
	CHECK(shards.range(3 * size, 0).empty());

	std::vector<gmem::model_range> layers;
	for (std::size_t i = 0; i < shards.count(); ++i) {
		layers.push_back(shards[i].range());
	}
	gmem::prefetch_pipeline pipeline(layers, {2 * size, 1});
	for (std::size_t i = 0; i < layers.size(); ++i) {
		pipeline.want(i);
		CHECK(has_the_files_bytes(at(layers[i]), 0, size));
		pipeline.done(i);
	}
	CHECK(pipeline.report().peak <= 2 * size && pipeline.waited().count() >= 0);
	for (const char *name : {"shard-1.bin", "shard-2.bin", "shard-3.bin"}) {
		NEED(unlink(name) == 0);
	}
}

/// Whatever the others do, each read finds the file's bytes.
void threads_prefetch_and_free_the_same_file(std::chrono::milliseconds time) {
	constexpr unsigned threads = 64;
	const std::size_t size = 24 * gmem::page_size() + 4321;
	write_file("models.bin", size);
	const int node = gmem::device::numa_id();
	const gmem::model_options kinds[] = {{gmem::model_mode::private_pages}, {gmem::model_mode::shared},
		{gmem::model_mode::automatic, gmem::huge_pages::as_is, gmem::model_copy::common}};
	for (const gmem::model_options &kind : kinds) {
		const gmem::model_file file("models.bin", kind);
		const auto end = std::chrono::steady_clock::now() + time;
		std::atomic<unsigned> wrong{0}, failed{0};
		std::vector<std::thread> all;
		for (unsigned seed = 0; seed < threads; ++seed) {
			all.emplace_back([&, seed] {
				std::minstd_rand random(seed + 1);
				do {
					const std::size_t from = random() % size,
									  length = 1 + random() % std::min<std::size_t>(size - from, size / 3);
					std::error_code ec;
					const auto part = file.range(from, length, ec);
					if (random() % 2 == 0) {
						gmem::prefetch(part, node, nullptr, ec);
					} else {
						gmem::free_eager(part, nullptr, ec);
					}
					if (ec) {
						std::fprintf(stderr, "%s\n", gmemLastError());
						++failed;
					}
					const std::size_t look = std::min<std::size_t>(length, 1 << 16);
					wrong += has_the_files_bytes(reinterpret_cast<const char *>(file.data()), from, from + look) == 0;
				} while (std::chrono::steady_clock::now() < end);
			});
		}
		for (std::thread &thread : all) {
			thread.join();
		}
		CHECK_EQUAL(wrong, 0);
		CHECK_EQUAL(failed, 0);
		CHECK(has_the_files_bytes(reinterpret_cast<const char *>(file.data()), 0, size));
		gmem::free_eager(file.range());
		CHECK_EQUAL(file.loaded_bytes(), 0);
	}
	NEED(unlink("models.bin") == 0);
}

} // namespace

int main(int argc, char **argv) {
	const bool is_timed = argc == 3 && std::string(argv[1]) == "--seconds";
	files_are_owned();
	a_copy_is_joined();
	shards_are_one_model();
	threads_prefetch_and_free_the_same_file(
		is_timed ? std::chrono::seconds(std::strtol(argv[2], nullptr, 10)) : std::chrono::milliseconds(700));
	return checks_result("models");
}
