// SPDX-License-Identifier: Apache-2.0
// gmem::streams::cuda_driver against the real header: compiling it is the test, since libcuda comes with a device.
#include <libgmem/streams/cuda_driver.hpp>

gmem::external_stream stream_of(CUstream stream);
gmem::external_stream stream_of(CUstream stream) { return gmem::streams::cuda_driver(stream); }
