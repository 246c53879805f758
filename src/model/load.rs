//! Fills private pages of a model with the file's bytes, several reads in flight.
//!
//! A piece is read into fresh memory, which then replaces the file's pages in one step. So a read that fails, or a call that is
//! cancelled, leaves every page with the right bytes.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::choice::Mode;
use super::common_copy::{Claim, CommonCopy};
use super::page_states::Shows;
use super::weights::Weights;
use crate::device::{self, Request};
use crate::error::{Errno, Error, Result};
use crate::helpers;
use crate::huge_policy::HugePolicy;
use crate::os::direct_io::DIRECT_ALIGNMENT;
use crate::os::mapping::{self, Mapping};
use crate::os::{SysResult, advice, process};
use crate::page::PageRange;
use crate::report::Report;

/// GMEM pages in a piece, which is one read. A disk is busy with it while another piece is put in its place.
const PIECE_PAGES: usize = 4;

/// Reads in flight. The threads wait for the disk, so it does not depend on the number of processors.
const READS: usize = 4;

/// How long to wait before looking again at a page that another thread loads.
const POLL: Duration = Duration::from_micros(100);

/// What was loaded for a prefetch. Bytes are requested ones, in whole base pages.
#[derive(Default)]
pub struct Loaded {
    /// Bytes that showed the file before.
    pub wanted: usize,
    /// Bytes of those that are loaded.
    pub bytes: usize,
    /// Threads that read.
    pub threads: usize,
    /// The first address that could not be loaded.
    pub first_failed: Option<usize>,
}

impl Loaded {
    /// The report of a prefetch that ended while it loaded.
    pub fn report_of_failure(&self, request: &Request<'_>, failure: &Error) -> Report {
        let base = mapping::base_page();
        let asked = request.asked.outward(base);
        let pages = |bytes: usize| bytes / base.bytes();
        Report {
            bytes: request.asked.len(),
            already_resident: pages(asked.len().saturating_sub(self.wanted)),
            populated: pages(self.bytes),
            failed: pages(self.wanted.saturating_sub(self.bytes)),
            huge: None,
            fallen_back: None,
            first_failure: Some((failure.errno(), self.first_failed.unwrap_or(asked.start()))),
            threads: self.threads,
            ..Report::EMPTY
        }
    }
}

impl Weights {
    /// Load the pages of the request that show the file. Adds to `loaded`.
    pub fn load(&self, request: &Request<'_>, loaded: &mut Loaded) -> Result<()> {
        let page = mapping::gmem_page();
        let wanted = request.asked.outward(page).intersect(self.range());
        if self.mode() == Mode::Shared || wanted.is_empty() {
            return Ok(());
        }
        if self.common.as_ref().is_some_and(|common| !common.is_member()) {
            return Err(self.no_member());
        }
        let pieces = self.pieces(self.page_at(wanted.start())..self.page_at(wanted.end()))?;
        if pieces.is_empty() {
            return Ok(());
        }
        let parts: Vec<_> = pieces.iter().map(|pages| self.addresses(pages.clone())).collect();
        let asked = request.asked.outward(mapping::base_page());
        loaded.wanted += parts.iter().map(|part| part.intersect(asked).len()).sum::<usize>();
        device::check_memory_for(&parts, request)?;
        let load = Load {
            model: self,
            request,
            asked,
            pieces: &pieces,
            next: AtomicUsize::new(0),
            threads: AtomicUsize::new(0),
            done: AtomicUsize::new(loaded.bytes),
            ended: AtomicBool::new(false),
            with_others: Mutex::default(),
            failure: Mutex::default(),
        };
        let most = if request.max_threads == 0 { READS } else { request.max_threads };
        helpers::work_with(most.min(pieces.len()) - 1, |is_caller| load.work(is_caller));
        load.wait_for_others();
        loaded.bytes = load.done.into_inner();
        loaded.threads = loaded.threads.max(load.threads.into_inner());
        match load.failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            None => Ok(()),
            Some((at, failure)) => {
                loaded.first_failed = Some(at);
                Err(failure)
            }
        }
    }

    /// The pages of `pages` that do not show copies, in pieces.
    fn pieces(&self, pages: Range<usize>) -> Result<Vec<Range<usize>>> {
        // Processes that load the same pages share the work page by page.
        let most = if self.common.is_some() { 1 } else { PIECE_PAGES };
        let mut pieces: Vec<Range<usize>> = Vec::new();
        for page in pages.filter(|page| self.states.get(*page) != Some(Shows::Copy)) {
            match pieces.last_mut() {
                Some(last) if last.end == page && last.len() < most => last.end += 1,
                _ => {
                    if pieces.try_reserve(1).is_err() {
                        return Err(Error::OutOfMemory { what: "the list of pieces to read" });
                    }
                    pieces.push(page..page + 1);
                }
            }
        }
        Ok(pieces)
    }

    /// Read pages that are in the caller's hands, and put them in the place of the file's.
    fn read_pages(&self, pages: Range<usize>, huge: HugePolicy) -> Result<()> {
        let Some(window) = &self.window else { return Ok(()) };
        let range = self.addresses(pages);
        let offset = range.start() - self.range().start();
        let expected = range.len().min(self.file.length() - offset);
        let no_memory = |errno| self.failure("mapping memory for it", offset, errno, "");
        let mut copy = Mapping::new(range.len(), mapping::gmem_page()).map_err(no_memory)?;
        match huge {
            HugePolicy::Off => advice::small_pages(copy.range()),
            HugePolicy::AsIs | HugePolicy::Prefer | HugePolicy::Require => {
                advice::huge_pages(copy.range());
            }
        }
        let (read, outcome) = self
            .file
            .read(&mut copy.bytes()[..expected.next_multiple_of(DIRECT_ALIGNMENT)], offset);
        self.read.fetch_add(read.min(expected), Ordering::Relaxed);
        self.whole(offset, read, expected, outcome)?;
        window
            .replace(range, copy.into_region())
            .map_err(|errno| self.not_in_place(offset, errno))?;
        self.file.drop_cached(offset, range.len());
        Ok(())
    }
}

