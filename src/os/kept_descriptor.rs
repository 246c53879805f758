//! Descriptors that the library keeps open for files of the program.

use std::ffi::{CString, c_int};

use super::file::{Descriptor, Identity};
use super::{SysResult, errno, syscall};
use crate::error::Errno;

/// A descriptor that is used, and closed, only while it is still the file that was opened: a program may close all of its
/// descriptors and open others under their numbers.
pub(super) struct Kept {
    descriptor: std::mem::ManuallyDrop<Descriptor>,
    identity: Identity,
}

impl Kept {
    pub(super) fn new(descriptor: Descriptor) -> SysResult<Self> {
        let descriptor = descriptor.out_of_the_way();
        let identity = descriptor.identity().ok_or_else(errno)?;
        Ok(Self { descriptor: std::mem::ManuallyDrop::new(descriptor), identity })
    }

    pub(super) fn number(&self) -> SysResult<c_int> {
        let is_ours = self.descriptor.identity() == Some(self.identity);
        if is_ours { Ok(self.descriptor.0) } else { Err(Errno(libc::EBADF)) }
    }

    pub(super) fn path(&self) -> Option<CString> {
        CString::new(format!("/proc/self/fd/{}", self.number().ok()?)).ok()
    }

    /// This file opened once more, for direct reads.
    pub(super) fn again_direct(&self) -> Option<Self> {
        let again = syscall::open_without_waiting(&self.path()?, libc::O_DIRECT).ok()?;
        Self::new(Descriptor(again)).ok().filter(|again| again.identity == self.identity)
    }

    /// Drop the clean pages of the file that the page cache holds and nobody maps. Nothing happens if the descriptor is gone.
    pub(super) fn drop_cached(&self, offset: usize, length: usize) {
        let (Ok(offset), Ok(length)) = (offset.try_into(), length.try_into()) else { return };
        if let Ok(file) = self.number() {
            // SAFETY: the advice drops no data: dirty pages stay.
            unsafe { libc::posix_fadvise(file, offset, length, libc::POSIX_FADV_DONTNEED) };
        }
    }

    pub(super) fn read(&self, buffer: &mut [u8], offset: usize) -> SysResult<usize> {
        syscall::read_at(self.number()?, buffer, offset)
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if self.number().is_ok() {
            // SAFETY: the descriptor is used no more.
            unsafe { std::mem::ManuallyDrop::drop(&mut self.descriptor) };
        }
    }
}
