//! One open model file: its bytes in memory.

use std::ffi::CStr;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::choice::{self, Mode};
use super::common_copy::{CommonCopy, Refusal as CopyRefusal};
use super::page_states::PageStates;
use crate::error::{Errno, Error, Result};
use crate::huge_policy::HugePolicy;
use crate::os::direct_io::{LargeFile, Refusal};
use crate::os::file_window::{Shown, Window};
use crate::os::{SysResult, mapping};
use crate::page::PageRange;

/// Whose the private memory is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Copy {
    /// This process's.
    #[default]
    Own,
    /// This process's, and that of others which join.
    Common,
    /// That of another process, which gave this descriptor.
    Join(i32),
}

/// How to open a file.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// How its bytes get into memory; `None` for the best way.
    pub mode: Option<Mode>,
    /// Huge pages for private memory. `AsIs` prefers them.
    pub huge: HugePolicy,
    /// Whose the private memory is.
    pub copy: Copy,
}

/// Properties of an open file, for `gmemModelGetInfo`.
pub struct Facts {
    /// How its bytes get into memory.
    pub mode: Mode,
    /// Why.
    pub reason: &'static CStr,
    /// Whether reads go past the page cache.
    pub is_direct: bool,
    /// Its bytes in memory; empty at address 0 for an empty file.
    pub bytes: PageRange,
    /// Bytes in private memory now.
    pub loaded: usize,
    /// Bytes that were read into private memory so far.
    pub read: usize,
}

/// An open file.
pub struct Weights {
    path: String,
    pub(super) file: LargeFile,
    /// `None` for an empty file.
    pub(super) window: Option<Window>,
    mode: Mode,
    reason: &'static CStr,
    pub(super) huge: HugePolicy,
    pub(super) states: PageStates,
    pub(super) read: AtomicUsize,
    /// The memory, if other processes may have it in common.
    pub(super) common: Option<CommonCopy>,
}

impl Weights {
    /// Open a file. Nothing is read.
    pub fn open(path: &CStr, options: &Options) -> Result<Self> {
        let name = path.to_string_lossy().into_owned();
        let file = LargeFile::open(path).map_err(|refusal| cannot_open(&name, refusal))?;
        let (mode, reason) = match options.mode {
            _ if options.copy != Copy::Own => {
                (Mode::Private, c"the options ask for memory that processes have in common")
            }
            Some(mode) => (mode, c"the options say so"),
            None => choice::choose(&file),
        };
        let window = match file.length() {
            0 => None,
            _ => Some(Window::new(&file, shows(mode, options.huge)).map_err(|errno| {
                let (what, remedy) = ("mapping it", "; see ulimit -v and vm.max_map_count");
                Error::ModelFile { path: name.clone(), what, offset: 0, errno, remedy }
            })?),
        };
        let pages = match mode {
            Mode::Shared => 0,
            Mode::Private => file.length().div_ceil(mapping::gmem_page().bytes()),
        };
        let states = PageStates::new(pages)?;
        let common = match options.copy {
            Copy::Own => None,
            Copy::Common => Some(CommonCopy::create(&file, pages)),
            Copy::Join(descriptor) => Some(CommonCopy::join(&file, pages, descriptor)),
        };
        let common = common.transpose().map_err(|why| no_copy(&name, options.copy, why))?;
        let (huge, read) = (options.huge, AtomicUsize::new(0));
        Ok(Self { path: name, file, window, mode, reason, huge, states, read, common })
    }

    /// Whether other processes may have its memory in common.
    pub const fn is_common(&self) -> bool {
        self.common.is_some()
    }

    /// A descriptor of the memory, with which another process can join.
    pub fn copy_descriptor(&self) -> Result<i32> {
        let Some(common) = &self.common else {
            return Err(Error::NoCommonCopy { path: self.path.clone() });
        };
        common.memory().descriptor().map_err(|errno| {
            self.failure("copying the descriptor of its memory", 0, errno, "; raise ulimit -n")
        })
    }

