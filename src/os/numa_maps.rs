//! How many pages of each mapping are on each node: `/proc/self/numa_maps`, for a sandbox in which no system call tells the node of
//! a page. The kernel walks the page tables for it, which takes about a millisecond per GiB.

use std::ops::ControlFlow;

use super::{SysResult, file, vma};
use crate::error::Errno;
use crate::page::PageRange;

/// The number of pages on other nodes than `node`, in all mappings that touch a range. Pages outside the range count.
pub fn pages_elsewhere(range: PageRange, node: usize) -> SysResult<usize> {
    let mut starts = Vec::new();
    let mut is_full = false;
    vma::walk(range, |vma| {
        is_full |= starts.try_reserve(1).is_err();
        if is_full {
            return ControlFlow::Break(());
        }
        starts.push(vma.range.start());
        ControlFlow::Continue(())
    })?;
    if is_full {
        return Err(Errno(libc::ENOMEM));
    }
    let text = file::read_whole(c"/proc/self/numa_maps")?;
    let lines = text.split(|byte| *byte == b'\n').filter_map(|line| std::str::from_utf8(line).ok());
    let counts = lines.filter_map(|line| elsewhere(line, node));
    Ok(counts
        .filter(|(start, _)| starts.binary_search(start).is_ok())
        .map(|(_, pages)| pages)
        .sum())
}

/// The start of a mapping and its pages on other nodes, from a line like `7f00 default anon=3 N0=1 N1=2 kernelpagesize_kB=4`.
fn elsewhere(line: &str, node: usize) -> Option<(usize, usize)> {
    let mut words = line.split_ascii_whitespace();
    let start = usize::from_str_radix(words.next()?, 16).ok()?;
    let on_node = |word: &str| -> Option<(usize, usize)> {
        let (node, pages) = word.strip_prefix('N')?.split_once('=')?;
        Some((node.parse().ok()?, pages.parse().ok()?))
    };
    let others = words.filter_map(on_node).filter(|(on, _)| *on != node);
    Some((start, others.map(|(_, pages)| pages).sum()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_other_nodes_are_counted() {
        let line = "7f0000400000 prefer:1 anon=7 dirty=7 N0=3 N1=1 N12=4 kernelpagesize_kB=4";
        assert_eq!(elsewhere(line, 1), Some((0x7f00_0040_0000, 7)));
        assert_eq!(
            elsewhere("5581 default file=/usr/bin/N5=x mapped=3 N1=3", 1),
            Some((0x5581, 0))
        );
        assert_eq!(elsewhere("", 0), None);
    }
}
