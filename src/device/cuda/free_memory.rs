//! How much memory a GPU has free: a prefetch of more would have the driver move other memory out, back and forth.
//!
//! What was there once keeps its room there when it goes back, until somebody else needs that: the driver counts such room
//! as taken. So libgmem notes which of its blocks were there.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::driver::{Context, CuCode, CuResult, Event};
use super::{Accelerator, Gpu};
use crate::device::common::RangeSet;
use crate::error::{Error, Result, Target};
use crate::os::mapping;
use crate::page::PageRange;

/// Asking takes much longer than registering a prefetch does, so small ones share an answer.
#[derive(Default)]
pub struct Room {
    asked: Mutex<Option<Answer>>,
    /// What of libgmem's blocks has been on the current GPU.
    there: Mutex<RangeSet>,
    /// What is on its way there, as long as the place behind it in its stream has not been reached.
    underway: Mutex<Vec<(Event, usize)>>,
    /// The other GPUs that something went to, by their ordinals. The driver moves nothing to one that has no context.
    others: Mutex<Vec<(i32, Arc<Context>)>>,
}

struct Answer {
    when: Instant,
    free: usize,
    /// Bytes that were sent there since.
    since: usize,
}

/// For so long, and for so much of it, an answer holds.
const LASTS: Duration = Duration::from_millis(100);
const SHARE: usize = 8;
/// Parts of a range that are asked for apart: 64.
const HALVINGS: u32 = 6;

impl Room {
    /// Whether the last answer is enough to know that so many bytes more fit.
    fn is_known_to_fit(&self, bytes: usize) -> bool {
        let mut asked = lock(&self.asked);
        let Some(answer) = asked.as_mut() else { return false };
        let sent = answer.since.saturating_add(bytes);
        let fits = sent <= answer.free / SHARE && answer.when.elapsed() < LASTS;
        if fits {
            answer.since = sent;
        }
        fits
    }

    fn note(&self, free: usize, bytes: usize) {
        let answer = Answer { when: Instant::now(), free, since: bytes };
        *lock(&self.asked) = Some(answer);
    }

    /// Bytes of libgmem's blocks that have room on the GPU.
    pub fn bytes_there(&self) -> usize {
        lock(&self.there).iter().map(PageRange::len).sum()
    }

    /// What of these parts has none there, as far as libgmem knows.
    fn without_room(&self, parts: &[PageRange]) -> Vec<PageRange> {
        let there = lock(&self.there);
        parts.iter().flat_map(|part| there.missing(*part)).collect()
    }

    /// What has room there and is none of these parts.
    fn apart_from(&self, parts: &[PageRange]) -> RangeSet {
        let mut others = lock(&self.there).clone();
        parts.iter().for_each(|part| others.remove(*part));
        others
    }

    /// A block is about to be given back.
    pub fn has_gone(&self, block: PageRange) {
        lock(&self.there).remove(block);
    }
}

fn lock<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the answer to [`Accelerator::has_room`] was worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fits {
    /// A small part of what is free.
    Easily,
    /// It is to be counted until it is there.
    Counted(usize),
}

impl Accelerator {
    /// Refuse what the GPU has no room for.
    pub fn has_room(&self, asked: PageRange, parts: &[PageRange], gpu: &Gpu) -> Result<Fits> {
        let is_current = *gpu == self.current().gpu;
        let all: usize = parts.iter().map(|part| part.len()).sum();
        if is_current && self.room.is_known_to_fit(all) {
            return Ok(Fits::Easily);
        }
        let on = Target::Range { from: asked.start(), to: asked.end() };
        let failed = |code: CuCode| code.error("cuMemGetInfo, before the prefetch", on);
        let free = if is_current {
            self.context.free_bytes().map(|free| free.saturating_sub(self.bytes_underway()))
        } else {
            self.context_on(gpu).and_then(|other| other.free_bytes())
        }
        .map_err(failed)?;
        let without = if is_current { self.room.without_room(parts) } else { parts.to_vec() };
        let new = without.iter().map(|range| range.len()).sum();
        if new <= free / SHARE && is_current {
            self.room.note(free, new);
            return Ok(Fits::Easily);
        }
        if new <= free {
            return Ok(Fits::Counted(new));
        }
        let not_sent = |range: PageRange| self.not_sent(range, gpu.ordinal, HALVINGS);
        let needed = without.into_iter().map(not_sent).sum();
        let others = if is_current { self.room.apart_from(parts) } else { RangeSet::default() };
        let left_behind: usize = others.iter().map(not_sent).sum();
        if needed <= free + left_behind {
            return Ok(Fits::Counted(needed));
        }
        let (from, to) = (asked.start(), asked.end());
        let whose = format!("GPU {} ({})", gpu.ordinal, gpu.name);
        Err(Error::NoRoom { from, to, needed, free: free + left_behind, whose })
    }

    fn context_on(&self, gpu: &Gpu) -> CuResult<Arc<Context>> {
        let mut others = lock(&self.room.others);
        if let Some((_, known)) = others.iter().find(|(ordinal, _)| *ordinal == gpu.ordinal) {
            return Ok(Arc::clone(known));
        }
        let made = Arc::new(Context::new(Arc::clone(&self.driver), gpu)?);
        others.push((gpu.ordinal, Arc::clone(&made)));
        Ok(made)
    }

    /// A prefetch to the current GPU was put on a stream.
    pub fn was_sent(&self, parts: &[PageRange], stream: usize, fits: Fits) {
        for part in parts {
            if lock(&self.room.there).has(*part) {
                continue;
            }
            let own = self.regions.within(*part);
            let mut there = lock(&self.room.there);
            own.into_iter().for_each(|own| there.insert(own));
        }
        if let Fits::Counted(bytes) = fits
            && bytes != 0
            && let Ok(event) = self.context.record_event(stream)
        {
            lock(&self.room.underway).push((event, bytes));
        }
    }

    /// Bytes that the driver has been told to move and has not moved yet.
    fn bytes_underway(&self) -> usize {
        let mut underway = lock(&self.room.underway);
        let (left, done): (Vec<_>, _) = underway
            .drain(..)
            .partition(|(event, _)| matches!(self.context.has_completed(event), Ok(false)));
        *underway = left;
        done.into_iter().for_each(|(event, _)| self.context.give_back(event));
        underway.iter().map(|(_, bytes)| bytes).sum()
    }

    /// Bytes of a part that were not asked to go to the GPU before. Of a range that is so in part the driver only says
    /// that; so it is halved, a few times.
    fn not_sent(&self, part: PageRange, ordinal: i32, halvings: u32) -> usize {
        if self.context.was_sent_to(ordinal, part) {
            return 0;
        }
        let page = mapping::gmem_page();
        let middle = page.floor(part.start() + part.len() / 2);
        if halvings == 0 || middle <= part.start() {
            return part.len();
        }
        let halves = [PageRange::new(part.start(), middle), PageRange::new(middle, part.end())];
        halves.into_iter().map(|half| self.not_sent(half, ordinal, halvings - 1)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_enough_for_a_small_part_of_it() {
        let room = Room::default();
        assert!(!room.is_known_to_fit(1));
        room.note(800, 0);
        assert!(room.is_known_to_fit(60) && room.is_known_to_fit(40));
        assert!(!room.is_known_to_fit(1));
        room.note(800, 0);
        assert!(!room.is_known_to_fit(101) && !room.is_known_to_fit(usize::MAX));
    }
}
