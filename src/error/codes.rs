//! Numbers by which the kernel and drivers say what went wrong.

use std::fmt;

/// A positive error number of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i32);

impl Errno {
    /// As the C functions return it.
    pub const fn negative(self) -> i32 {
        -self.0
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // std's text ends in "(os error N)", which is the number a reader wants.
        write!(f, "{}", std::io::Error::from_raw_os_error(self.0))
    }
}

/// A negative number of OpenCL's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClCode(pub i32);

impl ClCode {
    /// Whether there was not enough memory, of one kind or another: `CL_OUT_OF_HOST_MEMORY`, `CL_OUT_OF_RESOURCES`,
    /// `CL_MEM_OBJECT_ALLOCATION_FAILURE`.
    pub(super) fn is_lack_of_memory(self) -> bool {
        (-6..=-4).contains(&self.0)
    }
}

impl fmt::Display for ClCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OpenCL's code {}", self.0)
    }
}

/// A number of CUDA's (`CUresult`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CuCode(pub i32);

impl CuCode {
    /// Memory of one kind or another.
    pub const OUT_OF_MEMORY: Self = Self(2);
    /// No GPU.
    pub const NO_DEVICE: Self = Self(100);
    /// What was passed is no stream, or none any more.
    pub const INVALID_HANDLE: Self = Self(400);
    /// Not done yet.
    pub const NOT_READY: Self = Self(600);
    /// The context that the stream was made in has gone.
    pub const CONTEXT_IS_DESTROYED: Self = Self(709);
    /// A stream waits for one that is being captured.
    pub const CAPTURE_IMPLICIT: Self = Self(906);
    /// Not on this GPU, or with this driver.
    pub const NOT_SUPPORTED: Self = Self(801);

    /// Whether the context is of no use any more, as after a kernel's bad access.
    fn is_lasting(self) -> bool {
        matches!(self.0, 700 | 702 | 709 | 710 | 714..=719 | 999)
    }

    /// cuda.h's name for those that libgmem may meet.
    fn name(self) -> Option<&'static str> {
        Some(match self.0 {
            1 => "CUDA_ERROR_INVALID_VALUE",
            2 => "CUDA_ERROR_OUT_OF_MEMORY",
            3 => "CUDA_ERROR_NOT_INITIALIZED",
            4 => "CUDA_ERROR_DEINITIALIZED",
            34 => "CUDA_ERROR_STUB_LIBRARY",
            46 => "CUDA_ERROR_DEVICE_UNAVAILABLE",
            100 => "CUDA_ERROR_NO_DEVICE",
            101 => "CUDA_ERROR_INVALID_DEVICE",
            201 => "CUDA_ERROR_INVALID_CONTEXT",
            214 => "CUDA_ERROR_ECC_UNCORRECTABLE",
            304 => "CUDA_ERROR_OPERATING_SYSTEM",
            400 => "CUDA_ERROR_INVALID_HANDLE",
            700 => "CUDA_ERROR_ILLEGAL_ADDRESS",
            702 => "CUDA_ERROR_LAUNCH_TIMEOUT",
            709 => "CUDA_ERROR_CONTEXT_IS_DESTROYED",
            710 => "CUDA_ERROR_ASSERT",
            715 => "CUDA_ERROR_ILLEGAL_INSTRUCTION",
            716 => "CUDA_ERROR_MISALIGNED_ADDRESS",
            719 => "CUDA_ERROR_LAUNCH_FAILED",
            800 => "CUDA_ERROR_NOT_PERMITTED",
            801 => "CUDA_ERROR_NOT_SUPPORTED",
            802 => "CUDA_ERROR_SYSTEM_NOT_READY",
            803 => "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH",
            804 => "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE",
            900 => "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED",
            901 => "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED",
            906 => "CUDA_ERROR_STREAM_CAPTURE_IMPLICIT",
            999 => "CUDA_ERROR_UNKNOWN",
            _ => return None,
        })
    }
}

