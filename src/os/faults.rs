//! Counters of page faults.
//!
//! For a thread, the kernel's software counter (`perf_event_open(2)`) counts faults of the processor, not pages that system calls
//! populate. Where the system forbids that counter (`kernel.perf_event_paranoid`), and for a whole process, `getrusage(2)`
//! counts both. The program's faults are those of the process without those that the library took ([`super::own_faults`]).

use super::{SysResult, check, errno, own_faults, syscall};
use crate::error::Errno;

/// The scope of a counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// The thread that opens the counter.
    Thread,
    /// All threads of the process, including ended ones.
    Process,
    /// All threads of the process, less what the library takes to prefetch.
    Program,
}

/// Counts from when it is opened. Laid out as in C, in plain numbers, so that any bits are a value: C may pass a counter
/// that was never opened, garbage, or a copy of one that is closed. Reading those fails, and closing them does nothing.
#[repr(C)]
#[derive(Debug)]
pub struct Counter {
    /// The descriptor of the software counter; -1 if `getrusage` counts.
    descriptor: libc::c_int,
    /// One of the constants below; anything else is no open counter.
    kind: libc::c_int,
    /// The kernel's id of its counter, which it never uses again; for `getrusage`, the faults before.
    id_or_before: u64,
}

/// Kinds of counters: numbers that no other memory is likely to hold.
const SOFTWARE: libc::c_int = 0x6d3b_51a7;
const USAGE_OF_THREAD: libc::c_int = 0x6d3b_51a8;
const USAGE_OF_PROCESS: libc::c_int = 0x6d3b_51a9;
const USAGE_OF_PROGRAM: libc::c_int = 0x6d3b_51aa;

impl Counter {
    /// Start counting.
    pub fn open(whose: Whose) -> SysResult<Self> {
        if whose == Whose::Thread
            && let Ok(counter) = Self::software()
        {
            return Ok(counter);
        }
        let kind = match whose {
            Whose::Thread => USAGE_OF_THREAD,
            Whose::Process => USAGE_OF_PROCESS,
            Whose::Program => USAGE_OF_PROGRAM,
        };
        Ok(Self { descriptor: -1, kind, id_or_before: usage_of(kind)? })
    }

    /// The kernel's counter for the calling thread.
    fn software() -> SysResult<Self> {
        let descriptor = software()?;
        match id(descriptor) {
            Some(id) => Ok(Self { descriptor, kind: SOFTWARE, id_or_before: id }),
            None => {
                let failure = errno();
                close(descriptor);
                Err(failure)
            }
        }
    }

    /// Faults so far. A thread's counter is read by that thread. `EBADF` if this is no open counter.
    pub fn read(&self) -> SysResult<u64> {
        match self.kind {
            SOFTWARE if self.has_its_descriptor() => {}
            USAGE_OF_THREAD | USAGE_OF_PROCESS | USAGE_OF_PROGRAM => {
                return Ok(usage_of(self.kind)?.saturating_sub(self.id_or_before));
            }
            _ => return Err(Errno(libc::EBADF)),
        }
        let mut count = [0_u8; 8];
        match syscall::read(self.descriptor, &mut count)? {
            8 => Ok(u64::from_ne_bytes(count)),
            _ => Err(Errno(libc::EINVAL)),
        }
    }

    /// Stop counting.
    pub fn close(&mut self) {
        if self.kind == SOFTWARE && self.has_its_descriptor() {
            close(self.descriptor);
        }
        *self = Self { descriptor: -1, kind: 0, id_or_before: 0 };
    }

    /// Whether the descriptor is still this counter, not something that the program has opened under its number.
    fn has_its_descriptor(&self) -> bool {
        id(self.descriptor) == Some(self.id_or_before)
    }
}

