//! The verb *free eager*: release the whole GMEM pages of a range, now or in stream order.

use crate::config::{LogLevel, log};
use crate::device;
use crate::error::Result;
use crate::os::mapping;
use crate::page::PageRange;
use crate::stream::{self, RangeVerb, RangeWork, Target, Work};
use crate::stream_argument::StreamArgument;

static FREE_EAGER: RangeVerb =
    RangeVerb { name: "gmemFreeEager", apply: run_queued, deferrable: true };

/// See `gmemFreeEager` in `libgmem.h`.
pub fn free_eager(addr: usize, size: usize, stream: StreamArgument) -> Result<()> {
    // Rounded before it is queued: otherwise joined neighbours could free a page that neither holds as a whole.
    let pages = PageRange::from_arguments(addr, size)?.inward(mapping::gmem_page());
    let device = stream.device()?;
    let work = |range| Work::Range(RangeWork { verb: &FREE_EAGER, range, target: [device, 0] });
    match stream {
        StreamArgument::None => run(pages, device),
        StreamArgument::Own(handle) => stream::enqueue(handle, work(pages)),
        StreamArgument::Driver(driver) => {
            let rest = driver.free_eager(pages)?;
            rest.into_iter().try_for_each(|part| driver.enqueue(work(part)))
        }
    }
}

fn run_queued(pages: PageRange, [device, _]: Target) -> Result<()> {
    run(pages, device)
}

fn run(pages: PageRange, device: usize) -> Result<()> {
    if pages.is_empty() {
        return Ok(());
    }
    log(LogLevel::Trace, || format!("free {:#x}..{:#x}", pages.start(), pages.end()));
    device::by_index(device).free_eager(pages)
}
