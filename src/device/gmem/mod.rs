//! Device `gmem`: an accelerator behind openEuler's GMEM kernel, which moves *peer-shared* memory between the processor
//! and the device in pages of 2 MiB.
//!
//! [`Host`] handles memory nodes of the machine and ordinary memory. An accelerator is a node, too, with an id above all that
//! memory nodes can have. Choosing this device needs nothing; calls that need the kernel fail without it.
//!
//! - [`peer_shared`]: maps peer-shared memory, for which kernels use different flags of `mmap(2)`

mod peer_shared;

use std::ffi::CStr;
use std::ops::ControlFlow;
use std::time::Instant;

use super::host::{self, Host};
use super::{Device, DeviceMemory, DeviceNode, Request};
use crate::error::{Errno, Error, Result, Target};
use crate::os::gmem::{Advice, GmemAnswer, Refusal};
use crate::os::mapping::Region;
use crate::os::numa::NodeSet;
use crate::os::vma::Backing;
use crate::os::{gmem, mapping, numa};
use crate::page::PageRange;
use crate::report::Report;

/// The device of a GMEM kernel.
pub struct Gmem;

impl Device for Gmem {
    fn c_name(&self) -> &'static CStr {
        c"gmem"
    }

    fn numa_id(&self) -> Result<i32> {
        let hnid = gmem::hnuma_id().map_err(|refusal| match refusal.foreign_answer() {
            Some(errno) => refuses_gmem(errno),
            None => refused(refusal, "GMEM_GET_HNUMA_ID", Target::Device, remedy_for_id),
        })?;
        // A kernel that succeeds and writes nothing has no device.
        if hnid < 0 { Err(not_a_node(hnid)) } else { Ok(hnid) }
    }

    fn node(&self, hnid: i32) -> Result<usize> {
        Host.node(hnid).or_else(|_| device_node(hnid))
    }

    fn prefetch(&self, request: &Request<'_>, report: &mut Report) -> Result<()> {
        let hnid = i32::try_from(request.node).unwrap_or(i32::MAX);
        if Host.node(hnid).is_ok() {
            return Host.prefetch(request, report);
        }
        let start = Instant::now();
        let outcome = to_device(request, hnid, report);
        report.nanoseconds = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        outcome
    }

    fn free_eager(&self, pages: PageRange) -> Result<()> {
        host::free_eager_after(pages, drop_peer_shared)
    }

    fn nodes(&self) -> Vec<DeviceNode> {
        let of = |id| {
            let (total, free) = gmem::device_memory(id);
            DeviceNode { id, total, free }
        };
        gmem::devices().iter().flat_map(NodeSet::iter).map(of).collect()
    }

    fn memory(&self) -> Option<&dyn DeviceMemory> {
        Some(self)
    }
}

impl DeviceMemory for Gmem {
    fn map(&self, length: usize) -> Result<Region> {
        gmem::open().map_err(not_there)?;
        peer_shared::map(length)
    }

    fn unmap(&self, region: Region) {
        // The region is whole GMEM pages of one mapping, as the kernel requires. It fails only without memory; then it stays mapped.
        let _ = region.unmap();
    }

    fn is_for_small_blocks(&self) -> bool {
        false
    }
}

/// The node with the id of a device. The id is checked here, because the first kernels use it as an index of a bit set without
/// checking it.
fn device_node(hnid: i32) -> Result<usize> {
    let node = usize::try_from(hnid).map_err(|_| not_a_node(hnid))?;
    let is_possible = node < numa::MAX_NODES && !numa::possible_nodes().contains(node);
    match gmem::devices() {
        Some(devices) if devices.contains(node) => Ok(node),
        Some(_) => Err(not_a_node(hnid)),
        None if !is_possible => Err(not_a_node(hnid)),
        // This kernel has no list; it checks the id itself.
        None => gmem::open().map(|()| node).map_err(not_there),
    }
}

/// The maximum bytes of one call of the kernel, which works on four parts at the same time and cannot be cancelled.
const PIECE_BYTES: usize = 64 << 20;

