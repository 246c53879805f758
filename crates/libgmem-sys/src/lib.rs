// SPDX-License-Identifier: Apache-2.0
//! libgmem for Rust programs: memory that a CPU and its accelerators share.
//!
//! | | |
//! |---|---|
//! | [`Gmem`] | a global allocator on huge pages |
//! | [`prefetch`], [`free_eager`] | move a range to a memory node; release its pages |
//! | [`Stream`], [`Event`] | the same, in the order of a work stream |
//! | [`FaultScope`] | count page faults, to show that none follow a prefetch |
//! | [`set_device`], [`device`], [`numa_id`], [`page_size`] | the current device |
//! | [`ffi`] | the C functions below |
//!
//! ```
//! use libgmem_sys::{FaultScope, Gmem, numa_id, prefetch};
//!
//! #[global_allocator]
//! static HEAP: Gmem = Gmem;
//!
//! let mut weights = vec![0f32; 4 << 20];
//! prefetch(&weights, numa_id()?)?;
//! let faults = FaultScope::thread()?;
//! weights.fill(1.0);
//! assert_eq!(faults.count()?, 0);
//! # Ok::<(), libgmem_sys::Error>(())
//! ```

mod device;
mod error;
mod event;
mod fault_scope;
pub mod ffi;
mod heap;
mod range;
mod stream;

pub use device::{device, numa_id, page_size, set_device, version};
pub use error::{Error, Result};
pub use event::Event;
pub use fault_scope::FaultScope;
pub use heap::Gmem;
pub use range::{free_eager, prefetch};
pub use stream::Stream;
