//! The boundary to C: a panic becomes an error, an error becomes a negative errno, and no call is a cancellation point.
//!
//! The default panic hook would print. While a guarded call runs, the message is kept instead.

use std::cell::{Cell, RefCell};
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};
use crate::last_error;
use crate::os::thread::{PerThread, without_cancellation};

/// The result of a function that C declares as `int`.
///
/// It fills the whole return register, sign-extended: known clients look `gmemFreeEager` up and call it through a
/// pointer to a function that returns `size_t`. A Rust `i32` would leave the upper half of the register undefined.
#[repr(transparent)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IntResult(isize);

impl From<i32> for IntResult {
    fn from(value: i32) -> Self {
        Self(value as isize)
    }
}

impl From<IntResult> for i32 {
    fn from(result: IntResult) -> Self {
        // Made from an i32 only.
        result.0 as Self
    }
}

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}
static MESSAGE: PerThread<RefCell<String>> = PerThread::new();

/// Run a call from C. Returns its value, or the negative errno of its failure, which becomes the thread's last error.
pub fn guard(call: impl FnOnce() -> Result<i32>) -> IntResult {
    // An i32, or a negative errno, which is one as well.
    IntResult(guard_wide(|| call().map(i64::from)) as isize)
}

/// [`guard`] for functions that return more than an `int`.
pub fn guard_wide(call: impl FnOnce() -> Result<i64>) -> i64 {
    without_cancellation(|| {
        catch(call).unwrap_or_else(|failure| {
            last_error::remember(&failure);
            failure.errno().negative().into()
        })
    })
}

/// Run `call`; a panic comes out as [`Error::Panicked`].
pub fn catch<T>(call: impl FnOnce() -> Result<T>) -> Result<T> {
    keep_messages();
    let outer = GUARDED.replace(true);
    let outcome = panic::catch_unwind(AssertUnwindSafe(call));
    GUARDED.set(outer);
    outcome.unwrap_or_else(|_| {
        let message = MESSAGE.with(RefCell::take).unwrap_or_default();
        Err(Error::Panicked { message })
    })
}

/// Put a panic hook in front of the process's own, once. Not with `Once`: a forked child could wait for it forever.
fn keep_messages() {
    static HOOKED: AtomicBool = AtomicBool::new(false);
    if HOOKED.load(Ordering::Relaxed) || HOOKED.swap(true, Ordering::Relaxed) {
        return;
    }
    let previous = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if GUARDED.get() {
            MESSAGE.with(|message| message.replace(info.to_string()));
        } else {
            previous(info);
        }
    }));
}

#[cfg(test)]
#[allow(clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_with_its_message() {
        let code = guard(|| panic!("page table on fire"));
        assert_eq!(code, IntResult(-libc::ENOTRECOVERABLE as isize));
        assert!(last_error::last_message().contains("page table on fire"));
    }

    #[test]
    fn the_guard_can_be_used_again_and_nested() {
        let code = guard(|| {
            assert_eq!(i32::from(guard(|| panic!("inner"))), -libc::ENOTRECOVERABLE);
            Ok(7)
        });
        assert_eq!(i32::from(code), 7);
    }
}
