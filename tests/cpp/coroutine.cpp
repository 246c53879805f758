// SPDX-License-Identifier: Apache-2.0
// co_await of prefetches: with and without a stream, several at the same report, and of a failure.
#include <future>
#include <thread>

#include <libgmem.hpp>
#include <libgmem/coroutine.hpp>

#include "../check.h"
#include "detached.hpp"

namespace {

struct seen {
	std::size_t bytes;
	std::error_code result;
	std::thread::id thread;
};

detached wait_for(gmem::prefetch_report report, std::promise<seen> &told) {
	const gmem::prefetch_report done = co_await report;
	told.set_value({done.bytes(), done.result(), std::this_thread::get_id()});
}

seen of(gmem::prefetch_report report) {
	std::promise<seen> told;
	wait_for(std::move(report), told);
	return told.get_future().get();
}

void a_coroutine_resumes_when_the_work_is_done() {
	gmem::buffer<char> buffer(4 * gmem::page_size());
	const int node = gmem::device::numa_id();
	CHECK(of(gmem::prefetch(buffer, node)).thread == std::this_thread::get_id());
	CHECK(of(gmem::prefetch_report()).bytes == 0);

	const gmem::stream stream;
	std::promise<void> go;
	stream.launch([&go] { go.get_future().wait(); });
	const auto report = gmem::prefetch(buffer, node, stream);
	std::promise<seen> first, second;
	wait_for(report, first);
	wait_for(report, second);
	CHECK(!report.ready());
	go.set_value();
	const seen one = first.get_future().get(), other = second.get_future().get();
	CHECK(one.bytes == buffer.size() && !one.result && one.thread != std::this_thread::get_id());
	CHECK(other.bytes == buffer.size() && other.thread == one.thread);
	stream.synchronize();
}

void a_failure_resumes_too() {
	const gmem::stream stream;
	const seen failed = of(gmem::prefetch({reinterpret_cast<void *>(1 << 16), 100}, gmem::device::numa_id(), stream));
	CHECK(failed.result == std::errc::not_enough_memory);
	std::error_code ec;
	stream.synchronize(ec);
	CHECK(ec == std::errc::not_enough_memory);
}

} // namespace

int main() {
	alarm(60);
	a_coroutine_resumes_when_the_work_is_done();
	a_failure_resumes_too();
	return checks_result("coroutine");
}
