//! What the kernel says of the whole machine's memory.

use super::file;

/// The words that choose how transparent huge pages are given, as the kernel has them; `None` where it has no such
/// choice.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HugePageModes {
    /// To whom: `always`, `madvise`, `never`.
    pub enabled: Option<String>,
    /// How hard a page fault tries to make one: `always`, `defer`, `defer+madvise`, `madvise`, `never`.
    pub defrag: Option<String>,
    /// To whom in shared memory: `always`, `within_size`, `advise`, `never`, `deny`, `force`.
    pub shared: Option<String>,
}

/// How transparent huge pages are given.
pub fn huge_page_modes() -> HugePageModes {
    let chosen = |name| {
        chosen_word(&file::read_text(&format!("/sys/kernel/mm/transparent_hugepage/{name}"))?)
    };
    HugePageModes {
        enabled: chosen("enabled"),
        defrag: chosen("defrag"),
        shared: chosen("shmem_enabled"),
    }
}

/// Of `always [madvise] never` the one in brackets.
fn chosen_word(text: &str) -> Option<String> {
    let (_, chosen) = text.split_once('[')?;
    Some(chosen.split_once(']')?.0.to_owned())
}

/// `kernel.numa_balancing`: 0 off, 1 normal, 2 memory tiering, 3 both.
pub fn numa_balancing() -> Option<usize> {
    file::read_number(c"/proc/sys/kernel/numa_balancing")
}

/// Whether memory that is not used moves to slower nodes instead of being swapped out.
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

/// Processors that are online.
pub fn cpus() -> usize {
    // SAFETY: sysconf only reads.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) }).unwrap_or(1)
}

/// Bytes of swap space, and those that are free.
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

    #[test]
    fn the_chosen_word() {
        assert_eq!(chosen_word("always [defer+madvise] never\n").as_deref(), Some("defer+madvise"));
        assert_eq!(chosen_word("always"), None);
    }

    #[test]
    fn swap_is_what_the_kernel_lists() {
        let listed = file::read_text("/proc/swaps").unwrap_or_default().lines().count() > 1;
        assert_eq!(swap().map(|(total, _)| total > 0), Some(listed));
    }
}
