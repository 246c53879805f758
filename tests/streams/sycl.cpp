// SPDX-License-Identifier: Apache-2.0
// gmem::streams::sycl against the real headers: compiling it is the test.
#include <libgmem/streams/sycl.hpp>

gmem::external_stream stream_of(const sycl::queue &queue);
gmem::external_stream stream_of(const sycl::queue &queue) { return gmem::streams::sycl(queue); }
