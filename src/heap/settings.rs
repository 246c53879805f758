//! The heap's settings in the environment. They are read before anything may allocate, with the heap's first
//! pages; in setuid programs they are ignored. A value that is none of the allowed ones is ignored, too.
//!
//! jemalloc's own settings are in `GMEM_MALLOC_CONF`, which it reads itself.

use std::ffi::CStr;
use std::sync::atomic::{AtomicBool, Ordering};

use super::limits;
use crate::os::{cgroup, env};

/// Whether `GMEM_STATS=1` asks for statistics at exit.
static STATS_AT_EXIT: AtomicBool = AtomicBool::new(false);

/// See [`STATS_AT_EXIT`].
pub fn stats_at_exit() -> bool {
    STATS_AT_EXIT.load(Ordering::Relaxed)
}

/// Read them, the first time.
pub fn read_once() {
    static READ: AtomicBool = AtomicBool::new(false);
    if READ.swap(true, Ordering::Relaxed) {
        return;
    }
    let soft = limit(c"GMEM_HEAP_SOFT_LIMIT");
    let hard = limit(c"GMEM_HEAP_HARD_LIMIT");
    limits::set(soft, hard);
    let asked = env::with_secure(c"GMEM_STATS", |value| value == b"1").unwrap_or(false);
    STATS_AT_EXIT.store(asked, Ordering::Relaxed);
}

fn limit(name: &CStr) -> usize {
    env::with_secure(
        name,
        |value| {
            if value == b"cgroup" { cgroup::memory_limit() } else { bytes(value) }
        },
    )
    .flatten()
    .unwrap_or(limits::NONE)
}

/// A number of bytes: digits, and perhaps K, M, G or T for powers of 1024.
fn bytes(text: &[u8]) -> Option<usize> {
    let (digits, unit) = match text.split_last()? {
        (b'K' | b'k', digits) => (digits, 10),
        (b'M' | b'm', digits) => (digits, 20),
        (b'G' | b'g', digits) => (digits, 30),
        (b'T' | b't', digits) => (digits, 40),
        _ => (text, 0),
    };
    let number: usize = std::str::from_utf8(digits).ok()?.parse().ok()?;
    number.checked_mul(1 << unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_bytes() {
        assert_eq!(bytes(b"123"), Some(123));
        assert_eq!(bytes(b"8G"), Some(8 << 30));
        assert_eq!(bytes(b"1t"), Some(1 << 40));
        for bad in [&b""[..], b"G", b"-1", b"1.5G", b"8GB", b"99999999999T"] {
            assert_eq!(bytes(bad), None);
        }
    }
}
