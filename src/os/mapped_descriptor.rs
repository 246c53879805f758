//! A descriptor of a file that the program has mapped.

use std::ffi::c_int;
use std::ops::ControlFlow;
use std::ptr;

use super::file::Descriptor;
use super::kept_descriptor::Kept;
use super::vma::{self, FileNumber};
use super::{SysResult, errno, mapping, syscall};
use crate::error::Errno;
use crate::page::PageRange;

/// The library's own copy of a program's descriptor, which the program may close.
pub struct MappedDescriptor(Kept);

impl MappedDescriptor {
    /// Copy an open descriptor.
    pub fn copy_of(number: c_int) -> SysResult<Self> {
        Kept::new(Descriptor(syscall::copy_of(number)?)).map(Self)
    }

    /// The number that the file has in mappings. The kernel tells it of a mapping only, so one is made for a moment.
    pub fn file_number(&self) -> SysResult<FileNumber> {
        let (length, file) = (mapping::base_page().bytes(), self.0.number()?);
        // SAFETY: the kernel chooses the address, so the new mapping replaces none. Nobody reads it.
        let start = unsafe {
            libc::mmap(ptr::null_mut(), length, libc::PROT_READ, libc::MAP_SHARED, file, 0)
        };
        if start == libc::MAP_FAILED {
            return Err(errno());
        }
        let mut found = None;
        let at = start.addr();
        let outcome = vma::walk(PageRange::new(at, at + length), |vma| {
            found = Some(vma.file);
            ControlFlow::Break(())
        });
        // SAFETY: mapped above, and nobody else has the address. There is nothing to do about a failure.
        unsafe { libc::munmap(start, length) };
        outcome.and(found.ok_or(Errno(libc::ENOENT)))
    }

    /// Drop the clean pages of the file that the page cache holds and nobody maps.
    pub fn drop_cached(&self, offset: usize, length: usize) {
        self.0.drop_cached(offset, length);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn a_file_has_one_number() {
        let program = std::fs::File::open("/proc/self/exe").unwrap();
        let other = std::fs::File::open("/etc/passwd").unwrap();
        let number = |file: &std::fs::File| {
            MappedDescriptor::copy_of(file.as_raw_fd()).unwrap().file_number().unwrap()
        };
        assert_eq!(number(&program), number(&program));
        assert_ne!(number(&program), number(&other));
        let code = a_file_has_one_number as fn() as usize;
        let mut found = None;
        vma::walk(PageRange::new(code, code + 1), |vma| {
            found = Some(vma.file);
            ControlFlow::Break(())
        })
        .unwrap();
        assert_eq!(found, Some(number(&program)));
        assert_eq!(MappedDescriptor::copy_of(-1).err(), Some(Errno(libc::EBADF)));
    }
}
