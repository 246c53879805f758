//! Small files of `/proc` and `/sys`, read without allocating.

use std::ffi::CStr;

use super::{SysResult, check, errno};

/// A file descriptor that closes itself and is not inherited by exec.
pub(super) struct Descriptor(pub(super) libc::c_int);

impl Descriptor {
    pub(super) fn open_for_reading(path: &CStr) -> SysResult<Self> {
        // SAFETY: the path is NUL-terminated.
        let fd = unsafe { libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
        if fd < 0 { Err(errno()) } else { Ok(Self(fd)) }
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

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: the descriptor is ours and is closed once.
        let _ = check(unsafe { libc::close(self.0) });
    }
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
