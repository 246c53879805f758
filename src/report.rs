//! What a prefetch did.

use crate::error::Errno;

/// The receipt of one prefetch: about the range that was asked for, widened to whole base pages, not the margin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Bytes.
    pub bytes: usize,
    /// Base pages that were on the node before.
    pub there: usize,
    /// Base pages that were not in memory before, or swapped out, and are now.
    pub populated: usize,
    /// Base pages that were on another node before, and are on this one now.
    pub migrated: usize,
    /// Base pages that are not where they should be.
    pub failed: usize,
    /// GMEM pages that lie on a huge page now; `None` where the kernel does not tell.
    pub huge: Option<usize>,
    /// Whole GMEM pages that were to be huge and are not; `None` where the kernel does not tell.
    pub fallen_back: Option<usize>,
    /// Whether the kernel took so long to find huge pages that the rest was given base pages.
    pub stalled: bool,
    /// The first failure, and its address.
    pub first_failure: Option<(Errno, usize)>,
    /// Threads that worked on it, the caller's included.
    pub threads: usize,
    /// Time from the beginning of the work to its end.
    pub nanoseconds: u64,
}

impl Report {
    /// A number that the kernel does not tell: `GMEM_UNKNOWN`.
    pub const UNKNOWN: usize = usize::MAX;

    /// Nothing done yet.
    pub const EMPTY: Self = Self {
        bytes: 0,
        there: 0,
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

    /// Of so many bytes, all of which a driver has brought where they should be, without a word of where they were.
    pub const fn untold(bytes: usize) -> Self {
        let (there, populated, migrated) = (Self::UNKNOWN, Self::UNKNOWN, Self::UNKNOWN);
        let (huge, fallen_back) = (None, None);
        Self { bytes, there, populated, migrated, huge, fallen_back, ..Self::EMPTY }
    }

    /// Add what was done with another part of the same range.
    pub fn add(&mut self, part: &Self) {
        let sum = |a: Option<usize>, b: Option<usize>| Some(a? + b?);
        self.there += part.there;
        self.populated += part.populated;
        self.migrated += part.migrated;
        self.failed += part.failed;
        self.huge = sum(self.huge, part.huge);
        self.fallen_back = sum(self.fallen_back, part.fallen_back);
        self.first_failure = match (self.first_failure, part.first_failure) {
            (Some(a), Some(b)) => Some(if a.1 <= b.1 { a } else { b }),
            (a, b) => a.or(b),
        };
    }
}
