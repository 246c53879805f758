//! Small files of `/proc` and `/sys`. Functions do not allocate unless their comment says so.

use std::ffi::{CStr, CString};
use std::ops::ControlFlow;

use super::lazy::Lazy;
use super::{SysResult, check, errno, syscall};
use crate::error::Errno;

/// A file descriptor that is closed on drop and by exec.
pub(super) struct Descriptor(pub(super) libc::c_int);

impl Descriptor {
    pub(super) fn open_for_reading(path: &CStr) -> SysResult<Self> {
        syscall::open_for_reading(path).map(Self)
    }

    /// Moves the descriptor to a high number: programs count on getting the low ones next.
    pub(super) fn out_of_the_way(self) -> Self {
        const BEYOND: libc::c_int = 512;
        match syscall::duplicate(self.0, BEYOND) {
            Ok(copy) => Self(copy),
            Err(_) => self,
        }
    }

    /// Its number; from now on nothing closes it.
    pub(super) fn kept_open(self) -> libc::c_int {
        std::mem::ManuallyDrop::new(self).0
    }

    /// The number of bytes read into `buffer`; 0 at the end of the file.
    pub(super) fn read(&self, buffer: &mut [u8]) -> SysResult<usize> {
        syscall::read(self.0, buffer)
    }

    /// The number of words read into `buffer` from byte `offset` on; 0 at the end of the file.
    pub(super) fn read_words_at(&self, buffer: &mut [u64], offset: usize) -> SysResult<usize> {
        syscall::read_words_at(self.0, buffer, offset)
    }

    fn device(&self) -> Option<(u32, u32)> {
        let device = self.identity()?.device;
        Some((libc::major(device), libc::minor(device)))
    }

    /// The file that is open under the number now; `None` if there is none, or the system does not say.
    pub(super) fn identity(&self) -> Option<Identity> {
        identity(self.0)
    }

    /// Close a descriptor that a forked child inherited, without ending the value, which the child shares with its parent's
    /// image.
    ///
    /// # Safety
    /// The number still belongs to the file that was opened, and this process does not use the value afterwards.
    pub(super) unsafe fn close_inherited(&self) {
        // SAFETY: the caller promises that the descriptor is the library's own and is not used again.
        unsafe { syscall::close(self.0) };
    }
}

/// A file, whatever number or path it has. A file of `/proc` has another inode in each process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) device: u64,
    pub(super) inode: u64,
}

/// The file that is open under a number.
pub(super) fn identity(descriptor: libc::c_int) -> Option<Identity> {
    let status = status(descriptor)?;
    Some(Identity { device: status.st_dev, inode: status.st_ino })
}

/// `fstat(2)`.
pub(super) fn status(descriptor: libc::c_int) -> Option<libc::stat> {
    let mut status = std::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: on success the whole structure is written.
    unsafe {
        check(libc::fstat(descriptor, status.as_mut_ptr())).ok()?;
        Some(status.assume_init())
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: this value owns the descriptor and ends here.
        unsafe { syscall::close(self.0) };
    }
}

/// Create a file if it does not exist, and see that it may be written.
pub fn create(path: &CStr) -> SysResult<()> {
    syscall::open_for_writing(path).map(|number| drop(Descriptor(number)))
}

/// Write one line to stderr in one call, so that the lines of several threads do not mix. There is no lock, which a forked
/// child could find held for ever, and a closed stderr is not an error.
pub fn write_stderr(line: &[u8]) {
    syscall::write(libc::STDERR_FILENO, line);
}

/// The device number (major, minor) of the file system that holds anonymous shared memory: memfd, System V,
/// `MAP_SHARED|MAP_ANONYMOUS`. `None` if it cannot be determined.
pub fn shared_memory_device() -> Option<(u32, u32)> {
    static DEVICE: Lazy<Option<(u32, u32)>> = Lazy::new(|| {
        // SAFETY: the name is NUL-terminated.
        let fd = unsafe { libc::memfd_create(c"gmem".as_ptr(), libc::MFD_CLOEXEC) };
        (fd >= 0).then(|| Descriptor(fd))?.device()
    });
    *DEVICE.get()
}

/// The device number of `/dev/shm`, if that is a memory file system.
pub fn posix_shared_memory_device() -> Option<(u32, u32)> {
    const PATH: &CStr = c"/dev/shm";
    let mut status = std::mem::MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: the path is NUL-terminated, and on success the whole structure is written.
    let kind = unsafe {
        check(libc::statfs(PATH.as_ptr(), status.as_mut_ptr())).ok()?;
        status.assume_init().f_type
    };
    (kind == libc::TMPFS_MAGIC).then(|| Descriptor::open_for_reading(PATH).ok())??.device()
}

