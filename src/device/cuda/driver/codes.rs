//! CUDA's error codes (`CUresult`).

use std::borrow::Cow;
use std::fmt;

use crate::error::{DriverCode, Errno, Error, Target};

/// An error code of the driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CuCode(pub i32);

impl CuCode {
    /// The GPU, or the machine, is out of memory.
    pub const OUT_OF_MEMORY: Self = Self(2);
    /// The library is the toolkit's stub, not a driver.
    pub const STUB_LIBRARY: Self = Self(34);
    /// There is no GPU.
    pub const NO_DEVICE: Self = Self(100);
    /// The handle is not a stream, or the stream was destroyed.
    pub const INVALID_HANDLE: Self = Self(400);
    /// The work is not done yet.
    pub const NOT_READY: Self = Self(600);
    /// The context in which the stream was created was destroyed.
    pub const CONTEXT_IS_DESTROYED: Self = Self(709);
    /// This GPU, or this driver, does not support the call.
    pub const NOT_SUPPORTED: Self = Self(801);
    /// A service that the GPU needs is not running.
    pub const SYSTEM_NOT_READY: Self = Self(802);
    /// The kernel module and the library are of different versions.
    pub const SYSTEM_DRIVER_MISMATCH: Self = Self(803);
    /// A stream that is being captured depends on this one.
    pub const CAPTURE_IMPLICIT: Self = Self(906);

    /// Whether the stream that was passed is the cause.
    pub const fn is_of_the_stream(self) -> bool {
        matches!(self, Self::INVALID_HANDLE | Self::CONTEXT_IS_DESTROYED)
    }

    /// Whether the context cannot be used any more, for example after a kernel's bad access.
    const fn is_lasting(self) -> bool {
        matches!(self.0, 700 | 702 | 709 | 710 | 714..=719 | 999)
    }

    /// The name in `cuda.h`, for the codes that libgmem may meet; empty for others.
    const fn name(self) -> &'static str {
        match self.0 {
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
            _ => "",
        }
    }

    /// The error of a call that returned this code.
    pub fn error(self, call: &'static str, on: Target) -> Error {
        let is_a_stream = matches!(on, Target::Stream(_));
        let errno = Errno(match self {
            Self::OUT_OF_MEMORY => libc::ENOMEM,
            Self::NOT_SUPPORTED => libc::EOPNOTSUPP,
            code if is_a_stream && code.is_of_the_stream() => libc::EINVAL,
            _ => libc::EIO,
        });
        let code = DriverCode { number: self.0, name: self.name(), errno };
        let remedy = if self.is_lasting() {
            "the context is lost: no CUDA call of this process works any more, restart the process"
        } else {
            ""
        };
        Error::Driver { device: "cuda", call, on, code, remedy }
    }
}

impl fmt::Display for CuCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", DriverCode { number: self.0, name: self.name(), errno: Errno(libc::EIO) })
    }
}

/// The error that says why the device cannot be used.
pub fn unavailable(why: impl Into<Cow<'static, str>>, remedy: &'static str) -> Error {
    Error::DeviceUnavailable { device: "cuda", why: why.into(), remedy, errno: Errno(libc::ENODEV) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_stream_is_an_invalid_argument_and_a_lost_context_is_said() {
        let range = Target::Range { from: 0x1000, to: 0x2000 };
        let errno = |code: CuCode, on| code.error("cuCall", on).errno().0;
        assert_eq!(errno(CuCode::INVALID_HANDLE, Target::Stream(0x40)), libc::EINVAL);
        assert_eq!(errno(CuCode::INVALID_HANDLE, range), libc::EIO);
        assert_eq!(errno(CuCode::OUT_OF_MEMORY, range), libc::ENOMEM);
        let text = CuCode(700).error("cuCall", range).to_string();
        let expected = "device cuda: cuCall of 0x1000..0x2000 failed: code 700, CUDA_ERROR_ILLEGAL_ADDRESS; the";
        assert!(text.starts_with(expected) && text.contains("context is lost"), "{text}");
        assert_eq!(CuCode(12345).to_string(), "code 12345");
    }
}
