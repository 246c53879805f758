//! `gmemRange_t`: the ranges of a call with many of them.

use std::ffi::c_ulong;
use std::slice;

use crate::error::{Error, Result};
use crate::page::PageRange;
use crate::range_set::RangeSet;

/// `gmemRange_t`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Range {
    addr: c_ulong,
    size: usize,
}

impl Range {
    /// The range as C has it.
    pub const fn new(range: PageRange) -> Self {
        Self { addr: range.start() as c_ulong, size: range.len() }
    }
}

/// A caller's array of ranges.
pub struct Ranges<'a>(&'a [Range]);

impl Ranges<'_> {
    /// # Safety
    /// `ranges` is NULL or points to `count` ranges, which nobody writes to while the value is used.
    pub unsafe fn new(ranges: *const Range, count: usize) -> Result<Self> {
        if count == 0 {
            return Ok(Self(&[]));
        }
        if ranges.is_null() {
            return Err(Error::Null {
                argument: "ranges",
                wanted: "the address of `count` ranges",
            });
        }
        if count > isize::MAX as usize / size_of::<Range>() {
            return Err(Error::TooManyRanges { count });
        }
        // SAFETY: not NULL, so there are `count` ranges; their bytes are at most isize::MAX, and any bits are a Range.
        Ok(Self(unsafe { slice::from_raw_parts(ranges, count) }))
    }

    /// The addresses in all ranges.
    pub fn union(&self) -> Result<RangeSet> {
        RangeSet::union_of(self.0.iter().map(|range| (range.addr as usize, range.size)))
    }

    /// Each range, in the caller's order.
    pub fn each(&self) -> Result<Vec<PageRange>> {
        let mut ranges = Vec::new();
        if ranges.try_reserve_exact(self.0.len()).is_err() {
            return Err(Error::OutOfMemory { what: "the list of ranges" });
        }
        for (index, range) in self.0.iter().enumerate() {
            let checked = PageRange::from_arguments(range.addr as usize, range.size);
            ranges.push(checked.map_err(|error| Error::InBatch { index, error: Box::new(error) })?);
        }
        Ok(ranges)
    }
}
