//! A large file that is read past the page cache (`O_DIRECT`), or through it.

use std::ffi::CStr;
use std::mem::MaybeUninit;

use super::file::{self, Descriptor};
use super::kept_descriptor::Kept;
use super::{SysResult, check, errno, mapping, syscall};
use crate::error::Errno;
use crate::page::PageRange;

/// Offsets, lengths and addresses of direct reads are multiples of this. No file system asks for more.
pub const DIRECT_ALIGNMENT: usize = 4096;

/// An open file, under descriptors that are out of the program's way.
pub struct LargeFile {
    buffered: Kept,
    /// Reads past the page cache; `None` where the file system does not do that.
    direct: Option<Kept>,
    length: usize,
    in_memory: bool,
    file_system: u64,
    inode: u64,
    /// When its contents changed last, in nanoseconds.
    changed: u64,
}

/// The kind of a file that is not a regular one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The system refused to open it.
    System(Errno),
    /// A directory.
    Directory,
    /// A pipe, a socket, a terminal or another device.
    Special,
    /// A file that the kernel makes up as it is read: `/proc`, `/sys`.
    Generated,
}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Self {
        Self::System(errno)
    }
}

impl LargeFile {
    /// Open a regular file. Nothing is read. Does not wait for the other end of a pipe.
    pub fn open(path: &CStr) -> Result<Self, Refusal> {
        let file = Descriptor(syscall::open_without_waiting(path, 0)?);
        let status = file::status(file.0).ok_or_else(errno)?;
        match status.st_mode & libc::S_IFMT {
            libc::S_IFREG => {}
            libc::S_IFDIR => return Err(Refusal::Directory),
            _ => return Err(Refusal::Special),
        }
        let system = file_system(&file)?;
        if is_generated(system) {
            return Err(Refusal::Generated);
        }
        let length = usize::try_from(status.st_size).map_err(|_| Errno(libc::EFBIG))?;
        let in_memory = matches!(system, libc::TMPFS_MAGIC | RAMFS_MAGIC);
        let buffered = Kept::new(file)?;
        let direct = if in_memory { None } else { buffered.again_direct() };
        let changed = status.st_mtime.cast_unsigned() * 1_000_000_000;
        Ok(Self {
            buffered,
            direct,
            length,
            in_memory,
            file_system: status.st_dev,
            inode: status.st_ino,
            changed: changed.wrapping_add(status.st_mtime_nsec.cast_unsigned()),
        })
    }

    /// Bytes in the file when it was opened.
    pub const fn length(&self) -> usize {
        self.length
    }

    /// Whether the file system is in memory itself, so that its pages are the only copy.
    pub const fn is_in_memory(&self) -> bool {
        self.in_memory
    }

    /// Numbers that another file, or other contents of this one, hardly have.
    pub fn fingerprint(&self) -> [u64; 4] {
        [self.file_system, self.inode, self.length as u64, self.changed]
    }

    /// The number of its file system.
    pub const fn file_system(&self) -> u64 {
        self.file_system
    }

    /// Whether reads go past the page cache.
    pub const fn is_direct(&self) -> bool {
        self.direct.is_some()
    }

    /// Bytes in the file now; `EBADF` if the program has closed the descriptor.
    pub fn length_now(&self) -> SysResult<usize> {
        let status = file::status(self.buffered.number()?).ok_or_else(errno)?;
        Ok(usize::try_from(status.st_size).unwrap_or(0))
    }

    /// Read from `offset` on, a multiple of [`DIRECT_ALIGNMENT`], until `buffer` is full or the file ends. Returns the bytes
    /// read, after a failure with it. `buffer` starts on a multiple and has a multiple as its length.
    pub fn read(&self, buffer: &mut [u8], offset: usize) -> (usize, SysResult<()>) {
        let mut done = 0;
        while done < buffer.len() {
            // A direct read that ends inside a block has met the end of the file.
            let is_aligned = done % DIRECT_ALIGNMENT == 0;
            let direct = self.direct.as_ref().filter(|_| is_aligned);
            let part = &mut buffer[done..];
            let outcome = match direct.map(|file| file.read(part, offset + done)) {
                // A file system may refuse direct reads of a part of a file, for example of compressed data.
                None | Some(Err(Errno(libc::EINVAL))) => self.buffered.read(part, offset + done),
                Some(outcome) => outcome,
            };
            match outcome {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(errno) => return (done, Err(errno)),
            }
        }
        (done, Ok(()))
    }

    /// Drop the clean pages of the file that the page cache holds and nobody maps. Nothing happens if the descriptor is gone.
    pub fn drop_cached(&self, offset: usize, length: usize) {
        self.buffered.drop_cached(offset, length);
    }

