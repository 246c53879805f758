//! Populates a segment in one call, on the calling thread.

use super::plan::Segment;
use super::system;
use crate::error::{Errno, Error, Result};
use crate::os::advice;

/// Bring the pages of `part` into memory and into the page table, as if each were written or read.
pub fn populate_and_touch(part: Segment) -> Result<()> {
    let (result, call) = if part.write {
        (advice::populate_write(part.range), "MADV_POPULATE_WRITE")
    } else {
        (advice::populate_read(part.range), "MADV_POPULATE_READ")
    };
    result.map_err(|errno| match errno.0 {
        libc::EINVAL if !advice::can_populate() => system(
            call,
            part.range,
            Errno(libc::EOPNOTSUPP),
            "; the kernel is older than Linux 5.14",
        ),
        libc::EINVAL => Error::Unsupported {
            verb: "gmemPrefetch",
            from: part.range.start(),
            to: part.range.end(),
            what: "a device mapping, or another thread has changed its protection meanwhile",
            remedy: "A device mapping is placed by its driver.",
            errno: libc::EINVAL,
        },
        libc::EFAULT => system(
            call,
            part.range,
            errno,
            "; part of it lies beyond the end of its file, is a guard page \
             (MADV_GUARD_INSTALL), has a userfaultfd that serves no kernel faults, or no hugetlb \
             page is free (vm.nr_hugepages)",
        ),
        libc::ENOMEM => system(
            call,
            part.range,
            errno,
            "; no memory is left for it (see free -h and the memory cgroup), or it was \
             unmapped meanwhile",
        ),
        _ => system(call, part.range, errno, ""),
    })
}
