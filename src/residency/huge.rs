//! Huge pages on kernels before Linux 6.7, which report how many bytes of a mapping are on huge
//! pages, but not which. Often the number has only one explanation.

use super::{HUGE, Stretch, Stretches};
use crate::error::{Errno, Result};
use crate::os::pagemap::{self, Files};
use crate::os::smaps::{self, Resident};
use crate::os::{SysResult, mapping};
use crate::page::PageRange;

/// Mark huge pages. False, with nothing marked, where the kernel's numbers are ambiguous.
pub fn deduce(range: PageRange, stretches: &mut Vec<Stretch>) -> Result<bool> {
    let mut huge = Vec::new();
    let mut is_certain = true;
    let read = smaps::each_mapping(|mapping| {
        // The kernel counts huge pages per mapping, so look at all of it.
        let whole = PageRange::new(mapping.start, mapping.end);
        if !is_certain || whole.intersect(range).is_empty() || !mapping.has_huge_pages() {
            return;
        }
        match resident_parts(whole).ok().and_then(|parts| of_mapping(&mapping, parts)) {
            Some(parts) if huge.try_reserve(parts.len()).is_ok() => huge.extend(parts),
            _ => is_certain = false,
        }
    });
    is_certain &= read.is_ok();
    if is_certain {
        *stretches = mark(stretches, &huge)?;
    }
    Ok(is_certain)
}

/// The huge pages among the resident parts of a mapping; `None` where they are ambiguous.
fn of_mapping(mapping: &Resident, mut parts: Vec<PageRange>) -> Option<Vec<PageRange>> {
    if mapping.is_hugetlb {
        return Some(parts);
    }
    // A huge page is resident as a whole. If the candidates add up to the kernel's number, they are
    // the huge pages.
    let page = mapping::huge_page();
    parts.retain_mut(|part| {
        *part = part.inward(page);
        !part.is_empty()
    });
    let bytes: usize = parts.iter().map(|part| part.len()).sum();
    (bytes == mapping.huge + mapping.huge_shared).then_some(parts)
}

/// The resident parts of a range, neighbours joined.
fn resident_parts(range: PageRange) -> SysResult<Vec<PageRange>> {
    let mut parts: Vec<PageRange> = Vec::new();
    let mut is_full = false;
    pagemap::scan_telling(range, Files::NotTold, |run| {
        if !run.present || is_full {
            return;
        }
        match parts.last_mut() {
            Some(last) if last.end() == run.range.start() => {
                *last = PageRange::new(last.start(), run.range.end());
            }
            _ => {
                is_full = parts.try_reserve(1).is_err();
                if !is_full {
                    parts.push(run.range);
                }
            }
        }
    })?;
    if is_full { Err(Errno(libc::ENOMEM)) } else { Ok(parts) }
}

/// Set the flag in the parts that lie in `huge`, which is in ascending order.
fn mark(stretches: &[Stretch], huge: &[PageRange]) -> Result<Vec<Stretch>> {
    let mut marked = Stretches::default();
    for stretch in stretches {
        let mut at = stretch.range.start();
        let first = huge.partition_point(|part| part.end() <= at);
        for part in huge[first..].iter().take_while(|part| part.start() < stretch.range.end()) {
            let inside = part.intersect(stretch.range);
            let before = PageRange::new(at, inside.start());
            if !before.is_empty() {
                marked.join(Stretch { range: before, ..*stretch });
            }
            let mut state = stretch.state;
            state.flags |= HUGE;
            marked.join(Stretch { range: inside, state });
            at = inside.end();
        }
        if at < stretch.range.end() {
            marked.join(Stretch { range: PageRange::new(at, stretch.range.end()), ..*stretch });
        }
    }
    marked.finish()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::os::advice;
    use crate::os::mapping::Mapping;
    use crate::residency::{MAPPED, PageState, RESIDENT};

    #[test]
    fn only_what_is_certain_is_said() {
        let page = mapping::huge_page().bytes();
        let two = PageRange::new(4 * page, 6 * page);
        // Half a page, at an address where no huge page begins.
        let small = PageRange::new(8 * page + page / 2, 9 * page + page / 4);
        let of = |huge, parts: &[PageRange]| {
            of_mapping(&Resident { huge, ..Resident::default() }, parts.to_vec())
        };
        assert_eq!(of(2 * page, &[two, small]), Some(vec![two]));
        assert_eq!(of(page, &[two, small]), None);
        let hugetlb = Resident { is_hugetlb: true, ..Resident::default() };
        assert_eq!(of_mapping(&hugetlb, vec![two]), Some(vec![two]));
    }

    #[test]
    fn resident_parts_are_joined() {
        let mapping = Mapping::of_base_pages(8);
        let part = |from, to| mapping.pages(from, to);
        advice::populate_write(part(1, 3)).unwrap();
        advice::populate_write(part(3, 4)).unwrap();
        advice::populate_write(part(6, 7)).unwrap();
        assert_eq!(resident_parts(part(0, 8)).unwrap(), [part(1, 4), part(6, 7)]);
    }

    #[test]
    fn marks_split_what_they_lie_in() {
        let state = PageState { node: -1, flags: MAPPED | RESIDENT };
        let huge = PageState { node: -1, flags: MAPPED | RESIDENT | HUGE };
        let stretch = |start, end, state| Stretch { range: PageRange::new(start, end), state };
        let stretches = [stretch(0, 10, state), stretch(20, 30, state)];
        let marked = mark(&stretches, &[PageRange::new(4, 6), PageRange::new(20, 30)]).unwrap();
        let expected = [
            stretch(0, 4, state),
            stretch(4, 6, huge),
            stretch(6, 10, state),
            stretch(20, 30, huge),
        ];
        assert_eq!(marked, expected);
    }
}
