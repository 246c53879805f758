//! Page sizes and ranges: rounding inward and outward, every addition checked.

use crate::error::{Error, Result};

/// A page size in bytes; always a power of two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageSize(usize);

impl PageSize {
    /// `None` unless `bytes` is a power of two.
    pub const fn new(bytes: usize) -> Option<Self> {
        if bytes.is_power_of_two() { Some(Self(bytes)) } else { None }
    }

    /// The size in bytes.
    pub const fn bytes(self) -> usize {
        self.0
    }

    /// The greatest multiple of the page size that is at most `address`.
    pub const fn floor(self, address: usize) -> usize {
        address & !(self.0 - 1)
    }

    /// The least multiple that is at least `address`; `None` when that exceeds the address space.
    pub const fn ceil(self, address: usize) -> Option<usize> {
        match address.checked_add(self.0 - 1) {
            Some(sum) => Some(self.floor(sum)),
            None => None,
        }
    }
}

/// Addresses `start..end` of this process. May be empty, never wraps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageRange {
    start: usize,
    end: usize,
}

impl PageRange {
    /// The range `[addr, addr + size)` that a caller passed.
    pub fn from_arguments(addr: usize, size: usize) -> Result<Self> {
        match addr.checked_add(size) {
            Some(end) => Ok(Self { start: addr, end }),
            None => Err(Error::RangeOverflow { addr, size }),
        }
    }

    /// `start..end`; empty where `end` does not exceed `start`.
    pub const fn new(start: usize, end: usize) -> Self {
        Self { start, end: if end > start { end } else { start } }
    }

    /// First address.
    pub const fn start(self) -> usize {
        self.start
    }

    /// First address behind the range.
    pub const fn end(self) -> usize {
        self.end
    }

    /// Bytes in it.
    pub const fn len(self) -> usize {
        self.end - self.start
    }

    /// Whether it holds nothing.
    pub const fn is_empty(self) -> bool {
        self.start == self.end
    }

    /// The whole pages inside.
    pub const fn inward(self, page: PageSize) -> Self {
        match page.ceil(self.start) {
            Some(start) => Self::new(start, page.floor(self.end)),
            None => Self::new(self.start, self.start),
        }
    }

    /// The pages that it touches; the last page of the address space counts only in part, so that
    /// the end stays representable. An empty range touches none.
    pub const fn outward(self, page: PageSize) -> Self {
        if self.is_empty() {
            return self;
        }
        let end = match page.ceil(self.end) {
            Some(end) => end,
            None => page.floor(self.end),
        };
        let range = Self::new(page.floor(self.start), end);
        if range.end < self.end { Self::new(range.start, self.end) } else { range }
    }

    /// The bytes that lie in both ranges.
    pub fn intersect(self, other: Self) -> Self {
        Self::new(self.start.max(other.start), self.end.min(other.end))
    }

    /// Both as one, if they overlap or touch.
    pub fn union(self, other: Self) -> Option<Self> {
        (self.start <= other.end && other.start <= self.end)
            .then(|| Self::new(self.start.min(other.start), self.end.max(other.end)))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const HUGE: PageSize = PageSize(2 << 20);

    #[test]
    fn inward_keeps_only_whole_pages() {
        let page = HUGE.bytes();
        for (start, size, expected) in [
            (page, page, Some((page, 2 * page))),
            (page + 1, page, None),
            (page - 1, page, None),
            (page - 1, page + 1, Some((page, 2 * page))),
            (page, 2 * page - 1, Some((page, 2 * page))),
            (0, 0, None),
            (usize::MAX - 5, 5, None),
        ] {
            let range = PageRange::from_arguments(start, size).unwrap().inward(HUGE);
            match expected {
                Some((from, to)) => assert_eq!((range.start(), range.end()), (from, to)),
                None => assert!(range.is_empty(), "{start:#x}+{size:#x} gave {range:?}"),
            }
        }
    }

    #[test]
    fn outward_covers_every_touched_page() {
        let page = HUGE.bytes();
        let range = |start, size| PageRange::from_arguments(start, size).unwrap().outward(HUGE);
        assert_eq!(range(page, 1), PageRange::new(page, 2 * page));
        assert_eq!(range(page - 1, 2), PageRange::new(0, 2 * page));
        assert!(range(page + 7, 0).is_empty());
        assert_eq!(range(usize::MAX - 9, 9).end(), usize::MAX);
    }

    #[test]
    fn overflow_is_refused() {
        assert!(PageRange::from_arguments(usize::MAX, usize::MAX).is_err());
        assert!(PageRange::from_arguments(usize::MAX, 0).is_ok());
    }

    #[test]
    fn union_joins_neighbours_only() {
        let a = PageRange::new(0, 10);
        assert_eq!(a.union(PageRange::new(10, 20)), Some(PageRange::new(0, 20)));
        assert_eq!(a.union(PageRange::new(5, 7)), Some(a));
        assert_eq!(a.union(PageRange::new(11, 20)), None);
    }
}