fn to_device(request: &Request<'_>, hnid: i32, report: &mut Report) -> Result<()> {
    let page = mapping::gmem_page();
    let (asked, total) = (request.asked, request.asked.len());
    let pages = asked.outward(page);
    if page.floor(pages.end()) != pages.end() {
        return Err(Error::RangeOverflow { addr: asked.start(), size: total });
    }
    let parts = mappings(pages)?;
    report.threads = 1;
    // The kernel does not report these.
    report.already_resident = Report::UNKNOWN;
    report.populated = Report::UNKNOWN;
    report.migrated = Report::UNKNOWN;
    let pieces = parts.iter().flat_map(|part| {
        let starts = (part.start()..part.end()).step_by(PIECE_BYTES);
        starts.map(|at| part.intersect(PageRange::new(at, at.saturating_add(PIECE_BYTES))))
    });
    let mut done = 0;
    for piece in pieces {
        request.watch.go_on(done, total)?;
        gmem::advise(hnid, piece, Advice::Prefetch).map_err(|refusal| {
            let failure = not_prefetched(refusal, piece);
            report.failed = Report::UNKNOWN;
            report.first_failure = Some((failure.errno(), piece.start().max(asked.start())));
            failure
        })?;
        done += piece.intersect(asked).len();
        request.watch.progress(done, total)?;
    }
    report.huge = Some(pages.len() / page.bytes());
    Ok(())
}

/// The parts of `pages` by mapping, because a call of the kernel takes one mapping at most.
fn mappings(pages: PageRange) -> Result<Vec<PageRange>> {
    let mut parts: Vec<PageRange> = Vec::new();
    let mut covered = pages.start();
    let mut wrong = None;
    let mut is_full = false;
    host::walk(pages, |vma| {
        let inside = vma.range.intersect(pages);
        is_full = parts.try_reserve(1).is_err();
        if vma.backing != Backing::Anonymous {
            wrong = Some(inside);
        }
        if is_full || wrong.is_some() || inside.start() > covered {
            return ControlFlow::Break(());
        }
        covered = inside.end();
        parts.push(inside);
        ControlFlow::Continue(())
    })?;
    if is_full {
        return Err(Error::OutOfMemory { what: "the list of what is mapped in the range" });
    }
    if let Some(range) = wrong {
        return Err(not_peer_shared(range));
    }
    if covered < pages.end() {
        return Err(Error::Hole {
            at: covered,
            from: pages.start(),
            to: pages.end(),
            done: "nothing was moved. Pass a range that is mapped throughout",
        });
    }
    Ok(parts)
}

/// Drop the peer-shared parts of private memory. The kernel skips the rest; without such a kernel there are none.
fn drop_peer_shared(range: PageRange) -> Result<()> {
    const ANY_DEVICE: i32 = -1;
    match gmem::advise(ANY_DEVICE, range, Advice::DontNeed) {
        Ok(()) => Ok(()),
        Err(Refusal::NotOpened(Errno(errno))) if errno != libc::EMFILE && errno != libc::ENFILE => {
            Ok(())
        }
        // A device node of another driver with this name.
        Err(Refusal::Answer(GmemAnswer::Errno(Errno(libc::ENOTTY)))) => Ok(()),
        Err(refusal) => {
            let on = Target::Range { from: range.start(), to: range.end() };
            Err(refused(
                refusal,
                "GMEM_MADVISE with MADV_DONTNEED",
                on,
                |_| "nothing there was freed; call again",
            ))
        }
    }
}

// ---- errors and their remedies -----------------------------------------------------------------------

/// `/dev/gmem` cannot be opened.
fn not_there(errno: Errno) -> Error {
    let remedy = match errno.0 {
        libc::ENOENT | libc::ENXIO | libc::ENODEV => {
            "Boot openEuler's GMEM kernel with gmem=on and load the accelerator's driver, or take the device \"host\", \
             which needs neither (GMEM_DEVICE, gmemSetDevice)"
        }
        libc::EACCES | libc::EPERM => {
            "By default only root may open it: run as root, or give the node to a group (udev)"
        }
        libc::EMFILE | libc::ENFILE => "Raise ulimit -n or fs.file-max",
        _ => "See the driver's messages (dmesg)",
    };
    let why = format!("/dev/gmem cannot be opened: {errno}").into();
    // The caller asked for a device, not for a file.
    let errno = match errno.0 {
        libc::ENOENT | libc::ENXIO => Errno(libc::ENODEV),
        _ => errno,
    };
    Error::DeviceUnavailable { device: "gmem", why, remedy, errno }
}

fn not_a_node(hnid: i32) -> Error {
    let devices = gmem::devices().map_or_else(String::new, |devices| devices.to_string());
    let nodes = format!(
        "{}; the devices of the GMEM kernel are {devices:?} (/sys/kernel/mm/gmem)",
        numa::memory_nodes()
    );
    Error::NotAMemoryNode { hnid, nodes }
}