impl fmt::Display for CuCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CUDA's code {}", self.0)?;
        if let Some(name) = self.name() {
            write!(f, ", {name}")?;
        }
        if self.is_lasting() {
            f.write_str(
                " (the context is lost: nothing more works in this process but to end it)",
            )?;
        }
        Ok(())
    }
}

/// A number of Ascend's runtime other than 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AclCode(pub i32);

impl AclCode {
    /// `ACL_ERROR_RT_STREAM_NO_CB_REG`
    pub const NO_THREAD_IS_SUBSCRIBED: Self = Self(107_015);
    /// `ACL_ERROR_RT_STREAM_SUBSCRIBE`
    pub const STREAM_HAS_A_THREAD: Self = Self(107_011);

    /// What it means and what helps; only for those that a caller of libgmem's can bring about.
    const fn meaning(self) -> &'static str {
        match self.0 {
            100_001 => "the runtime is not initialised; call aclInit() and aclrtSetDevice()",
            100_000 | 107_000 | 107_017 => {
                "it knows no such stream; pass one that is not destroyed"
            }
            107_002 => {
                "the calling thread has no context; call aclrtSetDevice() or aclrtSetCurrentContext() there"
            }
            107_003 => {
                "the stream is not of the calling thread's context; call aclrtSetCurrentContext() with the one it was \
                 made in"
            }
            107_011 => "another thread is subscribed to the stream",
            107_012 => {
                "the thread cannot be subscribed: there are too many, or it serves another device"
            }
            107_015 => "no thread is subscribed to the stream (aclrtSubscribeReport)",
            207_000 => {
                "it does not support that; a stream must not be used with both aclrtLaunchCallback() and \
                 aclrtLaunchHostFunc(): give libgmem one of its own"
            }
            207_001 => "no memory is left",
            _ => "see aclGetRecentErrMsg() and the runtime's log",
        }
    }

    /// The errno that says about the same.
    pub(super) const fn errno(self) -> i32 {
        match self.0 {
            100_000 | 107_000 | 107_003 | 107_017 => libc::EINVAL,
            100_001 | 107_002 => libc::ENODEV,
            207_000 => libc::EOPNOTSUPP,
            207_001 => libc::ENOMEM,
            _ => libc::EIO,
        }
    }
}

impl fmt::Display for AclCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ACL's code {}: {}", self.0, self.meaning())
    }
}

/// What a GMEM kernel answers when it refuses: like any kernel, or with a positive code of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GmemAnswer {
    /// The call failed.
    Errno(Errno),
    /// `gm_ret`; the errno is not touched.
    Code(i32),
}

impl GmemAnswer {
    /// `GM_RET_FAILURE_UNKNOWN`, which a prefetch means this by.
    pub const NOT_ONE_PEER_SHARED_MAPPING: Self = Self::Code(5);

    /// The errno that says the same.
    pub const fn errno(self) -> Errno {
        match self {
            Self::Errno(errno) => errno,
            Self::Code(1) => Errno(libc::ENOMEM),
            Self::Code(2) => Errno(libc::EEXIST),
            Self::Code(4) => Errno(libc::EAGAIN),
            Self::NOT_ONE_PEER_SHARED_MAPPING => Errno(libc::EINVAL),
            Self::Code(6) => Errno(libc::EOPNOTSUPP),
            // 3 is a failure of the device's; others are none that is known.
            Self::Code(_) => Errno(libc::EIO),
        }
    }
}

impl fmt::Display for GmemAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Errno(errno) => write!(f, "{errno}"),
            Self::Code(code) => write!(f, "gm_ret {code}, {}", self.errno()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_a_gmem_kernel_become_errnos() {
        let errnos = [1, 2, 3, 4, 5, 6, 7, i32::MIN].map(|code| GmemAnswer::Code(code).errno().0);
        let expected = [
            libc::ENOMEM,
            libc::EEXIST,
            libc::EIO,
            libc::EAGAIN,
            libc::EINVAL,
            libc::EOPNOTSUPP,
            libc::EIO,
            libc::EIO,
        ];
        assert_eq!(errnos, expected);
    }
}
