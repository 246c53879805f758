//! The limits on memory and processor time of the control group that this process is in, version 2 or 1. Nothing here
//! allocates.

use std::ffi::CStr;

use super::{file, machine};

/// The memory limit in bytes: the least of the process's group and those above it; `None` if there is none.
pub fn memory_limit() -> Option<usize> {
    least_of_groups(|line| least(line.memory_folders()?, |folder| folder.memory_limit()))
}

/// The bytes that the process can take before its group, or one above it, reaches its limit and the kernel kills a process:
/// what is unused, the clean pages of files, which the kernel drops first, and what it can swap out. `None` if no group has a
/// limit.
pub fn available_memory() -> Option<usize> {
    let swap = machine::swap().map_or(0, |(_, free)| free);
    least_of_groups(|line| least(line.memory_folders()?, |folder| folder.available_memory(swap)))
}

/// The number of processors whose time the process's group and those above it may use, rounded up; `None` if there is no
/// such limit.
pub fn processors() -> Option<usize> {
    least_of_groups(|line| match line.version() {
        Version::Two => least(line.folders(b"/sys/fs/cgroup"), |folder| {
            // "quota period" in microseconds, or "max period".
            folder.read(b"/cpu.max\0", |file| {
                let mut buffer = [0; 64];
                processors_of(file::read_start(file, &mut buffer).ok()?)
            })
        }),
        Version::One => line.has(b"cpu").then(|| {
            least(line.folders(b"/sys/fs/cgroup/cpu"), |folder| {
                // Without a limit the quota is -1, which is not a number here.
                let quota = folder.number(b"/cpu.cfs_quota_us\0")?;
                whole_processors(quota, folder.number(b"/cpu.cfs_period_us\0")?)
            })
        })?,
    })
}

/// `cpu.max` of version 2.
fn processors_of(text: &[u8]) -> Option<usize> {
    let (quota, period) = std::str::from_utf8(text).ok()?.trim().split_once(' ')?;
    whole_processors(quota.parse().ok()?, period.parse().ok()?)
}

fn whole_processors(quota: usize, period: usize) -> Option<usize> {
    (period != 0).then(|| quota.div_ceil(period).max(1))
}

/// The least value of the groups of this process; a process is in one group of each hierarchy.
fn least_of_groups(of: impl FnMut(Line<'_>) -> Option<usize>) -> Option<usize> {
    let mut buffer = [0; 2048];
    let groups = file::read_start(c"/proc/self/cgroup", &mut buffer).ok()?;
    groups.split(|byte| *byte == b'\n').filter_map(Line::new).filter_map(of).min()
}

fn least<'a>(
    folders: impl Iterator<Item = Folder<'a>>,
    of: impl Fn(Folder<'a>) -> Option<usize>,
) -> Option<usize> {
    folders.filter_map(of).min()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// A line of `/proc/self/cgroup`: `number:controllers:path`; version 2 has no controllers.
#[derive(Clone, Copy)]
struct Line<'a> {
    controllers: &'a [u8],
    path: &'a [u8],
}

impl<'a> Line<'a> {
    fn new(line: &'a [u8]) -> Option<Self> {
        let mut parts = line.splitn(3, |byte| *byte == b':');
        let (controllers, path) = (parts.nth(1)?, parts.next()?);
        Some(Self { controllers, path: if path == b"/" { b"" } else { path } })
    }

    const fn version(self) -> Version {
        if self.controllers.is_empty() { Version::Two } else { Version::One }
    }

    fn has(self, controller: &[u8]) -> bool {
        self.controllers.split(|byte| *byte == b',').any(|name| name == controller)
    }

    /// The folders of the group and of those above it, below `root`.
    fn folders(self, root: &'static [u8]) -> impl Iterator<Item = Folder<'a>> {
        let version = self.version();
        let above = |path: &&'a [u8]| {
            let end = path.iter().rposition(|byte| *byte == b'/')?;
            Some(&path[..end])
        };
        std::iter::successors(Some(self.path), above).map(move |path| Folder {
            version,
            root,
            path,
        })
    }

    /// The folders with the limits on memory; `None` for a hierarchy that does not limit memory.
    fn memory_folders(self) -> Option<impl Iterator<Item = Folder<'a>>> {
        match self.version() {
            Version::Two => Some(self.folders(b"/sys/fs/cgroup")),
            Version::One => self.has(b"memory").then(|| self.folders(b"/sys/fs/cgroup/memory")),
        }
    }
}

/// The folder of one group.
#[derive(Clone, Copy)]
struct Folder<'a> {
    version: Version,
    root: &'static [u8],
    path: &'a [u8],
}

