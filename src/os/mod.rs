//! The only room with raw system calls. Each function is one call, or one that the kernel splits in
//! two, with its arguments as types and its failure as an [`Errno`].
//!
//! Nothing here decides anything, and [`mapping`] and [`mod@file`] neither allocate nor panic, because
//! the heap calls them from inside `malloc`.

pub mod advice;
pub mod cgroup;
pub mod dynamic;
pub mod env;
pub mod faults;
pub mod file;
pub mod gmem;
pub mod lazy;
pub mod machine;
pub mod mapping;
pub mod memory;
pub mod numa;
pub mod page_flags;
pub mod pagemap;
pub mod probe;
pub mod process;
pub mod replaced;
pub mod smaps;
mod syscall;
pub mod thread;
pub mod vma;

use crate::error::Errno;

/// Result of a system call.
pub type SysResult<T> = std::result::Result<T, Errno>;

/// The calling thread's errno.
pub fn errno() -> Errno {
    // SAFETY: glibc's errno is always a valid thread-local int.
    Errno(unsafe { *libc::__errno_location() })
}

/// Set the calling thread's errno, as the allocation functions of C must.
pub fn set_errno(errno: Errno) {
    // SAFETY: as in `errno`.
    unsafe { *libc::__errno_location() = errno.0 };
}

/// `-1` becomes the errno.
fn check(result: libc::c_int) -> SysResult<()> {
    if result == 0 { Ok(()) } else { Err(errno()) }
}
