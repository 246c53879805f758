//! Where each page of a range is: its node, and whether it is in memory, huge, swapped out, shared
//! or hot.
//!
//! Unknown values are left out of [`Residency::known`], never guessed.

mod huge;
mod json;
mod out;
mod strip;
mod svg;
pub mod tally;

use std::ops::ControlFlow;

use crate::error::{Errno, Error, Result};
use crate::os::page_flags::PageFlags;
use crate::os::pagemap::{self, Files};
use crate::os::vma::{self, Backing, Vma};
use crate::os::{machine, mapping, numa};
use crate::page::PageRange;
use crate::reserve;

/// One page: `gmemPageState_t` of `libgmem.h`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PageState {
    /// Memory node of the page; -1 if it is on none, or on an unknown one.
    pub node: i16,
    /// A combination of the flags below.
    pub flags: u16,
}

/// Something is mapped there.
pub const MAPPED: u16 = 1;
/// In memory, and in this process's page table.
pub const RESIDENT: u16 = 2;
/// Part of a huge page that is mapped as a whole.
pub const HUGE: u16 = 4;
/// In swap.
pub const SWAPPED: u16 = 8;
/// A page of a file or of shared memory.
pub const SHARED: u16 = 16;
/// The kernel's page of zeros.
pub const ZERO: u16 = 32;
/// Referenced or active, according to the kernel.
pub const HOT: u16 = 64;
/// In [`Residency::known`] only: nodes of pages are known.
pub const NODE: u16 = 1 << 15;

/// The flags of a page and their names.
pub const FLAGS: [(u16, &str); 7] = [
    (MAPPED, "mapped"),
    (RESIDENT, "resident"),
    (HUGE, "huge"),
    (SWAPPED, "swapped"),
    (SHARED, "shared"),
    (ZERO, "zero"),
    (HOT, "hot"),
];

impl PageState {
    /// A page where nothing is mapped.
    pub const UNMAPPED: Self = Self { node: -1, flags: 0 };

    /// Whether the page has `flag`.
    pub const fn is(self, flag: u16) -> bool {
        self.flags & flag != 0
    }
}

/// Neighbouring pages with the same state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stretch {
    range: PageRange,
    state: PageState,
}

/// Stretches in ascending order. There may be as many as pages, so memory can run out; `is_cut`
/// records that.
#[derive(Debug, Default)]
struct Stretches {
    list: Vec<Stretch>,
    is_cut: bool,
}

impl Stretches {
    /// Append a stretch.
    fn join(&mut self, next: Stretch) {
        if let Some(last) = self.list.last_mut()
            && last.state == next.state
            && last.range.end() == next.range.start()
        {
            last.range = PageRange::new(last.range.start(), next.range.end());
        } else if self.is_cut || self.list.try_reserve(1).is_err() {
            self.is_cut = true;
        } else {
            self.list.push(next);
        }
    }

    fn finish(self) -> Result<Vec<Stretch>> {
        if self.is_cut {
            return Err(Error::OutOfMemory { what: "the page states of the range" });
        }
        Ok(self.list)
    }
}

/// The pages of a range, each at the moment at which the kernel looked at it.
#[derive(Debug)]
pub struct Residency {
    /// The range in whole base pages.
    pub range: PageRange,
    /// The flags reported here. A page may have any other flag without showing it.
    pub known: u16,
    /// Everything that is mapped, in ascending order.
    stretches: Vec<Stretch>,
}

/// Look at the pages of `[addr, addr + size)`, rounded outward to base pages. Hotness costs more
/// than all the rest, so it is optional.
pub fn read(addr: usize, size: usize, wants_hot: bool) -> Result<Residency> {
    let range = PageRange::from_arguments(addr, size)?.outward(mapping::base_page());
    // Memory for one batch in `refine`.
    reserve::ask(2 << 20, "looking at pages")?;
    let vmas = mapped(range)?;
    let mut stretches = scan(range, &vmas)?;
    let mut known = MAPPED | RESIDENT | SWAPPED | SHARED;
    if pagemap::knows_huge() {
        known |= HUGE | ZERO;
    } else if huge::deduce(range, &mut stretches)? {
        known |= HUGE;
    }
    if locate(&mut stretches)? {
        known |= NODE;
    }
    if wants_hot && find_hot(&mut stretches)? {
        known |= HOT;
    }
    Ok(Residency { range, known, stretches: with_the_rest(&vmas, &stretches)? })
}