impl Weights {
    /// Read a page into memory that processes have in common, if none of them has done so.
    fn read_common(&self, common: &CommonCopy, page: usize, huge: HugePolicy) -> Result<()> {
        let offset = page * mapping::gmem_page().bytes();
        let expected = mapping::gmem_page().bytes().min(self.file.length() - offset);
        let huge = huge != HugePolicy::Off;
        let (read, outcome) = common.memory().fill(page, huge, &self.file, offset, expected);
        self.read.fetch_add(read.min(expected), Ordering::Relaxed);
        self.whole(offset, read, expected, outcome)?;
        self.file.drop_cached(offset, expected);
        Ok(())
    }

    /// The outcome of a read of `expected` bytes.
    fn whole(
        &self,
        offset: usize,
        read: usize,
        expected: usize,
        outcome: SysResult<()>,
    ) -> Result<()> {
        match outcome {
            Ok(()) if read < expected => Err(self.truncated(offset + read)),
            Ok(()) => Ok(()),
            Err(Errno(libc::EBADF)) => Err(self.explain_system(offset + read, Errno(libc::EBADF))),
            Err(errno) => Err(self.failure("reading it", offset + read, errno, "")),
        }
    }

    /// The failure of putting memory in the place of the file.
    fn not_in_place(&self, offset: usize, errno: Errno) -> Error {
        let remedy = match errno.0 {
            libc::ENOMEM => "; the process may have too many mappings: raise vm.max_map_count",
            _ => "",
        };
        self.failure("putting it in place", offset, errno, remedy)
    }
}

/// One load, as its threads share it.
struct Load<'a> {
    model: &'a Weights,
    request: &'a Request<'a>,
    /// The requested range, in whole base pages.
    asked: PageRange,
    pieces: &'a [Range<usize>],
    next: AtomicUsize,
    threads: AtomicUsize,
    /// Bytes of `asked` that are loaded.
    done: AtomicUsize,
    ended: AtomicBool,
    /// Pieces of which other calls had pages in their hands.
    with_others: Mutex<Vec<Range<usize>>>,
    /// The failure at the lowest address.
    failure: Mutex<Option<(usize, Error)>>,
}

