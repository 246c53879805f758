//! What can wait on a stream.

use std::collections::VecDeque;

use crate::error::Result;
use crate::guard;
use crate::page::PageRange;

/// A function of the user's, with what it needs.
pub type Task = Box<dyn FnOnce() -> Result<()> + Send>;

/// One thing to do with a range. A stream only needs to know whether two calls are of one kind.
pub struct RangeVerb {
    /// Do it now.
    pub apply: fn(PageRange, i32) -> Result<()>,
}

/// A verb with its range.
#[derive(Clone, Copy)]
pub struct RangeWork {
    /// What to do; compared by address.
    pub verb: &'static RangeVerb,
    /// With which addresses.
    pub range: PageRange,
    /// Heterogeneous NUMA id, where the verb has one.
    pub node: i32,
}

impl RangeWork {
    /// Do it now.
    pub fn run(self) -> Result<()> {
        (self.verb.apply)(self.range, self.node)
    }

    /// Both as one call, if they are of one kind and overlap or touch.
    fn join(self, next: Self) -> Option<Self> {
        let same = std::ptr::eq(self.verb, next.verb) && self.node == next.node;
        let range = same.then(|| self.range.union(next.range))??;
        Some(Self { range, ..self })
    }
}

/// What waits.
pub enum Work {
    /// A launched function.
    Task(Task),
    /// A prefetch or an eager free.
    Range(RangeWork),
}

/// How many pieces of work are done, and how that went.
type Done = (usize, Result<()>);

/// Run a batch in order; neighbouring ranges in it become one call. `done` hears of each call but the
/// last, which is returned.
pub fn run_all(batch: &mut VecDeque<Work>, mut done: impl FnMut(usize, Result<()>)) -> Done {
    let mut last: Option<Done> = None;
    while let Some(work) = batch.pop_front() {
        if let Some((count, outcome)) = last.take() {
            done(count, outcome);
        }
        last = Some(match work {
            Work::Task(task) => (1, guard::catch(task)),
            Work::Range(first) => run_joined(first, batch),
        });
    }
    last.unwrap_or((0, Ok(())))
}

/// Do `first` and as many of the next in `batch` as join it, in one call.
fn run_joined(first: RangeWork, batch: &mut VecDeque<Work>) -> Done {
    let mut sum = first;
    let mut joined = 0;
    while let Some(Work::Range(next)) = batch.get(joined)
        && let Some(both) = sum.join(*next)
    {
        sum = both;
        joined += 1;
    }
    let mut outcome = guard::catch(|| sum.run());
    if outcome.is_err() && joined > 0 {
        // One part spoils the whole call: each for itself, so that only that one fails. Doing a part
        // twice is harmless, because nothing else runs on this stream in between.
        outcome = guard::catch(|| first.run());
        for part in batch.iter().take(joined) {
            if let Work::Range(part) = part {
                outcome = outcome.and(guard::catch(|| part.run()));
            }
        }
    }
    batch.drain(..joined);
    (joined + 1, outcome)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    fn fails_beyond_100(range: PageRange, _: i32) -> Result<()> {
        if range.end() > 100 {
            return Err(Error::RangeOverflow { addr: range.start(), size: range.len() });
        }
        Ok(())
    }
    static VERB: RangeVerb = RangeVerb { apply: fails_beyond_100 };

    #[test]
    fn a_bad_part_fails_alone() {
        let part = |start, end| {
            Work::Range(RangeWork { verb: &VERB, range: PageRange::new(start, end), node: 0 })
        };
        let run = |parts: Vec<Work>| run_all(&mut parts.into(), |_, _| ());
        assert_eq!(run(vec![part(0, 50), part(50, 100)]), (2, Ok(())));
        let failure = run(vec![part(0, 50), part(50, 100), part(100, 150)]);
        assert_eq!(failure, (3, Err(Error::RangeOverflow { addr: 100, size: 50 })));
    }

    #[test]
    fn different_nodes_stay_apart() {
        let work = |node| RangeWork { verb: &VERB, range: PageRange::new(0, 10), node };
        assert!(work(0).join(work(1)).is_none());
        assert!(work(0).join(work(0)).is_some());
    }
}
