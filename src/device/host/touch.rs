//! Populates a segment on the calling thread.

use super::plan::Segment;
use super::system;
use crate::error::{Errno, Error, Result};
use crate::os::vma::Backing;
use crate::os::{SysResult, advice, mapping, pagemap};
use crate::page::PageRange;

/// Bring the pages of `part` into memory and into the page table, as if each were written or read.
pub fn populate_and_touch(part: Segment) -> Result<()> {
    let (result, call) = if part.write {
        (advice::populate_write(part.range), "MADV_POPULATE_WRITE")
    } else if part.backing == Backing::File {
        (populate_file(part.range), "MADV_POPULATE_READ")
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

/// The kernel maps this much of a file around a page that is touched (`fault_around_bytes`).
const AROUND_BYTES: usize = 64 << 10;

/// Populate a file that is mapped for reading.
///
/// The kernel looks at each base page of a range that it populates, which takes longer than mapping them does. So only those are
/// named around which it maps others by itself: one for each huge page, then one for each 64 KiB that are still missing. What is
/// missing then, for whatever reason, is populated as a whole.
fn populate_file(range: PageRange) -> SysResult<()> {
    if pagemap::knows_huge() {
        populate_one_of(mapping::gmem_page().bytes(), range)?;
        for missing in absent(range)? {
            populate_one_of(AROUND_BYTES, missing)?;
        }
        return absent(range)?.into_iter().try_for_each(advice::populate_read);
    }
    advice::populate_read(range)
}

/// Populate one base page in each `bytes` of a range.
fn populate_one_of(bytes: usize, range: PageRange) -> SysResult<()> {
    let base = mapping::base_page();
    let mut at = base.floor(range.start());
    while at < range.end() {
        advice::populate_read(PageRange::new(at, at + base.bytes()))?;
        at = (at / bytes + 1) * bytes;
    }
    Ok(())
}

/// The runs of pages that are not in the page table.
fn absent(range: PageRange) -> SysResult<Vec<PageRange>> {
    let (mut runs, mut from) = (Vec::new(), range.start());
    pagemap::scan_telling(range, pagemap::Files::NotTold, |run| {
        if run.present {
            if run.range.start() > from {
                runs.push(PageRange::new(from, run.range.start()));
            }
            from = run.range.end();
        }
    })?;
    if from < range.end() {
        runs.push(PageRange::new(from, range.end()));
    }
    Ok(runs)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::os::direct_io::LargeFile;
    use crate::os::file_window::{Shown, Window};
    use std::ffi::CString;

    #[test]
    fn every_page_of_a_file_is_mapped() {
        let path = std::env::current_exe().unwrap();
        let file = LargeFile::open(&CString::new(path.to_str().unwrap()).unwrap()).unwrap();
        let base = mapping::base_page();
        for shown in [Shown::Cache, Shown::CacheInHugePages] {
            let window = Window::new(&file, shown).unwrap();
            let start = window.range().start();
            let whole = PageRange::new(start, base.ceil(start + file.length()).unwrap());
            // Not aligned to the kernel's steps.
            let part = PageRange::new(start + 3 * base.bytes(), whole.end() - 5 * base.bytes());
            populate_file(part).unwrap();
            assert_eq!(absent(part).unwrap(), []);
            populate_file(whole).unwrap();
            assert_eq!(absent(whole).unwrap(), []);
        }
    }
}
