//! A file of this process that stays open between calls, because opening it takes several times as long as asking it.
//!
//! A program may close every descriptor and open files of its own under the same numbers, and a child inherits the
//! descriptors of its parent. So a kept file belongs to one process ([`PerProcess`]), and each use first compares the file
//! under its number with the file that was opened.

use super::file::{Descriptor, Identity};
use super::process::PerProcess;

/// An open file, and what identifies it.
pub(super) struct KeptFile {
    descriptor: Descriptor,
    identity: Identity,
}

/// The kept file of each process; `None` where asking it fails.
pub(super) type KeptFiles = PerProcess<Option<KeptFile>>;

impl KeptFile {
    /// Keep an open file, under a number that is out of the program's way.
    pub fn new(descriptor: Descriptor) -> Option<Self> {
        let descriptor = descriptor.out_of_the_way();
        let identity = descriptor.identity()?;
        Some(Self { descriptor, identity })
    }

    /// The descriptor, if it is still the file that was opened.
    pub fn descriptor(&self) -> Option<&Descriptor> {
        (self.descriptor.identity() == Some(self.identity)).then_some(&self.descriptor)
    }

    /// The kept file of each process, made by `open`. A child closes the file of its parent when it opens its own, so
    /// generations of forks do not use up descriptors.
    pub const fn per_process(open: fn(forks: u64) -> Option<Self>) -> KeptFiles {
        PerProcess::with_inheritance(open, |inherited| {
            if let Some(kept) = inherited
                && kept.descriptor().is_some()
            {
                // SAFETY: it is the file that the parent's library opened. The parent keeps its own descriptor, and in this
                // process nothing uses the parent's value after this call, which is made once.
                unsafe { kept.descriptor.close_inherited() };
            }
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn another_file_under_the_number_is_recognized() {
        let kept =
            KeptFile::new(Descriptor::open_for_reading(c"/proc/self/maps").unwrap()).unwrap();
        let number = kept.descriptor().unwrap().0;
        let other = Descriptor::open_for_reading(c"/proc/version").unwrap();
        // SAFETY: the number belongs to the kept file of this test, which closes whatever is under it when it is dropped.
        assert_eq!(unsafe { libc::dup2(other.0, number) }, number);
        assert!(kept.descriptor().is_none());
    }
}
