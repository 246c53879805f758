//! A set of addresses, as ranges that neither touch nor overlap.

use std::collections::BTreeMap;

use crate::page::PageRange;

/// The ends of the ranges, by their starts.
#[derive(Clone, Default)]
pub struct RangeSet(BTreeMap<usize, usize>);

impl RangeSet {
    /// Add a range.
    pub fn insert(&mut self, range: PageRange) {
        if range.is_empty() {
            return;
        }
        let mut whole = range;
        let before_end = self.0.range(..=range.end()).rev();
        let joined: Vec<_> = before_end
            .map(|(start, end)| PageRange::new(*start, *end))
            .take_while(|known| known.end() >= range.start())
            .collect();
        for known in joined {
            self.0.remove(&known.start());
            whole = whole.union(known).unwrap_or(whole);
        }
        self.0.insert(whole.start(), whole.end());
    }

    /// Remove a range.
    pub fn remove(&mut self, range: PageRange) {
        for known in self.touched(range) {
            self.0.remove(&known.start());
            for rest in [
                PageRange::new(known.start(), range.start().min(known.end())),
                PageRange::new(range.end().max(known.start()), known.end()),
            ] {
                if !rest.is_empty() {
                    self.0.insert(rest.start(), rest.end());
                }
            }
        }
    }

    /// Whether the whole range is in the set.
    pub fn has(&self, range: PageRange) -> bool {
        self.0.range(..=range.start()).next_back().is_some_and(|(_, end)| *end >= range.end())
    }

    /// The parts of a range that are in the set, ascending.
    pub fn within(&self, range: PageRange) -> Vec<PageRange> {
        self.touched(range).into_iter().map(|known| known.intersect(range)).collect()
    }

    /// The parts of a range that are not in the set, ascending.
    pub fn missing(&self, range: PageRange) -> Vec<PageRange> {
        let mut gaps = Vec::new();
        let mut at = range.start();
        for known in self.within(range) {
            gaps.push(PageRange::new(at, known.start()));
            at = known.end();
        }
        gaps.push(PageRange::new(at, range.end()));
        gaps.retain(|gap| !gap.is_empty());
        gaps
    }

    /// All ranges, ascending.
    pub fn iter(&self) -> impl Iterator<Item = PageRange> {
        self.0.iter().map(|(start, end)| PageRange::new(*start, *end))
    }

    fn touched(&self, range: PageRange) -> Vec<PageRange> {
        let before_end = self.0.range(..range.end()).rev();
        let mut known: Vec<_> = before_end
            .map(|(start, end)| PageRange::new(*start, *end))
            .take_while(|known| known.end() > range.start())
            .collect();
        known.reverse();
        known
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: usize, end: usize) -> PageRange {
        PageRange::new(start, end)
    }

    #[test]
    fn what_touches_is_joined_and_what_is_taken_out_leaves_its_sides() {
        let mut ranges = RangeSet::default();
        for (start, end) in [(10, 20), (40, 50), (20, 30), (48, 60), (70, 70)] {
            ranges.insert(range(start, end));
        }
        assert_eq!(ranges.iter().collect::<Vec<_>>(), [range(10, 30), range(40, 60)]);
        assert_eq!(ranges.within(range(25, 45)), [range(25, 30), range(40, 45)]);
        assert_eq!(ranges.missing(range(5, 70)), [range(5, 10), range(30, 40), range(60, 70)]);
        assert_eq!(ranges.missing(range(12, 13)), []);
        assert!(ranges.has(range(10, 30)) && ranges.has(range(41, 42)));
        assert!(
            !ranges.has(range(9, 30)) && !ranges.has(range(10, 31)) && !ranges.has(range(30, 40))
        );
        ranges.remove(range(15, 45));
        assert_eq!(ranges.iter().collect::<Vec<_>>(), [range(10, 15), range(45, 60)]);
        ranges.insert(range(0, 100));
        assert_eq!(ranges.iter().collect::<Vec<_>>(), [range(0, 100)]);
        ranges.remove(range(0, 200));
        assert_eq!(ranges.iter().count(), 0);
    }

    #[test]
    fn it_is_the_set_that_a_bitmap_is() {
        let mut ranges = RangeSet::default();
        let mut bits = [false; 64];
        let mut number = 1_u32;
        for _ in 0..2000 {
            number = number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let (a, b) = ((number >> 8) as usize % 64, (number >> 16) as usize % 64);
            let part = range(a.min(b), a.max(b));
            let is_in = number >> 31 == 0;
            bits[part.start()..part.end()].fill(is_in);
            if is_in {
                ranges.insert(part);
            } else {
                ranges.remove(part);
            }
            let known = ranges.within(range(0, 64)).iter().map(|part| part.len()).sum::<usize>();
            assert_eq!(known, bits.iter().filter(|bit| **bit).count());
            for part in ranges.iter() {
                assert!(bits[part.start()..part.end()].iter().all(|bit| *bit));
            }
        }
    }
}
