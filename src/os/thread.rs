//! Threads: per-thread values without thread-local storage, and cancellation.
//!
//! The values come from `pthread_key_create(3)`. Rust's `thread_local!` with a destructor needs static TLS space, which may
//! be exhausted when the library is dlopened, and aborts the process if the C library has no memory to register the
//! destructor.

use std::ffi::{CStr, c_void};
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};

use super::lazy::Lazy;
use super::process;
use crate::reserve;

/// One value per thread, made on first use and dropped when the thread ends. A destructor that runs later gets a fresh one.
pub struct PerThread<T: 'static> {
    /// If two threads make it at the same time, one key is never used.
    key: Lazy<Option<libc::pthread_key_t>>,
    value: PhantomData<fn() -> T>,
}

impl<T: Default> PerThread<T> {
    /// No thread has a value yet.
    #[allow(clippy::new_without_default, reason = "a static needs a const function")]
    pub const fn new() -> Self {
        Self { key: Lazy::new(make_key::<T>), value: PhantomData }
    }

    /// Call `use_it` with the value of this thread; `None` if the process has no key or no memory left.
    pub fn with<R>(&self, use_it: impl FnOnce(&T) -> R) -> Option<R> {
        let key = (*self.key.get())?;
        // SAFETY: the key exists. Its value is NULL or the pointer that this thread stored below.
        let mut value = unsafe { libc::pthread_getspecific(key) }.cast::<T>();
        if value.is_null() {
            value = Box::into_raw(reserve::lasting(T::default())?);
            // SAFETY: the key exists.
            if unsafe { libc::pthread_setspecific(key, value.cast()) } != 0 {
                // SAFETY: made above, and not stored.
                drop(unsafe { Box::from_raw(value) });
                return None;
            }
        }
        // SAFETY: the value lives until the thread ends, and only this thread has its address.
        Some(use_it(unsafe { &*value }))
    }
}

fn make_key<T>() -> Option<libc::pthread_key_t> {
    let mut key = 0;
    // SAFETY: the key is written on success; the destructor gets what `with` stored.
    let failed = unsafe { libc::pthread_key_create(&raw mut key, Some(drop_value::<T>)) };
    (failed == 0).then_some(key)
}

unsafe extern "C" fn drop_value<T>(value: *mut c_void) {
    // SAFETY: `with` made the pointer by Box::into_raw, and pthreads has set the key to NULL before this call.
    drop(unsafe { Box::from_raw(value.cast::<T>()) });
}

/// A function that is called when a thread ends, with a pointer that the thread has set. Usable from inside `malloc`: it takes
/// no lock and does not allocate through Rust.
pub struct AtThreadExit {
    /// The key plus 1; 0 until it is made.
    key: AtomicU64,
    call: unsafe extern "C" fn(*mut c_void),
}

impl AtThreadExit {
    /// `call` gets the pointer that was passed to [`arm`](Self::arm).
    pub const fn new(call: unsafe extern "C" fn(*mut c_void)) -> Self {
        Self { key: AtomicU64::new(0), call }
    }

    /// Have the function called with `pointer` when the calling thread ends; NULL cancels that. False if the process has no key or
    /// no memory left.
    ///
    /// # Safety
    /// The function may be called with `pointer` when the thread ends.
    pub unsafe fn arm(&self, pointer: *mut c_void) -> bool {
        let Some(key) = self.key() else { return false };
        // SAFETY: the key exists, and the caller guarantees that the function may be called with this pointer.
        unsafe { libc::pthread_setspecific(key, pointer) == 0 }
    }

    fn key(&self) -> Option<libc::pthread_key_t> {
        let known = self.key.load(Ordering::Acquire);
        if let Some(key) = known.checked_sub(1) {
            return libc::pthread_key_t::try_from(key).ok();
        }
        let mut key = 0;
        // SAFETY: the key is written on success; the function stays loaded (-z nodelete).
        if unsafe { libc::pthread_key_create(&raw mut key, Some(self.call)) } != 0 {
            return None;
        }
        let made = u64::from(key) + 1;
        match self.key.compare_exchange(0, made, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => Some(key),
            Err(other) => {
                // SAFETY: the key was made above, and no other thread has seen it.
                unsafe { libc::pthread_key_delete(key) };
                libc::pthread_key_t::try_from(other - 1).ok()
            }
        }
    }
}

/// Start a detached thread that runs a function with all signals blocked. False if that is not possible. Unlike
/// `std::thread`, it runs no code of the standard library, which aborts the process when it finds no memory.
pub fn start(name: &'static CStr, run: extern "C" fn()) -> bool {
    extern "C" fn main(run: *mut c_void) -> *mut c_void {
        // SAFETY: `start` passed a function of this type.
        let run = unsafe { std::mem::transmute::<*mut c_void, extern "C" fn()>(run) };
        run();
        std::ptr::null_mut()
    }
    process::with_signals_blocked(|| {
        let mut thread = 0;
        // SAFETY: the thread's id is written on success, and a NULL attribute stands for the defaults. The function stays
        // loaded (-z nodelete). A new thread is detached once, here.
        unsafe {
            let failed =
                libc::pthread_create(&raw mut thread, std::ptr::null(), main, run as *mut c_void);
            if failed == 0 {
                libc::pthread_setname_np(thread, name.as_ptr());
                libc::pthread_detach(thread);
            }
            failed == 0
        }
    })
}

unsafe extern "C" {
    /// pthread.h; the libc crate has no declaration.
    fn pthread_setcancelstate(state: libc::c_int, before: *mut libc::c_int) -> libc::c_int;
}

/// Call a function in which a pending `pthread_cancel(3)` does not act, whatever it calls: the forced unwinding of a
/// cancelled thread must not pass through Rust, which ends the process then. The cancellation stays pending.
pub fn without_cancellation<R>(call: impl FnOnce() -> R) -> R {
    const PTHREAD_CANCEL_DISABLE: libc::c_int = 1;
    let mut before = 0;
    // SAFETY: `before` may be written. The call only changes the calling thread's state.
    unsafe { pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &raw mut before) };
    let result = call();
    // SAFETY: restores the state that the call above has given. Where that enables cancellation, it is deferred, since
    // POSIX lets a thread that can be cancelled asynchronously call no function of ours; so no unwinding begins here.
    unsafe { pthread_setcancelstate(before, &raw mut before) };
    result
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn each_thread_has_its_own() {
        static NUMBER: PerThread<Cell<i32>> = PerThread::new();
        NUMBER.with(|number| number.set(5));
        let other = std::thread::spawn(|| NUMBER.with(Cell::get)).join();
        assert_eq!(other.ok().flatten(), Some(0));
        assert_eq!(NUMBER.with(Cell::get), Some(5));
    }
}
