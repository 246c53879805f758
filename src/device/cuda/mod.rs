//! Device `cuda`: an NVIDIA GPU whose kernels access the memory of the process by its addresses.
//!
//! - [`discovery`]: finding the driver and the GPU, or saying why there is none
//! - [`driver`]: bindings of the driver, and its error codes
//! - [`regions`]: managed memory for the heap's large blocks
//! - [`free_memory`]: the free memory of the GPU
//! - [`driver_streams`]: the program's streams
//!
//! Two kinds of memory move to a GPU and back: managed memory, whichever part of the process allocated it, and ordinary memory,
//! if the GPU can access all memory of the process (HMM, ATS). The driver does not report what it did, so reports have the
//! counts as unknown.

mod discovery;
mod driver;

mod driver_streams;
mod free_memory;
mod regions;

use std::ffi::{CStr, c_void};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::host::{self, Host};
use super::{
    Device, DeviceMemory, DeviceNode, DriverStreams, Request, Unwatched, is_in_host_function,
};
use crate::config::SettingRow;
use crate::error::{Error, Result, Target};
use crate::huge_policy::HugePolicy;
use crate::os::lazy::Lazy;
use crate::os::mapping::Region;
use crate::os::vma::Backing;
use crate::os::{numa, process};
use crate::page::PageRange;
use crate::report::Report;
use driver::{Context, CuCode, Destination, Driver, Gpu, unavailable};
use free_memory::FreeMemory;
use regions::Regions;

/// The GPU that `GMEM_CUDA_DEVICE` names, else the first that can be used.
pub struct Cuda;

/// Opened on first use and never closed. A failure is kept, too.
static OPENED: Lazy<Result<Accelerator>> = Lazy::new(discovery::open);

fn opened() -> Result<&'static Accelerator> {
    OPENED.get().as_ref().map_err(Clone::clone)
}

/// The device if it is open. For `malloc`, which must not open a driver.
fn opened_already() -> Option<&'static Accelerator> {
    OPENED.known().and_then(|opened| opened.as_ref().ok())
}

impl Device for Cuda {
    fn c_name(&self) -> &'static CStr {
        c"cuda"
    }

    fn settings(&self) -> Vec<SettingRow> {
        vec![discovery::WHICH.row(), discovery::MEMORY.row()]
    }

    fn open(&self) -> Result<()> {
        static STARTED: AtomicBool = AtomicBool::new(false);
        let accelerator = opened()?;
        if accelerator.memory == Memory::Managed && !STARTED.swap(true, Ordering::Relaxed) {
            accelerator.start_giving_back();
        }
        Ok(())
    }

    fn numa_id(&self) -> Result<i32> {
        opened().map(|accelerator| hnid(accelerator.current().node))
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
        opened().map(Accelerator::nodes).unwrap_or_default()
    }

    fn driver_streams(&self) -> Option<&dyn DriverStreams> {
        Some(self)
    }

    fn memory(&self) -> Option<&dyn DeviceMemory> {
        opened_already()
            .filter(|accelerator| accelerator.memory == Memory::Managed)
            .map(|_| self as _)
    }
}

impl DeviceMemory for Cuda {
    fn map(&self, length: usize) -> Result<Region> {
        opened_already().ok_or(Error::OutOfMemory { what: "CUDA, not opened yet" })?.map(length)
    }

    fn unmap(&self, region: Region) {
        if let Some(accelerator) = opened_already() {
            accelerator.unmap(region);
        }
    }

    fn is_zeroed(&self) -> bool {
        false
    }
}

/// The memory for large blocks of the heap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Memory {
    /// Managed memory (`cuMemAllocManaged`).
    Managed,
    /// Ordinary memory, all of which the GPU can access.
    Ordinary,
}

/// A GPU and its node.
struct Node {
    node: usize,
    gpu: Gpu,
}

