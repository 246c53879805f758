//! Where a file lies in the address space of this process.

use std::ffi::CStr;

use super::{SysResult, check, file};
use crate::page::PageRange;

/// A mapping of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MappedFile {
    /// Its addresses.
    pub range: PageRange,
    /// Where its first byte is in the file.
    pub offset: u64,
    /// Whether the program may write to it.
    pub write: bool,
    /// Whether writing changes the file.
    pub shared: bool,
}

/// The mappings of the file at `path`, in ascending order. Allocates.
///
/// A mapping is known by its name, because some file systems report another device there than to `stat(2)`, and by its inode,
/// because a file may have several names.
pub fn mappings_of(path: &CStr) -> SysResult<Vec<MappedFile>> {
    let wanted = Wanted { name: canonical(path)?, inode: inode(path)? };
    let maps = file::read_whole(c"/proc/self/maps")?;
    Ok(maps.split(|byte| *byte == b'\n').filter_map(|line| wanted.in_line(line)).collect())
}

struct Wanted {
    /// As the kernel writes it.
    name: Vec<u8>,
    /// Major and minor number of the device, and the inode.
    inode: (u32, u32, u64),
}

impl Wanted {
    /// The mapping in a line such as `7f00-7f10 r--s 00001000 08:01 1234   /models/llama.gguf`, if it is of this file.
    fn in_line(&self, line: &[u8]) -> Option<MappedFile> {
        let mut rest = line;
        let mut field = || {
            let end = rest.iter().position(|byte| *byte == b' ')?;
            let (first, behind) = rest.split_at(end);
            rest = &behind[1..];
            std::str::from_utf8(first).ok()
        };
        let (start, end) = field()?.split_once('-')?;
        let permissions = field()?.as_bytes();
        let offset = u64::from_str_radix(field()?, 16).ok()?;
        let (major, minor) = field()?.split_once(':')?;
        let inode = field()?.parse().ok()?;
        let number = |hex| u32::from_str_radix(hex, 16).ok();
        if rest.trim_ascii_start() != self.name
            && (number(major)?, number(minor)?, inode) != self.inode
        {
            return None;
        }
        let address = |hex| usize::from_str_radix(hex, 16).ok();
        Some(MappedFile {
            range: PageRange::new(address(start)?, address(end)?),
            offset,
            write: permissions.get(1) == Some(&b'w'),
            shared: permissions.get(3) == Some(&b's'),
        })
    }
}

/// The absolute path without symbolic links, with a line feed as the kernel writes it.
fn canonical(path: &CStr) -> SysResult<Vec<u8>> {
    let mut found = [0; libc::PATH_MAX as usize];
    // SAFETY: the path is NUL-terminated, and the buffer has as many bytes as realpath(3) may write.
    let found = unsafe {
        let start = libc::realpath(path.as_ptr(), found.as_mut_ptr());
        check(if start.is_null() { -1 } else { 0 })?;
        CStr::from_ptr(found.as_ptr())
    };
    let escaped = |byte: &u8| if *byte == b'\n' { b"\\012".to_vec() } else { vec![*byte] };
    Ok(found.to_bytes().iter().flat_map(escaped).collect())
}

fn inode(path: &CStr) -> SysResult<(u32, u32, u64)> {
    let mut about = std::mem::MaybeUninit::<libc::stat64>::uninit();
    // SAFETY: the path is NUL-terminated; on success the whole structure is written.
    let about = unsafe {
        check(libc::stat64(path.as_ptr(), about.as_mut_ptr()))?;
        about.assume_init()
    };
    Ok((libc::major(about.st_dev), libc::minor(about.st_dev), about.st_ino))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn wanted() -> Wanted {
        Wanted { name: b"/a model".to_vec(), inode: (8, 1, 77) }
    }

    #[test]
    fn a_mapping_is_known_by_name_or_inode() {
        let by_name =
            wanted().in_line(b"1000-3000 rw-s 00002000 00:05 9                  /a model").unwrap();
        let range = PageRange::new(0x1000, 0x3000);
        assert_eq!(by_name, MappedFile { range, offset: 0x2000, write: true, shared: true });
        let by_inode = wanted()
            .in_line(b"1000-3000 r--p 00000000 08:01 77   /another name (deleted)")
            .unwrap();
        assert_eq!(by_inode, MappedFile { range, offset: 0, write: false, shared: false });
        for other in [
            &b"1000-3000 r--p 00000000 08:01 78   /a model.bak"[..],
            b"1000-3000 rw-p 0 00:00 0 ",
            b"",
            b"x",
        ] {
            assert_eq!(wanted().in_line(other), None);
        }
    }

    #[test]
    fn the_program_is_mapped_and_a_missing_file_is_not() {
        let found = mappings_of(c"/proc/self/exe").unwrap();
        let code = the_program_is_mapped_and_a_missing_file_is_not as fn() as usize;
        assert!(
            found.iter().any(|mapped| mapped.range.start() <= code && code < mapped.range.end())
        );
        assert_eq!(mappings_of(c"/no/such/file").unwrap_err().0, libc::ENOENT);
        assert_eq!(mappings_of(c"/proc/self/maps").unwrap(), []);
    }
}
