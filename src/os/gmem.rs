//! openEuler's GMEM kernel: `/dev/gmem` with its two ioctls, and mappings with `MAP_PEER_SHARED`.
//!
//! The numbers are those of its public versions; no installed header has them.

use std::ffi::{CStr, c_int, c_ulong, c_void};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

use super::file::{self, Descriptor, Identity};
use super::mapping::{Region, gmem_page};
use super::numa::NodeSet;
use super::process::PerProcess;
use super::{SysResult, errno, syscall};
use crate::error::{DriverCode, Errno};
use crate::page::PageRange;

/// The device node of the kernel.
pub const NODE: &CStr = c"/dev/gmem";

/// The folder with a folder for each device, which the first kernels do not have.
const DEVICES: &CStr = c"/sys/kernel/mm/gmem";

/// The values that `MAP_PEER_SHARED` has had, newest first. A kernel silently ignores a bit that it does not know.
pub const PEER_SHARED_BITS: [c_int; 3] = [0x1000_0000, 0x100_0000, 0x800_0000];

/// Why a call failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// [`NODE`] could not be opened.
    NotOpened(Errno),
    /// The kernel refused the call.
    Answer(GmemAnswer),
}

impl Refusal {
    /// The errno with which something that is no GMEM kernel answers: another driver of that name, or a sandbox.
    pub fn foreign_answer(self) -> Option<Errno> {
        let errnos = [libc::ENOTTY, libc::EPERM, libc::EACCES, libc::EINVAL, libc::ENOSYS];
        match self {
            Self::Answer(GmemAnswer::Errno(errno)) => errnos.contains(&errno.0).then_some(errno),
            _ => None,
        }
    }
}

/// How a GMEM kernel refuses a call: with an errno, or with a positive code (`gm_ret`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GmemAnswer {
    /// The call failed as any system call does.
    Errno(Errno),
    /// The call returned this `gm_ret` and left errno alone.
    Code(i32),
}

impl GmemAnswer {
    /// `GM_RET_FAILURE_UNKNOWN`: a prefetch returns it for a range that is not one peer-shared mapping.
    pub const NOT_ONE_PEER_SHARED_MAPPING: Self = Self::Code(5);

    /// The errno closest in meaning.
    pub const fn errno(self) -> Errno {
        match self {
            Self::Errno(errno) => errno,
            Self::Code(1) => Errno(libc::ENOMEM),
            Self::Code(2) => Errno(libc::EEXIST),
            Self::Code(4) => Errno(libc::EAGAIN),
            Self::NOT_ONE_PEER_SHARED_MAPPING => Errno(libc::EINVAL),
            Self::Code(6) => Errno(libc::EOPNOTSUPP),
            // 3 is a failure of the device; the others are unknown.
            Self::Code(_) => Errno(libc::EIO),
        }
    }
}

impl GmemAnswer {
    /// The number that the kernel returned, its name and its errno.
    pub const fn describe(self) -> DriverCode {
        let (number, name) = match self {
            Self::Errno(errno) => (errno.0, "errno"),
            Self::Code(1) => (1, "GM_RET_NOMEM"),
            Self::Code(2) => (2, "GM_RET_PAGE_EXIST"),
            Self::Code(3) => (3, "GM_RET_DMA_ERROR"),
            Self::Code(4) => (4, "GM_RET_MIGRATING"),
            Self::Code(5) => (5, "GM_RET_FAILURE_UNKNOWN"),
            Self::Code(6) => (6, "GM_RET_UNIMPLEMENTED"),
            Self::Code(code) => (code, ""),
        };
        DriverCode { number, name, errno: self.errno() }
    }
}

/// Advice for a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Advice {
    /// Bring the range to the device.
    Prefetch,
    /// Drop the contents, wherever they are; the device does not matter.
    DontNeed,
}

/// `struct gmem_hnid_arg`
#[repr(C)]
struct HnidArgument {
    hnuma_id: *mut c_int,
}

/// `struct hmadvise_arg`
#[repr(C)]
struct AdviseArgument {
    hnid: c_int,
    start: c_ulong,
    len_in: libc::size_t,
    behavior: c_int,
}

