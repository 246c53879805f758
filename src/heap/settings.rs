//! The heap's settings. They are read with the heap's first pages, before anything may allocate.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::device_blocks::DeviceUse;
use super::{corruption, hardened, idle, limits};
use crate::config::{self, Setting, SettingRow};
use crate::device;
use crate::os::{cgroup, env};

static SOFT_LIMIT: Setting<usize> = Setting {
    name: c"GMEM_HEAP_SOFT_LIMIT",
    form: "bytes (`K`, `M`, `G` or `T` for powers of 1024); `cgroup`, the limit of the memory cgroup less an eighth; \
           `cgroup-64M` or `cgroup*0.9` to choose what is left to the rest of the process",
    default: "no limit",
    about: "Above this size the heap keeps no idle memory; `gmemHeapSetLimits` changes it.",
    parse: limit,
};

static HARD_LIMIT: Setting<usize> = Setting {
    name: c"GMEM_HEAP_HARD_LIMIT",
    form: "bytes (`K`, `M`, `G` or `T` for powers of 1024); `cgroup`, the limit of the memory cgroup less an eighth; \
           `cgroup-64M` or `cgroup*0.9` to choose what is left to the rest of the process",
    default: "no limit",
    about: "The heap grows no further: `malloc` fails with `ENOMEM`; `gmemHeapSetLimits` changes it.",
    parse: limit,
};

static KEEP: Setting<usize> = Setting {
    name: c"GMEM_HEAP_KEEP",
    form: "a number of seconds, at most 3600",
    default: "30",
    about: "The heap keeps as much memory as it has needed during that time, for later use; `0` returns idle memory to the \
            kernel within about a second.",
    parse: |value| config::number(value).filter(|seconds| *seconds <= 3600),
};

static ABORT_ON_CORRUPTION: Setting<bool> = Setting {
    name: c"GMEM_ABORT_ON_CORRUPTION",
    form: "`1` or `0`",
    default: "`1`",
    about: "A pointer that cannot be freed is reported on stderr; `1` ends the process then, `0` leaks the block.",
    parse: config::switch,
};

static THRESHOLD: Setting<usize> = Setting {
    name: c"GMEM_DEVICE_THRESHOLD",
    form: "bytes (`K`, `M`, `G` or `T` for powers of 1024), 2 MiB or more",
    default: "2 MiB",
    about: "Blocks of `malloc` of at least this size come from the memory of the current device, if it has any.",
    parse: config::bytes,
};

static STATS: Setting<bool> = Setting {
    name: c"GMEM_STATS",
    form: "`1` or `0`",
    default: "`0`",
    about: "Writes a line with the statistics of the heap to stderr when the process exits.",
    parse: config::switch,
};

/// Read by the first `dlopen` of a process whose malloc is libgmem (cpp/dlopen.cpp).
static DEEPBIND: Setting<bool> = Setting {
    name: c"GMEM_DEEPBIND",
    form: "`keep` or `clear`",
    default: "`clear`",
    about: "Libraries opened with `RTLD_DEEPBIND` share the program's malloc, because the flag is cleared; `keep` leaves it \
            alone.",
    parse: |word| match word {
        b"keep" => Some(true),
        b"clear" => Some(false),
        _ => None,
    },
};

/// Whether `dlopen` keeps `RTLD_DEEPBIND`.
pub fn keeps_deepbind() -> bool {
    DEEPBIND.get().unwrap_or(false)
}

/// jemalloc reads this one itself.
static MALLOC_CONF: Setting<()> = Setting {
    name: c"GMEM_MALLOC_CONF",
    form: "options of jemalloc, as in `jemalloc(3)`",
    default: "none",
    about: "Options for jemalloc, which serves small and medium blocks; it ignores options that it does not know.",
    parse: |_| Some(()),
};

/// The documentation of the heap's settings.
pub fn rows() -> [SettingRow; 9] {
    [
        SOFT_LIMIT.row(),
        HARD_LIMIT.row(),
        KEEP.row(),
        ABORT_ON_CORRUPTION.row(),
        hardened::HARDEN.row(),
        THRESHOLD.row(),
        STATS.row(),
        DEEPBIND.row(),
        MALLOC_CONF.row(),
    ]
}

/// Seconds for which memory is kept.
const DEFAULT_KEEP: usize = 30;

/// Whether statistics are written at exit.
static STATS_AT_EXIT: AtomicBool = AtomicBool::new(false);

/// Whether `GMEM_STATS=1` asks for statistics at exit.
pub fn stats_at_exit() -> bool {
    STATS_AT_EXIT.load(Ordering::Relaxed)
}

/// `GMEM_DEVICE_THRESHOLD`; 0 if it is not set.
static DEVICE_THRESHOLD: AtomicUsize = AtomicUsize::new(0);

/// Blocks of at least this many bytes come from the device's memory.
pub fn device_threshold() -> usize {
    DEVICE_THRESHOLD.load(Ordering::Relaxed)
}

/// The use that the heap may make of the device that `GMEM_DEVICE` or the build selects.
pub fn device_use() -> DeviceUse {
    let of_name = |name: &[u8]| match name {
        b"host" => DeviceUse::None,
        name if device::is_auto(name) => DeviceUse::OnRequest,
        _ => DeviceUse::Malloc,
    };
    let named = |name: &[u8]| if name.is_empty() { None } else { Some(of_name(name)) };
    env::with_secure(device::DEVICE.name, named)
        .flatten()
        .unwrap_or_else(|| of_name(device::DEFAULT.as_bytes()))
}

/// Read the settings, on the first call.
pub fn read_once() {
    static READ: AtomicBool = AtomicBool::new(false);
    if READ.swap(true, Ordering::Relaxed) {
        return;
    }
    let none = limits::NONE;
    limits::set(SOFT_LIMIT.get().unwrap_or(none), HARD_LIMIT.get().unwrap_or(none));
    corruption::set_up(ABORT_ON_CORRUPTION.get().unwrap_or(true));
    idle::set_keep(KEEP.get().unwrap_or(DEFAULT_KEEP));
    DEVICE_THRESHOLD.store(THRESHOLD.get().unwrap_or(0), Ordering::Relaxed);
    STATS_AT_EXIT.store(STATS.get().unwrap_or(false), Ordering::Relaxed);
}

/// Bytes, or a part of the limit of the memory cgroup, which may have none.
fn limit(value: &[u8]) -> Option<usize> {
    // Without a limit the arithmetic on it still has to be well-formed.
    let of_group = |limit| limits::of_group(value, limit, config::bytes);
    config::bytes(value).or_else(|| match cgroup::memory_limit() {
        Some(limit) => of_group(limit),
        None => of_group(usize::MAX / 2).map(|_| limits::NONE),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_bytes_or_the_cgroups() {
        assert_eq!(limit(b"64M"), Some(64 << 20));
        assert_eq!(limit(b"64MB"), None);
        assert!(limit(b"cgroup").is_some() && limit(b"cgroup*0.9").is_some());
        assert_eq!(limit(b"cgroup+1"), None);
    }
}
