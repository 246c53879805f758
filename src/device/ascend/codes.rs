//! Error codes of Ascend's runtime (`aclError`).

use crate::error::{DriverCode, Errno, Error, Target};
use std::borrow::Cow;

/// An error code of the runtime; never 0, which is success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AclCode(pub i32);

impl AclCode {
    /// No thread is subscribed to the stream.
    pub const STREAM_NO_CB_REG: Self = Self(107_015);
    /// Another thread is subscribed to the stream already.
    pub const STREAM_SUBSCRIBE: Self = Self(107_011);

    /// The error of a call on a stream that returned this code.
    pub const fn error(self, call: &'static str, stream: usize) -> Error {
        let (name, errno, remedy) = match self.0 {
            100_000 => ("ACL_ERROR_INVALID_PARAM", libc::EINVAL, NO_SUCH_STREAM),
            100_001 => (
                "ACL_ERROR_UNINITIALIZE",
                libc::ENODEV,
                "the runtime is not initialised: call aclInit() and aclrtSetDevice()",
            ),
            107_000 => ("ACL_ERROR_RT_PARAM_INVALID", libc::EINVAL, NO_SUCH_STREAM),
            107_002 => (
                "ACL_ERROR_RT_CONTEXT_NULL",
                libc::ENODEV,
                "the calling thread has no context: call aclrtSetDevice() or aclrtSetCurrentContext() in it",
            ),
            107_003 => (
                "ACL_ERROR_RT_STREAM_CONTEXT",
                libc::EINVAL,
                "the stream belongs to another context: call aclrtSetCurrentContext() with the context that it was \
                 created in",
            ),
            107_011 => (
                "ACL_ERROR_RT_STREAM_SUBSCRIBE",
                libc::EIO,
                "another thread is subscribed to the stream",
            ),
            107_012 => (
                "ACL_ERROR_RT_THREAD_SUBSCRIBE",
                libc::EIO,
                "the thread cannot be subscribed: there are too many, or it serves another device",
            ),
            107_015 => (
                "ACL_ERROR_RT_STREAM_NO_CB_REG",
                libc::EIO,
                "no thread is subscribed to the stream (aclrtSubscribeReport)",
            ),
            107_017 => ("ACL_ERROR_RT_INVALID_HANDLE", libc::EINVAL, NO_SUCH_STREAM),
            207_000 => (
                "ACL_ERROR_RT_FEATURE_NOT_SUPPORT",
                libc::EOPNOTSUPP,
                "a stream cannot be used with both aclrtLaunchCallback() and aclrtLaunchHostFunc(): give libgmem a \
                 separate stream",
            ),
            207_001 => {
                ("ACL_ERROR_RT_MEMORY_ALLOCATION", libc::ENOMEM, "the runtime is out of memory")
            }
            _ => ("", libc::EIO, "see aclGetRecentErrMsg() and the runtime's log"),
        };
        let code = DriverCode { number: self.0, name, errno: Errno(errno) };
        Error::Driver { device: "ascend", call, on: Target::Stream(stream), code, remedy }
    }
}

const NO_SUCH_STREAM: &str =
    "the runtime knows no such stream: pass one that was not destroyed. Nothing was registered";

/// The error that says why the device cannot be used.
pub fn unavailable(why: impl Into<Cow<'static, str>>, remedy: &'static str) -> Error {
    Error::DeviceUnavailable {
        device: "ascend",
        why: why.into(),
        remedy,
        errno: Errno(libc::ENODEV),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_has_a_name_an_errno_and_a_remedy() {
        let failure = AclCode(107_002).error("aclrtLaunchHostFunc", 0x40);
        assert_eq!(failure.errno().0, libc::ENODEV);
        let text = failure.to_string();
        let start = "device ascend: aclrtLaunchHostFunc on stream 0x40 failed: code 107002, ACL_ERROR_RT_CONTEXT_NULL;";
        assert!(text.starts_with(start) && text.contains("aclrtSetDevice()"), "{text}");
        assert_eq!(AclCode(1).error("call", 1).errno().0, libc::EIO);
    }
}
