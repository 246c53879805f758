// SPDX-License-Identifier: Apache-2.0
/// @file
/// The one C++ source of libgmem_api.so: all of it is the Rust core, and CMake wants a source.
