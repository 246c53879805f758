//! What can go wrong, in words and as an errno.
//!
//! A message names the argument, its value, what is allowed and what to do.

use std::fmt;

/// `Result` with libgmem's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// A positive error number of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i32);

impl Errno {
    /// As the C functions return it.
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

/// Every failure of the library.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the fields are the values in the message")]
pub enum Error {
    #[error(
        "addr + size = {addr:#x} + {size:#x} exceeds the address space; \
         pass a range [addr, addr + size) of this process"
    )]
    RangeOverflow { addr: usize, size: usize },

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

    #[error("no device is named {name:?}; the devices are {known} (GMEM_DEVICE, gmemSetDevice)")]
    UnknownDevice { name: String, known: String },

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

    #[error("whose = {whose} is neither GMEM_FAULTS_THREAD (0) nor GMEM_FAULTS_PROCESS (1)")]
    FaultScope { whose: i32 },

    #[error(
        "the page faults cannot be counted: {errno}; pass a scope that gmemFaultScopeBegin() filled and \
         gmemFaultScopeEnd() has not had"
    )]
    FaultsNotCounted { errno: Errno },

    #[error(
        "soft = {soft} exceeds hard = {hard}; pass a soft limit of at most the hard one, or 0 for no limit"
    )]
    Limits { soft: usize, hard: usize },

    #[error(
        "stream = {handle:#x} is not a stream of this process; pass what gmemStreamCreate() gave and \
         gmemStreamDestroy() has not had, or NULL to gmemPrefetch() and gmemFreeEager() for no stream \
         (streams made before fork() stay with the parent)"
    )]
    UnknownStream { handle: usize },

    #[error(
        "stream = {handle:#x} was asked to synchronize by work that runs on it; it would wait for itself"
    )]
    SelfSynchronize { handle: usize },

    #[error(
        "stream = {handle:#x} holds {limit} pieces of work and the call comes from a stream's own thread; synchronize it from another"
    )]
    StreamFull { handle: usize, limit: usize },

    #[error(
        "no thread could be started to serve streams: {errno}; raise ulimit -u, ulimit -v, vm.max_map_count or the pids cgroup limit, whichever is reached"
    )]
    NoThread { errno: Errno },

    #[error(
        "no memory is left for {what}; raise the limit (ulimit -v, the memory cgroup) or ask for less"
    )]
    OutOfMemory { what: &'static str },

    #[error("a function launched on the stream threw: {message}")]
    TaskFailed { message: String },

    #[error("libgmem hit a fault of its own, please report it: {message}")]
    Panicked { message: String },
}

impl Error {
    /// The errno a caller gets for it.
    pub fn errno(&self) -> Errno {
        Errno(match self {
            Error::RangeOverflow { .. }
            | Error::NotAMemoryNode { .. }
            | Error::UnknownDevice { .. }
            | Error::Null { .. }
            | Error::StructSize { .. }
            | Error::FaultScope { .. }
            | Error::ResidencyAsk { .. }
            | Error::Limits { .. }
            | Error::UnknownStream { .. } => libc::EINVAL,
            Error::Hole { .. } | Error::OutOfMemory { .. } => libc::ENOMEM,
            Error::Unsupported { errno, .. } => *errno,
            Error::System { errno, .. } | Error::FaultsNotCounted { errno } => errno.0,
            Error::NotMoved { .. } => libc::EBUSY,
            Error::SelfSynchronize { .. } => libc::EDEADLK,
            Error::StreamFull { .. } | Error::NoThread { .. } => libc::EAGAIN,
            Error::TaskFailed { .. } => libc::ECANCELED,
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
