//! Huge-page policies: of a call, of a range of addresses, and of the process.
//!
//! The most specific policy holds: that of the call, else that of the range that its first address lies in, else that of the
//! process.

use std::sync::atomic::{AtomicU8, Ordering};

use crate::config::Setting;
use crate::error::{Error, Result};
use crate::os::lazy::Lazy;
use crate::os::replaced::Replaced;
use crate::page::PageRange;
use crate::reserve;

/// A huge-page policy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum HugePolicy {
    /// As the mapping and the system say.
    #[default]
    AsIs = 0,
    /// Base pages only.
    Off = 1,
    /// Huge pages if the kernel has some available, else base pages.
    Prefer = 2,
    /// Huge pages everywhere, or an error before anything is touched.
    Require = 3,
}

impl HugePolicy {
    /// The policy with this number in `libgmem.h`.
    pub fn from_number(policy: i32) -> Result<Self> {
        match policy {
            0 => Ok(Self::AsIs),
            1 => Ok(Self::Off),
            2 => Ok(Self::Prefer),
            3 => Ok(Self::Require),
            _ => Err(Error::UnknownHugePolicy { policy }),
        }
    }
}

/// `GMEM_HUGE_PAGES`.
pub static HUGE_PAGES: Setting<HugePolicy> = Setting {
    name: c"GMEM_HUGE_PAGES",
    form: "`off`, `prefer` or `require`",
    default: "as the mapping and the system say",
    about: "Huge pages for prefetches and ranges that have no policy of their own; `gmemSetHugePolicy` overrides it.",
    parse: |word| match word {
        b"off" => Some(HugePolicy::Off),
        b"prefer" => Some(HugePolicy::Prefer),
        b"require" => Some(HugePolicy::Require),
        _ => None,
    },
};

fn of_environment() -> HugePolicy {
    static READ: Lazy<HugePolicy> = Lazy::new(|| HUGE_PAGES.get().unwrap_or_default());
    *READ.get()
}

/// The policy of the process plus 1; 0 until it is set, while `GMEM_HUGE_PAGES` holds.
static PROCESS: AtomicU8 = AtomicU8::new(0);

/// Set the policy of the process.
pub fn set(policy: HugePolicy) {
    PROCESS.store(policy as u8 + 1, Ordering::Relaxed);
}

fn of_process() -> HugePolicy {
    match PROCESS.load(Ordering::Relaxed) {
        0 => of_environment(),
        set => HugePolicy::from_number(i32::from(set - 1)).unwrap_or(HugePolicy::AsIs),
    }
}

/// The ranges that have a policy, in ascending order; they do not overlap.
static RANGES: Replaced<Vec<(PageRange, HugePolicy)>> = Replaced::new();

/// Set the policy of a range; `AsIs` removes it, so that the policy of the process holds again.
pub fn set_range(range: PageRange, policy: HugePolicy) -> Result<()> {
    // Each policy splits at most one range in two.
    let ranges = RANGES.get().map_or(0, Vec::len) + SPARE_RANGES;
    reserve::ask(ranges * size_of::<(PageRange, HugePolicy)>() * 4, "the policies of ranges")?;
    RANGES.replace(|ranges| with_range(ranges.map_or(&[], Vec::as_slice), range, policy));
    Ok(())
}

/// Other threads may set policies meanwhile.
const SPARE_RANGES: usize = 64;

fn with_range(
    before: &[(PageRange, HugePolicy)],
    range: PageRange,
    policy: HugePolicy,
) -> Vec<(PageRange, HugePolicy)> {
    let left = |other: PageRange| PageRange::new(other.start(), other.end().min(range.start()));
    let right = |other: PageRange| PageRange::new(other.start().max(range.end()), other.end());
    let mut after: Vec<_> = before
        .iter()
        .flat_map(|(other, theirs)| [(left(*other), *theirs), (right(*other), *theirs)])
        .filter(|(part, _)| !part.is_empty())
        .collect();
    if policy != HugePolicy::AsIs && !range.is_empty() {
        after.push((range, policy));
    }
    after.sort_by_key(|(part, _)| part.start());
    after
}

/// The policy at `address` for a call that has none.
pub fn at(address: usize) -> HugePolicy {
    let ranges = RANGES.get().map_or(&[][..], Vec::as_slice);
    let behind = ranges.partition_point(|(range, _)| range.start() <= address);
    match behind.checked_sub(1).and_then(|at| ranges.get(at)) {
        Some((range, policy)) if address < range.end() => *policy,
        _ => of_process(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_policy_of_an_address_holds() {
        let range = PageRange::new;
        let list = with_range(&[], range(0, 100), HugePolicy::Prefer);
        let list = with_range(&list, range(40, 60), HugePolicy::Off);
        let expected = [
            (range(0, 40), HugePolicy::Prefer),
            (range(40, 60), HugePolicy::Off),
            (range(60, 100), HugePolicy::Prefer),
        ];
        assert_eq!(list, expected);
        let list = with_range(&list, range(30, 70), HugePolicy::AsIs);
        assert_eq!(
            list,
            [(range(0, 30), HugePolicy::Prefer), (range(70, 100), HugePolicy::Prefer)]
        );
        assert!(with_range(&list, range(0, 100), HugePolicy::AsIs).is_empty());
    }

    #[test]
    fn a_range_goes_before_the_process() {
        // No test maps these addresses.
        let range = PageRange::new(1 << 60, (1 << 60) + 4096);
        assert!(set_range(range, HugePolicy::Require).is_ok());
        assert_eq!(at(range.start()), HugePolicy::Require);
        assert_eq!(at(range.end() - 1), HugePolicy::Require);
        assert_eq!(at(range.end()), of_environment());
        assert!(set_range(range, HugePolicy::AsIs).is_ok());
        assert_eq!(at(range.start()), of_environment());
    }
}