/// The mappings in the range. Neighbours of one kind are joined.
fn mapped(range: PageRange) -> Result<Vec<Vma>> {
    /// Addresses from here on belong to the kernel. It lists its vsyscall page there, which is no
    /// page of this process.
    const KERNELS: usize = 1 << (usize::BITS - 1);
    let mut vmas: Vec<Vma> = Vec::new();
    let mut is_cut = false;
    let walked = vma::walk(range, |vma| {
        let inside = vma.range.intersect(range);
        if inside.is_empty() || inside.start() >= KERNELS {
            return ControlFlow::Continue(());
        }
        match vmas.last_mut() {
            Some(last) if last.backing == vma.backing && last.range.end() == inside.start() => {
                last.range = PageRange::new(last.range.start(), inside.end());
            }
            _ => {
                is_cut = vmas.try_reserve(1).is_err();
                if is_cut {
                    return ControlFlow::Break(());
                }
                vmas.push(Vma { range: inside, ..vma });
            }
        }
        ControlFlow::Continue(())
    });
    walked.map_err(|errno| failed("reading /proc/self/maps", range, errno))?;
    if is_cut {
        return Err(Error::OutOfMemory { what: "the mappings of so many pages" });
    }
    Ok(vmas)
}

/// The pages that are resident or swapped out.
fn scan(range: PageRange, vmas: &[Vma]) -> Result<Vec<Stretch>> {
    let has_swap = machine::swap().is_none_or(|(total, _)| total > 0);
    let mut stretches = Stretches::default();
    for vma in vmas {
        // Only a private mapping of a file can hold both kinds of pages.
        let files = if vma.backing == Backing::File { Files::Told } else { Files::NotTold };
        let is_shared = vma.backing == Backing::SharedMemory;
        pagemap::scan_telling(vma.range, files, |run| {
            let mut flags = MAPPED;
            let mut set = |flag, holds| flags |= if holds { flag } else { 0 };
            set(RESIDENT, run.present);
            // Without swap, a page that is neither here nor there is being moved, or is a guard
            // page.
            set(SWAPPED, !run.present && has_swap);
            set(HUGE, run.present && run.huge == Some(true));
            set(ZERO, run.present && run.zero);
            let is_file = is_shared || files == Files::Told && run.file;
            set(SHARED, run.present && is_file);
            stretches.join(Stretch { range: run.range, state: PageState { node: -1, flags } });
        })
        .map_err(|errno| failed("reading /proc/self/pagemap", range, errno))?;
    }
    stretches.finish()
}

/// Find the node of each page. False where the kernel does not say.
fn locate(stretches: &mut Vec<Stretch>) -> Result<bool> {
    let nodes = numa::memory_nodes();
    let id = |node: usize| i16::try_from(node).unwrap_or(-1);
    if let (Some(only), 1) = (nodes.iter().next(), nodes.len()) {
        for stretch in stretches.iter_mut().filter(|stretch| stretch.state.is(RESIDENT)) {
            stretch.state.node = id(only);
        }
        return Ok(true);
    }
    refine(stretches, |units| {
        let addresses: Vec<_> = units.iter().map(|unit| unit.range.start()).collect();
        let mut units = units.iter_mut();
        let told = numa::placement(&addresses, |_, place| {
            let Some(unit) = units.next() else { return };
            // Unknown are pages released meanwhile, and the zero page, which is on no node of the
            // process's choice.
            unit.state.node = match place {
                numa::Placement::Node(node) => id(node),
                numa::Placement::Unknown(_) => -1,
            };
        });
        told.ok()
    })
}

