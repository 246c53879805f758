//! Device `opencl`: an OpenCL device whose kernels access the memory of the process by its addresses (shared virtual memory).
//!
//! - [`discovery`]: finding the loader and the device, or saying where they were searched
//! - [`driver`], [`codes`]: bindings of OpenCL, and its error codes
//! - [`regions`]: memory that the driver allocates
//!
//! A device that runs its kernels on the CPU works on the pages of the process: everything is done as for `host`, but large
//! blocks of the heap come from the driver, because kernels may read no others. Any other device has a node with an id above
//! those of the machine, and the driver moves memory there and back.

mod codes;
mod discovery;
mod driver;
mod regions;

use std::ffi::{CStr, c_void};
use std::time::Instant;

use super::host::Host;
use super::{Device, DeviceMemory, DeviceNode, Request};
use crate::config::SettingRow;
use crate::error::{Error, Result, Target};
use crate::huge_policy::HugePolicy;
use crate::os::lazy::Lazy;
use crate::os::mapping::Region;
use crate::os::{mapping, numa, process};
use crate::page::PageRange;
use crate::report::Report;
use codes::{ClCode, unavailable};
use driver::{Context, Description, Shared};
use regions::{Regions, Turn};

/// The OpenCL device that `GMEM_OPENCL_DEVICE` names, else the first that can be used.
pub struct OpenCl;

/// Opened on first use and never closed. A failure is kept, too.
static OPENED: Lazy<Result<Accelerator>> = Lazy::new(|| {
    let _turn = Turn::take();
    discovery::open().map(|(context, device)| Accelerator::new(context, &device))
});

fn opened() -> Result<&'static Accelerator> {
    OPENED.get().as_ref().map_err(Clone::clone)
}

/// The device if it is open. For `malloc`, which must not open a driver.
fn opened_already() -> Option<&'static Accelerator> {
    OPENED.known().and_then(|opened| opened.as_ref().ok())
}

impl Device for OpenCl {
    fn c_name(&self) -> &'static CStr {
        c"opencl"
    }

    fn settings(&self) -> Vec<SettingRow> {
        vec![discovery::WHICH.row()]
    }

    fn open(&self) -> Result<()> {
        opened().map(|_| ())
    }

    fn numa_id(&self) -> Result<i32> {
        opened()?.numa_id()
    }

    fn node(&self, hnid: i32) -> Result<usize> {
        opened()?.node(hnid)
    }

    fn prefetch(&self, request: &Request<'_>, report: &mut Report) -> Result<()> {
        opened()?.prefetch(request, report)
    }

    fn free_eager(&self, pages: PageRange) -> Result<()> {
        opened()?.free_eager(pages)
    }

    fn may_free_eager(&self, pages: PageRange) -> Result<()> {
        opened()?.may_free_eager(pages)
    }

    fn context(&self) -> Result<*mut c_void> {
        let accelerator = opened()?;
        accelerator.is_in_its_process().map(|()| accelerator.context.handle())
    }

    fn nodes(&self) -> Vec<DeviceNode> {
        let own = opened_already().and_then(|accelerator| accelerator.own_node);
        own.map(|id| DeviceNode { id, total: None, free: None }).into_iter().collect()
    }

    fn memory(&self) -> Option<&dyn DeviceMemory> {
        opened_already().filter(|accelerator| accelerator.needs_its_own).map(|_| self as _)
    }
}

impl DeviceMemory for OpenCl {
    fn map(&self, length: usize) -> Result<Region> {
        opened_already().ok_or(Error::OutOfMemory { what: "OpenCL, not opened yet" })?.map(length)
    }

    fn unmap(&self, region: Region) {
        if let Some(accelerator) = opened_already() {
            accelerator.unmap(region);
        }
    }
}

/// The open device.
struct Accelerator {
    context: Context,
    regions: Regions,
    /// The node of the device; `None` if its memory is that of the machine.
    own_node: Option<usize>,
    /// Whether its kernels can only access memory that the driver allocated.
    needs_its_own: bool,
    /// The process that opened the device: OpenCL does not work after a fork.
    process: i32,
}

impl Accelerator {
    fn new(context: Context, device: &Description) -> Self {
        Self {
            context,
            regions: Regions::default(),
            own_node: (!device.is_processor).then(numa::first_impossible_node),
            needs_its_own: device.shared != Shared::Everything,
            process: process::process_id(),
        }
    }

    fn numa_id(&self) -> Result<i32> {
        match self.own_node {
            Some(node) => Ok(i32::try_from(node).unwrap_or(i32::MAX)),
            None => Host.numa_id(),
        }
    }

    fn node(&self, hnid: i32) -> Result<usize> {
        let own = self.own_node.filter(|node| usize::try_from(hnid) == Ok(*node));
        own.map_or_else(|| Host.node(hnid), Ok).map_err(|failure| match (failure, self.own_node) {
            (Error::NotAMemoryNode { hnid, nodes }, Some(own)) => {
                Error::NotAMemoryNode { hnid, nodes: format!("{nodes},{own}") }
            }
            (other, _) => other,
        })
    }

