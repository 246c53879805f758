//! Code that several devices share.
//!
//! - [`blocks`]: blocks of memory that a driver allocated
//! - [`driver_streams`]: streams that belong to a driver
//! - [`range_set`]: a set of addresses

mod blocks;
mod driver_streams;
mod range_set;

pub use blocks::Blocks;
pub use driver_streams::{
    DriverEvent, DriverStreams, HostFunction, Registered, in_host_function, is_in_host_function,
};
pub use range_set::RangeSet;