    /// In a child of fork(3), where the pages of common memory are not mapped: show the file there, and become a member of the copy.
    /// Neither allocates nor waits.
    pub fn after_fork(&self) {
        if let (Some(common), Some(window)) = (&self.common, &self.window) {
            self.states.reset();
            // After a failure the addresses stay without memory.
            if window.show_file(&self.file, self.range()).is_ok() {
                common.take_place();
            }
        }
    }

    /// The addresses, whole GMEM pages.
    pub fn range(&self) -> PageRange {
        self.window.as_ref().map_or(PageRange::new(0, 0), Window::range)
    }

    /// The addresses of the file's bytes.
    pub fn bytes(&self) -> PageRange {
        let start = self.range().start();
        PageRange::new(start, start + self.file.length())
    }

    /// How its bytes get into memory.
    pub const fn mode(&self) -> Mode {
        self.mode
    }

    /// Whether the kernel reads it huge page by huge page as it is populated.
    pub fn reads_huge_pages(&self) -> bool {
        shows(self.mode, self.huge) == Shown::CacheInHugePages
    }

    /// The file's properties, with the bytes that are loaded now.
    pub fn facts(&self) -> Facts {
        Facts {
            mode: self.mode,
            reason: self.reason,
            is_direct: self.file.is_direct(),
            bytes: self.bytes(),
            loaded: self.states.copies() * mapping::gmem_page().bytes(),
            read: self.read.load(Ordering::Relaxed),
        }
    }

    /// The addresses of `length` bytes from `offset` on.
    pub fn part(&self, offset: usize, length: usize) -> Result<PageRange> {
        let bytes = self.file.length();
        match offset.checked_add(length) {
            Some(end) if end <= bytes => {
                let start = self.bytes().start() + offset;
                Ok(PageRange::new(start, start + length))
            }
            _ => Err(Error::BeyondModel { path: self.path.clone(), offset, length, bytes }),
        }
    }

    /// The number of a GMEM page of the window.
    pub(super) fn page_at(&self, address: usize) -> usize {
        (address - self.range().start()) / mapping::gmem_page().bytes()
    }

    /// The addresses of GMEM pages of the window.
    pub(super) fn addresses(&self, pages: std::ops::Range<usize>) -> PageRange {
        let (start, page) = (self.range().start(), mapping::gmem_page().bytes());
        PageRange::new(start + pages.start * page, start + pages.end * page)
    }

    /// Release whole GMEM pages: their memory, and the page cache's.
    pub fn release(&self, pages: PageRange) -> Result<()> {
        let Some(window) = &self.window else { return Ok(()) };
        if self.common.as_ref().is_some_and(|common| !common.is_member()) {
            return Err(self.no_member());
        }
        let pages = pages.intersect(self.range());
        let first_failure = match self.mode {
            Mode::Shared => window.unmap_cached(pages).err(),
            Mode::Private => self.show_file(window, pages),
        };
        self.file.drop_cached(pages.start() - self.range().start(), pages.len());
        match first_failure {
            None => Ok(()),
            Some(errno) => {
                let (offset, remedy) = (pages.start() - self.range().start(), "");
                Err(self.failure("releasing it", offset, errno, remedy))
            }
        }
    }

    /// Show the file where copies are. Pages that are just being loaded stay: the load comes after the release.
    fn show_file(&self, window: &Window, pages: PageRange) -> Option<Errno> {
        let end = self.page_at(pages.end());
        let mut from = self.page_at(pages.start());
        let mut first_failure = None;
        while let Some(taken) = self.states.take_run(from..end, |_| true) {
            from = taken.pages().end;
            let shown = window.show_file(&self.file, self.addresses(taken.pages()));
            if let Err(errno) = shown.and_then(|()| self.leave_common(taken.pages())) {
                first_failure.get_or_insert(errno);
            }
        }
        first_failure
    }

