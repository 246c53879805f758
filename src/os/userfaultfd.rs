//! Memory whose page faults a monitor serves: `userfaultfd(2)`. A thread that touches such memory waits for the monitor, for ever
//! if it is the monitor.

use super::{file, smaps};
use crate::page::PageRange;

/// Whether this process has a userfaultfd. It takes a system call for each open descriptor.
///
/// Memory that another process serves, with a descriptor that this one has given away, goes unnoticed: no thread of this process
/// is its monitor.
pub fn is_open() -> bool {
    // Where nobody can tell, there may be one.
    file::any_descriptor_is(b"anon_inode:[userfaultfd]").unwrap_or(true)
}

/// Whether the faults of any page of `range` are served. The kernel walks the page tables of the process to answer.
pub fn serves(range: PageRange) -> bool {
    let mut is_so = false;
    let read = smaps::each_mapping(|mapping| {
        let whole = PageRange::new(mapping.start, mapping.end);
        is_so |= mapping.is_served && !whole.intersect(range).is_empty();
    });
    is_so || read.is_err()
}
