//! The verb *free eager*: the whole GMEM pages inside a range go back now or in a stream's order.

use crate::config::{LogLevel, log};
use crate::device;
use crate::error::Result;
use crate::os::mapping;
use crate::page::PageRange;
use crate::stream::{self, RangeVerb, RangeWork};

static FREE_EAGER: RangeVerb = RangeVerb { name: "gmemFreeEager", apply: run, patient: true };

/// See `gmemFreeEager` in `libgmem.h`. `stream` 0 is no stream.
pub fn free_eager(addr: usize, size: usize, stream: usize) -> Result<()> {
    // Rounded before it is queued, so that joining neighbours frees no page that neither had whole.
    let pages = PageRange::from_arguments(addr, size)?.inward(mapping::gmem_page());
    stream::in_order(stream, RangeWork { verb: &FREE_EAGER, range: pages, node: 0 })
}

fn run(pages: PageRange, _: i32) -> Result<()> {
    if pages.is_empty() {
        return Ok(());
    }
    log(LogLevel::Trace, || format!("free {:#x}..{:#x}", pages.start(), pages.end()));
    device::current()?.free_eager(pages)
}