/// The beginning of a file, as much of it as fits into `buffer`.
pub fn read_start<'a>(path: &CStr, buffer: &'a mut [u8]) -> SysResult<&'a [u8]> {
    let file = Descriptor::open_for_reading(path)?;
    let mut length = 0;
    while length < buffer.len() {
        match file.read(&mut buffer[length..])? {
            0 => break,
            got => length += got,
        }
    }
    Ok(&buffer[..length])
}

/// Call `visit` for each line of what `read` delivers, until it breaks. Of a line that is longer than `buffer`, only the
/// beginning is visited: nobody takes the rest for a line.
pub(super) fn each_line(
    mut read: impl FnMut(&mut [u8]) -> SysResult<usize>,
    buffer: &mut [u8],
    mut visit: impl FnMut(&[u8]) -> ControlFlow<()>,
) -> SysResult<()> {
    // Bytes of a line that is not complete, and whether its beginning was visited already.
    let (mut filled, mut is_cut) = (0, false);
    loop {
        let got = read(&mut buffer[filled..])?;
        filled += got;
        let mut rest = &buffer[..filled];
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            if !std::mem::take(&mut is_cut) && visit(&rest[..end]).is_break() {
                return Ok(());
            }
            rest = &rest[end + 1..];
        }
        let ends_here = got == 0 && !rest.is_empty();
        let is_full = rest.len() == buffer.len();
        if (ends_here || is_full) && !is_cut && visit(rest).is_break() || got == 0 {
            return Ok(());
        }
        is_cut |= is_full;
        let left = if is_full { 0 } else { rest.len() };
        buffer.copy_within(filled - left..filled, 0);
        filled = left;
    }
}

/// The value in bytes of a line `Name:   number kB`, which in the files of a node begins with `Node n`.
pub(super) fn kilobytes(text: &[u8], name: &str) -> Option<usize> {
    let text = std::str::from_utf8(text).ok()?;
    let mut words = text.lines().find_map(|line| line.split_once(name))?.1.split_ascii_whitespace();
    words.next()?.parse::<usize>().ok().map(|number| number.saturating_mul(1 << 10))
}

/// Whether a path exists.
pub fn exists(path: &CStr) -> bool {
    syscall::exists(path)
}

/// Whether a path is an ELF file of this processor's architecture. Allocates.
pub fn is_library(path: &str) -> bool {
    const TYPE_END: usize = 18;
    let mut header = [0; TYPE_END + 2];
    let Ok(path) = CString::new(path) else { return false };
    let is_elf = read_start(&path, &mut header).is_ok_and(|read| read.starts_with(b"\x7fELF"));
    is_elf && u16::from_ne_bytes([header[TYPE_END], header[TYPE_END + 1]]) == MACHINE
}

/// `e_machine` in the ELF files of this architecture.
const MACHINE: u16 = if cfg!(target_arch = "aarch64") { libc::EM_AARCH64 } else { libc::EM_X86_64 };

/// The decimal number that a file begins with.
pub fn read_number(path: &CStr) -> Option<usize> {
    let mut buffer = [0; 32];
    let text = read_start(path, &mut buffer).ok()?;
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(&text[..digits]).ok()?.parse().ok()
}

/// The whole of a small file as text. Allocates.
pub fn read_text(path: &str) -> Option<String> {
    String::from_utf8(read_whole(&CString::new(path).ok()?).ok()?).ok()
}

/// The whole content of a file. Allocates.
pub fn read_whole(path: &CStr) -> SysResult<Vec<u8>> {
    let file = Descriptor::open_for_reading(path)?;
    let mut content = Vec::new();
    let mut piece = [0; 1 << 14];
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(content),
            got if content.try_reserve(got).is_ok() => content.extend_from_slice(&piece[..got]),
            _ => return Err(Errno(libc::ENOMEM)),
        }
    }
}

/// The names of the entries of a folder; none if it cannot be read. Allocates.
pub fn list_folder(path: &CStr) -> Vec<String> {
    let mut names = Vec::new();
    let _ = any_entry(path, |_, name| {
        names.push(name.to_string_lossy().into_owned());
        false
    });
    names
}

