//! How much of each mapping of this process is resident, and how much is on huge pages: `/proc/self/smaps`. The kernel walks the
//! page tables for it, which takes about a millisecond per GiB.

use std::ops::ControlFlow;

use super::SysResult;
use super::file::{self, Descriptor};

/// The resident memory of a mapping.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Resident {
    /// The first address.
    pub start: usize,
    /// The first address behind the mapping.
    pub end: usize,
    /// Bytes in memory.
    pub bytes: usize,
    /// Bytes on transparent huge pages of private memory.
    pub huge: usize,
    /// Bytes on huge pages of files and shared memory that are mapped as huge pages.
    pub huge_shared: usize,
    /// Whether its pages are hugetlb pages, which the other numbers do not include.
    pub is_hugetlb: bool,
    /// Whether it is peer-shared memory of a GMEM kernel.
    pub is_peer_shared: bool,
    /// Whether a userfaultfd serves its page faults.
    pub is_served: bool,
}

impl Resident {
    /// Whether any of it is on huge pages of some kind.
    pub const fn has_huge_pages(&self) -> bool {
        self.huge > 0 || self.huge_shared > 0 || self.is_hugetlb
    }
}

/// Call `visit` for each mapping.
pub fn each_mapping(mut visit: impl FnMut(Resident)) -> SysResult<()> {
    let smaps = Descriptor::open_for_reading(c"/proc/self/smaps")?;
    parse(|buffer| smaps.read(buffer), &mut visit)
}

fn parse(
    read: impl FnMut(&mut [u8]) -> SysResult<usize>,
    visit: &mut impl FnMut(Resident),
) -> SysResult<()> {
    let mut mapping: Option<Resident> = None;
    // None of the lines of interest is longer.
    let mut buffer = [0; 8192];
    file::each_line(read, &mut buffer, |line| {
        read_line(line, &mut mapping, visit);
        ControlFlow::Continue(())
    })?;
    mapping.into_iter().for_each(visit);
    Ok(())
}

/// Whether the mapping at `address` is peer-shared memory of a GMEM kernel.
pub fn is_peer_shared(address: usize) -> bool {
    let mut is_so = false;
    let look = |mapping: Resident| {
        is_so |= mapping.is_peer_shared && (mapping.start..mapping.end).contains(&address);
    };
    each_mapping(look).is_ok() && is_so
}

/// The first line of a mapping is `start-end ...`; the others are `Name:   number kB`.
fn read_line(line: &[u8], mapping: &mut Option<Resident>, visit: &mut impl FnMut(Resident)) {
    let Ok(line) = std::str::from_utf8(line) else { return };
    let mut words = line.split_ascii_whitespace();
    let first = words.next().unwrap_or_default();
    let kilobytes = |word: Option<&str>| {
        word.and_then(|word| word.parse::<usize>().ok()).unwrap_or(0).saturating_mul(1 << 10)
    };
    match (first, mapping.as_mut()) {
        ("Rss:", Some(mapping)) => mapping.bytes = kilobytes(words.next()),
        ("AnonHugePages:", Some(mapping)) => mapping.huge = kilobytes(words.next()),
        ("ShmemPmdMapped:" | "FilePmdMapped:", Some(mapping)) => {
            mapping.huge_shared = mapping.huge_shared.saturating_add(kilobytes(words.next()));
        }
        ("VmFlags:", Some(mapping)) => {
            for flag in words {
                mapping.is_hugetlb |= flag == "ht";
                mapping.is_peer_shared |= flag == "ps";
                // Missing pages, write-protected ones, pages that are only missing in the page table.
                mapping.is_served |= ["um", "uw", "ui"].contains(&flag);
            }
        }
        _ => {
            let address = |hex| usize::from_str_radix(hex, 16).ok();
            let range =
                first.split_once('-').and_then(|(from, to)| Some((address(from)?, address(to)?)));
            if let Some((start, end)) = range {
                mapping
                    .replace(Resident { start, end, ..Resident::default() })
                    .into_iter()
                    .for_each(visit);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::mangled;

    #[test]
    fn the_process_is_resident_and_touched_memory_is_counted() {
        let block = vec![1_u8; 64 << 20];
        let (mut all, mut largest) = (0, 0);
        each_mapping(|mapping| {
            all += mapping.bytes;
            largest = largest.max(mapping.bytes);
            assert!(mapping.huge <= mapping.bytes);
        })
        .unwrap();
        assert!(largest >= block.len() && all > largest);
    }

    #[test]
    fn lines() {
        let mut seen = Vec::new();
        let mut mapping = None;
        for line in [
            "7f00-8000 rw-p 0 00:00 0 [heap]",
            "Rss:   12 kB",
            "AnonHugePages:  4 kB",
            "ShmemPmdMapped:  2048 kB",
            "VmFlags: rd wr ht ps uw",
            "9000-a000 r--p 0 00:00 0",
        ] {
            read_line(line.as_bytes(), &mut mapping, &mut |one| seen.push(one));
        }
        let expected = Resident {
            start: 0x7f00,
            end: 0x8000,
            bytes: 12 << 10,
            huge: 4 << 10,
            huge_shared: 2 << 20,
            is_hugetlb: true,
            is_peer_shared: true,
            is_served: true,
        };
        assert_eq!(seen, [expected]);
        assert_eq!(mapping.unwrap().start, 0x9000);
    }

    fn parsed(text: &[u8], piece: usize) -> Vec<Resident> {
        let (mut found, mut left) = (Vec::new(), text);
        let read = |into: &mut [u8]| Ok(file::pieces_of(&mut left, piece, into));
        parse(read, &mut |one| found.push(one)).unwrap();
        found
    }

    #[test]
    fn mangled_smaps() {
        let recorded = "\
562d0efb9000-562d0efbb000 r--p 00000000 fe:00 247282                     /usr/bin/head
Size:                  8 kB
KernelPageSize:        4 kB
Rss:                   8 kB
AnonHugePages:         0 kB
ShmemPmdMapped:        0 kB
FilePmdMapped:      2048 kB
VmFlags: rd mr mw me sd 
7f2a40000000-7f2a40200000 rw-p 00000000 00:0f 33                         /anon_hugepage (deleted)
Rss:                   0 kB
Private_Hugetlb:    2048 kB
VmFlags: rd wr mr mw me de ht sd 
";
        mangled::texts(&[recorded], |text| {
            let all = parsed(text, usize::MAX);
            assert_eq!(parsed(text, 5), all);
            assert!(all.len() <= text.split(|byte| *byte == b'\n').count());
        });
        let huge: Vec<_> =
            parsed(recorded.as_bytes(), 1).iter().map(Resident::has_huge_pages).collect();
        assert_eq!(huge, [true, true]);
    }
}