    /// Use pages of common memory no more, if there is any.
    fn leave_common(&self, pages: std::ops::Range<usize>) -> SysResult<()> {
        let Some(common) = &self.common else { return Ok(()) };
        let mut outcome = Ok(());
        for page in pages {
            outcome = outcome.and(common.leave(page));
        }
        outcome
    }

    /// The error of a process that may not use the memory that others have in common.
    pub(super) fn no_member(&self) -> Error {
        Error::NotAMember { path: self.path.clone() }
    }

    /// An error that names the file and the offset.
    pub(super) fn failure(
        &self,
        what: &'static str,
        offset: usize,
        errno: Errno,
        remedy: &'static str,
    ) -> Error {
        Error::ModelFile { path: self.path.clone(), what, offset, errno, remedy }
    }

    /// The failure of a prefetch of mapped pages, with the name of the file.
    pub fn explain(&self, failure: Error) -> Error {
        match failure {
            Error::System { from, errno, .. } if self.range().start() <= from => {
                let offset = (from - self.range().start()).min(self.file.length());
                self.explain_system(offset, errno)
            }
            other => other,
        }
    }

    /// The error for an errno of the system, with this file's name and the remedy.
    pub(super) fn explain_system(&self, offset: usize, errno: Errno) -> Error {
        match (errno.0, self.file.length_now()) {
            (_, Err(lost)) => self.failure(
                "reading it",
                offset,
                lost,
                "; the program has closed the descriptor, or opened another file under its number",
            ),
            (libc::EFAULT, Ok(now)) if now < self.file.length() => self.truncated(now),
            // The kernel reports what a fault would: the error of the disk behind it is not known.
            (libc::EFAULT, Ok(_)) => {
                self.failure("reading it", offset, Errno(libc::EIO), "; see dmesg")
            }
            _ => self.failure("reading it", offset, errno, ""),
        }
    }

    pub(super) fn truncated(&self, now: usize) -> Error {
        let (path, bytes) = (self.path.clone(), self.file.length());
        Error::ModelTruncated { path, now, bytes }
    }
}

/// How a file that is open in a mode is mapped.
fn shows(mode: Mode, huge: HugePolicy) -> Shown {
    match (mode, huge) {
        (Mode::Private, _) => Shown::File,
        (Mode::Shared, HugePolicy::Off) => Shown::Cache,
        (Mode::Shared, _) => Shown::CacheInHugePages,
    }
}

impl Drop for Weights {
    fn drop(&mut self) {
        if let Some(common) = &self.common {
            // First the addresses, which must not show what nobody uses any more.
            self.window = None;
            common.leave_all();
        }
    }
}

fn no_copy(path: &str, copy: Copy, why: CopyRefusal) -> Error {
    let path = path.to_owned();
    match (why, copy) {
        (CopyRefusal::System(errno), Copy::Join(descriptor)) => {
            Error::UnusableDescriptor { descriptor, errno }
        }
        (CopyRefusal::System(errno), _) => {
            let (what, remedy) = ("making memory for several processes", "");
            Error::ModelFile { path, what, offset: 0, errno, remedy }
        }
        (CopyRefusal::OfAnother, _) => Error::CopyOfAnother { path },
        (CopyRefusal::Full, _) => Error::CopyFull { path },
    }
}

fn cannot_open(path: &str, refusal: Refusal) -> Error {
    let path = path.to_owned();
    let (why, errno) = match refusal {
        Refusal::System(errno) => {
            return Error::ModelFile { path, what: "opening it", offset: 0, errno, remedy: "" };
        }
        Refusal::Directory => ("is a directory", libc::EISDIR),
        Refusal::Special => ("is a pipe, a socket or a device", libc::EINVAL),
        Refusal::Generated => ("has no length before it is read", libc::EINVAL),
    };
    Error::NotAModelFile { path, why, errno }
}
