//! Values that are made on first use, without a lock.
//!
//! `std::sync::OnceLock` makes a second thread wait for the first. In a child that is forked at that moment the first thread
//! does not exist, and the wait never ends. Here two threads may both make the value; one value is kept.

use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

/// A value that is made on first use.
pub struct Lazy<T: 'static> {
    value: AtomicPtr<T>,
    make: fn() -> T,
}

impl<T> Lazy<T> {
    /// `make` has to return the same value at each call.
    pub const fn new(make: fn() -> T) -> Self {
        Self { value: AtomicPtr::new(ptr::null_mut()), make }
    }

    /// The value, if it was made already.
    pub fn known(&self) -> Option<&'static T> {
        // SAFETY: a stored value is never freed.
        unsafe { self.value.load(Ordering::Acquire).as_ref() }
    }

    /// The value.
    pub fn get(&self) -> &'static T {
        if let Some(value) = self.known() {
            return value;
        }
        keep(&self.value, (self.make)())
    }
}

/// A value that is made on first use and whose making may fail. A failure is not kept: the next call tries again.
pub struct LazyResult<T: 'static, E> {
    value: AtomicPtr<T>,
    make: fn() -> Result<T, E>,
}

impl<T, E> LazyResult<T, E> {
    /// `make` makes the value.
    pub const fn new(make: fn() -> Result<T, E>) -> Self {
        Self { value: AtomicPtr::new(ptr::null_mut()), make }
    }

    /// The value, or the reason why it cannot be made now.
    pub fn get(&self) -> Result<&'static T, E> {
        // SAFETY: a stored value is never freed.
        match unsafe { self.value.load(Ordering::Acquire).as_ref() } {
            Some(value) => Ok(value),
            None => (self.make)().map(|made| keep(&self.value, made)),
        }
    }
}

/// Store a value unless another thread has stored one, and return the stored one.
fn keep<T>(value: &AtomicPtr<T>, made: T) -> &'static T {
    let made = Box::into_raw(Box::new(made));
    match value.compare_exchange(ptr::null_mut(), made, Ordering::AcqRel, Ordering::Acquire) {
        // SAFETY: the value was stored just now, and a stored value is never freed.
        Ok(_) => unsafe { &*made },
        Err(other) => {
            // SAFETY: no other thread has seen `made`; `other` is stored, and a stored value is never freed.
            unsafe {
                drop(Box::from_raw(made));
                &*other
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[test]
    fn all_threads_get_one_value() {
        static VALUE: Lazy<Vec<u8>> = Lazy::new(|| vec![1, 2, 3]);
        let addresses: Vec<_> = (0..8)
            .map(|_| std::thread::spawn(|| VALUE.get().as_ptr().addr()))
            .filter_map(|thread| thread.join().ok())
            .collect();
        assert!(addresses.iter().all(|address| *address == addresses[0]) && addresses.len() == 8);
    }

    #[test]
    fn a_failure_is_tried_again_and_a_value_kept() {
        static TRIES: AtomicUsize = AtomicUsize::new(0);
        static VALUE: LazyResult<usize, usize> =
            LazyResult::new(|| match TRIES.fetch_add(1, Ordering::Relaxed) {
                failed @ 0..2 => Err(failed),
                made => Ok(made),
            });
        let results: Vec<_> = (0..4).map(|_| VALUE.get().copied()).collect();
        assert_eq!(results, [Err(0), Err(1), Ok(2), Ok(2)]);
    }
}