/// The id of the first device that is attached to the process.
pub fn hnuma_id() -> Result<c_int, Refusal> {
    /// `_IOW(0x55, 1, struct gmem_hnid_arg)`, although the kernel writes.
    const GMEM_GET_HNUMA_ID: libc::Ioctl = 0x4008_5501;
    let mut hnid = -1;
    let mut argument = HnidArgument { hnuma_id: &raw mut hnid };
    // SAFETY: the argument has the layout of the kernel, and the int that it points to is writable.
    unsafe { ask(GMEM_GET_HNUMA_ID, (&raw mut argument).cast()) }?;
    Ok(hnid)
}

/// Advise the kernel on a range. [`Advice::DontNeed`] is for ranges whose contents their owner has given up.
pub fn advise(hnid: c_int, range: PageRange, advice: Advice) -> Result<(), Refusal> {
    /// `_IOW(0x55, 2, struct hmadvise_arg)`
    const GMEM_MADVISE: libc::Ioctl = 0x4020_5502;
    const MADV_PREFETCH: c_int = 0x1000;
    let behavior = match advice {
        Advice::Prefetch => MADV_PREFETCH,
        Advice::DontNeed => libc::MADV_DONTNEED,
    };
    let start = range.start() as c_ulong;
    let mut argument = AdviseArgument { hnid, start, len_in: range.len(), behavior };
    // SAFETY: the argument has the layout of the kernel. Prefetching keeps the contents of the range, and the owner of a range
    // to be dropped has given up its contents by gmemFreeEager().
    unsafe { ask(GMEM_MADVISE, (&raw mut argument).cast()) }
}

/// Whether this process has [`NODE`].
pub fn node_exists() -> bool {
    file::exists(NODE)
}

/// Whether the kernel shows any sign of GMEM but [`NODE`], which a container may lack.
pub fn is_gmem_kernel() -> bool {
    [DEVICES, c"/proc/gmemstats", c"/proc/gmemstat"].into_iter().any(file::exists)
}

/// Open [`NODE`], unless it is open.
pub fn open() -> SysResult<()> {
    descriptor().map(|_| ())
}

/// The devices; `None` if the kernel does not list them.
pub fn devices() -> Option<NodeSet> {
    let id = |name: String| name.strip_prefix("hnode")?.parse().ok();
    file::exists(DEVICES).then(|| file::list_folder(DEVICES).into_iter().filter_map(id).collect())
}

/// The memory limit of a device, if the kernel sets one, and its free bytes.
pub fn device_memory(node: usize) -> (Option<usize>, Option<usize>) {
    let number = |name: &str| -> Option<usize> {
        let text = file::read_text(&format!("/sys/kernel/mm/gmem/hnode{node}/{name}"))?;
        text.trim().parse().ok()
    };
    let total = number("max_memsize").filter(|bytes| *bytes > 0);
    let free = number("nr_freepages").map(|pages| pages.saturating_mul(gmem_page().bytes()));
    (total, free.map(|free| total.map_or(free, |total| free.min(total))))
}

/// The kernel's counters since boot, with its names; `None` if it has none. The name of the file and of the counters differ
/// between versions.
pub fn statistics() -> Option<Vec<(String, u64)>> {
    let text = ["/proc/gmemstats", "/proc/gmemstat"].into_iter().find_map(file::read_text)?;
    Some(text.lines().filter_map(counter).collect())
}

/// Parse a line such as `migrating H2D: 5`, with or without the colon.
fn counter(line: &str) -> Option<(String, u64)> {
    let (name, number) = line.trim_end().rsplit_once([':', ' ', '\t', '='])?;
    let name = name.trim_matches([':', ' ', '\t', '=']);
    (!name.is_empty()).then_some((name.to_owned(), number.parse().ok()?))
}

/// Map `length` bytes, a multiple of the GMEM page unless it is a probe, with one of [`PEER_SHARED_BITS`].
pub fn map(length: usize, bit: c_int) -> SysResult<Region> {
    map_with(length, libc::MAP_PRIVATE | bit)
}

/// Map memory as shared, which a kernel that knows the bit refuses.
pub fn map_wrongly(length: usize, bit: c_int) -> SysResult<Region> {
    map_with(length, libc::MAP_SHARED | bit)
}

fn map_with(length: usize, flags: c_int) -> SysResult<Region> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: the kernel chooses the address, so the new mapping replaces none.
    let start = unsafe {
        libc::mmap(ptr::null_mut(), length, protection, flags | libc::MAP_ANONYMOUS, -1, 0)
    };
    if start == libc::MAP_FAILED {
        return Err(errno());
    }
    let start = NonNull::new(start.cast()).ok_or(Errno(libc::ENOMEM))?;
    // SAFETY: mapped just now, for reading and writing, and nobody else has the address.
    Ok(unsafe { Region::new(start, length) })
}

