//! Limits on the heap's memory.
//!
//! - Above the *soft* limit the heap keeps nothing idle: whenever it takes more, idle memory goes back first. It compares
//!   what jemalloc has in use and what is kept.
//! - At the *hard* limit an allocation fails with `ENOMEM`, after idle memory went back. It compares what may be resident
//!   (the charges of [`super::heap_page`]), so the heap's RSS stays within it whatever the sizes and order of blocks.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::own_data;
use super::page_map::TOTALS;
use crate::error::Errno;
use crate::os::SysResult;

/// No limit.
pub const NONE: usize = 0;
/// A heap with a smaller hard limit lies on small pages: partly used huge pages would take too much of it.
const LEAST_FOR_HUGE_PAGES: usize = 64 << 20;
/// A reclaim looks at every heap page, so it has to be worth it. But it must serve what one thread's cache gives back.
const LEAST_TO_RECLAIM: usize = 32 << 10;

static SOFT: AtomicUsize = AtomicUsize::new(NONE);
static HARD: AtomicUsize = AtomicUsize::new(NONE);
static REFUSED: AtomicUsize = AtomicUsize::new(0);
static SOFT_EXCEEDED: AtomicBool = AtomicBool::new(false);
/// Refusals when unused base pages were last reclaimed.
static RECLAIMED_AT: AtomicUsize = AtomicUsize::new(0);

/// Set both, in bytes, from now on; what is in use already stays.
pub fn set(soft: usize, hard: usize) {
    SOFT.store(soft, Ordering::Relaxed);
    HARD.store(hard, Ordering::Relaxed);
}

/// The soft and the hard limit.
pub fn get() -> (usize, usize) {
    (SOFT.load(Ordering::Relaxed), HARD.load(Ordering::Relaxed))
}

/// Whether there is a hard limit.
pub fn is_hard() -> bool {
    HARD.load(Ordering::Relaxed) != NONE
}

/// How often the hard limit refused memory.
pub fn refused() -> usize {
    REFUSED.load(Ordering::Relaxed)
}

/// Count a refusal.
pub fn count_refusal() {
    REFUSED.fetch_add(1, Ordering::Relaxed);
}

/// Count `bytes` as in use and reserve `missing` bytes of charge, unless that exceeds the hard limit. The caller ends the
/// reservation when the page map has charged the pages.
pub fn admit(bytes: usize, missing: usize) -> SysResult<()> {
    let (soft, hard) = get();
    let charged = TOTALS.charged.fetch_add(missing, Ordering::Relaxed) + missing;
    if hard != NONE && missing > 0 && !allows(hard, charged, missing) {
        end_reservation(missing);
        return Err(Errno(libc::ENOMEM));
    }
    let in_use = TOTALS.in_use.fetch_add(bytes, Ordering::Relaxed) + bytes;
    let idle_too = in_use + TOTALS.kept.load(Ordering::Relaxed);
    if soft != NONE && idle_too > soft {
        SOFT_EXCEEDED.store(true, Ordering::Relaxed);
    }
    Ok(())
}

/// Whether a hard limit allows the sum of charges, of which `missing` bytes come into use now.
fn allows(hard: usize, charged: usize, missing: usize) -> bool {
    charged <= hard || own_data::make_up_for(charged - hard, missing)
}

/// See [`admit`].
pub fn end_reservation(missing: usize) {
    TOTALS.charged.fetch_sub(missing, Ordering::Relaxed);
}

/// Take back what [`admit`] counted.
pub fn withdraw(bytes: usize, missing: usize) {
    end_reservation(missing);
    TOTALS.in_use.fetch_sub(bytes, Ordering::Relaxed);
}

/// Whether `bytes` more may become resident. Asked before addresses are mapped for them, or each refusal would leave
/// addresses behind that jemalloc does not find again.
pub fn has_space(bytes: usize) -> bool {
    let hard = HARD.load(Ordering::Relaxed);
    let charged = TOTALS.charged.load(Ordering::Relaxed);
    hard == NONE || allows(hard, charged.saturating_add(bytes), 0)
}

