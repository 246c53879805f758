//! libgmem: memory shared by a CPU and its accelerators.
//!
//! What lives where, outermost first; each room uses only the rooms below it:
//!
//! | room | what it does |
//! |---|---|
//! | [`capi`], `bridge` | the C functions of `libgmem.h`, and what the C++ headers call through cxx |
//! | [`prefetch`], [`free_eager`] | the two verbs: an argument list becomes a range, a device, an order |
//! | [`topology`], [`residency`] | seeing: what memory the machine has, and where the pages of a range are |
//! | [`native_stream`] | a `void *stream` is NULL, a handle of libgmem's, or a stream of the device's driver |
//! | [`stream`] | *when* it happens: queues served in order, events, executors of others, coalescing, errors kept for later |
//! | [`device`] | *where* memory can live: `host`, a stock Linux kernel; `gmem`, openEuler's; `ascend`, the same with Ascend's streams; `opencl`, an OpenCL device; `cuda`, a GPU of NVIDIA's |
//! | [`heap`] | `malloc`: blocks that threads cache, behind them jemalloc, behind that heap pages of 2 MiB |
//! | [`reserve`] | memory for the library's own objects when the process has none left |
//! | [`guard`], [`last_error`], [`config`], [`huge_policy`] | panics become errors; the thread's last one; `GMEM_*` settings; huge pages or not |
//! | [`os`] | the only room with raw system calls |
//! | [`report`], [`page`], [`error`] | what a prefetch did; page arithmetic, all of it checked; what can go wrong |
//!
//! The Rust side is no public API: users have `libgmem.h` and `libgmem.hpp`.

pub mod capi;
pub mod config;
pub mod device;
pub mod error;
pub mod free_eager;
pub mod guard;
pub mod heap;
pub mod huge_policy;
pub mod last_error;
pub mod native_stream;
pub mod os;
pub mod page;
pub mod prefetch;
pub mod report;
pub mod reserve;
pub mod residency;
pub mod stream;
pub mod topology;

mod bridge;