/// Find the hot pages. False where this process is not allowed to know.
fn find_hot(stretches: &mut Vec<Stretch>) -> Result<bool> {
    let Some(flags) = PageFlags::open() else { return Ok(false) };
    refine(stretches, |units| {
        let mut frames = Vec::with_capacity(units.len());
        // One call asks about a run of neighbours, unless they are huge.
        for neighbours in units.chunk_by(|a, b| {
            a.range.end() == b.range.start() && !a.state.is(HUGE) && !b.state.is(HUGE)
        }) {
            let (first, last) = (neighbours.first()?, neighbours.last()?);
            let end = if first.state.is(HUGE) {
                first.range.start() + mapping::base_page().bytes()
            } else {
                last.range.end()
            };
            frames.extend(pagemap::frames(PageRange::new(first.range.start(), end)).ok()?);
        }
        for (unit, is_hot) in units.iter_mut().zip(flags.hot(&frames).ok()?) {
            // The zero page is shared by all processes.
            unit.state.flags |= if is_hot && !unit.state.is(ZERO) { HOT } else { 0 };
        }
        Some(())
    })
}

/// Call `ask` with the resident pages, or huge pages as a whole, in batches, and join neighbours
/// that are alike afterwards. False, with everything unchanged, once `ask` gives up.
fn refine(
    stretches: &mut Vec<Stretch>,
    mut ask: impl FnMut(&mut [&mut Stretch]) -> Option<()>,
) -> Result<bool> {
    const BATCH: usize = 1 << 14;
    let mut refined = Stretches::default();
    let mut units = Vec::with_capacity(BATCH);
    let mut flush = |units: &mut Vec<Stretch>| {
        let mut resident: Vec<_> =
            units.iter_mut().filter(|unit| unit.state.is(RESIDENT)).collect();
        let answered = ask(&mut resident);
        units.drain(..).for_each(|unit| refined.join(unit));
        answered.is_some()
    };
    for stretch in stretches.iter() {
        let page = match stretch.state {
            state if !state.is(RESIDENT) => None,
            state if state.is(HUGE) => Some(mapping::gmem_page()),
            _ => Some(mapping::base_page()),
        };
        let mut start = stretch.range.start();
        while start < stretch.range.end() {
            let end = page.map_or(stretch.range.end(), |page| page.floor(start) + page.bytes());
            let end = end.min(stretch.range.end());
            units.push(Stretch { range: PageRange::new(start, end), state: stretch.state });
            start = end;
            if units.len() == BATCH && !flush(&mut units) {
                return Ok(false);
            }
        }
    }
    let is_done = flush(&mut units);
    if is_done {
        *stretches = refined.finish()?;
    }
    Ok(is_done)
}

/// Put what is mapped but neither resident nor swapped out between the other stretches.
fn with_the_rest(vmas: &[Vma], stretches: &[Stretch]) -> Result<Vec<Stretch>> {
    let rest = |from, to| Stretch {
        range: PageRange::new(from, to),
        state: PageState { node: -1, flags: MAPPED },
    };
    let mut all = Stretches::default();
    let mut stretches = stretches.iter().copied().peekable();
    for vma in vmas {
        let mut at = vma.range.start();
        while let Some(stretch) = stretches.peek() {
            let inside = stretch.range.intersect(vma.range);
            if inside.is_empty() {
                break;
            }
            if at < inside.start() {
                all.join(rest(at, inside.start()));
            }
            all.join(Stretch { range: inside, state: stretch.state });
            at = inside.end();
            if stretch.range.end() > vma.range.end() {
                // The stretch continues in the next mapping.
                break;
            }
            stretches.next();
        }
        if at < vma.range.end() {
            all.join(rest(at, vma.range.end()));
        }
    }
    all.finish()
}

fn failed(call: &'static str, range: PageRange, errno: Errno) -> Error {
    let remedy = match errno.0 {
        libc::EMFILE | libc::ENFILE => "; raise ulimit -n or fs.file-max",
        _ => "; libgmem needs /proc to be mounted",
    };
    Error::System { call, from: range.start(), to: range.end(), errno, remedy }
}

impl Residency {
    /// Number of base pages.
    pub fn pages(&self) -> usize {
        self.range.len().div_ceil(mapping::base_page().bytes())
    }

