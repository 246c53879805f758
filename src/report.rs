//! Results of a prefetch.

use crate::error::Errno;

/// The report of one prefetch. It covers the range asked for, widened to whole base pages, without the margin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Bytes asked for.
    pub bytes: usize,
    /// Base pages that were on the node before.
    pub already_resident: usize,
    /// Base pages that were not in memory before, or swapped out, and are on the node now.
    pub populated: usize,
    /// Base pages that were on another node before and are on this one now.
    pub migrated: usize,
    /// Base pages that are not on the node now.
    pub failed: usize,
    /// GMEM pages that lie on a huge page now; `None` where the kernel does not say.
    pub huge: Option<usize>,
    /// Whole GMEM pages that should be huge and are not; `None` where the kernel does not say.
    pub fallen_back: Option<usize>,
    /// Whether huge pages took the kernel so long that the rest got base pages.
    pub stalled: bool,
    /// The first failure, and its address.
    pub first_failure: Option<(Errno, usize)>,
    /// Threads that worked on it, the caller's included.
    pub threads: usize,
    /// Duration of the work.
    pub nanoseconds: u64,
}

impl Report {
    /// `GMEM_UNKNOWN`: a number that nobody knows.
    pub const UNKNOWN: usize = usize::MAX;

    /// Nothing done yet.
    pub const EMPTY: Self = Self {
        bytes: 0,
        already_resident: 0,
        populated: 0,
        migrated: 0,
        failed: 0,
        huge: Some(0),
        fallen_back: Some(0),
        stalled: false,
        first_failure: None,
        threads: 0,
        nanoseconds: 0,
    };

    /// A driver moved all `bytes`, without saying where they were before.
    pub const fn unknown(bytes: usize) -> Self {
        Self {
            bytes,
            already_resident: Self::UNKNOWN,
            populated: Self::UNKNOWN,
            migrated: Self::UNKNOWN,
            huge: None,
            fallen_back: None,
            ..Self::EMPTY
        }
    }

    /// A prefetch of `bytes` failed before anybody looked at the pages: none was moved, and where they are is unknown.
    pub const fn refused(bytes: usize) -> Self {
        Self {
            bytes,
            already_resident: Self::UNKNOWN,
            failed: Self::UNKNOWN,
            huge: None,
            fallen_back: None,
            ..Self::EMPTY
        }
    }

    /// Number of pages that the report accounts for.
    pub const fn counted_pages(&self) -> usize {
        self.already_resident
            .saturating_add(self.populated)
            .saturating_add(self.migrated)
            .saturating_add(self.failed)
    }

    /// Add the report of another part of the same range.
    pub fn add(&mut self, part: &Self) {
        let sum = |a: Option<usize>, b: Option<usize>| Some(a? + b?);
        // UNKNOWN stays UNKNOWN.
        self.already_resident = self.already_resident.saturating_add(part.already_resident);
        self.populated = self.populated.saturating_add(part.populated);
        self.migrated = self.migrated.saturating_add(part.migrated);
        self.failed = self.failed.saturating_add(part.failed);
        self.huge = sum(self.huge, part.huge);
        self.fallen_back = sum(self.fallen_back, part.fallen_back);
        self.first_failure = match (self.first_failure, part.first_failure) {
            (Some(a), Some(b)) => Some(if a.1 <= b.1 { a } else { b }),
            (a, b) => a.or(b),
        };
    }

    /// Add the report of another range, prefetched after this one. `bytes` stays.
    pub fn append(&mut self, next: &Self) {
        self.add(next);
        self.stalled |= next.stalled;
        self.threads = self.threads.max(next.threads);
        self.nanoseconds = self.nanoseconds.saturating_add(next.nanoseconds);
    }
}
