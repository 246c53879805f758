//! What devices behind a driver have in common.
//!
//! - [`blocks`]: memory that the driver gives
//! - [`streams`]: the driver's streams, as programs have them

mod blocks;
mod streams;

pub use blocks::Blocks;
pub use streams::{
    HostFunction, Mark, NativeStreams, Registered, in_host_function, is_in_host_function,
};
