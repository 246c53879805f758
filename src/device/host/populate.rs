//! Brings segments into memory, piece by piece. The calling thread does the first piece; if that takes long, other threads
//! help.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::migrate::{self, Moved};
use super::plan::Segment;
use super::tally::Tally;
use super::touch::populate_and_touch;
use super::{has_one_node, hot, huge};
use crate::device::Request;
use crate::error::{Errno, Error, Result};
use crate::helpers;
use crate::huge_policy::HugePolicy;
use crate::os::vma::Backing;
use crate::os::{advice, mapping, memory, numa, process};
use crate::page::PageRange;
use crate::report::Report;

/// Bytes in a piece of work: between two pieces it can be ended, shared with another thread, done in another way.
pub const PIECE_BYTES: usize = 16 << 20;

/// The largest huge page that every piece can hold. Pieces of 512 MiB could hardly be cancelled or shared.
const USUAL_HUGE_PAGE: usize = 32 << 20;

/// Bytes in a piece of a file that is read huge page by huge page: the kernel reads one while it maps the other.
const READ_BYTES: usize = 4 << 20;

/// Threads that wait for the disk. It does not depend on the number of processors.
const READERS: usize = 8;

/// A piece holds whole huge pages where they matter piece by piece: they are required, or pages are counted.
fn piece_bytes(request: &Request<'_>) -> usize {
    let usual = if request.reads_huge_pages { READ_BYTES } else { PIECE_BYTES };
    let huge = mapping::huge_page().bytes();
    let counts = request.wants_report || request.huge == HugePolicy::Require;
    if counts || huge <= USUAL_HUGE_PAGE { usual.max(huge) } else { usual }
}

/// A piece that takes longer than this had to be populated; then the next ones are worth a thread of their own.
const WORTH_A_THREAD: Duration = Duration::from_micros(300);

/// Populate, move to the node where that is possible and needed (`moves`), and count.
pub fn run(
    segments: &[Segment],
    request: &Request<'_>,
    moves: bool,
    report: &mut Report,
) -> Result<()> {
    let begun = Instant::now();
    for segment in segments {
        // The reading goes on while the pieces before are mapped.
        let is_long = segment.asked.len() > PIECE_BYTES;
        if segment.backing == Backing::File && is_long && !request.reads_huge_pages {
            advice::will_need(segment.asked);
        }
    }
    let mut pieces = Vec::new();
    let bytes = piece_bytes(request);
    let count = segments.iter().map(|segment| segment.cut(bytes).count()).sum();
    if pieces.try_reserve_exact(count).is_err() {
        return Err(Error::OutOfMemory { what: "the list of pieces of the range" });
    }
    pieces.extend(segments.iter().flat_map(|segment| segment.cut(bytes)));
    let run = Run {
        request,
        pieces: &pieces,
        one_node: request.stays || has_one_node(request.node),
        moves,
        total: request.asked.outward(mapping::base_page()).len(),
        next: AtomicUsize::new(0),
        done: AtomicUsize::new(0),
        threads: AtomicUsize::new(0),
        stalls: Stalls::default(),
        ended: AtomicBool::new(false),
        outcome: Mutex::new(Outcome { report: Report::EMPTY, failure: None }),
    };
    run.with_others();
    run.count_untaken();
    let outcome = run.outcome.into_inner().unwrap_or_else(PoisonError::into_inner);
    *report = outcome.report;
    report.stalled = run.stalls.have_won();
    report.bytes = request.asked.len();
    report.threads = run.threads.load(Ordering::Relaxed);
    report.nanoseconds = u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
    match outcome.failure {
        None => Ok(()),
        Some((_, failure)) => Err(failure),
    }
}

/// One prefetch, as the threads share it.
struct Run<'a> {
    request: &'a Request<'a>,
    pieces: &'a [Segment],
    one_node: bool,
    /// Whether pages that are on another node are moved.
    moves: bool,
    /// Bytes asked for, and those done.
    total: usize,
    done: AtomicUsize,
    /// Index of the next piece that nobody has taken.
    next: AtomicUsize,
    threads: AtomicUsize,
    stalls: Stalls,
    /// Something failed, or somebody said to end.
    ended: AtomicBool,
    outcome: Mutex<Outcome>,
}

struct Outcome {
    report: Report,
    /// The failure of the first piece that failed, with its index.
    failure: Option<(usize, Error)>,
}