/// The driver and its GPUs, one of which is current.
struct Accelerator {
    context: Context,
    driver: Arc<Driver>,
    /// The GPUs that can be used.
    gpus: Vec<Node>,
    /// The index of the current GPU.
    current: usize,
    memory: Memory,
    /// Whether the machine has one memory node.
    has_one_node: bool,
    regions: Regions,
    free_memory: FreeMemory,
    /// The process that opened the driver: CUDA does not work after a fork.
    process: i32,
}

/// The parts of a range that the driver moves, and those that the kernel moves.
#[derive(Default)]
struct Split {
    drivers: Vec<PageRange>,
    kernels: Vec<PageRange>,
}

impl Accelerator {
    fn new(
        context: Context,
        driver: Arc<Driver>,
        gpus: Vec<Node>,
        current: usize,
        memory: Memory,
        free: usize,
    ) -> Self {
        let (regions, free_memory) = (Regions::with_capacity(free), FreeMemory::default());
        let (has_one_node, process) = (numa::memory_nodes().len() == 1, process::process_id());
        Self { context, driver, gpus, current, memory, has_one_node, regions, free_memory, process }
    }

    fn current(&self) -> &Node {
        &self.gpus[self.current]
    }

    fn node(&self, hnid: i32) -> Result<usize> {
        let own = self.gpus.iter().find(|gpu| usize::try_from(hnid) == Ok(gpu.node));
        own.map_or_else(|| Host.node(hnid), |gpu| Ok(gpu.node)).map_err(|failure| match failure {
            Error::NotAMemoryNode { hnid, nodes } => {
                let own: String = self.gpus.iter().map(|gpu| format!(",{}", gpu.node)).collect();
                Error::NotAMemoryNode { hnid, nodes: nodes + &own }
            }
            other => other,
        })
    }

    /// The nodes of the GPUs that the kernel does not list.
    fn nodes(&self) -> Vec<DeviceNode> {
        let kernels = numa::memory_nodes();
        let free_of = |gpu: &Node| {
            let is_open = gpu.gpu == self.current().gpu && self.is_in_its_process().is_ok();
            (is_open && !is_in_host_function()).then(|| self.context.free_bytes().ok()).flatten()
        };
        self.gpus
            .iter()
            .filter(|gpu| !kernels.contains(gpu.node))
            .map(|gpu| DeviceNode { id: gpu.node, total: Some(gpu.gpu.total), free: free_of(gpu) })
            .collect()
    }

    fn destination(&self, node: usize) -> (Destination, Option<&Gpu>) {
        match self.gpus.iter().find(|gpu| gpu.node == node) {
            Some(found) => (Destination::Gpu(found.gpu.ordinal), Some(&found.gpu)),
            // On a machine with one node the driver need not support nodes.
            None if self.has_one_node && node == 0 => (Destination::Processor, None),
            None => (Destination::Node(node), None),
        }
    }

    // ---- prefetch ---------------------------------------------------------------------------------

    fn prefetch(&self, request: &Request<'_>, report: &mut Report) -> Result<()> {
        let split = self.split_for_prefetch(request)?;
        if split.drivers.is_empty() {
            return Host.prefetch(request, report);
        }
        let stream = self.context.own_stream();
        self.refuse_in_host_function("gmemPrefetch")?;
        let begun = Instant::now();
        let moved = self
            .send(request, &split, stream)
            .and_then(|()| self.synchronize_own("cuMemPrefetchAsync", request.asked));
        *report = Report::unknown(request.asked.len());
        report.threads = 1;
        report.nanoseconds = u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
        moved.inspect_err(|_| report.failed = Report::UNKNOWN)?;
        for rest in split.kernels {
            let mut part = Report::EMPTY;
            // A part does not know the progress of the whole range.
            let watch = if rest == request.asked { request.watch } else { &Unwatched };
            let outcome = Host.prefetch(&Request { asked: rest, watch, ..*request }, &mut part);
            report.failed += part.failed;
            report.nanoseconds += part.nanoseconds;
            outcome?;
        }
        // All is done, so a request to end comes too late.
        let _ = request.watch.progress(request.asked.len(), request.asked.len());
        Ok(())
    }

