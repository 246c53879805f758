//! A value that is read often and replaced rarely, without a lock, which a forked child could find held for ever. Replaced
//! values are kept, because a thread may still read them.

use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

/// A value that is read often and replaced rarely.
pub struct Replaced<T: 'static> {
    current: AtomicPtr<Version<T>>,
}

struct Version<T> {
    value: T,
    /// The version before, which stays reachable so that leak checkers do not report it.
    _before: *const Self,
}

impl<T> Replaced<T> {
    /// No value yet.
    #[allow(clippy::new_without_default, reason = "a static needs a const function")]
    pub const fn new() -> Self {
        Self { current: AtomicPtr::new(ptr::null_mut()) }
    }

    /// The value, if there is one.
    pub fn get(&self) -> Option<&'static T> {
        Self::value(self.current.load(Ordering::Acquire))
    }

    /// Replace the value with `make` of it. `make` is called again if another thread replaced the value first.
    pub fn replace(&self, make: impl Fn(Option<&T>) -> T) {
        let mut before = self.current.load(Ordering::Acquire);
        loop {
            let value = make(Self::value(before));
            let made = Box::into_raw(Box::new(Version { value, _before: before }));
            match self.current.compare_exchange(before, made, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return,
                Err(other) => {
                    // SAFETY: made above; no other thread has seen it, because the exchange failed.
                    drop(unsafe { Box::from_raw(made) });
                    before = other;
                }
            }
        }
    }

    fn value(version: *const Version<T>) -> Option<&'static T> {
        // SAFETY: the pointer is NULL or a stored version, and a stored version is never freed.
        unsafe { version.as_ref() }.map(|version| &version.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_replacement_is_lost() {
        static SUM: Replaced<usize> = Replaced::new();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        SUM.replace(|sum| sum.unwrap_or(&0) + 1);
                    }
                });
            }
        });
        assert_eq!(SUM.get(), Some(&4000));
    }
}
