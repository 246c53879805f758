//! Device `host`: a stock Linux kernel with any number of memory nodes, CXL included.
//!
//! - [`plan`]: divides a range into segments that are populated alike, or refuses it
//! - [`free_memory`]: whether there is enough memory
//! - [`huge`]: the huge-page policy, and whether there are enough huge pages
//! - [`placing`]: whether pages can be put on the node, in a sandbox that refuses system calls
//! - [`populate`]: the work, piece by piece, on several threads where that pays; [`touch`]: one piece
//! - [`migrate`]: moves pages that are on another node
//! - [`hot`]: marks pages that are already resident as used
//! - [`tally`]: counts the pages of a range, before and after
//! - [`free`]: eager free

mod free;
mod free_memory;
mod hot;
mod huge;
mod migrate;
mod placing;
mod plan;
mod populate;
mod tally;
mod touch;

use std::ffi::CStr;
use std::ops::ControlFlow;

use placing::Placing;

use super::{Device, Request};
use crate::config::SettingRow;
use crate::error::{Errno, Error, Result};
use crate::helpers;
use crate::huge_policy::HugePolicy;
use crate::os::lazy::Lazy;
use crate::os::numa;
use crate::os::vma::{self, Backing, Vma};
use crate::page::PageRange;
use crate::report::Report;

/// The machine's own memory.
pub struct Host;

impl Device for Host {
    fn c_name(&self) -> &'static CStr {
        c"host"
    }

    fn settings(&self) -> Vec<SettingRow> {
        vec![helpers::THREADS.row()]
    }

    fn numa_id(&self) -> Result<i32> {
        let here = numa::current_node();
        let nodes = known_nodes();
        let nearest = if nodes.contains(here) {
            Some(here)
        } else {
            nodes.iter().min_by_key(|node| numa::distance(here, *node).unwrap_or(usize::MAX))
        };
        Ok(nearest.map_or(0, hnid))
    }

    fn node(&self, hnid: i32) -> Result<usize> {
        let node = usize::try_from(hnid).unwrap_or(usize::MAX);
        if known_nodes().contains(node) {
            return Ok(node);
        }
        // Memory may have been added since.
        let nodes = numa::memory_nodes();
        if nodes.contains(node) {
            return Ok(node);
        }
        Err(Error::NotAMemoryNode { hnid, nodes: nodes.to_string() })
    }

    fn prefetch(&self, request: &Request<'_>, report: &mut Report) -> Result<()> {
        let one_node = request.stays || has_one_node(request.node);
        let is_plain = !request.wants_report && request.huge == HugePolicy::AsIs;
        let is_small = request.asked.len() <= populate::PIECE_BYTES;
        if is_small && is_plain && one_node && hot::mark_if_all_resident(request.asked) {
            return Ok(());
        }
        let segments = plan::segments(request.asked)?;
        if !one_node {
            migrate::is_allowed(request.node)?;
        }
        free_memory::check(&segments, request, one_node)?;
        let placing = match one_node {
            true => Placing::Unknown,
            false => placing::check(&segments, request)?,
        };
        huge::prepare(&segments, request)?;
        populate::run(&segments, request, placing.moves(), report)?;
        placing.confirm(request)
    }

    fn advise_huge(&self, range: PageRange, policy: HugePolicy) -> Result<()> {
        huge::advise(range, policy)
    }

    fn free_eager(&self, pages: PageRange) -> Result<()> {
        free_eager_after(pages, |_| Ok(()))
    }

    fn may_free_eager(&self, pages: PageRange) -> Result<()> {
        free::may_drop(pages)
    }
}

/// Free a range; `first` is called before with each part that is private memory.
pub(super) fn free_eager_after(
    pages: PageRange,
    first: impl Fn(PageRange) -> Result<()>,
) -> Result<()> {
    free::drop_pages(pages, first)
}

/// Fails if there is too little free memory for private memory of the size of `parts`, which is about to replace what is there.
pub fn check_memory_for(parts: &[PageRange], request: &Request<'_>) -> Result<()> {
    let private = |part: &PageRange| plan::Segment {
        range: *part,
        asked: *part,
        write: true,
        backing: Backing::Anonymous,
        huge_tlb: false,
        page_bytes: 0,
    };
    let segments: Vec<_> = parts.iter().map(private).collect();
    free_memory::check(&segments, request, has_one_node(request.node))
}

/// While the value lives, pages that the calling thread populates come from the node. `None` if there is no other.
pub fn prefer_node(node: usize) -> Option<numa::PreferNode> {
    let is_one_of_many = known_nodes().contains(node) && !has_one_node(node);
    is_one_of_many.then(|| numa::PreferNode::new(node).ok()).flatten()
}

/// The memory nodes at the first call. Reading them takes three system calls, and they rarely change. If a node has gone since,
/// the missing pages show it.
fn known_nodes() -> &'static numa::NodeSet {
    static NODES: Lazy<numa::NodeSet> = Lazy::new(numa::memory_nodes);
    NODES.get()
}

/// Whether this is the only node of the machine, so that no page can be elsewhere.
fn has_one_node(node: usize) -> bool {
    known_nodes().contains(node) && known_nodes().len() == 1
}

fn hnid(node: usize) -> i32 {
    i32::try_from(node).unwrap_or(i32::MAX)
}

/// Call `visit` for each mapping that touches `range`.
pub(super) fn walk(range: PageRange, visit: impl FnMut(Vma) -> ControlFlow<()>) -> Result<()> {
    vma::walk(range, visit).map_err(|errno| {
        let remedy = match errno.0 {
            libc::EMFILE | libc::ENFILE => "; raise ulimit -n or fs.file-max",
            _ => "; libgmem needs /proc to be mounted",
        };
        system("reading /proc/self/maps", range, errno, remedy)
    })
}

fn system(call: &'static str, range: PageRange, errno: Errno, remedy: &'static str) -> Error {
    Error::System { call, from: range.start(), to: range.end(), errno, remedy }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::device::Unwatched;
    use crate::os::mapping::{Mapping, gmem_page};

    #[test]
    fn the_current_node_is_a_memory_node() {
        let hnid = Host.numa_id().unwrap();
        assert_eq!(Host.node(hnid).unwrap(), usize::try_from(hnid).unwrap());
        assert!(Host.node(-1).is_err() && Host.node(i32::MAX).is_err());
    }

    #[test]
    fn settling_where_the_pages_are_is_nothing_to_do() {
        let page = gmem_page();
        let mapping = Mapping::new(page.bytes(), page).unwrap();
        let range = mapping.range();
        let node = Host.node(Host.numa_id().unwrap()).unwrap();
        let request = Request {
            asked: range,
            node,
            huge: HugePolicy::AsIs,
            max_threads: 0,
            wants_report: true,
            reads_huge_pages: false,
            stays: false,
            watch: &Unwatched,
        };
        let mut report = Report::EMPTY;
        Host.prefetch(&request, &mut report).unwrap();
        assert_eq!((report.populated, report.already_resident), (512, 0));
        assert_eq!(migrate::migrate_misplaced(range, node), Ok(migrate::Moved::Nothing));
        let mut report = Report::EMPTY;
        Host.prefetch(&request, &mut report).unwrap();
        assert_eq!((report.populated, report.already_resident), (0, 512));
    }
}
