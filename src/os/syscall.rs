//! System calls that glibc makes cancellation points, made without its wrappers.
//!
//! glibc's `open`, `read`, `close` and their like act on a pending `pthread_cancel(3)`: they unwind the thread's stack, and
//! unwinding through a Rust frame aborts the process. POSIX also says that `malloc` is no cancellation point. `syscall(2)`
//! is none, so these calls go through it.
//!
//! Elsewhere in the library, use neither the wrappers nor what calls them: `std::fs`, `std::thread::sleep`,
//! `std::thread::available_parallelism`, `JoinHandle::join`. Locks, condition variables and `park` are fine: they make
//! the futex call directly. So are glibc's `opendir`, `dlopen` and `sysconf`, which open files without cancellation.

use std::ffi::{CStr, c_int, c_long, c_void};
use std::time::Duration;

use super::{SysResult, errno};
use crate::error::Errno;

/// `openat(2)` for reading; the descriptor is closed by exec.
pub fn open_for_reading(path: &CStr) -> SysResult<c_int> {
    let flags = libc::O_RDONLY | libc::O_CLOEXEC;
    // SAFETY: the path is NUL-terminated, and no mode is needed without O_CREAT.
    descriptor(unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path.as_ptr(), flags) })
}

/// `openat(2)` for writing, which creates the file if it does not exist; the descriptor is closed by exec.
pub fn open_for_writing(path: &CStr) -> SysResult<c_int> {
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_CLOEXEC;
    let (path, mode) = (path.as_ptr(), 0o644);
    // SAFETY: the path is NUL-terminated.
    descriptor(unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path, flags, mode) })
}

/// [`open_for_reading`] with further flags, which does not wait for the other end of a pipe, nor takes a terminal over.
pub fn open_without_waiting(path: &CStr, further: c_int) -> SysResult<c_int> {
    let flags = libc::O_RDONLY | libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_NOCTTY | further;
    // SAFETY: the path is NUL-terminated, and no mode is needed without O_CREAT.
    descriptor(unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path.as_ptr(), flags) })
}

/// `fcntl(2)` with `F_DUPFD_CLOEXEC`: a copy of `file` whose number is at least `lowest`.
pub fn duplicate(file: c_int, lowest: c_int) -> SysResult<c_int> {
    // SAFETY: the call makes another descriptor and changes nothing else.
    descriptor(unsafe { libc::syscall(libc::SYS_fcntl, file, libc::F_DUPFD_CLOEXEC, lowest) })
}

/// Another descriptor of the file, which exec closes. `EMFILE` if none is free.
pub fn copy_of(file: c_int) -> SysResult<c_int> {
    duplicate(file, 0).map_err(|errno| match errno.0 {
        // Not even 0 is below the limit.
        libc::EINVAL => Errno(libc::EMFILE),
        _ => errno,
    })
}

/// `read(2)`: the number of bytes read into `buffer`; 0 at the end of the file.
pub fn read(file: c_int, buffer: &mut [u8]) -> SysResult<usize> {
    let start = buffer.as_mut_ptr();
    // SAFETY: the buffer is writable for its length.
    retried(|| unsafe { libc::syscall(libc::SYS_read, file, start, buffer.len()) })
}

/// `pread(2)`: the number of whole words read into `buffer` from byte `offset` on; 0 at the end of the file.
pub fn read_words_at(file: c_int, buffer: &mut [u64], offset: usize) -> SysResult<usize> {
    let offset = libc::off_t::try_from(offset).map_err(|_| Errno(libc::EOVERFLOW))?;
    let (start, bytes) = (buffer.as_mut_ptr(), size_of_val(buffer));
    // SAFETY: the buffer is writable for its length, and any bits are a number.
    let read = retried(|| unsafe { libc::syscall(libc::SYS_pread64, file, start, bytes, offset) });
    read.map(|bytes| bytes / size_of::<u64>())
}

/// `readlinkat(2)`: the number of bytes of the link that were put into `buffer`, which may be all it holds.
pub fn read_link_at(folder: c_int, name: &CStr, buffer: &mut [u8]) -> SysResult<usize> {
    let start = buffer.as_mut_ptr();
    // SAFETY: the name is NUL-terminated, and the buffer is writable for its length.
    retried(|| unsafe {
        libc::syscall(libc::SYS_readlinkat, folder, name.as_ptr(), start, buffer.len())
    })
}

/// `pread(2)`: the number of bytes read into `buffer` from byte `offset` on; 0 at the end of the file.
pub fn read_at(file: c_int, buffer: &mut [u8], offset: usize) -> SysResult<usize> {
    let offset = libc::off_t::try_from(offset).map_err(|_| Errno(libc::EOVERFLOW))?;
    let (start, bytes) = (buffer.as_mut_ptr(), buffer.len());
    // SAFETY: the buffer is writable for its length.
    retried(|| unsafe { libc::syscall(libc::SYS_pread64, file, start, bytes, offset) })
}

/// `write(2)`, once. A failure and a short write are ignored.
pub fn write(file: c_int, bytes: &[u8]) {
    // SAFETY: the bytes are readable for their length.
    unsafe { libc::syscall(libc::SYS_write, file, bytes.as_ptr(), bytes.len()) };
}

