//! The heap's settings in the environment. They are read before anything may allocate, with the heap's first
//! pages; in setuid programs they are ignored. A value that is none of the allowed ones is ignored, too.
//!
//! jemalloc's own settings are in `GMEM_MALLOC_CONF`, which it reads itself.

use std::ffi::CStr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::limits;
use crate::device;
use crate::os::{cgroup, env};

/// Whether `GMEM_STATS=1` asks for statistics at exit.
static STATS_AT_EXIT: AtomicBool = AtomicBool::new(false);

/// See [`STATS_AT_EXIT`].
pub fn stats_at_exit() -> bool {
    STATS_AT_EXIT.load(Ordering::Relaxed)
}

/// Bytes of a block that is to lie in the device's memory.
static DEVICE_THRESHOLD: AtomicUsize = AtomicUsize::new(0);

/// See [`DEVICE_THRESHOLD`].
pub fn device_threshold() -> usize {
    DEVICE_THRESHOLD.load(Ordering::Relaxed)
}

/// Whether `GMEM_DEVICE`, or the build, names a device that may have memory of its own.
pub fn names_a_device() -> bool {
    let host = b"host";
    env::with_secure(c"GMEM_DEVICE", |name| if name.is_empty() { None } else { Some(name != host) })
        .flatten()
        .unwrap_or(device::DEFAULT.as_bytes() != host)
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
    let threshold = env::with_secure(c"GMEM_DEVICE_THRESHOLD", bytes).flatten();
    // Smaller blocks would waste most of a GMEM page each.
    DEVICE_THRESHOLD.store(threshold.unwrap_or(0), Ordering::Relaxed);
    let asked = env::with_secure(c"GMEM_STATS", |value| value == b"1").unwrap_or(false);
    STATS_AT_EXIT.store(asked, Ordering::Relaxed);
}

fn limit(name: &CStr) -> usize {
    env::with_secure(name, |value| {
        let by_group = || limits::of_group(value, cgroup::memory_limit()?, bytes);
        bytes(value).or_else(by_group)
    })
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