/// Whether fresh heap pages may be huge. Near a hard limit they are small: they are charged by what is used of them.
pub fn has_space_for_huge_pages() -> bool {
    let hard = HARD.load(Ordering::Relaxed);
    let charged = TOTALS.charged.load(Ordering::Relaxed);
    // Kept memory goes back before anything is refused.
    let needed = charged.saturating_sub(TOTALS.kept.load(Ordering::Relaxed));
    hard == NONE || hard >= LEAST_FOR_HUGE_PAGES && needed.saturating_add(hard / 4) <= hard
}

/// Whether the hard limit refused memory since this was last asked, so that it may help to reclaim unused base pages.
pub fn may_reclaim() -> bool {
    let refused = refused();
    is_hard()
        && RECLAIMED_AT.swap(refused, Ordering::Relaxed) != refused
        && TOTALS.charged.load(Ordering::Relaxed)
            > TOTALS.in_use.load(Ordering::Relaxed).saturating_add(LEAST_TO_RECLAIM)
}

/// Whether the soft limit was exceeded since this was last asked.
#[inline]
pub fn was_soft_exceeded() -> bool {
    SOFT_EXCEEDED.load(Ordering::Relaxed) && SOFT_EXCEEDED.swap(false, Ordering::Relaxed)
}

/// A hard limit by the memory limit of the control group: `cgroup`, `cgroup-64M` or `cgroup*0.9`. `None` if the text is
/// none of these, or if nothing remains.
///
/// The group also holds what is not on the heap: code, stacks, page tables and other mappings. Plain `cgroup` leaves an
/// eighth for that, at least 16 MiB and at most 512 MiB, but never more than half of the group's limit.
pub fn of_group(
    text: &[u8],
    limit: usize,
    bytes: impl Fn(&[u8]) -> Option<usize>,
) -> Option<usize> {
    let remaining = match text.strip_prefix(b"cgroup")? {
        [] => limit - (limit / 8).clamp(16 << 20, 512 << 20).min(limit / 2),
        [b'-', less @ ..] => limit.checked_sub(bytes(less)?)?,
        [b'*', share @ ..] => {
            let share: f64 = std::str::from_utf8(share).ok()?.parse().ok()?;
            if !(share > 0.0 && share <= 1.0) {
                return None;
            }
            // A limit that is not exact as a floating-point number could be rounded up.
            ((limit as f64 * share) as usize).min(limit)
        }
        _ => return None,
    };
    (remaining > 0).then_some(remaining)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mangled;

    #[test]
    fn limits_by_control_group() {
        const MIB: usize = 1 << 20;
        let bytes = |text: &[u8]| (text == b"64M").then_some(64 * MIB);
        let of = |text: &str, limit| of_group(text.as_bytes(), limit, bytes);
        assert_eq!(of("cgroup", 128 * MIB), Some(112 * MIB));
        assert_eq!(of("cgroup", 1024 * MIB), Some(896 * MIB));
        assert_eq!(of("cgroup", 64 * 1024 * MIB), Some((64 * 1024 - 512) * MIB));
        assert_eq!(of("cgroup", 20 * MIB), Some(10 * MIB));
        assert_eq!(of("cgroup-64M", 128 * MIB), Some(64 * MIB));
        assert_eq!(of("cgroup*0.5", 128 * MIB), Some(64 * MIB));
        for bad in
            ["cgroups", "cgroup-", "cgroup-5X", "cgroup*", "cgroup*0", "cgroup*1.5", "cgroup*nan"]
        {
            assert_eq!(of(bad, 128 * MIB), None, "{bad}");
        }
        assert_eq!(of("cgroup-64M", 64 * MIB), None);
    }

    #[test]
    fn mangled_shares() {
        let recorded = ["cgroup", "cgroup-64M", "cgroup*0.9"];
        mangled::texts(&recorded, |text| {
            for limit in [0, 1, 100 << 20, usize::MAX / 2] {
                let bytes = of_group(text, limit, crate::config::bytes);
                assert!(bytes.is_none_or(|bytes| bytes > 0 && bytes <= limit));
            }
        });
        assert_eq!(
            of_group(b"cgroup*0.99999999999999999", usize::MAX / 2, |_| None),
            Some(usize::MAX / 2)
        );
    }
}
