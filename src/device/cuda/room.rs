//! How much memory a GPU has free: a prefetch of more would have the driver move other memory out, back and forth.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::{Accelerator, Gpu};
use crate::error::{Error, Result};
use crate::os::cuda::Context;
use crate::os::mapping;
use crate::page::PageRange;

/// Asking takes much longer than registering a prefetch does, so small ones share an answer.
#[derive(Default)]
pub struct Room {
    asked: Mutex<Option<Answer>>,
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
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
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
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
    }
}

impl Accelerator {
    /// Refuse what the GPU has no room for. What was asked to go there before is taken to be there, which is what the
    /// driver knows.
    pub fn has_room(&self, asked: PageRange, parts: &[PageRange], gpu: &Gpu) -> Result<()> {
        let is_current = *gpu == self.current().gpu;
        let all: usize = parts.iter().map(|part| part.len()).sum();
        if is_current && self.room.is_known_to_fit(all) {
            return Ok(());
        }
        let failed = |code| Error::Cuda {
            call: "cuMemGetInfo, before the prefetch",
            from: asked.start(),
            to: asked.end(),
            code,
        };
        let free = if is_current {
            self.context.free_bytes()
        } else {
            Context::new(self.driver.clone(), gpu).and_then(|other| other.free_bytes())
        }
        .map_err(failed)?;
        if all <= free {
            if is_current {
                self.room.note(free, all);
            }
            return Ok(());
        }
        let needed: usize =
            parts.iter().map(|part| self.not_sent(*part, gpu.ordinal, HALVINGS)).sum();
        if needed <= free {
            return Ok(());
        }
        let (from, to) = (asked.start(), asked.end());
        let whose = format!("GPU {} ({})", gpu.ordinal, gpu.name);
        Err(Error::NoRoom { from, to, needed, free, whose })
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
