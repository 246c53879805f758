//! Errors: their messages and their errnos.
//!
//! A message names the argument, its value, the allowed values and the remedy.

use std::borrow::Cow;
use std::fmt;

/// `Result` with libgmem's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// A positive error number of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i32);

impl Errno {
    /// The value that the C functions return.
    pub const fn negative(self) -> i32 {
        -self.0
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // std's text ends in "(os error N)", which is the number a reader wants.
        write!(f, "{}", std::io::Error::from_raw_os_error(self.0))
    }
}

/// A driver's error code. The device supplies the name and the errno.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DriverCode {
    /// The number that the driver returned.
    pub number: i32,
    /// The name of that number in the driver's header; empty if it is not one that libgmem knows.
    pub name: &'static str,
    /// The errno closest in meaning.
    pub errno: Errno,
}

impl fmt::Display for DriverCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "code {}", self.number)?;
        if self.name.is_empty() { Ok(()) } else { write!(f, ", {}", self.name) }
    }
}

/// The object of a driver's call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The call concerns the device as a whole.
    Device,
    /// The addresses `from..to`.
    Range {
        /// First address.
        from: usize,
        /// First address behind the range.
        to: usize,
    },
    /// A stream, by its handle.
    Stream(usize),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device => Ok(()),
            Self::Range { from, to } => write!(f, " of {from:#x}..{to:#x}"),
            Self::Stream(handle) => write!(f, " on stream {handle:#x}"),
        }
    }
}