fn not_peer_shared(range: PageRange) -> Error {
    Error::Unsupported {
        verb: "gmemPrefetch",
        from: range.start(),
        to: range.end(),
        what: "not peer-shared memory, the only kind that can go to a device",
        remedy: "Take blocks of 2 MiB and more of libgmem's malloc, on the device \"gmem\" or \"ascend\", or mmap(2) with \
                 MAP_PEER_SHARED.",
        errno: libc::EINVAL,
    }
}

fn refused(
    refusal: Refusal,
    call: &'static str,
    on: Target,
    remedy: impl FnOnce(GmemAnswer) -> &'static str,
) -> Error {
    match refusal {
        Refusal::NotOpened(errno) => not_there(errno),
        Refusal::Answer(answer) => {
            let (code, remedy) = (answer.describe(), remedy(answer));
            Error::Driver { device: "gmem", call, on, code, remedy }
        }
    }
}

fn remedy_for_id(answer: GmemAnswer) -> &'static str {
    match answer.errno().0 {
        libc::ENODEV => NOT_ATTACHED,
        _ => SEE_DMESG,
    }
}

/// `/dev/gmem` refuses a call that every GMEM kernel has.
fn refuses_gmem(errno: Errno) -> Error {
    let why = format!(
        "/dev/gmem refuses the calls of GMEM: {errno}. It belongs to another driver, or a sandbox (seccomp) forbids ioctl(2) \
         on it"
    );
    let remedy = "Allow the call in the sandbox, or take the device \"host\", which does without (GMEM_DEVICE, gmemSetDevice)";
    Error::DeviceUnavailable { device: "gmem", why: why.into(), remedy, errno: Errno(libc::ENODEV) }
}

const NOT_ATTACHED: &str =
    "no device is attached to this process yet: let its runtime do that first (aclrtSetDevice)";
const SEE_DMESG: &str = "see the driver's messages (dmesg)";

fn not_prefetched(refusal: Refusal, piece: PageRange) -> Error {
    if refusal == Refusal::Answer(GmemAnswer::NOT_ONE_PEER_SHARED_MAPPING) {
        return not_peer_shared(piece);
    }
    let on = Target::Range { from: piece.start(), to: piece.end() };
    refused(refusal, "GMEM_MADVISE with MADV_PREFETCH", on, |answer| match answer.errno().0 {
        libc::ENODEV => NOT_ATTACHED,
        libc::ENOMEM | libc::EAGAIN => "call again",
        libc::EFAULT => {
            "the pages that failed are where they were; the device is out of memory or faulty: free some there \
             (gmemFreeEager), or see the driver's messages (dmesg)"
        }
        libc::EINVAL => {
            "the device has gone, or cpuset.mems of the control group keeps it from this process"
        }
        _ => SEE_DMESG,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Unwatched;
    use crate::huge_policy::HugePolicy;

    #[test]
    fn ids_are_checked_before_the_kernel_sees_them() {
        for hnid in [-1, i32::MIN, i32::MAX, 1 << 20] {
            assert_eq!(Gmem.node(hnid).map_err(|failure| failure.errno().0), Err(libc::EINVAL));
        }
        let here = Host.numa_id().unwrap_or_default();
        assert_eq!(Gmem.node(here), Host.node(here));
    }

    #[test]
    fn a_range_at_the_end_of_the_addresses_does_not_wrap() {
        let asked = PageRange::new(usize::MAX - 9, usize::MAX);
        let request = Request {
            asked,
            node: numa::MAX_NODES - 1,
            huge: HugePolicy::AsIs,
            max_threads: 0,
            wants_report: false,
            reads_huge_pages: false,
            stays: false,
            watch: &Unwatched,
        };
        let failure = Gmem.prefetch(&request, &mut { Report::EMPTY });
        assert!(matches!(failure, Err(Error::RangeOverflow { .. })));
    }

    #[test]
    fn regions_are_there_or_the_reason_is_said() {
        let length = 3 * mapping::gmem_page().bytes();
        match Gmem.map(length) {
            Ok(mut region) => {
                assert_eq!(std::mem::replace(&mut region.bytes()[length - 1], 1), 0);
                Gmem.unmap(region);
            }
            Err(failure) => assert!(failure.to_string().contains("/dev/gmem"), "{failure}"),
        }
    }
}
