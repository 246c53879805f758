//! libgmem: memory shared by a CPU and its accelerators.
//!
//! The modules, outermost first; each uses only the modules below it:
//!
//! | module | purpose |
//! |---|---|
//! | [`capi`], `bridge` | the C functions of `libgmem.h`, and the functions that the C++ headers call through cxx |
//! | [`prefetch`], [`free_eager`] | the two verbs: the arguments of a call become a range, a device and an order |
//! | [`model`] | files of weights: their bytes in memory, and pipelines that bring them in the order of their use |
//! | [`topology`], [`residency`] | inspection: the memory that the machine has, and the pages of a range |
//! | [`stream_argument`] | classifies a `void *stream`: NULL, a handle of libgmem, or a stream of the device's driver |
//! | [`stream`] | *when* work happens: ordered queues, events, external executors, coalescing, deferred errors |
//! | [`heap`] | `malloc`: per-thread caches, jemalloc behind them, and 2 MiB pages behind jemalloc |
//! | [`device`] | *where* memory can live, one folder each: `host` (a stock Linux kernel), `gmem` (openEuler's kernel), `ascend` (the same with Ascend's streams), `opencl`, `cuda` |
//! | [`guard`], [`last_error`] | panics become errors; the last error of each thread |
//! | [`helpers`] | threads that help a call with its work |
//! | [`huge_policy`], [`config`] | the huge-page policies; the `GMEM_*` settings |
//! | [`reserve`] | memory for the library's own objects when the process has none left |
//! | [`os`] | system calls, and services of the C library |
//! | [`report`], [`range_set`], [`page`], [`error`] | the result of a prefetch; the union of many ranges; checked page arithmetic; errors and their errnos |
//!
//! The Rust side is not a public API: programs use `libgmem.h` and `libgmem.hpp`.

pub mod capi;
pub mod config;
pub mod device;
pub mod error;
pub mod free_eager;
pub mod free_eager_file;
pub mod guard;
pub mod heap;
pub mod helpers;
pub mod huge_policy;
pub mod last_error;
pub mod model;
pub mod os;
pub mod page;
pub mod prefetch;
pub mod range_set;
pub mod report;
pub mod reserve;
pub mod residency;
pub mod stream;
pub mod stream_argument;
pub mod topology;

mod bridge;
#[cfg(test)]
mod mangled;
#[cfg(test)]
mod settings_table;
