// SPDX-License-Identifier: Apache-2.0
/// @file
/// gmem::prefetch_pipeline: brings parts of models before they are used, and drops them, within a budget.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <system_error>
#include <utility>

#include <libgmem/detail/batch.hpp>
#include <libgmem/device.hpp>
#include <libgmem/error.hpp>
#include <libgmem/model_file.hpp>
#include <libgmem/stream.hpp>

namespace gmem {

/// The order in which the parts of a pipeline are used.
enum class pipeline_order : std::uint8_t {
	sequence = GMEM_PIPELINE_SEQUENCE, ///< one after the other, once
	cycle = GMEM_PIPELINE_CYCLE,       ///< one after the other, and again from the first
	any = GMEM_PIPELINE_ANY            ///< known late, as for the experts of a mixture
};

/// How a pipeline works.
struct pipeline_options {
	/// Bytes in memory at a time, in whole GMEM pages; at least as much as the largest part.
	std::size_t budget = 0;
	/// Parts to bring ahead of the one in use, where the order is known.
	unsigned look_ahead = 1;
	/// The order of use.
	pipeline_order order = pipeline_order::sequence;
	/// Where the parts are brought; -1: to the current device.
	int hnid = -1;
	/// The stream that uses the parts; none: the threads that call.
	stream_ref stream = {};
};

/// Brings parts of models before they are used, and drops them when they were used.
///
///     gmem::prefetch_pipeline pipeline(layers, {budget, 2});
///     for (std::size_t i = 0; i < layers.size(); ++i) {
///         pipeline.want(i);
///         forward(layers[i].data());
///         pipeline.done(i);
///     }
///
/// With a stream, want() and done() return immediately, and `forward` is what is launched on the stream between them.
/// Movable, not copyable. The destructor drops what nobody uses.
class prefetch_pipeline {
public:
	/// No pipeline.
	prefetch_pipeline() noexcept = default;
#if LIBGMEM_HAS_EXCEPTIONS
	/// Make a pipeline of any range of gmem::model_range, or gmemRange_t, and begin to bring the first parts.
	/// @throws error as gmemPipelineCreate()
	template <class Parts, class = detail::if_batch<Parts>>
	prefetch_pipeline(Parts &&parts, pipeline_options options) {
		detail::throw_if_failed(start(detail::batch::of<range>(parts), options));
	}
	/// Make a pipeline as above: prefetch_pipeline({a, b, c}, options).
	/// @throws error as gmemPipelineCreate()
	prefetch_pipeline(std::initializer_list<model_range> parts, pipeline_options options) {
		detail::throw_if_failed(start(detail::batch::of<range>(parts), options));
	}
#endif
	/// Make a pipeline. A failure gives none and is in `ec`, which is cleared on success.
	template <class Parts, class = detail::if_batch<Parts>>
	[[nodiscard]] static prefetch_pipeline create(
		Parts &&parts, pipeline_options options, std::error_code &ec) noexcept {
		prefetch_pipeline made;
		ec = detail::to_error_code(made.start(detail::batch::of<range>(parts), options));
		return made;
	}
	/// Take over what `other` owns.
	prefetch_pipeline(prefetch_pipeline &&other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
	/// Take over what `other` owns, and end what this one owned.
	prefetch_pipeline &operator=(prefetch_pipeline &&other) noexcept {
		prefetch_pipeline moved(std::move(other));
		std::swap(handle_, moved.handle_);
		return *this;
	}
	prefetch_pipeline(const prefetch_pipeline &) = delete;
	prefetch_pipeline &operator=(const prefetch_pipeline &) = delete;
	~prefetch_pipeline() {
		if (handle_ != nullptr) {
			gmemPipelineDestroy(handle_);
		}
	}

#if LIBGMEM_HAS_EXCEPTIONS
	/// Part i is used from now on: it is in memory on return, or when the stream gets to what is launched next.
	/// @throws error as gmemPipelineWant()
	void want(std::size_t i) { detail::throw_if_failed(gmemPipelineWant(handle_, i)); }
	/// Part i will be wanted soon.
	/// @throws error as gmemPipelineSoon()
	void soon(std::size_t i) { detail::throw_if_failed(gmemPipelineSoon(handle_, i)); }
	/// Part i was used; once for each want().
	/// @throws error as gmemPipelineDone()
	void done(std::size_t i) { detail::throw_if_failed(gmemPipelineDone(handle_, i)); }
#endif
	/// Part i is used from now on; a failure is in `ec`, which is cleared on success.
	void want(std::size_t i, std::error_code &ec) noexcept { ec = detail::to_error_code(gmemPipelineWant(handle_, i)); }
	/// Part i will be wanted soon; a failure is in `ec`, which is cleared on success.
	void soon(std::size_t i, std::error_code &ec) noexcept { ec = detail::to_error_code(gmemPipelineSoon(handle_, i)); }
	/// Part i was used; a failure is in `ec`, which is cleared on success.
	void done(std::size_t i, std::error_code &ec) noexcept { ec = detail::to_error_code(gmemPipelineDone(handle_, i)); }

	/// What was done so far, as gmemPipelineGetReport(); zeros without a pipeline.
	[[nodiscard]] gmemPipelineReport_t report() const noexcept {
		gmemPipelineReport_t all{};
		all.size = sizeof all;
		if (handle_ != nullptr) {
			// It fails in a forked child only, which has none of its parent's pipelines.
			(void)gmemPipelineGetReport(handle_, &all);
		}
		return all;
	}
	/// How long the user of the parts waited.
	[[nodiscard]] std::chrono::nanoseconds waited() const noexcept {
		return std::chrono::nanoseconds(static_cast<std::chrono::nanoseconds::rep>(report().waited_ns));
	}

	/// The handle for C functions.
	[[nodiscard]] gmemPipeline_t get() const noexcept { return handle_; }

private:
	[[nodiscard]] int start(const detail::batch &parts, pipeline_options options) noexcept {
		gmemPipelineOptions_t how{};
		how.size = sizeof how;
		how.budget = options.budget;
		how.look_ahead = options.look_ahead;
		how.order = static_cast<int>(options.order);
		how.hnid = options.hnid == -1 ? gmemGetNumaId() : options.hnid;
		how.stream = options.stream.get();
		if (how.hnid < 0 && options.hnid == -1) {
			return how.hnid;
		}
		return parts.apply([&](const gmemRange_t *ranges, std::size_t count) {
			return gmemPipelineCreate(ranges, count, &how, &handle_);
		});
	}

	gmemPipeline_t handle_ = nullptr;
};

} // namespace gmem