    /// Enqueue the part of the driver on a stream.
    fn send(&self, request: &Request<'_>, split: &Split, stream: usize) -> Result<()> {
        let (to, gpu) = self.destination(request.node);
        let fits = gpu
            .map(|gpu| self.check_free_memory(request.asked, &split.drivers, gpu))
            .transpose()?;
        request.watch.go_on(0, request.asked.len())?;
        for part in &split.drivers {
            match self.context.prefetch(stream, *part, to) {
                Ok(()) => {}
                // The kernel brings ordinary memory back as well.
                Err(_) if gpu.is_none() && !split.kernels.is_empty() => {}
                Err(code) => return Err(self.failed("cuMemPrefetchAsync", stream, *part, code)),
            }
        }
        if let Some(fits) = fits
            && gpu.is_some_and(|gpu| gpu.ordinal == self.current().gpu.ordinal)
        {
            self.was_sent(&split.drivers, stream, fits);
        }
        Ok(())
    }

    /// Divide a range between driver and kernel; fails if a part cannot go to the destination.
    fn split_for_prefetch(&self, request: &Request<'_>) -> Result<Split> {
        let (asked, gpu) = (request.asked, self.destination(request.node).1);
        let to_gpu = gpu.is_some();
        if to_gpu {
            self.is_in_its_process()?;
        }
        if to_gpu && request.huge == HugePolicy::Require {
            return Err(Error::NoHugePages {
                from: asked.start(),
                to: asked.end(),
                why: "CUDA's driver does not tell what pages it uses",
                remedy: "Take GMEM_HUGE_PREFER.",
            });
        }
        let split = self.split(asked);
        if split.kernels.is_empty() {
            return Ok(split);
        }
        if !gpu.unwrap_or(&self.current().gpu).pageable {
            return if to_gpu { Err(cannot_go_there(asked)) } else { Ok(split) };
        }
        split.kernels.iter().try_for_each(|range| is_mapped(*range, asked, to_gpu))?;
        let Split { drivers: managed, kernels: ordinary } = split;
        let drivers = if to_gpu || !is_in_host_function() {
            let mut all = managed;
            all.extend(&ordinary);
            all
        } else {
            managed
        };
        // On the way back the driver is faster, but only the kernel ensures that no fault follows. So both work.
        Ok(Split { drivers, kernels: if to_gpu { Vec::new() } else { ordinary } })
    }

    /// Divide a range into managed memory, of libgmem or of the program, and other memory. A forked child has no managed memory.
    fn split(&self, range: PageRange) -> Split {
        let mut split = Split::default();
        let mut at = range.start();
        if self.is_in_its_process().is_err() {
            split.kernels.push(range);
            return split;
        }
        for own in self.regions.within(range) {
            self.split_foreign(PageRange::new(at, own.start()), &mut split);
            split.drivers.push(own);
            at = own.end();
        }
        self.split_foreign(PageRange::new(at, range.end()), &mut split);
        split
    }

    fn split_foreign(&self, range: PageRange, split: &mut Split) {
        let may_ask = !is_in_host_function();
        let mut at = range.start();
        while at < range.end() {
            let block = may_ask.then(|| self.context.managed_block(at)).flatten();
            let Some(part) =
                block.map(|block| block.intersect(range)).filter(|part| !part.is_empty())
            else {
                break;
            };
            split.drivers.push(part);
            at = part.end();
        }
        if at < range.end() {
            split.kernels.push(PageRange::new(at, range.end()));
        }
    }

    // ---- eager free -------------------------------------------------------------------------------

    fn free_eager(&self, pages: PageRange) -> Result<()> {
        let split = self.split(pages);
        if !split.drivers.is_empty() {
            self.refuse_in_host_function("gmemFreeEager")?;
            self.can_discard(&split.drivers)?;
        }
        split.kernels.into_iter().try_for_each(|rest| Host.free_eager(rest))?;
        if split.drivers.is_empty() {
            return Ok(());
        }
        self.discard(self.context.own_stream(), &split.drivers, pages)?;
        self.synchronize_own("cuMemDiscardBatchAsync", pages)
    }

