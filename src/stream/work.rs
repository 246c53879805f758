//! Work that can wait on a stream.

use std::collections::VecDeque;
use std::fmt;

use super::event::EventPoint;
use super::sync::Arc;
use crate::error::{Error, Result};
use crate::guard;
use crate::page::PageRange;

/// A function with everything it needs.
pub type Task = Box<dyn FnOnce() -> Result<()> + Send>;

/// A function with two words: a task that allocates nothing.
#[derive(Clone, Copy)]
pub struct Call {
    /// Called with the two words.
    pub run: fn([usize; 2]) -> Result<()>,
    /// The two words, which only the function understands.
    pub with: [usize; 2],
}

/// An operation on a range. A stream needs to know only whether two operations are alike.
pub struct RangeVerb {
    /// Name used in messages.
    pub name: &'static str,
    /// Do it now.
    pub apply: fn(PageRange, Target) -> Result<()>,
    /// Nobody waits for the operation as such, so it may wait a little for neighbours. Deferred
    /// work is flushed when a thread waits for it and when other work is registered behind it.
    pub deferrable: bool,
}

/// A verb with its range.
#[derive(Clone, Copy)]
pub struct RangeWork {
    /// The operation; verbs are compared by address.
    pub verb: &'static RangeVerb,
    /// The addresses.
    pub range: PageRange,
    /// Passed on to the verb.
    pub target: Target,
}

/// Where a verb acts: two words that only the verb understands. A stream compares them.
pub type Target = [usize; 2];

impl RangeWork {
    /// Do it now.
    pub fn run(self) -> Result<()> {
        (self.verb.apply)(self.range, self.target)
    }

    /// Join two calls into one, if they are alike and their ranges overlap or touch.
    fn join(self, next: Self) -> Option<Self> {
        let same = std::ptr::eq(self.verb, next.verb) && self.target == next.target;
        let range = same.then(|| self.range.union(next.range))??;
        Some(Self { range, ..self })
    }
}

/// A piece of work.
pub enum Work {
    /// A function from C++.
    Task(Task),
    /// A function from C.
    Call(Call),
    /// A prefetch or an eager free.
    Range(RangeWork),
    /// Marks an event point as passed.
    Record(Arc<EventPoint>),
    /// Holds up the work behind it until the event point, in another stream, has passed.
    Wait(Arc<EventPoint>),
    /// Replaces work that its executor dropped.
    GivenUp,
    /// Replaces work that its executor refused; the caller has got the error already.
    Refused,
}

impl Work {
    /// Whether it may be deferred.
    pub(super) fn is_deferrable(&self) -> bool {
        matches!(self, Work::Range(RangeWork { verb: RangeVerb { deferrable: true, .. }, .. }))
    }

    /// The event point that holds it up, unless that has passed.
    pub(super) fn blocked_on(&self) -> Option<&Arc<EventPoint>> {
        match self {
            Work::Wait(point) if !point.is_passed() => Some(point),
            _ => None,
        }
    }

    /// Put `left` in the place of work that will not be done. An event point stays: it always
    /// passes.
    pub(super) fn give_up(&mut self, left: Work) -> Option<Work> {
        (!matches!(self, Work::Record(_))).then(|| std::mem::replace(self, left))
    }

    /// A description for messages.
    fn description(&self) -> Description {
        match self {
            Work::Range(work) => Description::Range(work.verb.name, work.range),
            Work::Task(_) | Work::Call(_) => Description::Words("a launched function"),
            Work::Record(_) | Work::Wait(_) => Description::Words("an event"),
            Work::GivenUp | Work::Refused => Description::Words("work"),
        }
    }

    fn run(self) -> Result<()> {
        match self {
            Work::Task(task) => guard::catch(task),
            Work::Call(call) => guard::catch(|| (call.run)(call.with)),
            Work::Range(range) => guard::catch(|| range.run()),
            Work::GivenUp => Err(Error::GivenUp),
            Work::Record(_) | Work::Wait(_) | Work::Refused => Ok(()),
        }
    }
}