    /// Map the file from `offset` on at `range`, for reading; `shared` maps the pages of the page cache only.
    ///
    /// # Safety
    /// The caller owns the addresses, which are whole base pages, and what is there is not needed.
    pub unsafe fn map_at(&self, range: PageRange, offset: usize, shared: bool) -> SysResult<()> {
        let offset = libc::off_t::try_from(offset).map_err(|_| Errno(libc::EOVERFLOW))?;
        let flags = libc::MAP_FIXED | if shared { libc::MAP_SHARED } else { libc::MAP_PRIVATE };
        let (at, length) = (std::ptr::with_exposed_provenance_mut(range.start()), range.len());
        let file = self.buffered.number()?;
        // SAFETY: the caller owns the addresses, and what is there may go.
        let mapped = unsafe { libc::mmap(at, length, libc::PROT_READ, flags, file, offset) };
        if mapped == libc::MAP_FAILED { Err(errno()) } else { Ok(()) }
    }

    /// Whether the system says truthfully what the page cache holds: only to those who could write the file.
    pub fn tells_what_is_cached(&self) -> bool {
        // SAFETY: the calls have no preconditions; the path is NUL-terminated.
        let owns = self
            .buffered
            .number()
            .ok()
            .and_then(file::status)
            .is_some_and(|status| unsafe { status.st_uid == libc::geteuid() });
        owns || self.buffered.path().is_some_and(|path| syscall::may_write(&path))
    }
}

/// Whether each base page of a mapping is in memory: in the page cache if it maps a file.
pub fn cached_pages(range: PageRange, present: &mut [u8]) -> SysResult<()> {
    let pages = range.len().div_ceil(mapping::base_page().bytes());
    if present.len() < pages {
        return Err(Errno(libc::EINVAL));
    }
    let start = std::ptr::with_exposed_provenance_mut(range.start());
    // SAFETY: the vector has a byte for each page.
    check(unsafe { libc::mincore(start, range.len(), present.as_mut_ptr()) })
}

// ---- file systems -----------------------------------------------------------------------------------

/// linux/magic.h; the libc crate has no name for it.
const RAMFS_MAGIC: libc::c_long = 0x8584_58f6;

fn file_system(file: &Descriptor) -> SysResult<libc::c_long> {
    let mut status = MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: on success the whole structure is written.
    unsafe {
        check(libc::fstatfs(file.0, status.as_mut_ptr()))?;
        Ok(status.assume_init().f_type as libc::c_long)
    }
}

/// Whether files have no length and no pages before they are read.
fn is_generated(system: libc::c_long) -> bool {
    /// linux/magic.h.
    const SYSFS_MAGIC: libc::c_long = 0x6265_6572;
    const CGROUP2_MAGIC: libc::c_long = 0x6367_7270;
    const DEBUGFS_MAGIC: libc::c_long = 0x6462_6720;
    const TRACEFS_MAGIC: libc::c_long = 0x7472_6163;
    matches!(
        system,
        libc::PROC_SUPER_MAGIC | SYSFS_MAGIC | CGROUP2_MAGIC | DEBUGFS_MAGIC | TRACEFS_MAGIC
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::ffi::CString;

    use super::*;
    use crate::os::mapping::Mapping;

    #[test]
    fn only_regular_files_are_opened() {
        let open = |path: &CStr| LargeFile::open(path).err();
        assert_eq!(open(c"/"), Some(Refusal::Directory));
        assert_eq!(open(c"/dev/null"), Some(Refusal::Special));
        assert_eq!(open(c"/proc/version"), Some(Refusal::Generated));
        assert_eq!(open(c"/no/such/file"), Some(Refusal::System(Errno(libc::ENOENT))));
    }

    #[test]
    fn a_read_ends_where_the_file_ends() {
        let path = CString::new(std::env::current_exe().unwrap().to_str().unwrap()).unwrap();
        let file = LargeFile::open(&path).unwrap();
        let expected = std::fs::read(path.to_str().unwrap()).unwrap();
        assert_eq!(file.length(), expected.len());
        let page = mapping::gmem_page();
        let mut memory = Mapping::new(page.ceil(file.length()).unwrap(), page).unwrap();
        let (count, outcome) = file.read(memory.bytes(), 0);
        assert_eq!((count, outcome), (file.length(), Ok(())));
        assert!(memory.bytes()[..count] == expected[..]);
        let (count, outcome) = file.read(memory.bytes(), DIRECT_ALIGNMENT);
        assert_eq!((count, outcome), (file.length() - DIRECT_ALIGNMENT, Ok(())));
        assert!(memory.bytes()[..count] == expected[DIRECT_ALIGNMENT..]);
    }
}
