//! Counters of page faults.
//!
//! A thread's are the kernel's own software counter (`perf_event_open(2)`), which counts what the processor
//! stumbled over and not what system calls populate. Where the system forbids it (`kernel.perf_event_paranoid`), and
//! for a whole process, `getrusage(2)`, which counts both.

use super::{SysResult, check, errno, syscall};
use crate::error::Errno;

/// Whose faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// Those of the thread that opens the counter.
    Thread,
    /// Those of all threads, ended ones included.
    Process,
}

/// Counts from the moment that it is opened. Laid out as C has it, in plain numbers, so that any value is one: a
/// counter that is none fails to be read.
#[repr(C)]
#[derive(Debug)]
pub struct Counter {
    /// The kernel's counter, -1 where `getrusage` counts.
    descriptor: libc::c_int,
    is_process: libc::c_int,
    /// What was counted before.
    before: u64,
}

impl Counter {
    /// Begin to count.
    pub fn open(whose: Whose) -> SysResult<Self> {
        let is_process = whose == Whose::Process;
        if !is_process && let Ok(descriptor) = software() {
            return Ok(Self { descriptor, is_process: 0, before: 0 });
        }
        Ok(Self { descriptor: -1, is_process: is_process.into(), before: usage(is_process)? })
    }

    /// Faults so far. One of a thread is to be asked by that thread.
    pub fn read(&self) -> SysResult<u64> {
        if self.descriptor < 0 {
            return Ok(usage(self.is_process != 0)?.saturating_sub(self.before));
        }
        let mut count = [0_u8; 8];
        match syscall::read(self.descriptor, &mut count)? {
            8 => Ok(u64::from_ne_bytes(count)),
            _ => Err(Errno(libc::EINVAL)),
        }
    }

    /// Stop counting.
    pub fn close(&mut self) {
        if self.descriptor >= 0 {
            // SAFETY: the counter opened the descriptor, and forgets its number here.
            unsafe { syscall::close(self.descriptor) };
            self.descriptor = -1;
        }
    }
}

/// Whether this process may use the kernel's software counter.
pub fn can_count() -> bool {
    software().map(|descriptor| Counter { descriptor, is_process: 0, before: 0 }.close()).is_ok()
}

fn usage(is_process: bool) -> SysResult<u64> {
    let who = if is_process { libc::RUSAGE_SELF } else { libc::RUSAGE_THREAD };
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
    // What an ordinary user may count leaves out the faults that the kernel itself takes on the user's memory.
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
        for whose in [Whose::Thread, Whose::Process] {
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
