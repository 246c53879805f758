// SPDX-License-Identifier: Apache-2.0
/// @file
/// gmem::streams::ascend: a stream of Ascend's runtime. Needs <acl/acl.h> with aclrtLaunchHostFunc (CANN 8.3) and
/// libascendcl. On the device "ascend" an aclrtStream needs no wrapper (see gmemStream_t); use this on other devices.
#pragma once

#include <acl/acl.h>

#include <libgmem/stream.hpp>

namespace gmem::streams {

/// Wrap a stream. Launched functions must not call CANN, and aclrtLaunchCallback must not be used on the same stream.
/// The rules of driver streams apply (docs/devices/README.md); the stream itself may be used at the same time.
[[nodiscard]] inline external_stream ascend(aclrtStream stream) {
	return external_stream(
		[](void *native, gmemHostFn fn, void *arg) {
			return static_cast<int>(aclrtLaunchHostFunc(static_cast<aclrtStream>(native), fn, arg));
		},
		stream);
}

} // namespace gmem::streams