/// Make one ioctl.
///
/// # Safety
/// `argument` points to a structure of the type that `request` expects, which the kernel may read and write.
unsafe fn ask(request: libc::Ioctl, argument: *mut c_void) -> Result<(), Refusal> {
    let node = descriptor().map_err(Refusal::NotOpened)?;
    // SAFETY: the caller guarantees that the argument is of the type that the request expects.
    match unsafe { libc::ioctl(node, request, argument) } {
        0 => Ok(()),
        -1 => Err(Refusal::Answer(GmemAnswer::Errno(errno()))),
        // The errno belongs to an earlier call.
        code => Err(Refusal::Answer(GmemAnswer::Code(code))),
    }
}

/// The descriptor of the node, and the file that it was when it was opened.
struct Opened {
    descriptor: AtomicI32,
    device: AtomicU64,
    inode: AtomicU64,
}

impl Opened {
    /// The descriptor, if it is still the node: a program may close every descriptor and reuse the numbers.
    fn descriptor(&self) -> Option<c_int> {
        let descriptor = self.descriptor.load(Ordering::Acquire);
        let (device, inode) = (&self.device, &self.inode);
        let opened = Identity {
            device: device.load(Ordering::Relaxed),
            inode: inode.load(Ordering::Relaxed),
        };
        let is_open = descriptor != NOT_OPENED && file::identity(descriptor) == Some(opened);
        is_open.then_some(descriptor)
    }
}

/// Each process opens the node for itself, and closes what it inherited.
static OPENED: PerProcess<Opened> = PerProcess::with_inheritance(
    |_| Opened {
        descriptor: AtomicI32::new(NOT_OPENED),
        device: AtomicU64::new(0),
        inode: AtomicU64::new(0),
    },
    |inherited| {
        if let Some(descriptor) = inherited.descriptor() {
            // SAFETY: the number is still the node that the parent's library opened, the parent keeps its own descriptor, and
            // nothing in this process uses the inherited value after this call.
            unsafe { syscall::close(descriptor) };
        }
    },
);
const NOT_OPENED: c_int = -1;

/// The descriptor of the node, opened on first use. A failure is not kept, because the driver may be loaded later.
fn descriptor() -> SysResult<c_int> {
    let opened = OPENED.get();
    if let Some(descriptor) = opened.descriptor() {
        return Ok(descriptor);
    }
    let lost = opened.descriptor.load(Ordering::Relaxed);
    let fresh = Descriptor::open_for_reading(NODE)?.out_of_the_way();
    let identity = fresh.identity().ok_or_else(errno)?;
    // Threads that open the node at the same time store the same identity.
    opened.device.store(identity.device, Ordering::Relaxed);
    opened.inode.store(identity.inode, Ordering::Relaxed);
    match opened.descriptor.compare_exchange(lost, fresh.0, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => Ok(fresh.kept_open()),
        Err(others) => Ok(others),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_words_and_a_number() {
        let read = |line| counter(line).map(|(name, number)| format!("{name}={number}"));
        assert_eq!(read("migrating H2D: 5"), Some("migrating H2D=5".to_owned()));
        assert_eq!(read("migrating\t17 "), Some("migrating=17".to_owned()));
        assert_eq!(
            [read(""), read("5"), read("migrating"), read("a: -1"), read(": 1")],
            [const { None }; 5]
        );
    }

    #[test]
    fn arguments_are_laid_out_as_the_kernel_reads_them() {
        assert_eq!((size_of::<HnidArgument>(), size_of::<AdviseArgument>()), (8, 32));
        let offsets = (
            std::mem::offset_of!(AdviseArgument, start),
            std::mem::offset_of!(AdviseArgument, len_in),
            std::mem::offset_of!(AdviseArgument, behavior),
        );
        assert_eq!(offsets, (8, 16, 24));
    }

    #[test]
    fn codes_of_a_gmem_kernel_become_errnos() {
        let errnos = [1, 2, 3, 4, 5, 6, 7, i32::MIN].map(|code| GmemAnswer::Code(code).errno().0);
        let expected = [
            libc::ENOMEM,
            libc::EEXIST,
            libc::EIO,
            libc::EAGAIN,
            libc::EINVAL,
            libc::EOPNOTSUPP,
            libc::EIO,
            libc::EIO,
        ];
        assert_eq!(errnos, expected);
    }
}
