//! Numbers of pages by flag and by node.

use std::collections::BTreeMap;

use super::{FLAGS, PageState, RESIDENT};

/// Numbers of pages by flag and by node.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Tally {
    /// Pages counted.
    pub pages: usize,
    flags: [usize; FLAGS.len()],
    /// Resident pages by node; -1 for an unknown node.
    pub nodes: BTreeMap<i16, usize>,
}

impl Tally {
    /// Count states, one per page.
    pub fn of(states: &[PageState]) -> Self {
        let mut tally = Self::default();
        states.chunk_by(|a, b| a == b).for_each(|alike| tally.add(alike.len(), alike[0]));
        tally
    }

    /// Count pages with the same state.
    pub fn add(&mut self, pages: usize, state: PageState) {
        self.pages += pages;
        for (count, (flag, _)) in self.flags.iter_mut().zip(FLAGS) {
            *count += if state.is(flag) { pages } else { 0 };
        }
        if state.is(RESIDENT) {
            *self.nodes.entry(state.node).or_default() += pages;
        }
    }

    /// Number of pages with `flag`.
    pub fn count(&self, flag: u16) -> usize {
        FLAGS.iter().position(|(other, _)| *other == flag).map_or(0, |index| self.flags[index])
    }
}

#[cfg(test)]
mod tests {
    use super::super::{HUGE, MAPPED};
    use super::*;

    #[test]
    fn pages_are_counted_by_flag_and_node() {
        let there = PageState { node: 2, flags: MAPPED | RESIDENT };
        let mapped = PageState { node: -1, flags: MAPPED };
        let tally = Tally::of(&[mapped, there, there, PageState::UNMAPPED]);
        assert_eq!((tally.pages, tally.count(MAPPED), tally.count(RESIDENT)), (4, 3, 2));
        assert_eq!((tally.count(HUGE), tally.nodes.get(&2), tally.nodes.len()), (0, Some(&2), 1));
    }
}
