//! The huge-page policy: what the kernel is advised, and whether there are enough huge pages.

use std::ops::ControlFlow;
use std::thread;

use super::plan::Segment;
use super::{has_one_node, walk};
use crate::device::Request;
use crate::error::{Errno, Error, Result};
use crate::huge_policy::HugePolicy;
use crate::os::mapping::Mapping;
use crate::os::vma::Backing;
use crate::os::{advice, machine, mapping, memory, numa, pagemap};
use crate::page::PageRange;

/// Before anything is populated: refuse if required huge pages are not available, and advise the kernel of the policy.
pub fn prepare(segments: &[Segment], request: &Request<'_>) -> Result<()> {
    match request.huge {
        HugePolicy::AsIs => return Ok(()),
        HugePolicy::Require => are_there(segments, request)?,
        HugePolicy::Off | HugePolicy::Prefer => {}
    }
    for segment in segments {
        tell(*segment, request.huge);
    }
    Ok(())
}

/// Advise the kernel of the policy for the memory that is mapped in a range. The mapping keeps it.
pub fn advise(range: PageRange, policy: HugePolicy) -> Result<()> {
    let range = range.outward(mapping::base_page());
    walk(range, |vma| {
        let inside = vma.range.intersect(range);
        match policy {
            HugePolicy::AsIs => {}
            HugePolicy::Off => advice::small_pages(inside),
            HugePolicy::Prefer | HugePolicy::Require => advice::huge_pages(inside),
        }
        ControlFlow::Continue(())
    })
}

fn tell(segment: Segment, policy: HugePolicy) {
    match (segment.backing, policy) {
        (Backing::File, _) | (_, HugePolicy::AsIs) => {}
        (_, HugePolicy::Off) => advice::small_pages(segment.range),
        (_, HugePolicy::Prefer | HugePolicy::Require) => advice::huge_pages(segment.range),
    }
}

/// Whether a page of the segment may become huge under the policy.
pub fn is_wanted(segment: Segment, policy: HugePolicy) -> bool {
    match policy {
        HugePolicy::Off => false,
        HugePolicy::Prefer | HugePolicy::Require => true,
        HugePolicy::AsIs => {
            segment.backing == Backing::Anonymous
                && machine::huge_pages() == machine::HugePages::Always
        }
    }
}

/// Make the pages of a segment huge, one by one, until the kernel has no memory for another huge page. For what was
/// populated under [`HugePolicy::Prefer`].
pub fn collapse_available(segment: Segment) {
    let page = mapping::huge_page();
    let pages = segment.huge_candidates();
    if segment.huge_tlb || huge_already(pages) * page.bytes() == pages.len() {
        return;
    }
    for at in (pages.start()..pages.end()).step_by(page.bytes()) {
        // After other failures go on: this page cannot be huge now, for example because it is pinned.
        if let Err(Errno(libc::ENOMEM | libc::EBUSY)) =
            advice::collapse(PageRange::new(at, at + page.bytes()))
        {
            return;
        }
    }
}

/// Attempts to collapse a page that is busy for a moment.
const COLLAPSE_RETRIES: usize = 100;

/// Turn all pages of a segment into huge pages, or fail. For segments that were populated under [`HugePolicy::Require`].
pub fn insist(segment: Segment) -> Result<()> {
    let page = mapping::huge_page();
    let pages = segment.huge_candidates();
    for at in (pages.start()..pages.end()).step_by(page.bytes()) {
        let collapse = || advice::collapse(PageRange::new(at, at + page.bytes()));
        let mut outcome = collapse();
        // EAGAIN: the page is locked or isolated for a moment, as other processes reclaim or compact (madvise(2)).
        for _ in 0..COLLAPSE_RETRIES {
            if outcome != Err(Errno(libc::EAGAIN)) {
                break;
            }
            thread::yield_now();
            outcome = collapse();
        }
        match outcome {
            // Pages of the hugetlb pool are huge already, and collapsing them fails.
            Err(_) if segment.huge_tlb => {}
            Err(errno) => {
                let (from, to) = (segment.asked.start(), segment.asked.end());
                return Err(Error::HugePagesLost { from, to, at, errno });
            }
            Ok(()) => {}
        }
    }
    Ok(())
}

/// Refuse unless all segments are on huge pages already or can get them.
fn are_there(segments: &[Segment], request: &Request<'_>) -> Result<()> {
    let (from, to) = (request.asked.start(), request.asked.end());
    let refuse = |why, remedy| Err(Error::NoHugePages { from, to, why, remedy });
    let page = mapping::huge_page();
    let mut needed = 0;
    for segment in segments.iter().filter(|segment| !segment.asked.is_empty()) {
        if segment.backing == Backing::File {
            return refuse("part of it maps a file", "Pass private or shared memory only.");
        }
        if !segment.huge_tlb {
            let pages = segment.huge_candidates();
            needed += pages.len() / page.bytes() - huge_already(pages);
        }
    }
    if needed == 0 {
        return Ok(());
    }
    if machine::huge_pages() == machine::HugePages::Never {
        return refuse(
            "the system gives none",
            "As root: echo madvise > /sys/kernel/mm/transparent_hugepage/enabled",
        );
    }
    if memory::huge_pages_are_disabled_here() {
        return refuse(
            "this process has forbidden itself to have any",
            "Call prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0), or start it from a process that has not set that.",
        );
    }
    if !advice::can_collapse() {
        return refuse(
            "the kernel cannot be made to give them (MADV_COLLAPSE, Linux 6.1)",
            "Take GMEM_HUGE_PREFER, or memory of the hugetlb pool.",
        );
    }
    let found = obtainable(needed, request.node);
    if found < needed {
        let missing = needed - found;
        return Err(Error::HugePagesMissing { from, to, missing, needed, node: request.node });
    }
    Ok(())
}

fn huge_already(pages: PageRange) -> usize {
    let mut bytes = 0;
    let _ = pagemap::scan(pages, |run| {
        if run.present && run.huge == Some(true) {
            bytes += run.range.len();
        }
    });
    bytes / mapping::huge_page().bytes()
}

/// The number of huge pages, up to `needed`, that the node can provide. If too few are free, the kernel has to compact memory;
/// how many that yields is found out by populating a scratch mapping and unmapping it.
fn obtainable(needed: usize, node: usize) -> usize {
    let page = mapping::huge_page();
    let free = memory::free_huge_pages(node).unwrap_or(0);
    let available = memory::available_on(node).or_else(memory::available).unwrap_or(0);
    let Some(bytes) = needed.checked_mul(page.bytes()) else { return free };
    if free >= needed || bytes > available {
        return free;
    }
    let Ok(mapping) = Mapping::new(bytes, page) else { return free };
    let range = mapping.range();
    advice::huge_pages(range);
    let preferred = (!has_one_node(node)).then(|| numa::PreferNode::new(node));
    let mut found = 0;
    for at in (range.start()..range.end()).step_by(page.bytes()) {
        let one = PageRange::new(at, at + page.bytes());
        let mut is_there = has_one_node(node);
        let taken =
            advice::populate_write(one).and_then(|()| advice::collapse(one)).and_then(|()| {
                numa::placement(&[at], |_, at| is_there |= at == numa::Placement::Node(node))
            });
        if taken.is_err() || !is_there {
            break;
        }
        found += 1;
    }
    drop(preferred);
    found
}
