// SPDX-License-Identifier: Apache-2.0
/// @file
/// gmem::streams::ascend: a stream of Ascend's runtime. Needs <acl/acl.h> with aclrtLaunchHostFunc (CANN 8.3) and
/// libascendcl. On the device "ascend" an aclrtStream needs no wrapper (see gmemStream_t); use this on other devices.
#pragma once

#include <system_error>

#include <acl/acl.h>

#include <libgmem/stream.hpp>

namespace gmem::streams {

namespace detail {

inline int launch_ascend(void *native, gmemHostFn fn, void *arg) noexcept {
	return static_cast<int>(aclrtLaunchHostFunc(static_cast<aclrtStream>(native), fn, arg));
}

} // namespace detail

/// Wrap a stream. Launched functions must not call CANN, and aclrtLaunchCallback must not be used on the same stream.
/// The rules of driver streams apply (docs/devices/README.md); the stream itself may be used at the same time.
///
/// A failure gives a stream that must not be used, and is in `ec`, which is cleared on success.
[[nodiscard]] inline external_stream ascend(aclrtStream stream, std::error_code &ec) noexcept {
	return external_stream::create(detail::launch_ascend, stream, ec);
}

#if LIBGMEM_HAS_EXCEPTIONS
/// Wrap a stream and throw on failure.
/// @throws error: ENOMEM
[[nodiscard]] inline external_stream ascend(aclrtStream stream) {
	return external_stream(detail::launch_ascend, stream);
}
#endif

} // namespace gmem::streams
