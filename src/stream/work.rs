//! What can wait on a stream.

use std::collections::VecDeque;
use std::fmt;

use super::event::Point;
use super::sync::Arc;
use crate::error::{Error, Result};
use crate::guard;
use crate::page::PageRange;

/// A function with what it needs.
pub type Task = Box<dyn FnOnce() -> Result<()> + Send>;

/// A function with two words that it needs: a task that takes no memory of its own.
#[derive(Clone, Copy)]
pub struct Call {
    /// Is given the two words.
    pub run: fn([usize; 2]) -> Result<()>,
    /// Whatever it makes of them.
    pub with: [usize; 2],
}

/// One thing to do with a range. A stream only needs to know whether two calls are of one kind.
pub struct RangeVerb {
    /// What messages call it.
    pub name: &'static str,
    /// Do it now.
    pub apply: fn(PageRange, Target) -> Result<()>,
    /// It may wait a little for neighbours that come after it, since nobody waits for it: when somebody does,
    /// or when something else is registered behind it, it is done at once.
    pub patient: bool,
}

/// A verb with its range.
#[derive(Clone, Copy)]
pub struct RangeWork {
    /// What to do; compared by address.
    pub verb: &'static RangeVerb,
    /// With which addresses.
    pub range: PageRange,
    /// Where to.
    pub target: Target,
}

/// A device and one of its nodes, of which a stream knows nothing but whether two are the same. The device is the one
/// that was current when the work was registered.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Target {
    /// Its place among the devices.
    pub device: usize,
    /// Heterogeneous NUMA id, where the verb has one.
    pub hnid: i32,
}

impl RangeWork {
    /// Do it now.
    pub fn run(self) -> Result<()> {
        (self.verb.apply)(self.range, self.target)
    }

    /// Both as one call, if they are of one kind and overlap or touch.
    fn join(self, next: Self) -> Option<Self> {
        let same = std::ptr::eq(self.verb, next.verb) && self.target == next.target;
        let range = same.then(|| self.range.union(next.range))??;
        Some(Self { range, ..self })
    }
}

/// What waits.
pub enum Work {
    /// A function of the user's, of C++.
    Task(Task),
    /// A function of the user's, of C.
    Call(Call),
    /// A prefetch or an eager free.
    Range(RangeWork),
    /// The place of an event.
    Record(Arc<Point>),
    /// What follows waits for that place in another stream.
    Wait(Arc<Point>),
    /// What an executor has given up.
    GivenUp,
    /// What an executor has refused, which its caller knows.
    Refused,
}

impl Work {
    /// Whether it may wait for more of its kind.
    pub(super) fn is_patient(&self) -> bool {
        matches!(self, Work::Range(RangeWork { verb: RangeVerb { patient: true, .. }, .. }))
    }

    /// The place it waits for, if that is still ahead.
    pub(super) fn held_by(&self) -> Option<&Arc<Point>> {
        match self {
            Work::Wait(point) if !point.is_passed() => Some(point),
            _ => None,
        }
    }

    /// What is left of it where it is not to be done; an event's place always is.
    pub(super) fn give_up(&mut self, left: Work) -> Option<Work> {
        (!matches!(self, Work::Record(_))).then(|| std::mem::replace(self, left))
    }

    /// In words.
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

/// Names a piece of work after it has gone.
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

/// What is done, and how that went.
#[derive(Default)]
pub struct Done {
    /// How many pieces of work.
    pub count: usize,
    /// The first that failed: which of them, and of what.
    pub failure: Option<Failure>,
    /// The event's place that it was.
    pub point: Option<Arc<Point>>,
}

/// A piece of work that failed.
#[derive(Debug, PartialEq, Eq)]
pub struct Failure {
    /// Its place among those that were done together, later among all of the stream.
    pub index: u64,
    /// What it was.
    pub what: String,
    /// Why.
    pub error: Error,
}

impl Failure {
    fn new(index: usize, what: Description, error: Error) -> Self {
        Self { index: index as u64, what: what.to_string(), error }
    }
}

/// Run a batch in order; neighbouring ranges in it become one call. `done` hears of each call but the
/// last, which is returned.
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
    if joined == 0 {
        return run_one(Work::Range(first));
    }
    let mut failure = None;
    if Work::Range(sum).run().is_err() {
        // One part spoils the whole call: each for itself, so that only that one fails. Doing a part
        // twice is harmless, because nothing else runs on this stream in between.
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
    static VERB: RangeVerb = RangeVerb { name: "verb", apply: fails_beyond_100, patient: false };

    #[test]
    fn a_bad_part_fails_alone() {
        let part = |start, end| {
            Work::Range(RangeWork {
                verb: &VERB,
                range: PageRange::new(start, end),
                target: Target::default(),
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
    fn different_nodes_stay_apart() {
        let work = |hnid| {
            let target = Target { device: 0, hnid };
            RangeWork { verb: &VERB, range: PageRange::new(0, 10), target }
        };
        assert!(work(0).join(work(1)).is_none());
        assert!(work(0).join(work(0)).is_some());
    }
}
