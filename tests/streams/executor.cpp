// SPDX-License-Identifier: Apache-2.0
// gmem::streams::executor: a thread pool, asio where there is one, a lambda; executors that drop, throw, or run at
// once.
#include <atomic>
#include <cstring>
#include <functional>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

// ThreadSanitizer does not see the fences that asio synchronizes with.
#if __has_include(<asio.hpp>) && !defined(__SANITIZE_THREAD__)
#define HAS_ASIO
#include <asio.hpp>
#endif

#include <libgmem.hpp>
#include <libgmem/streams/executor.hpp>

#include "../check.h"
#include "../thread_pool.hpp"

namespace {

/// libgmem's calls among functions of the executor's own, which runs one at a time.
template <class Give>
void calls_take_their_place(const gmem::external_stream &stream, Give &&give) {
	gmem::buffer<char> memory(gmem::page_size());
	std::vector<int> seen;
	for (int round = 0; round < 20; ++round) {
		seen.clear();
		give([&] { memory[0] = 'a'; });
		gmem::free_eager(memory, stream);
		give([&] { seen.push_back(memory[0]); });
		give([&] { memory[0] = 'b'; });
		stream.launch([&] { seen.push_back(memory[0]); });
		gmem::prefetch(memory, gmem::device::numa_id(), stream);
		give([&] { seen.push_back(-1); });
		stream.launch([&] { seen.push_back(-2); });
		stream.synchronize();
		CHECK(stream.query());
		CHECK(seen == (std::vector<int>{0, 'b', -1, -2}));
	}
}

void a_pool_of_one_thread_is_a_stream() {
	thread_pool pool(1);
	const gmem::external_stream stream = gmem::streams::executor(pool);
	calls_take_their_place(stream, [&](auto function) { pool.execute(function); });
	stream.launch([] { throw std::runtime_error("the kernel failed"); });
	std::error_code code;
	stream.synchronize(code);
	CHECK(code == std::errc::operation_canceled);
}

void a_pool_of_several_keeps_libgmems_calls_in_order() {
	thread_pool pool(4);
	const gmem::external_stream stream = gmem::streams::executor(pool);
	std::vector<int> seen;
	for (int i = 0; i < 1000; ++i) {
		stream.launch([&seen, i] { seen.push_back(i); });
	}
	stream.synchronize();
	bool in_order = seen.size() == 1000;
	for (std::size_t i = 0; i < seen.size(); ++i) {
		in_order = in_order && seen[i] == static_cast<int>(i);
	}
	CHECK(in_order);
}

void a_lambda_is_an_executor() {
	std::vector<std::function<void()>> kept;
	{
		gmem::external_stream stream =
			gmem::streams::executor([&](auto function) { kept.emplace_back(std::move(function)); });
		gmem::external_stream moved = std::move(stream);
		CHECK(stream.get() == nullptr); // NOLINT(*-use-after-move)
		stream = std::move(moved);
		int ran = 0;
		stream.launch([&ran] { ++ran; });
		CHECK(!stream.query());
		kept.front()();
		CHECK(ran == 1 && stream.query());
		stream.launch([] {});
	}
	// The stream has gone, and its last function comes now.
	kept.back()();
	// At once.
	const gmem::external_stream direct = gmem::streams::executor([](auto function) { function(); });
	int ran = 0;
	direct.launch([&ran] { ++ran; });
	CHECK_EQUAL(ran, 1);
}

void what_an_executor_drops_fails() {
	std::vector<std::function<void()>> kept;
	auto keep = [&](auto function) { kept.emplace_back(std::move(function)); };
	const gmem::external_stream stream = gmem::streams::executor(keep);
	bool ran = false;
	const auto owned = std::make_shared<int>();
	stream.launch([&ran, owned] { ran = true; });
	gmem::event event;
	stream.record(event);
	CHECK(!event.query());
	kept.clear();
	event.synchronize();
	std::error_code code;
	stream.synchronize(code);
	CHECK(code == std::errc::operation_canceled && !ran && owned.use_count() == 1);
}

void an_executor_that_throws_has_refused() {
	bool full = true;
	auto refuse = [&](auto function) {
		if (full) {
			throw std::runtime_error("full");
		}
		function();
	};
	const gmem::external_stream stream = gmem::streams::executor(refuse);
	int ran = 0;
	try {
		stream.launch([&ran] { ++ran; });
		CHECK(!"refused");
	} catch (const gmem::error &failure) {
		CHECK(failure.code() == std::errc::operation_canceled);
	}
	CHECK(stream.query());
	stream.synchronize();
	full = false;
	stream.launch([&ran] { ++ran; });
	CHECK_EQUAL(ran, 1);
}

void events_join_streams() {
	thread_pool pool(1);
	const gmem::external_stream foreign = gmem::streams::executor(pool);
	const gmem::stream own;
	gmem::event there, back;
	int value = 0;
	for (int round = 1; round <= 50; ++round) {
		own.launch([&value] { ++value; });
		own.record(there);
		foreign.wait(there);
		foreign.launch([&value] { value *= 2; });
		foreign.record(back);
		own.wait(back);
		own.launch([&value] { value -= 1; });
		own.synchronize();
		CHECK(value == 1 && there.query() && back.query());
		value = 0;
	}
	gmem::event moved = std::move(there);
	CHECK(there.get() == nullptr); // NOLINT(*-use-after-move)
	moved.synchronize();
}

#ifdef HAS_ASIO
void asio_is_an_executor() {
	{
		asio::thread_pool pool(3);
		auto strand = asio::make_strand(pool);
		const gmem::external_stream stream = gmem::streams::executor(strand);
		calls_take_their_place(stream, [&](auto function) { asio::post(strand, function); });
		pool.join();
	}
	{
		asio::io_context context;
		auto work = asio::make_work_guard(context);
		std::thread thread([&] { context.run(); });
		const gmem::external_stream stream = gmem::streams::executor(context.get_executor());
		calls_take_their_place(stream, [&](auto function) { asio::post(context, function); });
		work.reset();
		thread.join();
	}
	// One that ends with work left.
	std::error_code code;
	bool ran = false;
	auto context = std::make_unique<asio::io_context>();
	const gmem::external_stream stream = gmem::streams::executor(context->get_executor());
	stream.launch([&ran] { ran = true; });
	context.reset();
	stream.synchronize(code);
	CHECK(code == std::errc::operation_canceled && !ran);
}
#endif

} // namespace

int main() {
	alarm(120);
	a_pool_of_one_thread_is_a_stream();
	a_pool_of_several_keeps_libgmems_calls_in_order();
	a_lambda_is_an_executor();
	what_an_executor_drops_fails();
	an_executor_that_throws_has_refused();
	events_join_streams();
#ifdef HAS_ASIO
	asio_is_an_executor();
#elif !__has_include(<asio.hpp>)
	puts("note: streams.executor: without asio (apt-get install libasio-dev)");
#endif
	return checks_result("executor");
}
