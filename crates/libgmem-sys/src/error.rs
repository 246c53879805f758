// SPDX-License-Identifier: Apache-2.0
//! [`Error`]: an errno, and the library's words for it.

use std::ffi::{CStr, c_int, c_longlong};
use std::{fmt, io};

use crate::ffi;

/// Why a call of libgmem failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    errno: c_int,
    message: String,
}

/// The result of a call of libgmem.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// The errno, a positive number: `libc::EINVAL` and the like.
    pub fn errno(&self) -> i32 {
        self.errno
    }

    /// Which argument was wrong, its value, what is allowed, and the remedy.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What a function of the C interface returned: a number, or a negative errno.
    pub(crate) fn check(returned: c_int) -> Result<c_int> {
        if returned >= 0 {
            return Ok(returned);
        }
        // SAFETY: gmemLastError never returns NULL. Its text ends in NUL and stays as it is until this thread's
        // next failing call; it is copied before that.
        let message = unsafe { CStr::from_ptr(ffi::gmemLastError()) };
        Err(Error { errno: -returned, message: message.to_string_lossy().into_owned() })
    }

    /// The same for functions that return a count. An errno fits into an int.
    pub(crate) fn check_count(returned: c_longlong) -> Result<u64> {
        u64::try_from(returned).or_else(|_| {
            let failure = c_int::try_from(returned).unwrap_or(c_int::MIN + 1);
            Error::check(failure).map(|_| 0)
        })
    }

    /// A query: false where the library says -EBUSY.
    pub(crate) fn check_query(returned: c_int) -> Result<bool> {
        const EBUSY: c_int = 16;
        if returned == -EBUSY {
            return Ok(false);
        }
        Error::check(returned).map(|_| true)
    }

    /// An argument that cannot be passed to C.
    pub(crate) fn invalid(message: String) -> Error {
        const EINVAL: c_int = 22;
        Error { errno: EINVAL, message }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl From<Error> for io::Error {
    fn from(error: Error) -> io::Error {
        io::Error::new(io::Error::from_raw_os_error(error.errno).kind(), error)
    }
}