/// The kernel's id of a counter; `None` if the descriptor is no counter.
fn id(descriptor: libc::c_int) -> Option<u64> {
    /// `PERF_EVENT_IOC_ID` of linux/perf_event.h: `_IOR('$', 7, __u64 *)`.
    const PERF_EVENT_IOC_ID: libc::c_ulong = 0x8008_2407;
    let mut id = 0_u64;
    // SAFETY: only counters know this request, and they write 8 bytes, which `id` has.
    let result = unsafe { libc::ioctl(descriptor, PERF_EVENT_IOC_ID, &raw mut id) };
    (result == 0).then_some(id)
}

fn close(descriptor: libc::c_int) {
    // SAFETY: our callers have just opened the descriptor, or checked that it is the counter's.
    unsafe { syscall::close(descriptor) };
}

/// Whether this process may use the software counter.
pub fn can_count() -> bool {
    Counter::software().map(|mut counter| counter.close()).is_ok()
}

fn usage_of(kind: libc::c_int) -> SysResult<u64> {
    match kind {
        USAGE_OF_THREAD => usage(libc::RUSAGE_THREAD),
        USAGE_OF_PROGRAM => own_faults::without(|| usage(libc::RUSAGE_SELF)),
        _ => usage(libc::RUSAGE_SELF),
    }
}

/// Faults that `getrusage(2)` counts.
pub(super) fn usage(who: libc::c_int) -> SysResult<u64> {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::uninit();
    // SAFETY: on success the whole structure is written.
    let usage = unsafe {
        check(libc::getrusage(who, usage.as_mut_ptr()))?;
        usage.assume_init()
    };
    Ok((usage.ru_minflt + usage.ru_majflt).unsigned_abs())
}

/// `struct perf_event_attr` of linux/perf_event.h, as of its first version: 64 bytes.
#[repr(C)]
#[derive(Default)]
struct PerfEventAttr {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    bp_type: u32,
    bp_addr: u64,
}

fn software() -> SysResult<libc::c_int> {
    const PERF_TYPE_SOFTWARE: u32 = 1;
    const PERF_COUNT_SW_PAGE_FAULTS: u64 = 2;
    const EXCLUDE_KERNEL: u64 = 1 << 5;
    const EXCLUDE_HV: u64 = 1 << 6;
    const PERF_FLAG_FD_CLOEXEC: libc::c_ulong = 1 << 3;
    let open = |flags| {
        let attributes = PerfEventAttr {
            kind: PERF_TYPE_SOFTWARE,
            size: size_of::<PerfEventAttr>() as u32,
            config: PERF_COUNT_SW_PAGE_FAULTS,
            flags,
            ..Default::default()
        };
        // SAFETY: the attributes are as the kernel's header has them; this thread, any processor, no group.
        let fd = unsafe {
            let attributes = &raw const attributes;
            libc::syscall(libc::SYS_perf_event_open, attributes, 0, -1, -1, PERF_FLAG_FD_CLOEXEC)
        };
        libc::c_int::try_from(fd).ok().filter(|fd| *fd >= 0).ok_or_else(errno)
    };
    // An ordinary user may only count without the faults that the kernel takes on user memory.
    open(EXCLUDE_HV).or_else(|_| open(EXCLUDE_HV | EXCLUDE_KERNEL))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::os::advice;
    use crate::os::mapping::Mapping;

    #[test]
    fn touching_is_counted_and_populated_memory_takes_no_fault() {
        let mut mapping = Mapping::of_base_pages(64);
        let range = mapping.range();
        let mut touch = || mapping.bytes().fill(1);
        for whose in [Whose::Thread, Whose::Process, Whose::Program] {
            // SAFETY: the mapping holds nothing that is needed.
            unsafe { advice::drop_private(range).unwrap() };
            let mut counter = Counter::open(whose).unwrap();
            touch();
            assert!(counter.read().unwrap() >= 64);
            counter.close();
        }
        // SAFETY: the mapping holds nothing that is needed.
        unsafe { advice::drop_private(range).unwrap() };
        advice::populate_write(range).unwrap();
        let mut counter = Counter::open(Whose::Thread).unwrap();
        touch();
        assert_eq!(counter.read().unwrap(), 0);
        counter.close();
    }
}
