//! `auto`: the device chooses itself on first use.
//!
//! `ascend` where the kernel has GMEM and Ascend's runtime is in the process or installed, `gmem` where the kernel has
//! GMEM, else `host`. No vendor's library is loaded for the choice, no accelerator has to be attached yet, and a kernel
//! without GMEM costs four system calls. The other devices are used only by name.

use std::borrow::Cow;

use super::{Device, ascend, gmem, host};
use crate::error::Errno;
use crate::os::gmem::{self as kernel, Refusal};

/// The name that stands for the choice.
pub const NAME: &str = "auto";

/// Why a device was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The kernel has GMEM, and Ascend's runtime is in the process or installed.
    AscendRuntime,
    /// The kernel has GMEM.
    GmemKernel,
    /// The kernel has no GMEM.
    NoGmemKernel,
    /// The kernel has GMEM, but this process has no [`kernel::NODE`], as in a container.
    NodeMissing,
    /// [`kernel::NODE`] may not be opened.
    NotOpened(Errno),
    /// [`kernel::NODE`] refuses calls that every GMEM kernel has.
    Refused(Errno),
}

/// Choose a device for this process.
pub fn choose() -> (&'static dyn Device, Reason) {
    let reason = reason();
    let device: &dyn Device = match reason {
        Reason::AscendRuntime => &ascend::Ascend,
        Reason::GmemKernel => &gmem::Gmem,
        _ => &host::Host,
    };
    (device, reason)
}

fn reason() -> Reason {
    // Looked up before it is opened, because open(2) needs a free descriptor even for a path that does not exist.
    if !kernel::node_exists() {
        return if kernel::is_gmem_kernel() { Reason::NodeMissing } else { Reason::NoGmemKernel };
    }
    refusal(kernel::hnuma_id().err()).unwrap_or_else(|| {
        if ascend::is_installed() { Reason::AscendRuntime } else { Reason::GmemKernel }
    })
}

/// The reason why a GMEM kernel cannot be used for good. Other failures may pass: no accelerator is attached yet, or no
/// descriptor or memory is left.
fn refusal(failure: Option<Refusal>) -> Option<Reason> {
    match failure? {
        Refusal::NotOpened(Errno(libc::EMFILE | libc::ENFILE | libc::ENOMEM)) => None,
        Refusal::NotOpened(errno) => Some(Reason::NotOpened(errno)),
        answer => answer.foreign_answer().map(Reason::Refused),
    }
}

impl Reason {
    /// One sentence for people, with the remedy where the accelerator cannot be used.
    pub fn text(self) -> Cow<'static, str> {
        let refused = |what: &str, errno: Errno, remedy: &str| {
            format!("the kernel has GMEM, but /dev/gmem {what}: {errno}. {remedy}").into()
        };
        match self {
            Self::AscendRuntime => {
                "the kernel has GMEM, and Ascend's runtime is loaded or installed".into()
            }
            Self::GmemKernel => "the kernel has GMEM, and Ascend's runtime was not found".into(),
            Self::NoGmemKernel => "the kernel has no GMEM".into(),
            Self::NodeMissing => "the kernel has GMEM, but there is no /dev/gmem. Load the accelerator's driver; start \
                                  a container with --device /dev/gmem"
                .into(),
            Self::NotOpened(errno) => refused(
                "cannot be opened",
                errno,
                "By default only root may open it: give the node to a group (udev), and a container --device /dev/gmem",
            ),
            Self::Refused(errno) => refused(
                "refuses the calls of GMEM",
                errno,
                "It belongs to another driver, or a sandbox (seccomp) forbids ioctl(2) on it",
            ),
        }
    }

    /// A number of 24 bits, for [`of_number`](Self::of_number).
    pub const fn to_number(self) -> u32 {
        match self {
            Self::AscendRuntime => 1,
            Self::GmemKernel => 2,
            Self::NoGmemKernel => 3,
            Self::NodeMissing => 4,
            Self::NotOpened(Errno(errno)) => 5 | (errno as u32 & 0xffff) << 8,
            Self::Refused(Errno(errno)) => 6 | (errno as u32 & 0xffff) << 8,
        }
    }

    /// The reason with this number.
    pub const fn of_number(number: u32) -> Option<Self> {
        let errno = Errno((number >> 8) as i32);
        match number & 0xff {
            1 => Some(Self::AscendRuntime),
            2 => Some(Self::GmemKernel),
            3 => Some(Self::NoGmemKernel),
            4 => Some(Self::NodeMissing),
            5 => Some(Self::NotOpened(errno)),
            6 => Some(Self::Refused(errno)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::gmem::GmemAnswer;

    #[test]
    fn numbers_stand_for_reasons() {
        let errno = Errno(libc::ENOTTY);
        let all = [
            Reason::AscendRuntime,
            Reason::GmemKernel,
            Reason::NoGmemKernel,
            Reason::NodeMissing,
            Reason::NotOpened(errno),
            Reason::Refused(errno),
        ];
        for reason in all {
            assert_eq!(Reason::of_number(reason.to_number()), Some(reason));
            assert!(reason.to_number() < 1 << 24 && !reason.text().is_empty());
        }
        assert_eq!(Reason::of_number(0), None);
        assert!(Reason::Refused(errno).text().contains("os error 25"));
    }

    #[test]
    fn what_may_pass_does_not_decide() {
        let answer = |errno| refusal(Some(Refusal::Answer(GmemAnswer::Errno(Errno(errno)))));
        let opened = |errno| refusal(Some(Refusal::NotOpened(Errno(errno))));
        assert_eq!(refusal(None), None);
        assert_eq!((answer(libc::ENODEV), answer(libc::ENOMEM)), (None, None));
        assert_eq!(refusal(Some(Refusal::Answer(GmemAnswer::Code(1)))), None);
        assert_eq!((opened(libc::EMFILE), opened(libc::ENFILE)), (None, None));
        for errno in [libc::ENOTTY, libc::EPERM] {
            assert_eq!(answer(errno), Some(Reason::Refused(Errno(errno))));
        }
        assert_eq!(opened(libc::EACCES), Some(Reason::NotOpened(Errno(libc::EACCES))));
    }
}