impl Folder<'_> {
    /// Limits of version 1 at and beyond this mean none: the kernel reports the largest number of whole pages.
    const NO_LIMIT: usize = isize::MAX as usize >> 13 << 13;

    fn read<T>(self, file: &[u8], read: impl Fn(&CStr) -> Option<T>) -> Option<T> {
        let mut name = [0; 1024];
        let mut end = 0;
        for part in [self.root, self.path, file] {
            name.get_mut(end..end + part.len())?.copy_from_slice(part);
            end += part.len();
        }
        CStr::from_bytes_with_nul(&name[..end]).ok().and_then(read)
    }

    /// A number in a file; `None` also for "max", which version 2 has where there is no limit.
    fn number(self, file: &[u8]) -> Option<usize> {
        self.read(file, file::read_number).filter(|number| *number < Self::NO_LIMIT)
    }

    fn memory_limit(self) -> Option<usize> {
        self.number(match self.version {
            Version::Two => b"/memory.max\0",
            Version::One => b"/memory.limit_in_bytes\0",
        })
    }

    /// The bytes that the group can still take, where the machine has `swap` bytes of free swap space.
    fn available_memory(self, swap: usize) -> Option<usize> {
        // In version 1 a second limit is on memory and swap space together, and a group without the first may have it.
        let (used, swappable, both) = match self.version {
            Version::Two => {
                let unused = self.number(b"/memory.swap.max\0").map(|most| {
                    most.saturating_sub(self.number(b"/memory.swap.current\0").unwrap_or(0))
                });
                (self.number(b"/memory.current\0"), unused.unwrap_or(swap).min(swap), None)
            }
            Version::One => {
                let both = self.number(b"/memory.memsw.limit_in_bytes\0").map(|most| {
                    most.saturating_sub(self.number(b"/memory.memsw.usage_in_bytes\0").unwrap_or(0))
                });
                (self.number(b"/memory.usage_in_bytes\0"), swap, both)
            }
        };
        let memory = self
            .memory_limit()
            .map(|limit| limit.saturating_sub(used.unwrap_or(0)).saturating_add(swappable));
        let unused = [memory, both].into_iter().flatten().min()?;
        Some(unused.saturating_add(self.clean_cache().unwrap_or(0)))
    }

    /// Bytes of pages of files that need not be written before they are dropped.
    fn clean_cache(self) -> Option<usize> {
        self.read(b"/memory.stat\0", |file| {
            let mut buffer = [0; 8192];
            let text = std::str::from_utf8(file::read_start(file, &mut buffer).ok()?).ok()?;
            Some(clean_cache(text, self.version))
        })
    }
}

/// In version 1 the names without `total_` do not count the groups below.
fn clean_cache(statistics: &str, version: Version) -> usize {
    let [inactive, active, dirty, being_written] = match version {
        Version::Two => ["inactive_file", "active_file", "file_dirty", "file_writeback"],
        Version::One => {
            ["total_inactive_file", "total_active_file", "total_dirty", "total_writeback"]
        }
    };
    let of = |name| {
        let value = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.parse::<usize>().ok();
        statistics.lines().find_map(value).unwrap_or(0)
    };
    of(inactive)
        .saturating_add(of(active))
        .saturating_sub(of(dirty).saturating_add(of(being_written)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mangled;

    #[test]
    fn mangled_groups() {
        let recorded = [
            "9:name=systemd:/\n4:memory:/docker/7a09b1d447ac\n2:cpu,cpuacct:/\n0::/user.slice/a:b/c\n",
            "0::/../../system.slice\n",
        ];
        mangled::texts(&recorded, |text| {
            for line in text.split(|byte| *byte == b'\n').filter_map(Line::new) {
                let slashes = line.path.iter().filter(|byte| **byte == b'/').count();
                let folders: Vec<_> =
                    line.folders(b"/sys/fs/cgroup").map(|folder| folder.path).collect();
                assert!(folders.len() == slashes + 1);
                assert!(folders.iter().all(|folder| line.path.starts_with(folder)));
            }
        });
    }

    #[test]
    fn mangled_statistics() {
        let statistics = "anon 5\ninactive_file 100\nactive_file 30\nfile_dirty 7\nfile_writeback 3\n\
                          total_inactive_file 50\ntotal_active_file 6\ntotal_dirty 60\n";
        mangled::texts(&[statistics], |text| {
            let Ok(text) = std::str::from_utf8(text) else { return };
            clean_cache(text, Version::One);
            clean_cache(text, Version::Two);
        });
    }

    #[test]
    fn mangled_quotas() {
        mangled::texts(&["max 100000\n", "150000 100000\n"], |text| {
            assert!(processors_of(text).is_none_or(|processors| processors > 0));
        });
    }

    #[test]
    fn pages_that_have_to_be_written_are_no_clean_cache() {
        let two = "anon 5\ninactive_file 100\nactive_file 30\nfile_dirty 7\nfile_writeback 3\n";
        assert_eq!(clean_cache(two, Version::Two), 120);
        let one = "inactive_file 1\ntotal_inactive_file 50\ntotal_active_file 6\ntotal_dirty 60\n";
        assert_eq!(clean_cache(one, Version::One), 0);
    }

    #[test]
    fn the_groups_above_follow_the_group() {
        let line = Line::new(b"4:memory,other:/a/b");
        let paths: Vec<_> = line.and_then(Line::memory_folders).into_iter().flatten().collect();
        let paths: Vec<_> = paths.iter().map(|folder| folder.path).collect();
        assert_eq!(paths, [&b"/a/b"[..], b"/a", b""]);
        assert!(Line::new(b"3:cpuset:/").and_then(Line::memory_folders).is_none());
        assert_eq!(Line::new(b"0::/").and_then(Line::memory_folders).map(Iterator::count), Some(1));
    }
}
