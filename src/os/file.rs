//! Small files of `/proc` and `/sys`, read without allocating unless a function says so.

use std::ffi::{CStr, CString};

use super::lazy::Lazy;
use super::{SysResult, check, errno};
use crate::error::Errno;

/// A file descriptor that closes itself and is not inherited by exec.
pub(super) struct Descriptor(pub(super) libc::c_int);

impl Descriptor {
    pub(super) fn open_for_reading(path: &CStr) -> SysResult<Self> {
        // SAFETY: the path is NUL-terminated.
        let fd = unsafe { libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
        if fd < 0 { Err(errno()) } else { Ok(Self(fd)) }
    }

    /// The same with a number that programs, which count on small ones to be given next, do not come to use.
    pub(super) fn out_of_the_way(self) -> Self {
        const BEYOND: libc::c_int = 512;
        // SAFETY: it only makes another descriptor.
        let fd = unsafe { libc::fcntl(self.0, libc::F_DUPFD_CLOEXEC, BEYOND) };
        if fd < 0 { self } else { Self(fd) }
    }

    /// Its number, from now on nobody's to close.
    pub(super) fn kept_open(self) -> libc::c_int {
        std::mem::ManuallyDrop::new(self).0
    }

    /// Bytes read into `buffer`; 0 at the end of the file.
    pub(super) fn read(&self, buffer: &mut [u8]) -> SysResult<usize> {
        loop {
            // SAFETY: the buffer is writable for its length.
            let got = unsafe { libc::read(self.0, buffer.as_mut_ptr().cast(), buffer.len()) };
            if let Ok(got) = usize::try_from(got) {
                return Ok(got);
            }
            if errno().0 != libc::EINTR {
                return Err(errno());
            }
        }
    }
}

impl Descriptor {
    /// Words read into `buffer` from byte `offset` on; 0 at the end of the file.
    pub(super) fn read_words_at(&self, buffer: &mut [u64], offset: usize) -> SysResult<usize> {
        let offset = libc::off_t::try_from(offset).map_err(|_| Errno(libc::EOVERFLOW))?;
        loop {
            let (start, bytes) = (buffer.as_mut_ptr().cast(), size_of_val(buffer));
            // SAFETY: the buffer is writable for its length, and any bits are a number.
            let got = unsafe { libc::pread(self.0, start, bytes, offset) };
            if let Ok(got) = usize::try_from(got) {
                return Ok(got / size_of::<u64>());
            }
            if errno().0 != libc::EINTR {
                return Err(errno());
            }
        }
    }

    fn device(&self) -> Option<(u32, u32)> {
        let mut status = std::mem::MaybeUninit::<libc::stat>::uninit();
        // SAFETY: on success the whole structure is written.
        let device = unsafe {
            check(libc::fstat(self.0, status.as_mut_ptr())).ok()?;
            status.assume_init().st_dev
        };
        Some((libc::major(device), libc::minor(device)))
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: the descriptor is ours and is closed once.
        let _ = check(unsafe { libc::close(self.0) });
    }
}

/// Write one line to stderr in one call, so that threads do not mix. No lock, which a forked child could
/// find held for ever; and a closed stderr is no reason to fail.
pub fn write_stderr(line: &[u8]) {
    // SAFETY: the line is readable for its length.
    let _ = unsafe { libc::write(libc::STDERR_FILENO, line.as_ptr().cast(), line.len()) };
}

/// The device that the kernel keeps anonymous shared memory on: memfd, System V, `MAP_SHARED|MAP_ANONYMOUS`.
/// As (major, minor); `None` where it cannot be found out.
pub fn shared_memory_device() -> Option<(u32, u32)> {
    static DEVICE: Lazy<Option<(u32, u32)>> = Lazy::new(|| {
        // SAFETY: the name is NUL-terminated.
        let fd = unsafe { libc::memfd_create(c"gmem".as_ptr(), libc::MFD_CLOEXEC) };
        (fd >= 0).then(|| Descriptor(fd))?.device()
    });
    *DEVICE.get()
}

/// The device of `/dev/shm`, if that is a memory file system.
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

/// The beginning of a file, as much as `buffer` holds.
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

/// All that a file holds now. Allocates.
pub fn read_whole(path: &CStr) -> SysResult<Vec<u8>> {
    let file = Descriptor::open_for_reading(path)?;
    let mut content = Vec::new();
    let mut piece = [0; 1 << 14];
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(content),
            got => content.extend_from_slice(&piece[..got]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_number_and_refuses_a_missing_file() {
        assert!(read_number(c"/proc/sys/kernel/pid_max").is_some_and(|pids| pids > 1));
        assert_eq!(read_number(c"/proc/no/such/file"), None);
        assert_eq!(read_number(c"/proc/version"), None);
    }
}