impl Load<'_> {
    fn work(&self, is_caller: bool) {
        self.threads.fetch_add(1, Ordering::Relaxed);
        let preferred = device::prefer_node(self.request.node);
        while !self.ended.load(Ordering::Relaxed)
            && let Some(piece) = self.pieces.get(self.next.fetch_add(1, Ordering::Relaxed))
        {
            let outcome = self.take_and_read(piece.clone()).and_then(|pages| {
                if pages < piece.len() {
                    lock(&self.with_others).push(piece.clone());
                }
                self.progress(is_caller)
            });
            self.note(piece.start, outcome);
        }
        drop(preferred);
    }

    /// Read the pages that nobody else reads or has read meanwhile; returns their number.
    fn take_and_read(&self, pages: Range<usize>) -> Result<usize> {
        self.request.watch.go_on(self.done.load(Ordering::Relaxed), self.asked.len())?;
        let huge = match self.request.huge {
            HugePolicy::AsIs => self.model.huge,
            requested => requested,
        };
        if let Some(common) = &self.model.common {
            return self.take_in_common(common, pages, huge);
        }
        let (mut from, mut count) = (pages.start, 0);
        while let Some(taken) = self.model.states.take_run(from..pages.end, shows_file) {
            from = taken.pages().end;
            count += taken.pages().len();
            let range = self.model.addresses(taken.pages());
            self.model.read_pages(taken.pages(), huge)?;
            taken.became_copies();
            self.done.fetch_add(range.intersect(self.asked).len(), Ordering::Relaxed);
        }
        Ok(count)
    }

    /// The same where several processes have the memory in common: pages that others are reading are left to them.
    fn take_in_common(
        &self,
        common: &CommonCopy,
        pages: Range<usize>,
        huge: HugePolicy,
    ) -> Result<usize> {
        let mut count = 0;
        for page in pages {
            let Some(taken) = self.model.states.take_run(page..page + 1, shows_file) else {
                continue;
            };
            match common.claim(page) {
                Claim::There => {}
                Claim::Elsewhere => continue,
                Claim::Mine => {
                    let outcome = self.model.read_common(common, page, huge);
                    if outcome.is_err() {
                        common.gave_up(page);
                    }
                    outcome?;
                    common.loaded(page);
                }
            }
            let range = self.model.addresses(page..page + 1);
            let shown =
                self.model.window.as_ref().map_or(Ok(()), |window| {
                    window.show_common(range.start(), common.memory(), page)
                });
            if let Err(errno) = shown {
                let _ = common.leave(page);
                return Err(self
                    .model
                    .not_in_place(range.start() - self.model.range().start(), errno));
            }
            taken.became_copies();
            count += 1;
            self.done.fetch_add(range.intersect(self.asked).len(), Ordering::Relaxed);
        }
        Ok(count)
    }

    /// Wait until other calls have loaded the pages that they had in their hands, or load those that they gave up.
    fn wait_for_others(&self) {
        let pieces = std::mem::take(&mut *lock(&self.with_others));
        for page in pieces.into_iter().flatten() {
            while !self.ended.load(Ordering::Relaxed) {
                match self.model.states.get(page) {
                    Some(Shows::Copy) => break,
                    Some(Shows::File) => match self.take_and_read(page..page + 1) {
                        // Another call has it by now, or another process.
                        Ok(0) => process::sleep(POLL),
                        Ok(_) => break,
                        failure => self.note(page, failure.map(drop)),
                    },
                    None => {
                        let done = self.done.load(Ordering::Relaxed);
                        self.note(page, self.request.watch.go_on(done, self.asked.len()));
                        process::sleep(POLL);
                    }
                }
            }
        }
    }

    fn progress(&self, is_caller: bool) -> Result<()> {
        let done = self.done.load(Ordering::Relaxed);
        if is_caller && done < self.asked.len() {
            return self.request.watch.progress(done, self.asked.len());
        }
        Ok(())
    }

    fn note(&self, page: usize, outcome: Result<()>) {
        let Err(failure) = outcome else { return };
        self.ended.store(true, Ordering::Relaxed);
        let at = self.model.addresses(page..page + 1).start().max(self.asked.start());
        let mut first = lock(&self.failure);
        if first.as_ref().is_none_or(|(before, _)| at < *before) {
            *first = Some((at, failure));
        }
    }
}

fn shows_file(shows: Shows) -> bool {
    shows == Shows::File
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}