    fn may_free_eager(&self, pages: PageRange) -> Result<()> {
        let split = self.split(pages);
        self.can_discard(&split.drivers)?;
        split.kernels.into_iter().try_for_each(|rest| Host.may_free_eager(rest))
    }

    fn can_discard(&self, parts: &[PageRange]) -> Result<()> {
        match parts.first() {
            Some(part) if !self.driver.can_discard() => Err(Error::Unsupported {
                verb: "gmemFreeEager",
                from: part.start(),
                to: part.end(),
                what: "managed memory, of which a driver before CUDA 13.0 gives back whole blocks only",
                remedy: "free() the block, or install a newer driver (cuMemDiscardBatchAsync).",
                errno: libc::EOPNOTSUPP,
            }),
            _ => Ok(()),
        }
    }

    /// Enqueue a discard on a stream, which must not be the legacy one.
    fn discard(&self, stream: usize, parts: &[PageRange], pages: PageRange) -> Result<()> {
        self.context
            .discard(stream, parts)
            .map_err(|code| self.failed("cuMemDiscardBatchAsync", stream, pages, code))
    }

    // ---- both -------------------------------------------------------------------------------------

    fn synchronize_own(&self, call: &'static str, range: PageRange) -> Result<()> {
        let stream = self.context.own_stream();
        self.context.synchronize(stream).map_err(|code| self.failed(call, stream, range, code))
    }

    /// The error of a call for a range on a stream.
    fn failed(&self, call: &'static str, stream: usize, range: PageRange, code: CuCode) -> Error {
        if code.is_of_the_stream() && stream != self.context.own_stream() {
            return code.error(call, Target::Stream(stream));
        }
        code.error(call, Target::Range { from: range.start(), to: range.end() })
    }

    fn refuse_in_host_function(&self, what: &'static str) -> Result<()> {
        self.is_in_its_process()?;
        if is_in_host_function() {
            Err(Error::InHostFunction { device: "cuda", call: what })
        } else {
            Ok(())
        }
    }

    fn is_in_its_process(&self) -> Result<()> {
        if process::process_id() == self.process {
            return Ok(());
        }
        Err(unavailable(
            "it was opened before fork(), and CUDA does not work in the child",
            "Start the child with posix_spawn() or exec(), or call gmemSetDevice(\"host\") there",
        ))
    }
}

fn hnid(node: usize) -> i32 {
    i32::try_from(node).unwrap_or(i32::MAX)
}

fn cannot_go_there(asked: PageRange) -> Error {
    Error::Unsupported {
        verb: "gmemPrefetch",
        from: asked.start(),
        to: asked.end(),
        what: "not all of it memory that this GPU can have",
        remedy: "Take a block of 2 MiB or more from libgmem's heap (files, shared memory and hugetlb never go), or prefetch \
                 to a memory node.",
        errno: libc::EINVAL,
    }
}

/// Fails unless all of a range is mapped and, if it is to go to a GPU, can go there: the driver silently leaves files and shared
/// memory where they are.
fn is_mapped(range: PageRange, asked: PageRange, to_gpu: bool) -> Result<()> {
    let mut at = range.start();
    let mut stays = false;
    host::walk(range, |vma| {
        if vma.range.start() > at {
            return ControlFlow::Break(());
        }
        stays |= to_gpu && (vma.backing != Backing::Anonymous || vma.huge_tlb);
        at = vma.range.end();
        if at < range.end() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    if at >= range.end() {
        return if stays { Err(cannot_go_there(asked)) } else { Ok(()) };
    }
    let (from, to) = (asked.start(), asked.end());
    Err(Error::Hole {
        at,
        from,
        to,
        done: "nothing was moved. Pass a range that is mapped throughout",
    })
}
