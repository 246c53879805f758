//! The features that this kernel offers this process. They are tried, not derived from a version number, because distributions
//! port features back and sandboxes take them away.

use super::{advice, faults, numa, pagemap, vma};

/// A feature that not every kernel has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feature {
    /// `MADV_POPULATE_READ` and `_WRITE` (Linux 5.14).
    Populate,
    /// `MADV_DONTNEED_LOCKED` (Linux 5.18).
    DropLocked,
    /// `MADV_COLLAPSE` (Linux 6.1).
    Collapse,
    /// The ioctl `PAGEMAP_SCAN` (Linux 6.7).
    PagemapScan,
    /// The ioctl `PROCMAP_QUERY` (Linux 6.11).
    ProcmapQuery,
    /// The software counter of page faults (`perf_event_open(2)`).
    FaultCounter,
    /// `set_mempolicy(2)` and `get_mempolicy(2)`.
    MemoryPolicy,
    /// `move_pages(2)`.
    MovePages,
}

impl Feature {
    /// All features, oldest first.
    pub const ALL: [Self; 8] = [
        Self::Populate,
        Self::DropLocked,
        Self::Collapse,
        Self::PagemapScan,
        Self::ProcmapQuery,
        Self::FaultCounter,
        Self::MemoryPolicy,
        Self::MovePages,
    ];

    /// The kernel's name of the feature.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Populate => "MADV_POPULATE",
            Self::DropLocked => "MADV_DONTNEED_LOCKED",
            Self::Collapse => "MADV_COLLAPSE",
            Self::PagemapScan => "PAGEMAP_SCAN",
            Self::ProcmapQuery => "PROCMAP_QUERY",
            Self::FaultCounter => "PERF_COUNT_SW_PAGE_FAULTS",
            Self::MemoryPolicy => "set_mempolicy",
            Self::MovePages => "move_pages",
        }
    }

    /// Try the feature, in a way that does no harm.
    pub fn works(self) -> bool {
        match self {
            Self::Populate => advice::can_populate(),
            Self::DropLocked => advice::can_drop_locked(),
            Self::Collapse => advice::can_collapse(),
            Self::PagemapScan => pagemap::knows_huge(),
            Self::ProcmapQuery => vma::can_query(),
            Self::FaultCounter => faults::can_count(),
            Self::MemoryPolicy => numa::has_policies().is_ok(),
            Self::MovePages => numa::can_move().is_ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first kernel with each, where nobody has ported it back.
    #[test]
    fn what_this_version_must_have_works() {
        let release = crate::os::file::read_text("/proc/sys/kernel/osrelease").unwrap_or_default();
        let mut numbers =
            release.split(|c: char| !c.is_ascii_digit()).map_while(|n| n.parse().ok());
        let version: (u32, u32) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        for (feature, since) in [
            (Feature::Populate, (5, 14)),
            (Feature::DropLocked, (5, 18)),
            (Feature::PagemapScan, (6, 7)),
            (Feature::ProcmapQuery, (6, 11)),
        ] {
            assert!(feature.works() || version < since, "{feature:?} on {release}");
        }
    }
}