    /// Call `visit` for each run of pages with the same state, holes included, in ascending order.
    pub fn each(&self, mut visit: impl FnMut(usize, PageState)) {
        let page = mapping::base_page().bytes();
        let mut at = self.range.start();
        for stretch in &self.stretches {
            if at < stretch.range.start() {
                visit((stretch.range.start() - at) / page, PageState::UNMAPPED);
            }
            visit(stretch.range.len() / page, stretch.state);
            at = stretch.range.end();
        }
        if at < self.range.end() {
            visit((self.range.end() - at).div_ceil(page), PageState::UNMAPPED);
        }
    }
}

/// A residency as the caller keeps it, with one state per page. Text, JSON and pictures are made
/// from it.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// Address of the first page.
    pub start: usize,
    /// Bytes in a page.
    pub page: usize,
    /// See [`Residency::known`].
    pub known: u16,
    /// One state for each page.
    pub states: &'a [PageState],
}

impl<'a> View<'a> {
    /// Address of the page at `index`.
    const fn address(&self, index: usize) -> usize {
        self.start.wrapping_add(index.wrapping_mul(self.page))
    }

    /// Base pages in a GMEM page.
    fn per_block(&self) -> usize {
        (mapping::gmem_page().bytes() / self.page.max(1)).max(1)
    }

    /// The pages grouped by GMEM page, each group with the index of its first page. The first and
    /// the last group may be incomplete.
    fn blocks(&self) -> impl Iterator<Item = (usize, &'a [PageState])> {
        let per_block = self.per_block();
        let first = per_block - self.start / self.page.max(1) % per_block;
        let (head, rest) = self.states.split_at(first.min(self.states.len()));
        let behind = head.len();
        std::iter::once((0, head)).filter(|(_, part)| !part.is_empty()).chain(
            rest.chunks(per_block)
                .enumerate()
                .map(move |(index, part)| (behind + index * per_block, part)),
        )
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::os::advice;
    use crate::os::mapping::Mapping;

    fn states(residency: &Residency) -> Vec<PageState> {
        let mut all = Vec::new();
        residency.each(|count, state| all.extend(std::iter::repeat_n(state, count)));
        assert_eq!(all.len(), residency.pages());
        all
    }

    #[test]
    fn holes_untouched_and_touched_pages_are_told_apart() {
        let mapping = Mapping::of_base_pages(8);
        let whole = mapping.range();
        advice::populate_write(mapping.pages(1, 3)).unwrap();
        let _parts = mapping.with_hole(4, 5);
        let residency = read(whole.start() + 1, whole.len() - 2, false).unwrap();
        let seen = states(&residency);
        let flags: Vec<_> = seen.iter().map(|state| state.flags).collect();
        let there = MAPPED | RESIDENT;
        assert_eq!(flags, [MAPPED, there, there, MAPPED, 0, MAPPED, MAPPED, MAPPED]);
        assert!(seen[1].node >= 0 && seen[0].node == -1 && residency.known & HOT == 0);
    }

    #[test]
    fn the_whole_address_space_can_be_looked_at() {
        let residency = read(0, usize::MAX, false).unwrap();
        let (mut pages, mut resident) = (0, 0);
        residency.each(|count, state| {
            pages += count;
            resident += if state.is(RESIDENT) { count } else { 0 };
        });
        assert_eq!(pages, residency.pages());
        assert!(resident > 100);
        let nothing = read(5, 0, false).unwrap();
        assert_eq!(nothing.pages(), 0);
        assert!(read(usize::MAX, 2, false).is_err());
    }

    #[test]
    fn blocks_begin_at_multiples_of_the_gmem_page() {
        let page = mapping::base_page().bytes();
        let per_block = mapping::gmem_page().bytes() / page;
        let states = vec![PageState::UNMAPPED; 2 * per_block + 3];
        let view = View { start: 0, page, known: 0, states: &states };
        let lengths = |view: View<'_>| -> Vec<_> {
            view.blocks().map(|(first, part)| (first, part.len())).collect()
        };
        assert_eq!(lengths(view), [(0, per_block), (per_block, per_block), (2 * per_block, 3)]);
        let later = View { start: page * (per_block - 1), ..view };
        assert_eq!(lengths(later)[..2], [(0, 1), (1, per_block)]);
        assert_eq!(lengths(View { states: &states[..1], ..later }), [(0, 1)]);
        assert_eq!(lengths(View { states: &[], ..later }), []);
    }
}
