//! The limits on memory and processor time of the control group that this process is in, version 2 or 1. Nothing here
//! allocates.

use std::ffi::CStr;

use super::file;

/// The memory limit in bytes: the least of the process's group and those above it; `None` if there is none.
pub fn memory_limit() -> Option<usize> {
    let mut buffer = [0; 2048];
    let groups = file::read_start(c"/proc/self/cgroup", &mut buffer).ok()?;
    groups.split(|byte| *byte == b'\n').filter_map(limit_of_line).min()
}

/// The number of processors whose time the process's group and those above it may use, rounded up; `None` if there is no
/// such limit.
pub fn processors() -> Option<usize> {
    let mut buffer = [0; 2048];
    let groups = file::read_start(c"/proc/self/cgroup", &mut buffer).ok()?;
    groups.split(|byte| *byte == b'\n').filter_map(processors_of_line).min()
}

fn processors_of_line(line: &[u8]) -> Option<usize> {
    let (controllers, path) = controllers_and_path(line)?;
    if controllers.is_empty() {
        // "quota period" in microseconds, or "max period".
        return least(b"/sys/fs/cgroup", path, b"/cpu.max\0", |file| {
            let mut buffer = [0; 64];
            let text = std::str::from_utf8(file::read_start(file, &mut buffer).ok()?).ok()?;
            let (quota, period) = text.trim().split_once(' ')?;
            whole_processors(quota.parse().ok()?, period.parse().ok()?)
        });
    }
    let is_cpu = controllers.split(|byte| *byte == b',').any(|name| name == b"cpu");
    let of = |file| least(b"/sys/fs/cgroup/cpu", path, file, file::read_number);
    // Without a limit the quota is -1, which is not a number here.
    is_cpu.then(|| whole_processors(of(b"/cpu.cfs_quota_us\0")?, of(b"/cpu.cfs_period_us\0")?))?
}

fn whole_processors(quota: usize, period: usize) -> Option<usize> {
    (period != 0).then(|| quota.div_ceil(period).max(1))
}

/// A line is `number:controllers:path`; version 2 has no controllers.
fn controllers_and_path(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut parts = line.splitn(3, |byte| *byte == b':');
    Some((parts.nth(1)?, parts.next()?))
}

fn limit_of_line(line: &[u8]) -> Option<usize> {
    let (controllers, path) = controllers_and_path(line)?;
    if controllers.is_empty() {
        // A group without a limit says "max", which is not a number.
        return least(b"/sys/fs/cgroup", path, b"/memory.max\0", file::read_number);
    }
    let is_memory = controllers.split(|byte| *byte == b',').any(|name| name == b"memory");
    let file = b"/memory.limit_in_bytes\0";
    is_memory.then(|| least(b"/sys/fs/cgroup/memory", path, file, file::read_number))?
}

/// The least of the numbers that `read` finds in `file` in the folders of a group and of those above it.
fn least(
    root: &[u8],
    path: &[u8],
    file: &[u8],
    read: impl Fn(&CStr) -> Option<usize>,
) -> Option<usize> {
    let mut least = None;
    let mut path = if path == b"/" { &b""[..] } else { path };
    loop {
        let mut name = [0; 1024];
        let mut end = 0;
        for part in [root, path, file] {
            name.get_mut(end..end + part.len())?.copy_from_slice(part);
            end += part.len();
        }
        let limit = CStr::from_bytes_with_nul(&name[..end]).ok().and_then(&read);
        least = [least, limit].into_iter().flatten().min();
        if path.is_empty() {
            return least;
        }
        path = &path[..path.iter().rposition(|byte| *byte == b'/')?];
    }
}
