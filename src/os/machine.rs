//! Properties of the machine and its memory, as the kernel reports them.

use std::ffi::{CStr, c_int, c_long};
use std::sync::atomic::{AtomicU8, Ordering};

use super::{file, mapping};

/// The kernel's settings of transparent huge pages, in its own words; `None` for a setting that it does not have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HugePageModes {
    /// Which private memory gets them: `always`, `madvise`, `never`.
    pub enabled: Option<String>,
    /// The effort of a page fault to make one: `always`, `defer`, `defer+madvise`, `madvise`, `never`.
    pub defrag: Option<String>,
    /// Which shared memory gets them: `always`, `within_size`, `advise`, `never`, `deny`, `force`.
    pub shared: Option<String>,
}

/// The settings of transparent huge pages.
pub fn huge_page_modes() -> HugePageModes {
    let chosen = |path| {
        let mut buffer = [0; 128];
        chosen_word(file::read_start(path, &mut buffer).ok()?).map(str::to_owned)
    };
    HugePageModes {
        enabled: chosen(ENABLED),
        defrag: chosen(c"/sys/kernel/mm/transparent_hugepage/defrag"),
        shared: chosen(c"/sys/kernel/mm/transparent_hugepage/shmem_enabled"),
    }
}

/// Which private memory gets huge pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HugePages {
    /// All.
    Always,
    /// Memory with `MADV_HUGEPAGE`.
    Advised,
    /// None.
    Never,
}

/// Which private memory gets huge pages, read without allocating; compare [`HugePageModes::enabled`].
pub fn huge_pages() -> HugePages {
    let mut buffer = [0; 128];
    match file::read_start(ENABLED, &mut buffer).ok().and_then(chosen_word) {
        Some("always") => HugePages::Always,
        Some("madvise") => HugePages::Advised,
        _ => HugePages::Never,
    }
}

/// Whether the kernel may make a huge page of the GMEM page's size: its ordinary one, or a multi-size one (Linux 6.8)
/// where an administrator enabled that size. Read once; safe inside `malloc`.
pub fn has_huge_gmem_pages() -> bool {
    const SIZE_ENABLED: &CStr = c"/sys/kernel/mm/transparent_hugepage/hugepages-2048kB/enabled";
    const UNREAD: u8 = 2;
    static ANSWER: AtomicU8 = AtomicU8::new(UNREAD);
    if mapping::huge_page() == mapping::gmem_page() {
        return true;
    }
    let mut answer = ANSWER.load(Ordering::Relaxed);
    if answer == UNREAD {
        let mut buffer = [0; 128];
        let word = file::read_start(SIZE_ENABLED, &mut buffer).ok().and_then(chosen_word);
        answer = u8::from(word.is_some_and(|word| word != "never"));
        ANSWER.store(answer, Ordering::Relaxed);
    }
    answer == 1
}

const ENABLED: &CStr = c"/sys/kernel/mm/transparent_hugepage/enabled";

/// The word in brackets, as in `always [madvise] never`.
fn chosen_word(text: &[u8]) -> Option<&str> {
    let (_, chosen) = std::str::from_utf8(text).ok()?.split_once('[')?;
    Some(chosen.split_once(']')?.0)
}

/// `kernel.numa_balancing`: 0 off, 1 normal, 2 memory tiering, 3 both.
pub fn numa_balancing() -> Option<usize> {
    file::read_number(c"/proc/sys/kernel/numa_balancing")
}

/// Whether the kernel moves unused memory to slower nodes instead of swapping it out.
pub fn demotion() -> Option<bool> {
    match file::read_text("/sys/kernel/mm/numa/demotion_enabled")?.trim() {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    }
}

/// Whether pages are aged by the multi-generational lists: bit 0 of a mask in hexadecimal.
pub fn multi_generational() -> Option<bool> {
    let mask = file::read_text("/sys/kernel/mm/lru_gen/enabled")?;
    let mask = u32::from_str_radix(mask.trim().strip_prefix("0x")?, 16).ok()?;
    Some(mask & 1 != 0)
}

/// `sysconf(3)`.
pub fn configuration(name: c_int) -> c_long {
    // SAFETY: sysconf takes any number and only reads.
    unsafe { libc::sysconf(name) }
}

/// The number of online processors.
pub fn cpus() -> usize {
    usize::try_from(configuration(libc::_SC_NPROCESSORS_ONLN)).unwrap_or(1)
}

/// The number of processors on which the calling thread may run, without a look at `/sys`: `malloc` asks.
pub fn usable_cpus() -> usize {
    // SAFETY: all zeros are an empty set.
    let mut set: [libc::cpu_set_t; 8] = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes at most as many bytes as the set has.
    let failed = unsafe { libc::sched_getaffinity(0, size_of_val(&set), set.as_mut_ptr()) };
    // SAFETY: the set was initialised.
    let count: usize =
        set.iter().map(|part| unsafe { libc::CPU_COUNT(part) }.max(0) as usize).sum();
    if failed == 0 { count.max(1) } else { 1 }
}

/// The bytes of swap space, and how many are free.
pub fn swap() -> Option<(usize, usize)> {
    let mut info = std::mem::MaybeUninit::<libc::sysinfo>::uninit();
    // SAFETY: on success the whole structure is written.
    let info = unsafe {
        super::check(libc::sysinfo(info.as_mut_ptr())).ok()?;
        info.assume_init()
    };
    let bytes = |units| usize::try_from(units).ok()?.checked_mul(info.mem_unit as usize);
    Some((bytes(info.totalswap)?, bytes(info.freeswap)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mangled;

    #[test]
    fn mangled_choices() {
        mangled::texts(&["always defer defer+madvise [madvise] never\n"], |text| {
            let word = chosen_word(text).unwrap_or_default();
            assert!(word.is_empty() || !word.contains(']'));
        });
    }

    #[test]
    fn the_chosen_word() {
        assert_eq!(chosen_word(b"always [defer+madvise] never\n"), Some("defer+madvise"));
        assert_eq!(chosen_word(b"always"), None);
    }

    #[test]
    fn swap_is_what_the_kernel_lists() {
        let listed = file::read_text("/proc/swaps").unwrap_or_default().lines().count() > 1;
        assert_eq!(swap().map(|(total, _)| total > 0), Some(listed));
    }
}