/// Describes a piece of work that is gone.
#[derive(Clone, Copy)]
enum Description {
    Words(&'static str),
    Range(&'static str, PageRange),
}

impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Words(words) => f.write_str(words),
            Self::Range(name, range) => {
                write!(f, "{name} of {:#x}..{:#x}", range.start(), range.end())
            }
        }
    }
}

/// Work done, and its outcome.
#[derive(Default)]
pub struct Done {
    /// Number of pieces of work.
    pub count: usize,
    /// The first failure.
    pub failure: Option<Failure>,
    /// The event point reached, if the work was one.
    pub point: Option<Arc<EventPoint>>,
}

/// A piece of work that failed.
#[derive(Debug, PartialEq, Eq)]
pub struct Failure {
    /// Index in its batch; once recorded, index among all work of the stream.
    pub index: u64,
    /// Description of the work.
    pub what: String,
    /// The error.
    pub error: Error,
}

impl Failure {
    fn new(index: usize, what: Description, error: Error) -> Self {
        Self { index: index as u64, what: what.to_string(), error }
    }
}

/// Run a batch in order, joining neighbouring ranges into one call. Calls `done` after each call
/// but the last, whose outcome is returned.
pub(super) fn run_all(batch: &mut VecDeque<Work>, mut done: impl FnMut(Done)) -> Done {
    let mut last: Option<Done> = None;
    while let Some(work) = batch.pop_front() {
        if let Some(before) = last.take() {
            done(before);
        }
        last = Some(match work {
            Work::Range(first) => run_joined(first, batch),
            other => run_one(other),
        });
    }
    last.unwrap_or_default()
}

fn run_one(work: Work) -> Done {
    let what = work.description();
    let point = match &work {
        Work::Record(point) => Some(Arc::clone(point)),
        _ => None,
    };
    let failure = work.run().err().map(|error| Failure::new(0, what, error));
    Done { count: 1, failure, point }
}

/// Do `first` and the ranges that follow it in `batch` and join it, in one call.
fn run_joined(first: RangeWork, batch: &mut VecDeque<Work>) -> Done {
    let mut sum = first;
    let mut joined = 0;
    while let Some(Work::Range(next)) = batch.get(joined)
        && let Some(both) = sum.join(*next)
    {
        sum = both;
        joined += 1;
    }
    if joined == 0 {
        return run_one(Work::Range(first));
    }
    let mut failure = None;
    if Work::Range(sum).run().is_err() {
        // One bad part fails the joined call. Do each part by itself, so that only the bad one
        // fails. Doing a part twice is harmless, because nothing else runs on this stream in
        // between.
        let parts = batch.drain(..joined);
        for (index, part) in std::iter::once(Work::Range(first)).chain(parts).enumerate() {
            let what = part.description();
            if let Err(error) = part.run() {
                failure.get_or_insert_with(|| Failure::new(index, what, error));
            }
        }
    } else {
        batch.drain(..joined);
    }
    Done { count: joined + 1, failure, point: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fails_beyond_100(range: PageRange, _: Target) -> Result<()> {
        if range.end() > 100 {
            return Err(Error::RangeOverflow { addr: range.start(), size: range.len() });
        }
        Ok(())
    }
    static VERB: RangeVerb = RangeVerb { name: "verb", apply: fails_beyond_100, deferrable: false };

    #[test]
    fn a_bad_part_fails_alone() {
        let part = |start, end| {
            Work::Range(RangeWork {
                verb: &VERB,
                range: PageRange::new(start, end),
                target: [0; 2],
            })
        };
        let run = |parts: Vec<Work>| {
            let done = run_all(&mut parts.into(), |_| ());
            (done.count, done.failure)
        };
        assert_eq!(run(vec![part(0, 50), part(50, 100)]), (2, None));
        let failure = Failure {
            index: 2,
            what: "verb of 0x64..0x96".into(),
            error: Error::RangeOverflow { addr: 100, size: 50 },
        };
        assert_eq!(run(vec![part(0, 50), part(50, 100), part(100, 150)]), (3, Some(failure)));
    }

    #[test]
    fn different_targets_stay_apart() {
        let work =
            |node| RangeWork { verb: &VERB, range: PageRange::new(0, 10), target: [0, node] };
        assert!(work(0).join(work(1)).is_none());
        assert!(work(0).join(work(0)).is_some());
    }
}