/// Whether `is_it` holds for an entry of a folder; it gets the folder and the entry's name. Allocates.
fn any_entry(path: &CStr, mut is_it: impl FnMut(libc::c_int, &CStr) -> bool) -> SysResult<bool> {
    let mut found = false;
    // SAFETY: the path is NUL-terminated; the stream is closed once, below. The kernel's names are NUL-terminated. glibc opens,
    // reads and closes folders without acting on a cancellation.
    unsafe {
        let folder = libc::opendir(path.as_ptr());
        if folder.is_null() {
            return Err(errno());
        }
        while !found && let Some(entry) = libc::readdir64(folder).as_ref() {
            found = is_it(libc::dirfd(folder), CStr::from_ptr(entry.d_name.as_ptr()));
        }
        libc::closedir(folder);
    }
    Ok(found)
}

/// Whether a descriptor of this process is a link to `target` in `/proc/self/fd`. Takes a system call for each. Allocates.
pub fn any_descriptor_is(target: &[u8]) -> SysResult<bool> {
    any_entry(c"/proc/self/fd", |folder, name| {
        let mut link = [0; 64];
        syscall::read_link_at(folder, name, &mut link).is_ok_and(|length| &link[..length] == target)
    })
}

/// Deliver the next `piece` of a text, or less where there is no room.
#[cfg(test)]
pub(super) fn pieces_of(left: &mut &[u8], piece: usize, into: &mut [u8]) -> usize {
    let (next, rest) = left.split_at(left.len().min(piece).min(into.len()));
    into[..next.len()].copy_from_slice(next);
    *left = rest;
    next.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mangled;

    #[test]
    fn reads_a_number_and_refuses_a_missing_file() {
        assert!(read_number(c"/proc/sys/kernel/pid_max").is_some_and(|pids| pids > 1));
        assert_eq!(read_number(c"/proc/no/such/file"), None);
        assert_eq!(read_number(c"/proc/version"), None);
    }

    #[test]
    fn libraries_are_told_by_their_header() {
        assert!(is_library("/proc/self/exe"));
        assert!(
            ["/proc/version", "/no/such/file", "/dev", "a\0b"]
                .into_iter()
                .all(|path| !is_library(path))
        );
    }

    #[test]
    fn lines_in_kilobytes() {
        assert_eq!(
            kilobytes(b"Node 1 MemFree:    12 kB\nNode 1 Shmem: 3 kB\n", "Shmem:"),
            Some(3072)
        );
        assert_eq!(kilobytes(b"MemFree: x\n", "MemFree:"), None);
    }

    #[test]
    fn mangled_lines_in_kilobytes() {
        let recorded = [
            "MemTotal:       24576000 kB\nMemFree:         1234567 kB\nMemAvailable:   20000000 kB\n",
            "Node 0 MemTotal:       24576000 kB\nNode 0 MemFree:         1234567 kB\nNode 0 FilePages: 5 kB\n",
        ];
        mangled::texts(&recorded, |text| {
            for name in ["MemTotal:", "MemFree:", "FilePages:"] {
                assert!(
                    kilobytes(text, name)
                        .is_none_or(|bytes| bytes % 1024 == 0 || bytes == usize::MAX)
                );
            }
        });
    }

    /// The lines of a text that comes in pieces, read into a buffer of a few bytes.
    fn lines_in_pieces(text: &[u8], piece: usize, buffer: usize) -> Vec<Vec<u8>> {
        let (mut lines, mut left) = (Vec::new(), text);
        let read = |into: &mut [u8]| Ok(pieces_of(&mut left, piece, into));
        let keep = |line: &[u8]| {
            lines.push(line.to_vec());
            ControlFlow::Continue(())
        };
        assert_eq!(each_line(read, &mut vec![0; buffer], keep), Ok(()));
        lines
    }

    #[test]
    fn mangled_lines_however_they_arrive() {
        mangled::texts(&["one\ntwo two two two\n\nthree\n", "no end", ""], |text| {
            let mut expected: Vec<_> = text.split(|byte| *byte == b'\n').collect();
            expected.pop_if(|last| last.is_empty());
            for buffer in [1, 5, 8, 4096] {
                let cut: Vec<_> =
                    expected.iter().map(|line| &line[..line.len().min(buffer)]).collect();
                for piece in [1, 3, 4096] {
                    assert_eq!(lines_in_pieces(text, piece, buffer), cut, "{piece}, {buffer}");
                }
            }
        });
    }
}
