//! The calling thread's last error, kept for `gmemLastError`.

use std::cell::Cell;
use std::ffi::{CStr, c_char};

use crate::config::{LogLevel, log};
use crate::error::Error;
use crate::os::thread::PerThread;

/// Longest message kept, in bytes. The library's longest messages take half of it.
const MESSAGE_BYTES: usize = 1024;

/// A message for C, always NUL-terminated.
struct Message([Cell<u8>; MESSAGE_BYTES]);

impl Default for Message {
    fn default() -> Self {
        Self([const { Cell::new(0) }; MESSAGE_BYTES])
    }
}

/// Each thread's message. It never moves, so C may fetch the pointer before the call that fails.
static LAST: PerThread<Message> = PerThread::new();

/// Keep `failure` as this thread's last error.
pub fn remember(failure: &Error) {
    let text = failure.to_string();
    log(LogLevel::Error, || text.clone());
    LAST.with(|last| {
        let mut length = text.len().min(MESSAGE_BYTES - 1);
        while !text.is_char_boundary(length) {
            length -= 1;
        }
        let bytes = text.bytes().take(length).chain(std::iter::repeat(0));
        last.0.iter().zip(bytes).for_each(|(at, byte)| at.set(byte));
    });
}

/// The last error for C: the same address for the life of the thread.
pub fn last_message_ptr() -> *const c_char {
    const NOTHING: &CStr = c"";
    LAST.with(|last| last.0.as_ptr().cast()).unwrap_or(NOTHING.as_ptr())
}

/// The last error as a string.
pub fn last_message() -> String {
    let bytes = LAST.with(|last| last.0.each_ref().map(Cell::get));
    let text = bytes.as_ref().and_then(|bytes| CStr::from_bytes_until_nul(bytes).ok());
    text.map(|text| text.to_string_lossy().into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_error_is_the_threads_own() {
        remember(&Error::UnknownStream { handle: 0x123 });
        assert!(last_message().contains("0x123"));
        let other = std::thread::spawn(last_message).join();
        assert_eq!(other.ok().as_deref(), Some(""));
    }
}
