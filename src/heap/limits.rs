//! Limits on what the heap has in use: live blocks and the idle ones that it keeps.
//!
//! - Above the *soft* limit nothing idle is kept: each time the heap takes more, what is idle goes back first.
//! - Above the *hard* limit there is no more: the allocation fails with `ENOMEM`, after what is idle went back.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::page_map::TOTALS;
use crate::error::Errno;
use crate::os::SysResult;

/// No limit.
pub const NONE: usize = 0;

static SOFT: AtomicUsize = AtomicUsize::new(NONE);
static HARD: AtomicUsize = AtomicUsize::new(NONE);
static REFUSED: AtomicUsize = AtomicUsize::new(0);
static SOFT_EXCEEDED: AtomicBool = AtomicBool::new(false);

/// Set both, in bytes, from now on; what is in use already stays.
pub fn set(soft: usize, hard: usize) {
    SOFT.store(soft, Ordering::Relaxed);
    HARD.store(hard, Ordering::Relaxed);
}

/// The soft and the hard limit.
pub fn get() -> (usize, usize) {
    (SOFT.load(Ordering::Relaxed), HARD.load(Ordering::Relaxed))
}

/// How often the hard limit refused memory.
pub fn refused() -> usize {
    REFUSED.load(Ordering::Relaxed)
}

/// Count `bytes` as in use, unless that exceeds the hard limit; gives what is in use then.
pub fn admit(bytes: usize) -> SysResult<usize> {
    let (soft, hard) = get();
    let in_use = TOTALS.in_use.fetch_add(bytes, Ordering::Relaxed) + bytes;
    if hard != NONE && in_use > hard {
        TOTALS.in_use.fetch_sub(bytes, Ordering::Relaxed);
        REFUSED.fetch_add(1, Ordering::Relaxed);
        return Err(Errno(libc::ENOMEM));
    }
    if soft != NONE && in_use > soft {
        SOFT_EXCEEDED.store(true, Ordering::Relaxed);
    }
    Ok(in_use)
}

/// Whether so much more might be admitted. To be asked before addresses are mapped for it, or each refusal would
/// leave some behind.
pub fn has_room(bytes: usize) -> bool {
    let hard = HARD.load(Ordering::Relaxed);
    hard == NONE || TOTALS.in_use.load(Ordering::Relaxed).saturating_add(bytes) <= hard
}

/// Whether the soft limit was exceeded since this was last asked.
#[inline]
pub fn was_soft_exceeded() -> bool {
    SOFT_EXCEEDED.load(Ordering::Relaxed) && SOFT_EXCEEDED.swap(false, Ordering::Relaxed)
}
