// SPDX-License-Identifier: Apache-2.0
/// @file
/// gmem::streams::ascend: a stream of Ascend's runtime. Needs <acl/acl.h> with aclrtLaunchHostFunc (CANN 8.3) and
/// libascendcl. On the device "ascend" an aclrtStream needs no wrapper (see gmemStream_t); this one is for other
/// devices.
#pragma once

#include <acl/acl.h>

#include <libgmem/stream.hpp>

namespace gmem::streams {

/// `stream` as libgmem takes it. What is launched calls nothing of CANN's, and aclrtLaunchCallback must not be used on
/// the same stream. Rules are those of the stream itself on the device "ascend", and both may be used side by side.
[[nodiscard]] inline external_stream ascend(aclrtStream stream) {
	return external_stream(
		[](void *native, gmemHostFn fn, void *arg) {
			return static_cast<int>(aclrtLaunchHostFunc(static_cast<aclrtStream>(native), fn, arg));
		},
		stream);
}

} // namespace gmem::streams
