//! Divides a range that is to be prefetched into segments that are populated alike, or refuses it before anything is touched.

use std::cell::LazyCell;
use std::ops::ControlFlow;

use super::walk;
use crate::error::{Error, Result};
use crate::os::vma::{Backing, Vma};
use crate::os::{mapping, userfaultfd};
use crate::page::PageRange;

/// Memory that is populated in one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// The addresses, including the margin that rounding outward added.
    pub range: PageRange,
    /// The part that was requested. The rest is margin; it may change, and a failure there does not count.
    pub asked: PageRange,
    /// Whether to populate as if written. That is done wherever the mapping permits it, so that the first store takes no fault.
    pub write: bool,
    /// The kind of memory.
    pub backing: Backing,
    /// Whether it is on pages of the hugetlb pool.
    pub huge_tlb: bool,
    /// Bytes of a page; 0 if unknown.
    pub page_bytes: usize,
}

impl Segment {
    /// Act on the segment with its margin; if that fails, on the requested part alone.
    pub fn with_margin(self, act: impl Fn(Self) -> Result<()>) -> Result<()> {
        match act(self) {
            Err(_) if self.asked.is_empty() => Ok(()),
            Err(_) if self.asked != self.range => act(Self { range: self.asked, ..self }),
            outcome => outcome,
        }
    }

    /// The whole huge pages that contain requested bytes.
    pub fn huge_candidates(self) -> PageRange {
        let page = mapping::huge_page();
        if self.backing == Backing::File || self.asked.is_empty() {
            return PageRange::new(self.range.start(), self.range.start());
        }
        self.range.inward(page).intersect(self.asked.outward(page))
    }

    /// Pieces of at most `bytes` that end where GMEM pages end, and where huge pages end if a piece can hold one. `bytes` is a
    /// multiple of the GMEM page.
    pub fn cut(self, bytes: usize) -> impl Iterator<Item = Self> {
        let huge = mapping::huge_page();
        let page = if bytes >= huge.bytes() { huge } else { mapping::gmem_page() };
        let first = page.floor(self.range.start());
        (first..self.range.end()).step_by(bytes).map(move |at| {
            let piece = PageRange::new(at, at.saturating_add(bytes));
            let (range, asked) = (self.range.intersect(piece), self.asked.intersect(piece));
            Self { range, asked, ..self }
        })
    }

    fn is_alike(self, other: Self) -> bool {
        let kind = |of: Self| (of.write, of.backing, of.huge_tlb, of.page_bytes);
        kind(self) == kind(other)
    }
}

/// The segments of `asked`, together with the ordinary memory in the margin up to whole GMEM pages. Memory whose page faults the
/// program serves itself is never margin: the caller may be the one who serves it.
pub fn segments(asked: PageRange) -> Result<Vec<Segment>> {
    let outer = asked.outward(mapping::gmem_page());
    let asked = asked.outward(mapping::base_page());
    let mut segments: Vec<Segment> = Vec::new();
    let mut refusal = None;
    let mut covered = asked.start();
    let mut is_full = false;
    let may_be_served = LazyCell::new(userfaultfd::is_open);

    walk(outer, |vma| {
        let inside = vma.range.intersect(asked);
        if !inside.is_empty() {
            if inside.start() > covered {
                return ControlFlow::Break(());
            }
            covered = inside.end();
            if !vma.read && !vma.write {
                refusal = Some(inside);
                return ControlFlow::Break(());
            }
        }
        let with_margin = vma.range.intersect(outer);
        let has_margin = with_margin != inside
            && is_ordinary(vma)
            && !(*may_be_served && userfaultfd::serves(with_margin));
        let wanted = if has_margin { with_margin } else { inside };
        if !wanted.is_empty() {
            is_full = segments.try_reserve(1).is_err();
            if is_full {
                return ControlFlow::Break(());
            }
            let Vma { write, backing, huge_tlb, page_bytes, .. } = vma;
            push(
                &mut segments,
                Segment { range: wanted, asked: inside, write, backing, huge_tlb, page_bytes },
            );
        }
        ControlFlow::Continue(())
    })?;

    if is_full {
        return Err(Error::OutOfMemory { what: "the list of what is mapped in the range" });
    }
    if let Some(range) = refusal {
        return Err(Error::Unsupported {
            verb: "gmemPrefetch",
            from: range.start(),
            to: range.end(),
            what: "mapped without any access (PROT_NONE)",
            remedy: "Make it accessible with mprotect(2) first.",
            errno: libc::EACCES,
        });
    }
    if covered < asked.end() {
        return Err(Error::Hole {
            at: covered,
            from: asked.start(),
            to: asked.end(),
            done: "nothing was moved. Pass a range that is mapped throughout",
        });
    }
    Ok(segments)
}