/// `close(2)`.
///
/// # Safety
/// The caller owns the descriptor and does not use it afterwards.
pub unsafe fn close(file: c_int) {
    // SAFETY: the caller owns the descriptor, so no other file is closed. There is nothing to do about a failure.
    unsafe { libc::syscall(libc::SYS_close, file) };
}

/// `faccessat(2)` with `F_OK`: whether a path exists.
pub fn exists(path: &CStr) -> bool {
    // SAFETY: the path is NUL-terminated.
    unsafe { libc::syscall(libc::SYS_faccessat, libc::AT_FDCWD, path.as_ptr(), libc::F_OK) == 0 }
}

/// `faccessat(2)` with `W_OK`: whether the process may write a file.
pub fn may_write(path: &CStr) -> bool {
    // SAFETY: the path is NUL-terminated.
    unsafe { libc::syscall(libc::SYS_faccessat, libc::AT_FDCWD, path.as_ptr(), libc::W_OK) == 0 }
}

/// `nanosleep(2)`; a signal may end it early.
pub fn sleep(time: Duration) {
    let request = libc::timespec {
        tv_sec: libc::time_t::try_from(time.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: c_long::from(time.subsec_nanos().cast_signed()),
    };
    let no_rest = std::ptr::null_mut::<libc::timespec>();
    // SAFETY: the request is readable, and the time left is not asked for.
    unsafe { libc::syscall(libc::SYS_nanosleep, &raw const request, no_rest) };
}

/// `msync(2)` with `MS_ASYNC`, which only looks whether all of a range is mapped.
pub fn is_mapped(page: *const c_void, length: usize) -> bool {
    // SAFETY: with MS_ASYNC the kernel neither reads nor writes the memory.
    unsafe { libc::syscall(libc::SYS_msync, page, length, libc::MS_ASYNC) == 0 }
}

fn descriptor(result: c_long) -> SysResult<c_int> {
    c_int::try_from(result).ok().filter(|file| *file >= 0).ok_or_else(errno)
}

/// The count that a call returns; a call that a signal interrupts is made again.
fn retried(call: impl Fn() -> c_long) -> SysResult<usize> {
    loop {
        match usize::try_from(call()) {
            Ok(count) => return Ok(count),
            Err(_) if errno().0 == libc::EINTR => {}
            Err(_) => return Err(errno()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    unsafe extern "C" {
        // The libc crate has no name for it.
        fn pthread_cancel(thread: libc::pthread_t) -> c_int;
    }

    #[test]
    fn a_file_is_opened_read_and_closed() {
        let file = open_for_reading(c"/proc/version").unwrap();
        let copy = duplicate(file, 300).unwrap();
        assert!(copy >= 300);
        let mut text = [0; 5];
        assert_eq!(read(copy, &mut text), Ok(5));
        assert_eq!(&text, b"Linux");
        let mut word = [0];
        assert_eq!(read_words_at(file, &mut word, 0), Ok(1));
        assert_eq!(word[0].to_ne_bytes()[..5], *b"Linux");
        // SAFETY: opened above, and not used afterwards.
        unsafe {
            close(file);
            close(copy);
        }
        assert_eq!(open_for_reading(c"/no/such/file"), Err(Errno(libc::ENOENT)));
        assert!(exists(c"/proc/version") && !exists(c"/no/such/file"));
        assert!(is_mapped(std::ptr::null(), 0) && !is_mapped(std::ptr::null(), 4096));
    }

    /// None of the calls acts on a pending cancellation: a cancellation point would end the thread here.
    #[test]
    fn no_call_is_a_cancellation_point() {
        extern "C" fn work(done: *mut c_void) -> *mut c_void {
            // SAFETY: the calling thread cancels itself; the cancellation stays pending until a cancellation point.
            unsafe { pthread_cancel(libc::pthread_self()) };
            let file = open_for_reading(c"/proc/self/status").unwrap_or(-1);
            let mut buffer = [0; 64];
            let read_all = read(file, &mut buffer).is_ok();
            let read_words = read_words_at(file, &mut [0; 2], 0).is_ok();
            // SAFETY: opened above, and not used afterwards.
            unsafe { close(file) };
            write(-1, b"");
            sleep(Duration::from_nanos(1));
            is_mapped(std::ptr::null(), 0);
            let processors = crate::os::process::processors() > 0;
            let memory = crate::os::memory::available().is_some();
            let nodes = crate::os::numa::tiers().len() < usize::MAX;
            // SAFETY: the spawning test waits for this thread, so its flag is alive.
            unsafe {
                *done.cast() = file >= 0 && read_all && read_words && processors && memory && nodes
            };
            std::ptr::null_mut()
        }
        let mut done = false;
        let mut thread = 0;
        let argument = (&raw mut done).cast();
        // SAFETY: the thread's function matches the type, and its argument outlives the thread, which is joined.
        unsafe {
            assert_eq!(libc::pthread_create(&raw mut thread, std::ptr::null(), work, argument), 0);
            assert_eq!(libc::pthread_join(thread, std::ptr::null_mut()), 0);
        }
        assert!(done, "a cancellation point ended the thread");
    }
}
