//! Whether pages can be put on a node where a sandbox refuses to move pages or to set a memory policy. A page is only said to be on a
//! node that the kernel has confirmed.

use super::hnid;
use super::migrate;
use super::plan::Segment;
use super::tally;
use crate::device::Request;
use crate::error::{Errno, Error, Result};
use crate::os::{numa, numa_maps};

/// How it is confirmed that pages are on the node of a request.
pub enum Placing {
    /// Pages can be moved, and each is looked at.
    ByMoving,
    /// Pages stay where they are populated, and the kernel tells the node of each.
    ByPage,
    /// Pages stay where they are populated. The kernel only tells how many pages of a mapping are on which node: so many were
    /// elsewhere before.
    ByMapping(usize),
    /// Pages stay where they are populated, and nothing tells where that is. None was in memory before.
    Unknown,
}

/// Refuse a request, before anything is moved, for which pages would have to move and cannot, or which has no way to place new ones.
pub fn check(segments: &[Segment], request: &Request<'_>) -> Result<Placing> {
    let Err(errno) = numa::can_move() else { return Ok(Placing::ByMoving) };
    let refused = |call, errno| Err(refusal(request, call, errno));
    let asked = || segments.iter().map(|segment| segment.asked);
    let resident: usize = asked().map(tally::present_bytes).sum();
    if resident < asked().map(|range| range.len()).sum()
        && numa::PreferNode::new(request.node).is_err()
        && let Err((errno, call)) = numa::has_policies()
    {
        return refused(call, errno);
    }
    let misplaced = migrate::misplaced(request.asked, request.node);
    let elsewhere = || numa_maps::pages_elsewhere(request.asked, request.node);
    match misplaced.map(|pages| pages.len()) {
        Ok(0) => Ok(Placing::ByPage),
        Ok(_) => refused("move_pages", errno),
        Err(_) => match elsewhere() {
            Ok(pages) if pages == 0 || resident == 0 => Ok(Placing::ByMapping(pages)),
            Err(_) if resident == 0 => Ok(Placing::Unknown),
            _ => refused("move_pages", errno),
        },
    }
}

impl Placing {
    /// Whether misplaced pages are moved.
    pub const fn moves(&self) -> bool {
        matches!(self, Self::ByMoving)
    }

    /// Fails if pages were populated elsewhere and stay there.
    pub fn confirm(&self, request: &Request<'_>) -> Result<()> {
        let left = match self {
            Self::ByMoving | Self::Unknown => 0,
            Self::ByPage => migrate::misplaced(request.asked, request.node)
                .map_or(0, |pages| pages.iter().map(|page| page.base_pages).sum()),
            Self::ByMapping(before) => numa_maps::pages_elsewhere(request.asked, request.node)
                .map_or(0, |now| now.saturating_sub(*before)),
        };
        if left == 0 {
            return Ok(());
        }
        Err(match numa::can_move() {
            Err(errno) => refusal(request, "move_pages", errno),
            Ok(()) => migrate::not_moved(left, request.asked, request.node),
        })
    }
}

fn refusal(request: &Request<'_>, call: &'static str, errno: Errno) -> Error {
    let (from, to) = (request.asked.start(), request.asked.end());
    Error::PlacementRefused { from, to, hnid: hnid(request.node), call, errno }
}