fn is_ordinary(vma: Vma) -> bool {
    vma.backing == Backing::Anonymous && vma.write
}

/// Add a segment; neighbours that are populated alike become one.
fn push(segments: &mut Vec<Segment>, next: Segment) {
    if let Some(last) = segments.last_mut()
        && last.is_alike(next)
        && last.range.end() == next.range.start()
        && let Some(range) = last.range.union(next.range)
    {
        // The requested parts of neighbours are adjacent, too, unless one has none.
        last.asked = match (last.asked.is_empty(), next.asked.is_empty()) {
            (true, _) => next.asked,
            (_, true) => last.asked,
            _ => last.asked.union(next.asked).unwrap_or(range),
        };
        last.range = range;
    } else {
        segments.push(next);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::os::mapping::{Mapping, gmem_page};

    fn segment(range: PageRange, asked: PageRange, write: bool) -> Segment {
        Segment { range, asked, write, backing: Backing::Anonymous, huge_tlb: false, page_bytes: 0 }
    }

    #[test]
    fn neighbours_populated_alike_are_one_segment() {
        let mut segments = Vec::new();
        let none = PageRange::new(0, 0);
        for (start, end, asked, write) in [
            (0, 10, none, true),
            (10, 20, PageRange::new(15, 20), true),
            (20, 30, PageRange::new(20, 30), true),
            (30, 40, none, false),
            (50, 60, none, false),
        ] {
            push(&mut segments, segment(PageRange::new(start, end), asked, write));
        }
        let ranges: Vec<_> = segments.iter().map(|s| (s.range.start(), s.range.end())).collect();
        assert_eq!(ranges, [(0, 30), (30, 40), (50, 60)]);
        assert_eq!(segments[0].asked, PageRange::new(15, 30));
    }

    #[test]
    fn a_plan_covers_the_margin_of_ordinary_memory() {
        let page = gmem_page();
        let mapping = Mapping::new(2 * page.bytes(), page).unwrap();
        let at = mapping.range().start();
        let plan = segments(PageRange::new(at + 5, at + 6)).unwrap();
        let asked = PageRange::new(at, at + mapping::base_page().bytes());
        let range = PageRange::new(at, at + page.bytes());
        let known = plan[0].page_bytes;
        assert_eq!(plan, [Segment { page_bytes: known, ..segment(range, asked, true) }]);
        assert_eq!(plan[0].huge_candidates(), range);
        drop(mapping);
        assert!(matches!(segments(PageRange::new(at + 5, at + 6)), Err(Error::Hole { .. })));
    }

    #[test]
    fn pieces_end_where_gmem_pages_end() {
        let page = gmem_page().bytes();
        let whole = PageRange::new(page + 4096, 6 * page);
        let pieces: Vec<_> = segment(whole, whole, true).cut(2 * page).map(|s| s.range).collect();
        let range = PageRange::new;
        let expected =
            [range(page + 4096, 3 * page), range(3 * page, 5 * page), range(5 * page, 6 * page)];
        assert_eq!(pieces, expected);
    }
}
