//! All raw system calls. A function makes one call, or several that belong together; its arguments have types, and its
//! failure is an [`Errno`].
//!
//! Nothing here makes decisions. [`mapping`], [`env`](mod@env), [`cgroup`] and the functions of [`mod@file`] that do not say otherwise
//! neither allocate nor panic, because the heap calls them from inside `malloc`. No function is a cancellation point
//! (`syscall.rs`).

pub mod advice;
pub mod cgroup;
pub mod common_memory;
pub mod direct_io;
pub mod dynamic;
pub mod env;
pub mod faults;
pub mod file;
pub mod file_window;
pub mod fork_lock;
pub mod futex;
pub mod gmem;
mod kept_descriptor;
mod kept_file;
pub mod lazy;
pub mod machine;
pub mod mapped_descriptor;
pub mod mapped_file;
pub mod mapping;
pub mod memory;
pub mod numa;
pub mod numa_maps;
pub mod own_faults;
pub mod own_thread;
pub mod page_flags;
pub mod pagemap;
pub mod probe;
pub mod process;
pub mod replaced;
pub mod smaps;
mod syscall;
pub mod thread;
pub mod userfaultfd;
pub mod vma;

use crate::error::Errno;

/// The result of a system call.
pub type SysResult<T> = std::result::Result<T, Errno>;

/// The calling thread's errno.
pub fn errno() -> Errno {
    // SAFETY: __errno_location returns the address of the thread's own int.
    Errno(unsafe { *libc::__errno_location() })
}

/// Set the calling thread's errno, as the allocation functions of C must.
pub fn set_errno(errno: Errno) {
    // SAFETY: __errno_location returns the address of the thread's own int.
    unsafe { *libc::__errno_location() = errno.0 };
}

/// Turns a result other than 0 into the errno.
fn check(result: libc::c_int) -> SysResult<()> {
    if result == 0 { Ok(()) } else { Err(errno()) }
}
