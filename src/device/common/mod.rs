//! What devices behind a driver have in common.
//!
//! - [`blocks`]: memory that the driver gives
//! - [`streams`]: the driver's streams, as programs have them

mod blocks;
mod driver_streams;
mod range_set;

pub use blocks::Blocks;
pub use driver_streams::{
    DriverEvent, DriverStreams, HostFunction, Registered, in_host_function, is_in_host_function,
};
pub use range_set::RangeSet;
