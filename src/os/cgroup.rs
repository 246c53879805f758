//! The memory limit of the control group that this process is in, version 2 (`memory.max`) or 1
//! (`memory.limit_in_bytes`). Read without allocating.

use std::ffi::CStr;

use super::file;

/// The least limit of the process's group and those above it, in bytes; `None` where there is none.
pub fn memory_limit() -> Option<usize> {
    let mut buffer = [0; 2048];
    let groups = file::read_start(c"/proc/self/cgroup", &mut buffer).ok()?;
    groups.split(|byte| *byte == b'\n').filter_map(limit_of_line).min()
}

/// A line is `number:controllers:path`; version 2 has no controllers.
fn limit_of_line(line: &[u8]) -> Option<usize> {
    let mut parts = line.splitn(3, |byte| *byte == b':');
    let controllers = parts.nth(1)?;
    let path = parts.next()?;
    if controllers.is_empty() {
        return least_limit(b"/sys/fs/cgroup", path, b"/memory.max\0");
    }
    let is_memory = controllers.split(|byte| *byte == b',').any(|name| name == b"memory");
    is_memory.then(|| least_limit(b"/sys/fs/cgroup/memory", path, b"/memory.limit_in_bytes\0"))?
}

fn least_limit(root: &[u8], path: &[u8], file: &[u8]) -> Option<usize> {
    let mut least = None;
    let mut path = if path == b"/" { &b""[..] } else { path };
    loop {
        let mut name = [0; 1024];
        let mut end = 0;
        for part in [root, path, file] {
            name.get_mut(end..end + part.len())?.copy_from_slice(part);
            end += part.len();
        }
        // A group without a limit says "max".
        let limit = CStr::from_bytes_with_nul(&name[..end]).ok().and_then(file::read_number);
        least = [least, limit].into_iter().flatten().min();
        if path.is_empty() {
            return least;
        }
        path = &path[..path.iter().rposition(|byte| *byte == b'/')?];
    }
}
