//! The verb *free eager*: the whole GMEM pages inside a range go back now or in a stream's order.

use crate::config::{LogLevel, log};
use crate::device;
use crate::error::Result;
use crate::native_stream;
use crate::os::mapping;
use crate::page::PageRange;
use crate::stream::{self, RangeVerb, RangeWork, Target};

static FREE_EAGER: RangeVerb = RangeVerb { name: "gmemFreeEager", apply: run, patient: true };

/// See `gmemFreeEager` in `libgmem.h`. `stream` 0 is no stream.
pub fn free_eager(addr: usize, size: usize, stream: usize) -> Result<()> {
    // Rounded before it is queued, so that joining neighbours frees no page that neither had whole.
    let pages = PageRange::from_arguments(addr, size)?.inward(mapping::gmem_page());
    let target = Target { device: device::current_index()?, hnid: 0 };
    let parts = match native_stream::native(stream)? {
        Some(streams) => streams.free_eager(stream, pages)?,
        None => return register(stream, pages, target),
    };
    parts.into_iter().try_for_each(|part| register(stream, part, target))
}

fn register(stream: usize, range: PageRange, target: Target) -> Result<()> {
    let work = RangeWork { verb: &FREE_EAGER, range, target };
    stream::in_order(native_stream::resolve(stream)?, work)
}

fn run(pages: PageRange, target: Target) -> Result<()> {
    if pages.is_empty() {
        return Ok(());
    }
    log(LogLevel::Trace, || format!("free {:#x}..{:#x}", pages.start(), pages.end()));
    device::by_index(target.device).free_eager(pages)
}
