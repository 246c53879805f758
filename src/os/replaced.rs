//! A value that is read often and replaced seldom, without a lock, which a forked child could find held for ever.
//! What was replaced stays, because somebody may be reading it.

use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

/// See the module.
pub struct Replaced<T: 'static> {
    current: AtomicPtr<Version<T>>,
}

struct Version<T> {
    value: T,
    /// Keeps it reachable, so that it is no leak.
    _before: *const Self,
}

impl<T> Replaced<T> {
    /// No value yet.
    #[allow(clippy::new_without_default, reason = "a static needs a const function")]
    pub const fn new() -> Self {
        Self { current: AtomicPtr::new(ptr::null_mut()) }
    }

    /// The value, if one was ever put here.
    pub fn get(&self) -> Option<&'static T> {
        Self::value(self.current.load(Ordering::Acquire))
    }

    /// Put in its place what `make` makes of it; `make` is called again if another thread was first.
    pub fn replace(&self, make: impl Fn(Option<&T>) -> T) {
        let mut before = self.current.load(Ordering::Acquire);
        loop {
            let value = make(Self::value(before));
            let made = Box::into_raw(Box::new(Version { value, _before: before }));
            match self.current.compare_exchange(before, made, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return,
                Err(other) => {
                    // SAFETY: made above, and nobody else has seen it.
                    drop(unsafe { Box::from_raw(made) });
                    before = other;
                }
            }
        }
    }

    fn value(version: *const Version<T>) -> Option<&'static T> {
        // SAFETY: NULL, or a version that was put here, none of which is ever freed.
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
