//! The ranges of one call as a set of addresses: sorted blocks that neither overlap nor touch.

use crate::error::{Error, Result};
use crate::page::PageRange;

/// Disjoint blocks in ascending order.
#[derive(Debug, PartialEq, Eq)]
pub struct RangeSet {
    blocks: Vec<PageRange>,
}

impl RangeSet {
    /// The union of the ranges that a caller passed as address and size. Empty ranges add nothing.
    pub fn union_of(ranges: impl ExactSizeIterator<Item = (usize, usize)>) -> Result<Self> {
        let mut blocks = Vec::new();
        if blocks.try_reserve_exact(ranges.len()).is_err() {
            return Err(Error::OutOfMemory { what: "the union of the ranges" });
        }
        for (index, (addr, size)) in ranges.enumerate() {
            let range = PageRange::from_arguments(addr, size)
                .map_err(|error| Error::InBatch { index, error: Box::new(error) })?;
            if !range.is_empty() {
                blocks.push(range);
            }
        }
        blocks.sort_unstable_by_key(|block: &PageRange| block.start());
        blocks.dedup_by(|next, block| match block.union(*next) {
            Some(both) => {
                *block = both;
                true
            }
            None => false,
        });
        Ok(Self { blocks })
    }

    /// One range.
    pub fn of(range: PageRange) -> Self {
        Self { blocks: vec![range] }
    }

    /// The blocks in ascending order.
    pub fn blocks(&self) -> &[PageRange] {
        &self.blocks
    }

    /// Bytes in all blocks.
    pub fn bytes(&self) -> usize {
        // Disjoint blocks of one address space.
        self.blocks.iter().map(|block| block.len()).sum()
    }

    /// First address; 0 if there is no block.
    pub fn start(&self) -> usize {
        self.blocks.first().map_or(0, |block| block.start())
    }

    /// First address behind the last block; 0 if there is none.
    pub fn end(&self) -> usize {
        self.blocks.last().map_or(0, |block| block.end())
    }

    /// Each block as `round` makes it, without those that become empty. `round` must not let blocks overlap.
    pub fn rounded(mut self, round: impl Fn(PageRange) -> PageRange) -> Self {
        self.blocks.retain_mut(|block| {
            *block = round(*block);
            !block.is_empty()
        });
        self
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::page::PageSize;

    fn union(ranges: &[(usize, usize)]) -> Vec<(usize, usize)> {
        let set = RangeSet::union_of(ranges.iter().copied()).unwrap();
        set.blocks().iter().map(|block| (block.start(), block.end())).collect()
    }

    #[test]
    fn ranges_that_overlap_or_touch_are_one_block() {
        assert_eq!(union(&[]), []);
        assert_eq!(union(&[(5, 0), (usize::MAX, 0)]), []);
        assert_eq!(union(&[(20, 10), (0, 10), (10, 10)]), [(0, 30)]);
        assert_eq!(union(&[(0, 100), (10, 5), (50, 50), (101, 1)]), [(0, 100), (101, 102)]);
        assert_eq!(union(&[(7, 3), (7, 3), (0, 6)]), [(0, 6), (7, 10)]);
    }

    #[test]
    fn rounding_comes_after_the_union() {
        let page = PageSize::new(16).unwrap();
        let set = RangeSet::union_of([(0, 8), (8, 8), (20, 20)].into_iter()).unwrap();
        assert_eq!(set.bytes(), 36);
        let whole = set.rounded(|block| block.inward(page));
        assert_eq!(whole.blocks(), [PageRange::new(0, 16)]);
    }

    #[test]
    fn an_overflow_names_the_range() {
        let failure = RangeSet::union_of([(0, 8), (usize::MAX, 2)].into_iter()).unwrap_err();
        assert!(failure.to_string().starts_with("ranges[1]: "), "{failure}");
    }
}