/// An error of the library.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the fields are the values in the message")]
pub enum Error {
    #[error(
        "addr + size = {addr:#x} + {size:#x} exceeds the address space; \
         pass a range [addr, addr + size) of this process"
    )]
    RangeOverflow { addr: usize, size: usize },

    #[error("ranges[{index}]: {error}; nothing was done")]
    InBatch { index: usize, error: Box<Error> },

    #[error(
        "count = {count:#x} is more ranges than the address space can hold; pass the number of elements of ranges"
    )]
    TooManyRanges { count: usize },

    #[error(
        "hnid = {hnid} is not a node with memory; the nodes are {nodes} (gmemGetNumaId() gives the current device's)"
    )]
    NotAMemoryNode { hnid: i32, nodes: String },

    #[error("nothing is mapped at {at:#x}, inside {from:#x}..{to:#x}; {done}")]
    Hole { at: usize, from: usize, to: usize, done: &'static str },

    #[error("{verb}: {from:#x}..{to:#x} is {what}; nothing was done. {remedy}")]
    Unsupported {
        verb: &'static str,
        from: usize,
        to: usize,
        what: &'static str,
        remedy: &'static str,
        errno: i32,
    },

    #[error("{call} of {from:#x}..{to:#x} failed: {errno}{remedy}")]
    System { call: &'static str, from: usize, to: usize, errno: Errno, remedy: &'static str },

    #[error(
        "{left} of {pages} pages of {from:#x}..{to:#x} could not be moved to node {hnid}: \
         they are pinned, or shared with another process, or the node is full"
    )]
    NotMoved { left: usize, pages: usize, from: usize, to: usize, hnid: i32 },

    #[error(
        "pages of {from:#x}..{to:#x} cannot be put on node {hnid}, because this sandbox refuses {call}(2): {errno}; nothing was \
         moved. Allow it in the seccomp profile (docker run --cap-add SYS_NICE allows the memory policies, \
         --security-opt seccomp=FILE a profile with move_pages), or prefetch new memory to a node with processors"
    )]
    PlacementRefused { from: usize, to: usize, hnid: i32, call: &'static str, errno: Errno },

    #[error(
        "hnid = {hnid} is a node that this process may have no memory on: its cpuset has {allowed} \
         (cpuset.mems of its control group); nothing was moved"
    )]
    NodeForbidden { hnid: i32, allowed: String },

    #[error(
        "{from:#x}..{to:#x} needs {needed} bytes more on {whose}, which has {free}; nothing was moved. \
         Free some there (numastat -m, free -h), or prefetch less"
    )]
    NotEnoughMemory { from: usize, to: usize, needed: usize, free: usize, whose: String },

    #[error(
        "{from:#x}..{to:#x} needs {needed} pages of {kib} KiB more of the hugetlb pool, which has {free} free; nothing \
         was moved. As root: sysctl vm.nr_hugepages, or nr_hugepages of the pool below /sys/devices/system/node, raises it"
    )]
    PoolTooSmall { from: usize, to: usize, needed: usize, free: usize, kib: usize },

    #[error(
        "huge pages are required for {from:#x}..{to:#x}, but {why}; nothing was touched. {remedy}"
    )]
    NoHugePages { from: usize, to: usize, why: &'static str, remedy: &'static str },

    #[error(
        "huge pages are required for {from:#x}..{to:#x}: {missing} of {needed} are missing on node {node}; \
         nothing was touched. As root, `echo 1 > /proc/sys/vm/compact_memory` makes more of free memory and \
         `echo 3 > /proc/sys/vm/drop_caches` frees some; or take GMEM_HUGE_PREFER"
    )]
    HugePagesMissing { from: usize, to: usize, missing: usize, needed: usize, node: usize },

    #[error(
        "huge pages are required for {from:#x}..{to:#x}, and were there a moment ago, but the page at {at:#x} got \
         none: {errno}. All of it is in memory; call again, or take GMEM_HUGE_PREFER"
    )]
    HugePagesLost { from: usize, to: usize, at: usize, errno: Errno },

    #[error(
        "policy = {policy} is none of GMEM_HUGE_AS_IS (0), _OFF (1), _PREFER (2) and _REQUIRE (3)"
    )]
    UnknownHugePolicy { policy: i32 },

    #[error(
        "the prefetch of {from:#x}..{to:#x} was cancelled with {done} of {total} bytes done; they stay in memory"
    )]
    Cancelled { from: usize, to: usize, done: usize, total: usize },

    #[error(
        "the prefetch of {from:#x}..{to:#x} was not done in time: {done} of {total} bytes are, and stay in memory; \
         give it longer than timeout_ns = {timeout}, or call again for the rest"
    )]
    TimedOut { from: usize, to: usize, done: usize, total: usize, timeout: u64 },

    #[error("no device is named {name:?}; the devices are {known} (GMEM_DEVICE, gmemSetDevice)")]
    UnknownDevice { name: String, known: String },

    #[error("device {device} cannot be used: {why}. {remedy}")]
    DeviceUnavailable {
        device: &'static str,
        why: Cow<'static, str>,
        remedy: &'static str,
        errno: Errno,
    },

    #[error("device {device}: {call}{on} failed: {code}{}{remedy}", if remedy.is_empty() { "" } else { "; " })]
    Driver {
        device: &'static str,
        call: &'static str,
        on: Target,
        code: DriverCode,
        remedy: &'static str,
    },

    #[error("stream = {stream:#x} {why}; nothing was registered. {remedy}")]
    StreamNotReady { stream: usize, why: &'static str, remedy: &'static str },

    #[error(
        "{call} needs the driver of device {device}, and was called from a function that the driver calls on a stream, \
         where the driver forbids that; make the call from another thread"
    )]
    InHostFunction { device: &'static str, call: &'static str },

    #[error("{argument} is NULL; pass {wanted}")]
    Null { argument: &'static str, wanted: &'static str },

    #[error(
        "{argument} = {size} is less than any version of the structure has; set it to its sizeof ({known} here)"
    )]
    StructSize { argument: &'static str, size: usize, known: usize },

    #[error(
        "ask = {ask:#x} has bits that no version knows; pass 0, or GMEM_ASK_HOT (1) to learn which pages are hot, too"
    )]
    ResidencyAsk { ask: u32 },

    #[error(
        "summary->{argument} = {value:#x} is not {wanted}; pass the summary that gmemResidency() filled"
    )]
    ResidencySummary { argument: &'static str, value: usize, wanted: &'static str },

    #[error(
        "whose = {whose} is none of GMEM_FAULTS_THREAD (0), GMEM_FAULTS_PROCESS (1) and GMEM_FAULTS_PROGRAM (2)"
    )]
    FaultScope { whose: i32 },

    #[error(
        "the page faults cannot be counted: {errno}; pass a scope that gmemFaultScopeBegin() filled and \
         gmemFaultScopeEnd() has not had"
    )]
    FaultsNotCounted { errno: Errno },

    #[error("path = {path:?} cannot be looked up: {errno}; pass the path of a file that is there")]
    NoSuchFile { path: String, errno: Errno },

    #[error(
        "descriptor = {descriptor} cannot be used: {errno}; pass one with which the file can be mapped for reading"
    )]
    UnusableDescriptor { descriptor: i32, errno: Errno },

    #[error(
        "the memory at {at:#x} is not mapped from the file of descriptor = {descriptor}; nothing was released. Pass \
         addresses at which the file is mapped: gmemMappingsOf() finds them"
    )]
    NotOfTheFile { at: usize, descriptor: i32 },

    #[error(
        "soft = {soft} exceeds hard = {hard}; pass a soft limit of at most the hard one, or 0 for no limit"
    )]
    Limits { soft: usize, hard: usize },

    #[error(
        "stream = {handle:#x} is not a stream of this process; pass what gmemStreamCreate() gave and \
         gmemStreamDestroy() has not had, or NULL to gmemPrefetch() and gmemFreeEager() for no stream \
         (streams made before fork() stay with the parent; those of a driver are known on its device only: GMEM_DEVICE, \
         gmemSetDevice)"
    )]
    UnknownStream { handle: usize },

    #[error(
        "event = {handle:#x} is not an event of this process; pass what gmemEventCreate() gave and \
         gmemEventDestroy() has not had (events made before fork() stay with the parent)"
    )]
    UnknownEvent { handle: usize },

    #[error(
        "{what} = {handle:#x} was to be waited for by work of its own stream, which would wait for itself; \
         wait from another thread or stream"
    )]
    SelfSynchronize { what: &'static str, handle: usize },

    #[error(
        "stream = {handle:#x} holds {limit} pieces of work and the call comes from a stream's own thread; synchronize it from another"
    )]
    StreamFull { handle: usize, limit: u64 },

    #[error("{what}, number {number} on stream {handle:#x}, failed: {error}")]
    InStream { handle: usize, number: u64, what: String, error: Box<Error> },

    #[error(
        "the stream's executor refused the call: its launch function returned {code}, where 0 is success; \
         nothing was registered"
    )]
    LaunchRefused { code: i32 },

    #[error(
        "the stream's executor gave it up without running it; keep the executor running until the stream is synchronized"
    )]
    GivenUp,

    #[error(
        "no thread could be started to serve streams: {errno}; raise ulimit -u, ulimit -v, vm.max_map_count or the pids cgroup limit, whichever is reached, or allow clone3(2) in \
         the sandbox"
    )]
    NoThread { errno: Errno },

    #[error(
        "no memory is left for {what}; raise the limit (ulimit -v, the memory cgroup) or ask for less"
    )]
    OutOfMemory { what: &'static str },

    #[error("a function launched on the stream threw: {message}")]
    TaskFailed { message: String },

    #[error("{path}: {what} at byte {offset} failed: {errno}{remedy}")]
    ModelFile {
        path: String,
        what: &'static str,
        offset: usize,
        errno: Errno,
        remedy: &'static str,
    },

    #[error(
        "{path} was not opened with a copy that processes have in common; open it with copy = GMEM_COPY_COMMON"
    )]
    NoCommonCopy { path: String },

    #[error(
        "copy_descriptor is not of a copy of {path} as it is now; pass what gmemModelCopyDescriptor() gave for the same \
         file, which must not have changed since"
    )]
    CopyOfAnother { path: String },

    #[error("56 processes have the copy of {path} open; close it in one of them")]
    CopyFull { path: String },

    #[error(
        "copy = {copy} is none of GMEM_COPY_OWN (0), GMEM_COPY_COMMON (1) and GMEM_COPY_JOIN (2), or mode is \
         GMEM_MODEL_SHARED, which needs no copy"
    )]
    UnknownModelCopy { copy: i32 },

    #[error(
        "{path} has a copy in common with other processes, and this process was made by clone(2) without fork(3); \
         open the file here"
    )]
    NotAMember { path: String },

    #[error("{path} {why}; pass the path of a regular file")]
    NotAModelFile { path: String, why: &'static str, errno: i32 },

    #[error(
        "{path} ends at byte {now} and had {bytes} bytes when it was opened; the bytes before that can be prefetched. \
         Open the file again"
    )]
    ModelTruncated { path: String, now: usize, bytes: usize },

    #[error(
        "no heap profile is being made; start the program with GMEM_HEAP_PROFILE=1 in its environment"
    )]
    NoHeapProfile,

    #[error(
        "the heap profile cannot be written to path = {path}: {errno}; pass a path where a file may be created"
    )]
    HeapProfile { path: String, errno: Errno },

    #[error("offset = {offset} and length = {length} exceed the {bytes} bytes of {path}")]
    BeyondModel { path: String, offset: usize, length: usize, bytes: usize },

    #[error(
        "{from:#x}..{to:#x} does not lie inside one model; pass ranges of gmemModelRange(), because a pipeline drops \
         what it has used"
    )]
    NotInAModel { from: usize, to: usize },

    #[error(
        "mode = {mode} is none of GMEM_MODEL_AUTOMATIC (0), GMEM_MODEL_SHARED (1) and GMEM_MODEL_PRIVATE (2)"
    )]
    UnknownModelMode { mode: i32 },

    #[error(
        "model = {handle:#x} is not an open model; pass what gmemModelOpen() gave and gmemModelClose() has not had"
    )]
    UnknownModel { handle: usize },

    #[error(
        "it takes {bytes} bytes in whole GMEM pages, which exceeds budget = {budget}; raise the budget, or divide the range"
    )]
    BeyondBudget { bytes: usize, budget: usize },

    #[error(
        "range {index} of the pipeline needs {bytes} bytes, and {held} of budget = {budget} are in use; call \
         gmemPipelineDone() for what is no longer used, or raise the budget"
    )]
    NoRoom { index: usize, bytes: usize, held: usize, budget: usize },

    #[error("index = {index} is none of the {count} ranges of the pipeline")]
    NotAPart { index: usize, count: usize },

    #[error(
        "range {index} of the pipeline is not in use; call gmemPipelineDone() once for each gmemPipelineWant()"
    )]
    NotWanted { index: usize },

    #[error("order = {order} is none of GMEM_PIPELINE_SEQUENCE (0), _CYCLE (1) and _ANY (2)")]
    UnknownPipelineOrder { order: i32 },

    #[error(
        "pipeline = {handle:#x} is not a pipeline of this process; pass what gmemPipelineCreate() gave and \
         gmemPipelineDestroy() has not had (pipelines made before fork() stay with the parent)"
    )]
    UnknownPipeline { handle: usize },

    #[error("{limit} models are open, which is the limit; close some")]
    TooManyModels { limit: usize },

    #[error("libgmem hit a fault of its own, please report it: {message}")]
    Panicked { message: String },
}

