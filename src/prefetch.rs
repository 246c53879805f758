//! The verb *prefetch*: arguments are checked now, the range moves now or in a stream's order.

use crate::config::{LogLevel, log};
use crate::device;
use crate::error::Result;
use crate::page::PageRange;
use crate::stream::{self, RangeVerb, RangeWork};

static PREFETCH: RangeVerb = RangeVerb { name: "gmemPrefetch", apply: run, patient: false };

/// See `gmemPrefetch` in `libgmem.h`. `stream` 0 is no stream.
pub fn prefetch(addr: usize, size: usize, hnid: i32, stream: usize) -> Result<()> {
    let asked = PageRange::from_arguments(addr, size)?;
    device::current()?.node(hnid)?;
    stream::in_order(stream, RangeWork { verb: &PREFETCH, range: asked, node: hnid })
}

fn run(asked: PageRange, hnid: i32) -> Result<()> {
    if asked.is_empty() {
        return Ok(());
    }
    let device = device::current()?;
    let node = device.node(hnid)?;
    log(LogLevel::Trace, || {
        format!("prefetch {:#x}..{:#x} to node {node}", asked.start(), asked.end())
    });
    device.prefetch(asked, node)
}
