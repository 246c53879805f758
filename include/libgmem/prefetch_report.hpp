// SPDX-License-Identifier: Apache-2.0
/// @file
/// gmem::prefetch_options and gmem::prefetch_report: how to prefetch, and what was done.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <new>
#include <optional>
#include <system_error>
#include <utility>

#include <libgmem/detail/thread_sanitizer.hpp>
#include <libgmem/error.hpp>

namespace gmem {

/// Huge-page policies.
enum class huge_pages : std::uint8_t {
	as_is = GMEM_HUGE_AS_IS,    ///< follow the mapping and the system's setting
	off = GMEM_HUGE_OFF,        ///< base pages only
	prefer = GMEM_HUGE_PREFER,  ///< huge pages where the kernel has some at hand
	require = GMEM_HUGE_REQUIRE ///< huge pages throughout, or an error before anything is touched
};

/// How to prefetch; the defaults are those of gmemPrefetch().
struct prefetch_options {
	/// The policy for this prefetch; as_is: that of the range, else of the process.
	huge_pages huge = huge_pages::as_is;
	/// Maximum number of threads, including the caller's; 0: as many as help.
	unsigned threads = 0;
	/// Fail with ETIMEDOUT after this time, counted from the call; 0: no limit.
	std::chrono::nanoseconds timeout{0};
	/// Stop with ECANCELED once this is not 0. Must outlive the work.
	const std::atomic<int> *cancel = nullptr;
	/// Called with the bytes done and the total between pieces of 16 MiB, on the thread that does the work. false
	/// cancels. Must not throw.
	std::function<bool(std::size_t done, std::size_t total)> progress{};
};

namespace detail {

/// A report that the library fills, and the threads that wait for it. It counts its owners itself: std::make_shared()
/// has no form that does not throw.
class pending_report {
public:
	explicit pending_report(prefetch_options options) : options_(std::move(options)) {
		static_assert(sizeof(std::atomic<int>) == sizeof(int) && std::atomic<int>::is_always_lock_free);
		report_.size = sizeof report_;
	}

	pending_report(const pending_report &) = delete;
	pending_report &operator=(const pending_report &) = delete;

	void add_owner() noexcept { owners_.fetch_add(1, std::memory_order_relaxed); }
	void drop_owner() noexcept {
		happens_before(&owners_);
		if (owners_.fetch_sub(1, std::memory_order_acq_rel) == 1) {
			happened_before(&owners_);
			delete this;
		}
	}

	/// Have `start` prefetch. The library is an owner until it has written the report.
	template <class Start>
	[[nodiscard]] int begin(Start start) noexcept {
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
		add_owner();
		happens_before(this);
		return start(&options, &report_);
	}

	/// Called when the report is ready, on the thread that did the work. Lives until then.
	struct waiter {
		void (*wake)(waiter *self) noexcept;
		waiter *next = nullptr;
	};

	/// Have a waiter called; false if the report is ready already.
	[[nodiscard]] bool add(waiter &next) {
		const std::lock_guard lock(mutex_);
		if (!ready_) {
			next.next = std::exchange(waiters_, &next);
		}
		return !ready_;
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
	~pending_report() = default;

	static int tell(std::size_t done, std::size_t total, void *arg) {
		happened_before(arg);
		return static_cast<pending_report *>(arg)->options_.progress(done, total) ? 0 : 1;
	}

	static void finish(void *arg) {
		happened_before(arg);
		auto *const pending = static_cast<pending_report *>(arg);
		waiter *first = nullptr;
		{
			const std::lock_guard lock(pending->mutex_);
			pending->ready_ = true;
			pending->finished_.notify_all();
			first = std::exchange(pending->waiters_, nullptr);
		}
		while (first != nullptr) {
			// It may be gone after the call.
			waiter *const next = first->next;
			first->wake(first);
			first = next;
		}
		pending->drop_owner();
	}

	prefetch_options options_;
	gmemPrefetchReport_t report_{};
	std::atomic<std::size_t> owners_ = 1;
	std::mutex mutex_{};
	std::condition_variable finished_{};
	bool ready_ = false;
	waiter *waiters_ = nullptr;
};

} // namespace detail

/// Results of a prefetch. See gmemPrefetchReport_t for each number; GMEM_UNKNOWN is one that the device does not
/// report.
///
/// With a stream, the report is ready when the work is done; reading a number waits for that. It may be copied and
/// destroyed at any time, and read by several threads. The report of work that is dropped because the process forks or
/// exits never becomes ready.
class prefetch_report {
public:
	/// A report of nothing.
	prefetch_report() noexcept = default;
	/// Another view of the same report.
	prefetch_report(const prefetch_report &other) noexcept : pending_(other.pending_) {
		if (pending_ != nullptr) {
			pending_->add_owner();
		}
	}
	/// Take over the report of `other`, which becomes one of nothing.
	prefetch_report(prefetch_report &&other) noexcept : pending_(std::exchange(other.pending_, nullptr)) {}
	/// Give up this report for another view of that of `other`.
	prefetch_report &operator=(const prefetch_report &other) noexcept {
		prefetch_report copy(other);
		std::swap(pending_, copy.pending_);
		return *this;
	}
	/// Give up this report and take over that of `other`.
	prefetch_report &operator=(prefetch_report &&other) noexcept {
		std::swap(pending_, other.pending_);
		return *this;
	}
	~prefetch_report() {
		if (pending_ != nullptr) {
			pending_->drop_owner();
		}
	}