    fn prefetch(&self, request: &Request<'_>, report: &mut Report) -> Result<()> {
        let Some(own) = self.own_node else { return Host.prefetch(request, report) };
        let asked = request.asked;
        let to_device = request.node == own;
        let parts = self.regions.within(asked);
        let all_is_its_own = parts.iter().map(|part| part.len()).sum::<usize>() == asked.len();
        if to_device && !all_is_its_own {
            return Err(Error::Unsupported {
                verb: "gmemPrefetch",
                from: asked.start(),
                to: asked.end(),
                what: "not all of it memory that the OpenCL device can have",
                remedy: "Take a block of 2 MiB or more from libgmem's heap, or prefetch to a memory node.",
                errno: libc::EINVAL,
            });
        }
        if to_device && request.huge == HugePolicy::Require {
            return Err(Error::NoHugePages {
                from: asked.start(),
                to: asked.end(),
                why: "an OpenCL driver does not tell what pages it uses",
                remedy: "Take GMEM_HUGE_PREFER.",
            });
        }
        if parts.is_empty() {
            return Host.prefetch(request, report);
        }
        self.migrate(request, &parts, !to_device, report)?;
        if to_device {
            return Ok(());
        }
        let mut on_host = report.clone();
        match Host.prefetch(request, &mut on_host) {
            // The driver has placed the memory that it maps itself.
            Err(Error::Unsupported { .. }) if all_is_its_own => Ok(()),
            outcome => {
                let moved = report.migrated.min(on_host.already_resident);
                on_host.already_resident -= moved;
                on_host.migrated += moved;
                on_host.nanoseconds += report.nanoseconds;
                *report = on_host;
                outcome
            }
        }
    }

    /// Have the driver move ranges. It does not report which pages it moved, so all count as moved.
    fn migrate(
        &self,
        request: &Request<'_>,
        parts: &[PageRange],
        to_host: bool,
        report: &mut Report,
    ) -> Result<()> {
        self.is_in_its_process()?;
        let begun = Instant::now();
        let (total, asked) = (request.asked.len(), request.asked);
        request.watch.go_on(0, total)?;
        let outcome = {
            let _turn = Turn::take();
            self.context.migrate(parts, to_host)
        };
        let pages: usize =
            parts.iter().map(|part| part.outward(mapping::base_page()).len()).sum::<usize>()
                / mapping::base_page().bytes();
        (report.huge, report.fallen_back, report.threads) = (None, None, 1);
        report.nanoseconds = u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
        match outcome {
            Ok(()) => report.migrated = pages,
            Err(code) => {
                report.failed = pages;
                return Err(failed("clEnqueueSVMMigrateMem", asked, code));
            }
        }
        // All is done, so a request to end comes too late.
        let _ = request.watch.progress(total, total);
        Ok(())
    }

    fn free_eager(&self, pages: PageRange) -> Result<()> {
        self.is_none_the_devices(pages)?;
        Host.free_eager(pages)
    }

    fn may_free_eager(&self, pages: PageRange) -> Result<()> {
        self.is_none_the_devices(pages)?;
        Host.may_free_eager(pages)
    }

    /// Fails if a part of the pages is the device's, which OpenCL gives back as whole blocks only.
    fn is_none_the_devices(&self, pages: PageRange) -> Result<()> {
        if self.own_node.is_some() && !self.regions.within(pages).is_empty() {
            return Err(Error::Unsupported {
                verb: "gmemFreeEager",
                from: pages.start(),
                to: pages.end(),
                what: "memory of the OpenCL device",
                remedy: "OpenCL gives back whole blocks only: free() it.",
                errno: libc::EOPNOTSUPP,
            });
        }
        Ok(())
    }

    fn is_in_its_process(&self) -> Result<()> {
        if process::process_id() == self.process {
            return Ok(());
        }
        Err(unavailable(
            "it was opened before fork(), and OpenCL does not work in the child",
            "Start the child with posix_spawn() or exec(), or call gmemSetDevice(\"host\") there",
        ))
    }
}

