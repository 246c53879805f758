//! The flags of page frames: `/proc/kpageflags`, which only root may read.

use super::file::Descriptor;
use super::{SysResult, mapping, pagemap};
use crate::page::PageRange;

const REFERENCED: u64 = 1 << 2;
const ACTIVE: u64 = 1 << 6;
const COMPOUND_HEAD: u64 = 1 << 15;
const COMPOUND_TAIL: u64 = 1 << 16;

/// The open file.
pub struct PageFlags(Descriptor);

impl PageFlags {
    /// `None` if this process may not see page frames and their flags.
    pub fn open() -> Option<Self> {
        let flags = Descriptor::open_for_reading(c"/proc/kpageflags").ok()?;
        // The page of this variable is certainly present.
        let here = 1_u8;
        let page = mapping::base_page();
        let at = page.floor((&raw const here).addr());
        let frames = pagemap::frames(PageRange::new(at, at + page.bytes())).ok()?;
        (frames.first()? != &0).then_some(Self(flags))
    }

    /// Whether each frame is marked as referenced or active; false for 0, which is no frame.
    pub fn hot(&self, frames: &[u64]) -> SysResult<Vec<bool>> {
        /// Gaps of this many frames are read as well if that saves a call.
        const GAP: u64 = 64;
        const SPAN: usize = 4096;

        let mut hot = vec![false; frames.len()];
        let mut order: Vec<(u64, usize)> =
            frames.iter().enumerate().map(|(index, frame)| (*frame, index)).collect();
        order.retain(|(frame, _)| *frame != 0);
        order.sort_unstable();
        let mut words = [0; SPAN];
        let mut rest = &order[..];
        while let Some((first, _)) = rest.first().copied() {
            let near = |pair: &[(u64, usize)]| {
                pair[1].0 - pair[0].0 <= GAP && pair[1].0 - first < SPAN as u64
            };
            let length = 1 + rest.windows(2).take_while(|pair| near(pair)).count();
            let (span, behind) = rest.split_at(length);
            let last = span.last().map_or(first, |(frame, _)| *frame);
            let words = &mut words[..(last - first) as usize + 1];
            self.read(first, words)?;
            self.spread_heads(first, words)?;
            for (frame, index) in span {
                hot[*index] = words[(frame - first) as usize] & (REFERENCED | ACTIVE) != 0;
            }
            rest = behind;
        }
        Ok(hot)
    }

    fn read(&self, first: u64, words: &mut [u64]) -> SysResult<()> {
        let got = self.0.read_words_at(words, first as usize * size_of::<u64>())?;
        words[got..].fill(0);
        Ok(())
    }

    /// Copy the flags of large pages from the first frame to the others: kernels before 6.11 show them only at the first.
    fn spread_heads(&self, first: u64, words: &mut [u64]) -> SysResult<()> {
        let mut head = 0;
        if words.first().is_some_and(|word| word & COMPOUND_TAIL != 0) {
            let most = (mapping::huge_page().bytes() / mapping::base_page().bytes()) as u64;
            let mut before = vec![0; (first % most) as usize];
            self.read(first - first % most, &mut before)?;
            head = before.into_iter().rfind(|word| word & COMPOUND_HEAD != 0).unwrap_or(0);
        }
        for word in words {
            if *word & COMPOUND_HEAD != 0 {
                head = *word;
            } else if *word & COMPOUND_TAIL != 0 {
                *word = head;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::os::advice;
    use crate::os::mapping::Mapping;

    #[test]
    fn what_is_read_twice_is_hot_and_no_frame_is_not() {
        let Some(flags) = PageFlags::open() else { return };
        let mapping = Mapping::of_base_pages(64);
        let range = mapping.range();
        advice::populate_write(range).unwrap();
        advice::populate_read(range).unwrap();
        advice::populate_read(range).unwrap();
        let mut frames = pagemap::frames(range).unwrap();
        frames.push(0);
        let hot = flags.hot(&frames).unwrap();
        assert!(hot[..64].iter().all(|hot| *hot) && !hot[64], "{hot:?}");
    }
}