impl Run<'_> {
    /// The calling thread begins; if that takes its time, others join.
    fn with_others(&self) {
        if self.pieces.len() < 3 {
            return self.work(true);
        }
        let (begun, busy) = (Instant::now(), process::thread_time());
        let is_left = self.prefer_node(|| self.take_piece(true));
        // The pieces of a file that is read huge page by huge page are small; there are more of them.
        let pieces = if self.request.reads_huge_pages { self.pieces.len() / 3 } else { 1 };
        let took = begun.elapsed().saturating_mul(u32::try_from(pieces).unwrap_or(u32::MAX));
        if !is_left || took < WORTH_A_THREAD {
            return self.work(true);
        }
        // What is in the page cache already keeps processors busy, and the disk idle.
        let waited = begun.elapsed() > 2 * process::thread_time().saturating_sub(busy);
        let helpers = self.wanted_threads(self.request.reads_huge_pages && waited) - 1;
        helpers::work_with(helpers, |is_caller| self.work(is_caller));
    }

    fn wanted_threads(&self, wait_for_the_disk: bool) -> usize {
        let asked = match self.request.max_threads {
            0 => helpers::MAX_THREADS,
            most => most,
        };
        let pieces_left = self.pieces.len() - 1;
        // Asking for the processors reads files, which a caller that wants one thread need not wait for.
        let useful = match wait_for_the_disk {
            true => READERS,
            false if asked == 1 => 1,
            false => process::processors(),
        };
        asked.min(useful).min(pieces_left).max(1)
    }

    /// A thread's part.
    fn work(&self, is_caller: bool) {
        self.threads.fetch_add(1, Ordering::Relaxed);
        self.prefer_node(|| while self.take_piece(is_caller) {});
    }

    /// Run `act`. Pages that the thread populates meanwhile come from the requested node, if there are several.
    fn prefer_node<R>(&self, act: impl FnOnce() -> R) -> R {
        // A kernel built without memory policies has no second node to prefer.
        let preferred = (!self.one_node).then(|| numa::PreferNode::new(self.request.node));
        let result = act();
        drop(preferred);
        result
    }

    /// Do the next piece; false if there is none, or no more is to be done.
    fn take_piece(&self, is_caller: bool) -> bool {
        if self.ended.load(Ordering::Relaxed) {
            return false;
        }
        let index = self.next.fetch_add(1, Ordering::Relaxed);
        let Some(piece) = self.pieces.get(index) else { return false };
        let watch = self.request.watch;
        if let Err(end) = watch.go_on(self.done.load(Ordering::Relaxed), self.total) {
            let untouched = self.untouched(*piece, end.errno());
            let mut all = self.lock();
            all.report.add(&untouched);
            self.fail(&mut all, index, end);
            return false;
        }
        let (part, outcome) = self.do_piece(*piece);
        {
            let mut all = self.lock();
            all.report.add(&part);
            if let Err(failure) = outcome {
                self.fail(&mut all, index, failure);
                return false;
            }
        }
        let done = self.done.fetch_add(piece.asked.len(), Ordering::Relaxed) + piece.asked.len();
        if is_caller && let Err(end) = watch.progress(done, self.total) {
            // It may have been the last piece; then all is done, whatever the caller says.
            if done < self.total {
                self.fail(&mut self.lock(), index, end);
                return false;
            }
        }
        true
    }

    fn fail(&self, outcome: &mut Outcome, index: usize, failure: Error) {
        self.ended.store(true, Ordering::Relaxed);
        if outcome.failure.as_ref().is_none_or(|(first, _)| index < *first) {
            outcome.failure = Some((index, failure));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Outcome> {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn do_piece(&self, piece: Segment) -> (Report, Result<()>) {
        let before = self.tally(piece);
        let outcome = self.bring(piece);
        let errno = outcome.as_ref().err().map(Error::errno);
        (self.difference(piece, before, self.tally(piece), errno), outcome)
    }

    /// Count the pages of the pieces that no thread has taken, where the prefetch ended early.
    fn count_untaken(&self) {
        let first = self.next.load(Ordering::Relaxed).min(self.pieces.len());
        let mut all = self.lock();
        let Some(errno) = all.failure.as_ref().map(|(_, failure)| failure.errno()) else { return };
        for piece in &self.pieces[first..] {
            all.report.add(&self.untouched(*piece, errno));
        }
    }

    /// The report of a piece that is left as it is because of `errno`.
    fn untouched(&self, piece: Segment, errno: Errno) -> Report {
        let now = self.tally(piece);
        self.difference(piece, now, now, Some(errno))
    }

    /// A look at the piece, if somebody wants the report.
    fn tally(&self, piece: Segment) -> Option<Tally> {
        let counts = self.request.wants_report && !piece.asked.is_empty();
        counts.then(|| Tally::of(piece, (!self.one_node).then_some(self.request.node)))
    }

    fn difference(
        &self,
        piece: Segment,
        before: Option<Tally>,
        after: Option<Tally>,
        errno: Option<Errno>,
    ) -> Report {
        let mut report = Report::EMPTY;
        if let (Some(before), Some(after)) = (before, after) {
            count(&mut report, piece, before, after, errno);
            if !huge::is_wanted(piece, self.request.huge) && !self.stalls.have_won() {
                report.fallen_back = Some(0);
            }
        }
        report
    }

    fn bring(&self, piece: Segment) -> Result<()> {
        let resident = hot::ResidentRuns::in_range(piece.range);
        let moved = Cell::new(false);
        piece.with_margin(|part| self.populate_on_node(part, &moved))?;
        if !moved.get() {
            // A mark that cannot be set is no failure: the page is there.
            let _ = resident.mark(piece);
        }
        match self.request.huge {
            HugePolicy::Require => huge::insist(piece)?,
            HugePolicy::Prefer if !self.stalls.have_won() => {
                self.timed(piece, || huge::collapse_available(piece));
            }
            HugePolicy::Prefer | HugePolicy::AsIs | HugePolicy::Off => return Ok(()),
        }
        // The kernel may take the page table entries of shared memory away when it collapses it.
        if piece.backing == Backing::Anonymous {
            Ok(())
        } else {
            piece.with_margin(populate_and_touch)
        }
    }

    /// Populate on the node, and move there what is elsewhere; `moved` is set where there was any.
    fn populate_on_node(&self, part: Segment, moved: &Cell<bool>) -> Result<()> {
        self.populate(part)?;
        if !self.moves {
            return Ok(());
        }
        // Pages missing after the first pass come back as base pages, which no later pass splits.
        for _ in 0..3 {
            match migrate::migrate_misplaced(part.range, self.request.node)? {
                Moved::Nothing => break,
                Moved::AsTheyWere => {
                    moved.set(true);
                    break;
                }
                Moved::PerhapsApart => {
                    moved.set(true);
                    populate_and_touch(part)?;
                }
            }
        }
        Ok(())
    }

    fn populate(&self, part: Segment) -> Result<()> {
        let may_be_huge = part.backing == Backing::Anonymous && !part.huge_tlb;
        if may_be_huge && self.stalls.have_won() && self.request.huge != HugePolicy::Require {
            // The kernel finds no huge pages without moving others; small ones it has.
            advice::small_pages(part.range);
            let outcome = populate_and_touch(part);
            advice::huge_pages(part.range);
            return outcome;
        }
        if may_be_huge {
            self.timed(part, || populate_and_touch(part))
        } else {
            populate_and_touch(part)
        }
    }

    /// Call `act`, which makes huge pages of a piece, and notice whether the kernel stalls.
    fn timed<R>(&self, part: Segment, act: impl FnOnce() -> R) -> R {
        let begun = Instant::now();
        let result = act();
        if part.range.len() >= PIECE_BYTES {
            self.stalls.note(begun.elapsed(), part.range);
        }
        result
    }
}

/// Report the difference between two tallies.
fn count(report: &mut Report, piece: Segment, before: Tally, after: Tally, errno: Option<Errno>) {
    let pages = piece.asked.len() / mapping::base_page().bytes();
    report.already_resident = before.present - before.elsewhere.min(before.present);
    report.populated = after.present.saturating_sub(before.present);
    report.migrated = before.elsewhere.saturating_sub(after.elsewhere);
    report.failed = pages.saturating_sub(after.present) + after.elsewhere;
    report.huge = after.huge;
    let candidates = piece.huge_candidates().len() / mapping::gmem_page().bytes();
    report.fallen_back = after.huge.map(|huge| candidates.saturating_sub(huge));
    let first = [after.first_absent, after.first_elsewhere].into_iter().flatten().min();
    if let Some(at) = first {
        report.first_failure = Some((errno.unwrap_or(Errno(libc::EAGAIN)), at));
    }
}

// ---- stalls -----------------------------------------------------------------------------------

/// Notices when huge pages cost more than they give: the kernel then moves other pages out of the way for each
/// ("direct compaction"), which it counts.
#[derive(Default)]
struct Stalls {
    /// The kernel's count when a piece was slow for the first time, plus 1.
    counted: AtomicUsize,
    won: AtomicBool,
}

impl Stalls {
    /// Slower than this for each GMEM page, half a GB/s, may be compaction; zeroing takes a tenth.
    const SLOW: Duration = Duration::from_millis(4);

    fn note(&self, took: Duration, range: PageRange) {
        let pages = range.len() / mapping::gmem_page().bytes();
        if took < Self::SLOW * u32::try_from(pages).unwrap_or(u32::MAX) {
            return;
        }
        let Some(now) = memory::compaction_stalls() else { return };
        match self.counted.compare_exchange(0, now + 1, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => {}
            // For at least every second page since somebody had to wait. It may have been somebody else; what is lost
            // by that is little.
            Err(before) if now + 1 >= before + pages / 2 => self.won.store(true, Ordering::Relaxed),
            Err(_) => {}
        }
    }

    /// Whether to take small pages from now on.
    fn have_won(&self) -> bool {
        self.won.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quick_pieces_are_no_stall() {
        let stalls = Stalls::default();
        let range = PageRange::new(0, PIECE_BYTES);
        stalls.note(Duration::from_micros(1), range);
        assert_eq!(stalls.counted.load(Ordering::Relaxed), 0);
        assert!(!stalls.have_won());
    }
}
