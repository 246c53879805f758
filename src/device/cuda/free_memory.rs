//! The free memory of a GPU. A prefetch of more would make the driver move other memory out, and back again.
//!
//! Memory that moves back to the machine keeps its space on the GPU until other memory needs it, and the driver counts such
//! space as used. So libgmem records which of its blocks have space there.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::driver::{Context, CuCode, CuResult, Event};
use super::{Accelerator, Gpu};
use crate::device::common::RangeSet;
use crate::error::{Error, Result, Target};
use crate::os::mapping;
use crate::page::PageRange;

/// The GPU's free memory, as far as it is known. A query takes much longer than enqueuing a prefetch, so small prefetches
/// share one.
#[derive(Default)]
pub struct FreeMemory {
    asked: Mutex<Option<Answer>>,
    /// The parts of libgmem's blocks that have space on the current GPU.
    resident: Mutex<RangeSet>,
    /// Transfers to the GPU whose event has not completed, with their bytes.
    underway: Mutex<Vec<(Event, usize)>>,
    /// Contexts of the other GPUs that were destinations. The driver moves nothing to a GPU without one.
    others: Mutex<Vec<(i32, Arc<Context>)>>,
}

struct Answer {
    when: Instant,
    free: usize,
    /// Bytes that were sent to the GPU since.
    since: usize,
}

/// An answer is valid for this time, and for this share of the free bytes.
const LASTS: Duration = Duration::from_millis(100);
const SHARE: usize = 8;
/// A range is queried in up to 64 parts.
const HALVINGS: u32 = 6;

impl FreeMemory {
    /// Whether `bytes` more certainly fit, according to the last answer.
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

    /// The bytes of libgmem's blocks that have space on the GPU.
    pub fn resident_bytes(&self) -> usize {
        lock(&self.resident).iter().map(PageRange::len).sum()
    }

    /// The parts of these ranges that have no space on the GPU, as far as libgmem knows.
    fn without_space(&self, parts: &[PageRange]) -> Vec<PageRange> {
        let resident = lock(&self.resident);
        parts.iter().flat_map(|part| resident.missing(*part)).collect()
    }

    /// The ranges that have space on the GPU and are not among these parts.
    fn apart_from(&self, parts: &[PageRange]) -> RangeSet {
        let mut others = lock(&self.resident).clone();
        parts.iter().for_each(|part| others.remove(*part));
        others
    }

    /// A block is about to be freed.
    pub fn has_gone(&self, block: PageRange) {
        lock(&self.resident).remove(block);
    }
}

fn lock<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How a prefetch fits into the free memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fits {
    /// It is a small share of the free memory.
    Easily,
    /// Its bytes have to be counted until they have arrived.
    Counted(usize),
}

impl Accelerator {
    /// Refuse a prefetch that does not fit into the free memory of the GPU.
    pub fn check_free_memory(
        &self,
        asked: PageRange,
        parts: &[PageRange],
        gpu: &Gpu,
    ) -> Result<Fits> {
        let is_current = *gpu == self.current().gpu;
        let all: usize = parts.iter().map(|part| part.len()).sum();
        if is_current && self.free_memory.is_known_to_fit(all) {
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
        let without =
            if is_current { self.free_memory.without_space(parts) } else { parts.to_vec() };
        let new = without.iter().map(|range| range.len()).sum();
        if new <= free / SHARE && is_current {
            self.free_memory.note(free, new);
            return Ok(Fits::Easily);
        }
        if new <= free {
            return Ok(Fits::Counted(new));
        }
        let not_sent = |range: PageRange| self.not_sent(range, gpu.ordinal, HALVINGS);
        let needed = without.into_iter().map(not_sent).sum();
        let others =
            if is_current { self.free_memory.apart_from(parts) } else { RangeSet::default() };
        let left_behind: usize = others.iter().map(not_sent).sum();
        if needed <= free + left_behind {
            return Ok(Fits::Counted(needed));
        }
        let (from, to) = (asked.start(), asked.end());
        let whose = format!("GPU {} ({})", gpu.ordinal, gpu.name);
        Err(Error::NotEnoughMemory { from, to, needed, free: free + left_behind, whose })
    }

    fn context_on(&self, gpu: &Gpu) -> CuResult<Arc<Context>> {
        let mut others = lock(&self.free_memory.others);
        if let Some((_, known)) = others.iter().find(|(ordinal, _)| *ordinal == gpu.ordinal) {
            return Ok(Arc::clone(known));
        }
        let made = Arc::new(Context::new(Arc::clone(&self.driver), gpu)?);
        others.push((gpu.ordinal, Arc::clone(&made)));
        Ok(made)
    }

    /// Record a prefetch to the current GPU that was enqueued on a stream.
    pub fn was_sent(&self, parts: &[PageRange], stream: usize, fits: Fits) {
        for part in parts {
            if lock(&self.free_memory.resident).has(*part) {
                continue;
            }
            let own = self.regions.within(*part);
            let mut resident = lock(&self.free_memory.resident);
            own.into_iter().for_each(|own| resident.insert(own));
        }
        if let Fits::Counted(bytes) = fits
            && bytes != 0
            && let Ok(event) = self.context.record_event(stream)
        {
            lock(&self.free_memory.underway).push((event, bytes));
        }
    }

    /// The bytes of transfers that have not arrived yet.
    fn bytes_underway(&self) -> usize {
        let mut underway = lock(&self.free_memory.underway);
        let (left, done): (Vec<_>, _) = underway
            .drain(..)
            .partition(|(event, _)| matches!(self.context.has_completed(event), Ok(false)));
        *underway = left;
        done.into_iter().for_each(|(event, _)| self.context.give_back(event));
        underway.iter().map(|(_, bytes)| bytes).sum()
    }

    /// The bytes of a part that no earlier prefetch sent to the GPU. For a range that was sent in part the driver only says that
    /// not all of it was, so the range is halved a few times.
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
        let memory = FreeMemory::default();
        assert!(!memory.is_known_to_fit(1));
        memory.note(800, 0);
        assert!(memory.is_known_to_fit(60) && memory.is_known_to_fit(40));
        assert!(!memory.is_known_to_fit(1));
        memory.note(800, 0);
        assert!(!memory.is_known_to_fit(101) && !memory.is_known_to_fit(usize::MAX));
    }
}
