// SPDX-License-Identifier: Apache-2.0
/// @file
/// libgmem for C++17: all public headers. gmem::memory_resource is left out without exceptions or RTTI, and where the
/// standard library has no std::pmr (libc++ before LLVM 16).
#pragma once

#include <libgmem.h>
#include <libgmem/allocator.hpp>
#include <libgmem/buffer.hpp>
#include <libgmem/device.hpp>
#include <libgmem/error.hpp>
#include <libgmem/event.hpp>
#include <libgmem/fault_scope.hpp>
#include <libgmem/free_eager.hpp>
#include <libgmem/heap.hpp>
#include <libgmem/mapped_file.hpp>
#include <libgmem/model_file.hpp>
#include <libgmem/prefetch.hpp>
#include <libgmem/prefetch_pipeline.hpp>
#include <libgmem/prefetch_report.hpp>
#include <libgmem/range.hpp>
#include <libgmem/residency.hpp>
#include <libgmem/stream.hpp>
#include <libgmem/topology.hpp>
#include <libgmem/unique_ptr.hpp>

#if LIBGMEM_HAS_EXCEPTIONS && defined(__cpp_rtti) && __has_include(<memory_resource>)
#include <libgmem/memory_resource.hpp>
#endif
