// SPDX-License-Identifier: Apache-2.0
/// @file
/// gmem::prefetch_report: what a prefetch did, and gmem::prefetch_options: how it is to be done.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <system_error>
#include <utility>

#include <libgmem/detail/thread_sanitizer.hpp>
#include <libgmem/error.hpp>

namespace gmem {

/// Huge pages or not; see GMEM_HUGE_AS_IS and its like.
enum class huge_pages : std::uint8_t {
	as_is = GMEM_HUGE_AS_IS,
	off = GMEM_HUGE_OFF,
	prefer = GMEM_HUGE_PREFER,
	require = GMEM_HUGE_REQUIRE
};

/// How to prefetch; the defaults are those of gmemPrefetch().
struct prefetch_options {
	huge_pages huge = huge_pages::as_is;
	/// At most as many threads, the caller's included; 0 for as many as help.
	unsigned threads = 0;
	/// It ends (ETIMEDOUT) when it takes longer, from the call on; 0 for no limit.
	std::chrono::nanoseconds timeout{0};
	/// It ends (ECANCELED) as soon as this is not 0. Has to outlive the work.
	const std::atomic<int> *cancel = nullptr;
	/// Told bytes done and bytes in all, on the thread that does the work, between pieces of 16 MiB; false cancels.
	/// Must not throw.
	std::function<bool(std::size_t done, std::size_t total)> progress;
};

namespace detail {

/// A prefetch_report as the library fills it, and whoever waits for it.
class pending_report {
public:
	explicit pending_report(prefetch_options options) : options_(std::move(options)) {
		static_assert(sizeof(std::atomic<int>) == sizeof(int) && std::atomic<int>::is_always_lock_free);
		report_.size = sizeof report_;
	}

	/// Prefetch, and keep `self` until the library has written the report.
	[[nodiscard]] int begin(std::shared_ptr<pending_report> self, std::uintptr_t address, std::size_t bytes, int hnid,
		void *stream) noexcept {
		gmemPrefetchOptions_t options{};
		options.size = sizeof options;
		options.huge = static_cast<int>(options_.huge);
		options.threads = options_.threads;
		options.timeout_ns = static_cast<unsigned long long>(options_.timeout.count());
		options.cancel = reinterpret_cast<const int *>(options_.cancel);
		options.progress = options_.progress ? &tell : nullptr;
		options.progress_arg = this;
		options.finished = &finish;
		options.finished_arg = this;
		keep_ = std::move(self);
		happens_before(this);
		return gmemPrefetchEx(address, bytes, hnid, stream, &options, &report_);
	}

	[[nodiscard]] bool is_ready() {
		const std::lock_guard lock(mutex_);
		return ready_;
	}

	[[nodiscard]] const gmemPrefetchReport_t &wait() {
		std::unique_lock lock(mutex_);
		finished_.wait(lock, [this] { return ready_; });
		return report_;
	}

private:
	static int tell(std::size_t done, std::size_t total, void *arg) {
		happened_before(arg);
		return static_cast<pending_report *>(arg)->options_.progress(done, total) ? 0 : 1;
	}

	static void finish(void *arg) {
		happened_before(arg);
		auto *const pending = static_cast<pending_report *>(arg);
		// The last owner may be this one.
		const std::shared_ptr<pending_report> keep = std::move(pending->keep_);
		const std::lock_guard lock(pending->mutex_);
		pending->ready_ = true;
		pending->finished_.notify_all();
	}

	prefetch_options options_;
	gmemPrefetchReport_t report_{};
	std::shared_ptr<pending_report> keep_;
	std::mutex mutex_;
	std::condition_variable finished_;
	bool ready_ = false;
};

} // namespace detail

/// What a prefetch did: pages there already, populated, migrated, failed, on which kind of page, how long, on how many
/// threads. See gmemPrefetchReport_t for what each number means; GMEM_UNKNOWN is one that the device does not tell.
///
/// Of a prefetch on a stream it is ready when the stream has passed it; asking for a number waits until then. It may be
/// dropped at any time, and copied; all functions may be called from several threads. A prefetch_report of a prefetch
/// that was dropped, because the process forked or exits, never gets ready.
class prefetch_report {
public:
	/// Of nothing.
	prefetch_report() noexcept = default;

	/// Whether it can be read without waiting.
	[[nodiscard]] bool ready() const { return pending_ == nullptr || pending_->is_ready(); }
	void wait() const { (void)get(); }

	/// How it ended.
	[[nodiscard]] std::error_code result() const { return detail::to_error_code(get().result); }
	/// Bytes asked for.
	[[nodiscard]] std::size_t bytes() const { return get().bytes; }
	/// Base pages that were on the node before.
	[[nodiscard]] std::size_t already_resident() const { return get().already_resident; }
	/// Base pages that were not in memory.
	[[nodiscard]] std::size_t populated() const { return get().populated; }
	/// Base pages that came from another node.
	[[nodiscard]] std::size_t migrated() const { return get().migrated; }
	/// Base pages that are not on the node.
	[[nodiscard]] std::size_t failed() const { return get().failed; }
	/// GMEM pages on huge pages; nothing where the kernel does not tell (before Linux 6.7).
	[[nodiscard]] std::optional<std::size_t> huge() const { return known(get().huge); }
	/// GMEM pages that were to be huge and are not.
	[[nodiscard]] std::optional<std::size_t> fallen_back() const { return known(get().fallen_back); }
	/// Where the first failure was; nullptr for none.
	[[nodiscard]] const void *first_failed() const {
		return reinterpret_cast<const void *>(get().first_failed); // NOLINT(performance-no-int-to-ptr)
	}
	/// What it was.
	[[nodiscard]] std::error_code first_error() const { return {get().first_errno, std::generic_category()}; }
	/// Whether finding huge pages took so long that the rest got base pages.
	[[nodiscard]] bool stalled() const { return get().stalled != 0; }
	[[nodiscard]] unsigned threads() const { return get().threads; }
	[[nodiscard]] std::chrono::nanoseconds duration() const { return std::chrono::nanoseconds(get().duration_ns); }

	/// All of it, as C has it.
	[[nodiscard]] const gmemPrefetchReport_t &get() const {
		static constexpr gmemPrefetchReport_t nothing{};
		return pending_ == nullptr ? nothing : pending_->wait();
	}

	/// For gmem::prefetch().
	explicit prefetch_report(std::shared_ptr<detail::pending_report> pending) noexcept : pending_(std::move(pending)) {}

private:
	[[nodiscard]] static std::optional<std::size_t> known(std::size_t number) {
		return number == GMEM_UNKNOWN ? std::nullopt : std::optional(number);
	}

	std::shared_ptr<detail::pending_report> pending_;
};

} // namespace gmem