impl Error {
    /// The errno that the C functions return.
    pub fn errno(&self) -> Errno {
        Errno(match self {
            Error::RangeOverflow { .. }
            | Error::TooManyRanges { .. }
            | Error::NotAMemoryNode { .. }
            | Error::UnknownDevice { .. }
            | Error::Null { .. }
            | Error::StructSize { .. }
            | Error::ResidencySummary { .. }
            | Error::FaultScope { .. }
            | Error::ResidencyAsk { .. }
            | Error::Limits { .. }
            | Error::UnknownHugePolicy { .. }
            | Error::BeyondModel { .. }
            | Error::NotInAModel { .. }
            | Error::NoCommonCopy { .. }
            | Error::CopyOfAnother { .. }
            | Error::UnknownModelCopy { .. }
            | Error::NotAMember { .. }
            | Error::NotOfTheFile { .. }
            | Error::UnknownModelMode { .. }
            | Error::UnknownModel { .. }
            | Error::BeyondBudget { .. }
            | Error::NotAPart { .. }
            | Error::NotWanted { .. }
            | Error::UnknownPipelineOrder { .. }
            | Error::UnknownPipeline { .. }
            | Error::UnknownStream { .. }
            | Error::UnknownEvent { .. } => libc::EINVAL,
            Error::Hole { .. }
            | Error::OutOfMemory { .. }
            | Error::NoRoom { .. }
            | Error::NotEnoughMemory { .. }
            | Error::PoolTooSmall { .. }
            | Error::HugePagesMissing { .. }
            | Error::HugePagesLost { .. } => libc::ENOMEM,
            Error::Driver { code, .. } => code.errno.0,
            Error::InHostFunction { .. } => libc::EDEADLK,
            Error::StreamNotReady { .. } => libc::EOPNOTSUPP,
            Error::NoHugePages { .. } | Error::NoHeapProfile => libc::EOPNOTSUPP,
            Error::NodeForbidden { .. } => libc::EACCES,
            Error::PlacementRefused { .. } => libc::EPERM,
            Error::Cancelled { .. } => libc::ECANCELED,
            Error::TimedOut { .. } => libc::ETIMEDOUT,
            Error::Unsupported { errno, .. } | Error::NotAModelFile { errno, .. } => *errno,
            Error::ModelTruncated { .. } => libc::EFAULT,
            Error::TooManyModels { .. } => libc::EMFILE,
            Error::CopyFull { .. } => libc::EUSERS,
            Error::System { errno, .. }
            | Error::ModelFile { errno, .. }
            | Error::HeapProfile { errno, .. }
            | Error::DeviceUnavailable { errno, .. }
            | Error::NoSuchFile { errno, .. }
            | Error::UnusableDescriptor { errno, .. }
            | Error::FaultsNotCounted { errno } => errno.0,
            Error::NotMoved { .. } => libc::EBUSY,
            Error::SelfSynchronize { .. } => libc::EDEADLK,
            Error::StreamFull { .. } | Error::NoThread { .. } => libc::EAGAIN,
            Error::InStream { error, .. } | Error::InBatch { error, .. } => return error.errno(),
            Error::LaunchRefused { code } => match *code {
                // The launch function returns a negative errno, as libgmem does.
                -4095..0 => -code,
                _ => libc::EIO,
            },
            Error::TaskFailed { .. } | Error::GivenUp => libc::ECANCELED,
            Error::Panicked { .. } => libc::ENOTRECOVERABLE,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_name_the_value_and_the_remedy() {
        let failure = Error::NotAMemoryNode { hnid: 7, nodes: "0-2".into() };
        assert_eq!(failure.errno().negative(), -libc::EINVAL);
        let text = failure.to_string();
        assert!(text.contains("hnid = 7") && text.contains("0-2"), "{text}");
    }
}
