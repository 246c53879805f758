//! Panics stop at the C boundary: each exported call runs inside [`guard`], which turns a panic into
//! an error. The default hook would print; while a guarded call runs, the message is kept instead.

use std::cell::{Cell, RefCell};
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};
use crate::last_error;
use crate::os::thread::PerThread;

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}
static MESSAGE: PerThread<RefCell<String>> = PerThread::new();

/// Run a call for C: 0 or what it returns, a negative errno on failure. The failure becomes the
/// thread's last error.
pub fn guard(call: impl FnOnce() -> Result<i32>) -> i32 {
    match catch(call) {
        Ok(value) => value,
        Err(failure) => {
            let code = failure.errno().negative();
            last_error::remember(&failure);
            code
        }
    }
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

/// Put a hook before the process's own, once. Not with `Once`, which a forked child could wait for in vain.
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
        assert_eq!(code, -libc::ENOTRECOVERABLE);
        assert!(last_error::last_message().contains("page table on fire"));
    }

    #[test]
    fn the_guard_can_be_used_again_and_nested() {
        let code = guard(|| {
            assert_eq!(guard(|| panic!("inner")), -libc::ENOTRECOVERABLE);
            Ok(7)
        });
        assert_eq!(code, 7);
    }
}
