//! What can wait on a stream.

use crate::error::Result;
use crate::guard;
use crate::page::PageRange;

/// A function of the user's, with what it needs.
pub type Task = Box<dyn FnOnce() -> Result<()> + Send>;

/// One thing to do with a range. A stream only needs to know whether two calls are of one kind.
pub struct RangeVerb {
    /// The C function, for messages.
    pub name: &'static str,
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

/// Run a batch in order; neighbouring ranges in it become one call. Returns the first failure.
pub fn run_all(batch: impl IntoIterator<Item = Work>) -> Result<()> {
    let mut first = Ok(());
    let mut joined: Vec<RangeWork> = Vec::new();
    for work in batch {
        let outcome = match work {
            Work::Range(range) => add(&mut joined, range),
            Work::Task(task) => {
                let before = flush(&mut joined);
                before.and(guard::catch(task))
            }
        };
        first = first.and(outcome);
    }
    first.and(flush(&mut joined))
}

/// Put `next` to those that will be one call, after making that call if it does not belong.
fn add(joined: &mut Vec<RangeWork>, next: RangeWork) -> Result<()> {
    let outcome = match whole(joined) {
        Some(sum) if sum.join(next).is_none() => flush(joined),
        _ => Ok(()),
    };
    joined.push(next);
    outcome
}

/// The one call that `parts` come to. Each part joined when it was added, so they all join.
fn whole(parts: &[RangeWork]) -> Option<RangeWork> {
    let (first, rest) = parts.split_first()?;
    Some(rest.iter().fold(*first, |sum, part| sum.join(*part).unwrap_or(sum)))
}

fn flush(joined: &mut Vec<RangeWork>) -> Result<()> {
    let Some(sum) = whole(joined) else { return Ok(()) };
    let mut outcome = guard::catch(|| sum.run());
    if outcome.is_err() && joined.len() > 1 {
        // One part spoils the whole call: each for itself, so that only that one fails. Doing a part
        // twice is harmless, because nothing else runs on this stream in between.
        outcome = Ok(());
        for part in joined.iter() {
            outcome = outcome.and(guard::catch(|| part.run()));
        }
    }
    joined.clear();
    outcome
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
    static VERB: RangeVerb = RangeVerb { name: "verb", apply: fails_beyond_100 };

    #[test]
    fn a_bad_part_fails_alone() {
        let part = |start, end| {
            Work::Range(RangeWork { verb: &VERB, range: PageRange::new(start, end), node: 0 })
        };
        assert_eq!(run_all([part(0, 50), part(50, 100)]), Ok(()));
        let failure = run_all([part(0, 50), part(50, 100), part(100, 150)]);
        assert_eq!(failure, Err(Error::RangeOverflow { addr: 100, size: 50 }));
    }

    #[test]
    fn different_nodes_stay_apart() {
        let work = |node| RangeWork { verb: &VERB, range: PageRange::new(0, 10), node };
        assert!(work(0).join(work(1)).is_none());
        assert!(work(0).join(work(0)).is_some());
    }
}