fn failed(call: &'static str, range: PageRange, code: ClCode) -> Error {
    code.error(call, Target::Range { from: range.start(), to: range.end() })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::device::Unwatched;
    use crate::os::mapping::Mapping;
    use crate::os::pagemap;

    /// The device, as it is or as if it had memory of its own; `None`, with a line that says so, where there is none.
    fn accelerator(own_memory: bool) -> Option<Accelerator> {
        match discovery::open() {
            Ok((context, device)) => {
                let is_processor = device.is_processor && !own_memory;
                Some(Accelerator::new(context, &Description { is_processor, ..device }))
            }
            Err(failure) => {
                eprintln!("skipped: {failure}");
                None
            }
        }
    }

    fn request(asked: PageRange, node: usize) -> Request<'static> {
        let (huge, wants_report) = (HugePolicy::AsIs, true);
        Request {
            asked,
            node,
            huge,
            max_threads: 0,
            wants_report,
            reads_huge_pages: false,
            stays: false,
            watch: &Unwatched,
        }
    }

    fn present(range: PageRange) -> usize {
        let mut bytes = 0;
        pagemap::scan(range, |run| bytes += if run.present { run.range.len() } else { 0 }).unwrap();
        bytes
    }

    /// Whether each page begins with this number; writes another one.
    fn all_begin_with(region: &mut Region, value: u8, then: u8) -> bool {
        let mut first_bytes = region.bytes().iter_mut().step_by(4096);
        first_bytes.all(|byte| std::mem::replace(byte, then) == value)
    }

    #[test]
    fn blocks_are_whole_gmem_pages_of_zeros_again_and_again() {
        let length = 3 * mapping::gmem_page().bytes();
        for own_memory in [false, true] {
            let Some(device) = accelerator(own_memory) else { return };
            for _ in 0..4 {
                let mut region = device.map(length).unwrap();
                assert_eq!(region.range().inward(mapping::gmem_page()).len(), length);
                assert!(all_begin_with(&mut region, 0, 0xA5));
                assert_eq!(device.regions.within(PageRange::new(0, usize::MAX)), [region.range()]);
                device.unmap(region);
                assert!(device.regions.within(PageRange::new(0, usize::MAX)).is_empty());
            }
            assert!(device.map(usize::MAX).is_err() && device.map(1 << 50).is_err());
        }
    }

    #[test]
    fn on_the_processor_ranges_are_prefetched_and_freed_as_the_hosts() {
        let Some(device) = accelerator(false).filter(|device| device.own_node.is_none()) else {
            return;
        };
        let length = 2 * mapping::gmem_page().bytes();
        let mut region = device.map(length).unwrap();
        let range = region.range();
        assert_eq!(present(range), 0);
        let node = device.node(device.numa_id().unwrap()).unwrap();
        let mut report = Report::EMPTY;
        device.prefetch(&request(range, node), &mut report).unwrap();
        assert_eq!((report.populated, report.failed, present(range)), (length / 4096, 0, length));
        assert!(all_begin_with(&mut region, 0, 1));
        device.free_eager(range).unwrap();
        assert_eq!(present(range), 0);
        assert!(all_begin_with(&mut region, 0, 0));
        device.unmap(region);
    }

    #[test]
    fn with_memory_of_its_own_the_driver_moves_what_is_its_own() {
        let Some(device) = accelerator(true) else { return };
        let own = device.node(device.numa_id().unwrap()).unwrap();
        assert!(!numa::memory_nodes().contains(own));
        let length = 2 * mapping::gmem_page().bytes();
        let (mut one, two) = (device.map(length).unwrap(), device.map(length).unwrap());
        assert!(all_begin_with(&mut one, 0, 7));
        let inside = PageRange::new(one.range().start() + 5, one.range().end() - 5);
        for node in [own, device.node(0).unwrap()] {
            let mut report = Report::EMPTY;
            device.prefetch(&request(inside, node), &mut report).unwrap();
            assert_eq!(report.failed, 0);
            assert_eq!(
                (report.migrated, report.already_resident, report.populated),
                (length / 4096, 0, 0)
            );
            assert_eq!(report.huge.is_none(), node == own);
        }
        assert!(all_begin_with(&mut one, 7, 7));
        let require = Request { huge: HugePolicy::Require, ..request(inside, own) };
        let failure = device.prefetch(&require, &mut { Report::EMPTY }).unwrap_err();
        assert_eq!(failure.errno().0, libc::EOPNOTSUPP);
        // Ordinary memory cannot move to the device, and a block of the device cannot be released in part.
        let mine = Mapping::new(length, mapping::gmem_page()).unwrap();
        let failure = device.prefetch(&request(mine.range(), own), &mut { Report::EMPTY });
        assert_eq!(failure.unwrap_err().errno().0, libc::EINVAL);
        let failure = device.free_eager(two.range());
        assert_eq!(failure.unwrap_err().errno().0, libc::EOPNOTSUPP);
        assert_eq!(device.free_eager(mine.range()), Ok(()));
        let text = device.node(i32::MAX).unwrap_err().to_string();
        assert!(text.contains(&format!(",{own} ")), "{text}");
        // CL_INVALID_VALUE: what the driver refuses comes out as an error.
        assert_eq!(device.context.migrate(&[], false), Err(ClCode(-30)));
        device.unmap(one);
        device.unmap(two);
    }

    #[test]
    fn what_the_driver_asks_for_itself_is_ordinary_memory_and_what_it_frees_waits() {
        let Some(device) = accelerator(false) else { return };
        let length = mapping::gmem_page().bytes();
        let region = device.map(length).unwrap();
        let everything = PageRange::new(0, usize::MAX);
        {
            let _turn = Turn::take().unwrap();
            assert!(device.map(length).is_err());
            device.unmap(region);
            assert_eq!(device.regions.within(everything).len(), 1);
        }
        let other = device.map(length).unwrap();
        assert_eq!(device.regions.within(everything), [other.range()]);
        device.unmap(other);
    }
}
