//! OpenCL's error codes.

use std::borrow::Cow;
use std::fmt;

use crate::error::{DriverCode, Errno, Error, Target};

/// An error code of the driver or the loader, a negative number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClCode(pub i32);

impl ClCode {
    /// No platform is installed.
    pub const PLATFORM_NOT_FOUND: Self = Self(-1001);

    /// The code's name, number and errno.
    const fn describe(self) -> DriverCode {
        let (name, errno) = match self.0 {
            -1 => ("CL_DEVICE_NOT_FOUND", libc::EIO),
            -2 => ("CL_DEVICE_NOT_AVAILABLE", libc::EIO),
            -4 => ("CL_MEM_OBJECT_ALLOCATION_FAILURE", libc::ENOMEM),
            -5 => ("CL_OUT_OF_RESOURCES", libc::ENOMEM),
            -6 => ("CL_OUT_OF_HOST_MEMORY", libc::ENOMEM),
            -14 => ("CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST", libc::EIO),
            -30 => ("CL_INVALID_VALUE", libc::EIO),
            -33 => ("CL_INVALID_DEVICE", libc::EIO),
            -34 => ("CL_INVALID_CONTEXT", libc::EIO),
            -36 => ("CL_INVALID_COMMAND_QUEUE", libc::EIO),
            -1001 => ("CL_PLATFORM_NOT_FOUND_KHR", libc::EIO),
            _ => ("", libc::EIO),
        };
        DriverCode { number: self.0, name, errno: Errno(errno) }
    }

    /// The error of a call that returned this code.
    pub const fn error(self, call: &'static str, on: Target) -> Error {
        Error::Driver { device: "opencl", call, on, code: self.describe(), remedy: "" }
    }
}

impl fmt::Display for ClCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.describe().fmt(f)
    }
}

/// The error that says why the device cannot be used.
pub fn unavailable(why: impl Into<Cow<'static, str>>, remedy: &'static str) -> Error {
    Error::DeviceUnavailable {
        device: "opencl",
        why: why.into(),
        remedy,
        errno: Errno(libc::ENODEV),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lack_of_memory_is_enomem() {
        let errno = |code| ClCode(code).error("clCall", Target::Device).errno().0;
        assert_eq!([-4, -5, -6].map(errno), [libc::ENOMEM; 3]);
        assert_eq!([-3, -7, -30, 1].map(errno), [libc::EIO; 4]);
        assert_eq!(ClCode(-6).to_string(), "code -6, CL_OUT_OF_HOST_MEMORY");
    }
}
