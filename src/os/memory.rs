//! Available memory, and the work of the kernel to find huge pages.

use std::ffi::CString;

use super::{file, machine, mapping, numa};
use crate::page::PageSize;

/// Bytes that can be allocated without the kernel killing a process: free memory, easily reclaimed memory, free swap space.
pub fn available() -> Option<usize> {
    let mut buffer = [0; 4096];
    let text = file::read_start(c"/proc/meminfo", &mut buffer).ok()?;
    let swap = machine::swap().map_or(0, |(_, free)| free);
    Some(file::kilobytes(text, "MemAvailable:")?.saturating_add(swap))
}

/// Microseconds since boot in which a task waited for memory; `None` where the kernel does not count them.
pub fn stalled() -> Option<u64> {
    let mut buffer = [0; 256];
    let text = file::read_start(c"/proc/pressure/memory", &mut buffer).ok()?;
    let line = std::str::from_utf8(text).ok()?.lines().find(|line| line.starts_with("some "))?;
    line.rsplit_once("total=")?.1.parse().ok()
}

/// Bytes of this process that are in memory, including pages of files, without pages of the hugetlb pool.
pub fn resident() -> Option<usize> {
    let mut buffer = [0; 128];
    let text = file::read_start(c"/proc/self/statm", &mut buffer).ok()?;
    let pages = std::str::from_utf8(text).ok()?.split_ascii_whitespace().nth(1)?;
    pages.parse::<usize>().ok()?.checked_mul(mapping::base_page().bytes())
}

/// Bytes that can be allocated on one node: free memory, and pages of files, which can be read again.
pub fn available_on(node: usize) -> Option<usize> {
    let path = CString::new(format!("/sys/devices/system/node/node{node}/meminfo")).ok()?;
    let mut buffer = [0; 4096];
    let text = file::read_start(&path, &mut buffer).ok()?;
    let files =
        file::kilobytes(text, "FilePages:")?.saturating_sub(file::kilobytes(text, "Shmem:")?);
    Some(file::kilobytes(text, "MemFree:")?.saturating_add(files))
}

/// The number of contiguous free GMEM pages of a node.
pub fn free_huge_pages(node: usize) -> Option<usize> {
    let mut buffer = [0; 1 << 14];
    let text = file::read_start(c"/proc/buddyinfo", &mut buffer).ok()?;
    let order = (mapping::huge_page().bytes() / mapping::base_page().bytes()).ilog2();
    Some(free_blocks(std::str::from_utf8(text).ok()?, node, order))
}

/// Sum up lines of the form `Node 0, zone Normal` followed by the numbers of free blocks of 1, 2, 4, ... base pages.
fn free_blocks(text: &str, node: usize, order: u32) -> usize {
    let counted = |line: &str| -> Option<usize> {
        let (of, zone) = line.strip_prefix("Node ")?.split_once(',')?;
        if of.trim().parse() != Ok(node) {
            return None;
        }
        let counts = zone.split_ascii_whitespace().skip(2).zip(0_u32..);
        let large = counts.filter(|(_, blocks)| *blocks >= order);
        let pages = |(blocks, at): (&str, u32)| {
            let pages_in_block = 1_usize.checked_shl(at - order).unwrap_or(usize::MAX);
            Some(blocks.parse::<usize>().ok()?.saturating_mul(pages_in_block))
        };
        Some(large.filter_map(pages).fold(0, usize::saturating_add))
    };
    text.lines().filter_map(counted).fold(0, usize::saturating_add)
}

/// The free pages of the hugetlb pool for pages of `bytes`, on a node or on all; `None` if there is no such pool.
pub fn free_pool_pages(bytes: usize, node: Option<usize>) -> Option<usize> {
    if let Some(node) = node {
        return numa::hugetlb_pages(node, PageSize::new(bytes)?).map(|(_, free)| free);
    }
    let path = format!("/sys/kernel/mm/hugepages/hugepages-{}kB/free_hugepages", bytes >> 10);
    file::read_number(&CString::new(path).ok()?)
}

/// How often a request for a huge page has waited for the kernel to move other pages (direct compaction).
pub fn compaction_stalls() -> Option<usize> {
    let mut buffer = [0; 1 << 14];
    let text = file::read_start(c"/proc/vmstat", &mut buffer).ok()?;
    let line =
        std::str::from_utf8(text).ok()?.lines().find_map(|l| l.strip_prefix("compact_stall "));
    line?.parse().ok()
}

/// Whether this process has turned huge pages off for itself (`PR_SET_THP_DISABLE`).
pub fn huge_pages_are_disabled_here() -> bool {
    // SAFETY: PR_GET_THP_DISABLE changes nothing.
    unsafe { libc::prctl(libc::PR_GET_THP_DISABLE, 0, 0, 0, 0) > 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mangled;

    #[test]
    fn mangled_buddyinfo() {
        let recorded = "\
Node 0, zone      DMA      0      0      0      0      0      0      0      0      1      1      3 
Node 0, zone   Normal  28573  21540   9910   8016   3882   1684    694    251    100     61   1486 
Node 1, zone  Movable      0      0      0      0      0      0      0      0      0      0    512 
";
        mangled::texts(&[recorded], |text| {
            let Ok(text) = std::str::from_utf8(text) else { return };
            for node in 0..3 {
                // Larger blocks hold fewer pages of that size.
                assert!(free_blocks(text, node, 10) <= free_blocks(text, node, 9));
            }
        });
        assert_eq!(free_blocks(recorded, 0, 9), 1 + 61 + 2 * (3 + 1486));
    }

    #[test]
    fn files_of_the_kernel() {
        let text =
            "Node 0, zone  DMA  1  1  2\nNode 1, zone Normal 5 4 3\nNode 1, zone Movable 0 0 1\n";
        assert_eq!(free_blocks(text, 0, 1), 1 + 2 * 2);
        assert_eq!(free_blocks(text, 1, 2), 4);
        assert_eq!(free_blocks(text, 7, 0), 0);
    }

    #[test]
    fn this_machine_has_memory() {
        assert!(available().is_some_and(|bytes| bytes > 1 << 20));
        // A kernel without NUMA has no such file.
        assert!(available_on(0).is_none_or(|bytes| bytes > 1 << 20));
    }
}