	/// Whether this is a report of nothing.
	[[nodiscard]] bool is_empty() const noexcept { return pending_ == nullptr; }
	/// Whether the numbers can be read without waiting.
	[[nodiscard]] bool ready() const { return pending_ == nullptr || pending_->is_ready(); }
	/// Wait until the report is ready.
	void wait() const { (void)get(); }

	/// The result of the prefetch.
	[[nodiscard]] std::error_code result() const { return detail::to_error_code(get().result); }
	/// Bytes requested.
	[[nodiscard]] std::size_t bytes() const { return get().bytes; }
	/// Base pages that were on the node before.
	[[nodiscard]] std::size_t already_resident() const { return get().already_resident; }
	/// Base pages that were not in memory, and are now.
	[[nodiscard]] std::size_t populated() const { return get().populated; }
	/// Base pages that moved from another node.
	[[nodiscard]] std::size_t migrated() const { return get().migrated; }
	/// Base pages that are not on the node.
	[[nodiscard]] std::size_t failed() const { return get().failed; }
	/// GMEM pages backed by huge pages; no value if unknown (before Linux 6.7).
	[[nodiscard]] std::optional<std::size_t> huge() const { return known(get().huge); }
	/// GMEM pages that should have been huge and are not; no value if unknown.
	[[nodiscard]] std::optional<std::size_t> fallen_back() const { return known(get().fallen_back); }
	/// The first page that failed; nullptr: none.
	[[nodiscard]] const void *first_failed() const {
		return reinterpret_cast<const void *>(get().first_failed); // NOLINT(performance-no-int-to-ptr)
	}
	/// Why it failed.
	[[nodiscard]] std::error_code first_error() const { return {get().first_errno, std::generic_category()}; }
	/// Whether compaction for huge pages took so long that the rest got base pages.
	[[nodiscard]] bool stalled() const { return get().stalled != 0; }
	/// Threads that did the work, including the caller's.
	[[nodiscard]] unsigned threads() const { return get().threads; }
	/// Duration of the work.
	[[nodiscard]] std::chrono::nanoseconds duration() const { return std::chrono::nanoseconds(get().duration_ns); }

	/// The whole report as the C structure; waits until it is ready.
	[[nodiscard]] const gmemPrefetchReport_t &get() const {
		static constexpr gmemPrefetchReport_t nothing{};
		return pending_ == nullptr ? nothing : pending_->wait();
	}

	/// Used by gmem::prefetch(): becomes an owner.
	explicit prefetch_report(detail::pending_report *pending) noexcept : pending_(pending) {}
	/// Used by co_await: what is reported; nullptr for a report of nothing.
	[[nodiscard]] detail::pending_report *pending() const noexcept { return pending_; }

private:
	[[nodiscard]] static std::optional<std::size_t> known(std::size_t number) {
		return number == GMEM_UNKNOWN ? std::nullopt : std::optional(number);
	}

	detail::pending_report *pending_ = nullptr;
};

} // namespace gmem
