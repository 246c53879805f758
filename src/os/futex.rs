//! Threads that sleep until a number changes (`futex(2)`), without memory of their own: `malloc` may wake them.

use std::sync::atomic::AtomicU32;

/// Sleep while `word` has `value`. It may return early.
pub fn wait(word: &AtomicU32, value: u32) {
    let flags = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
    let no_timeout = std::ptr::null::<libc::timespec>();
    // SAFETY: the word is readable as long as the call lasts, and without a time-out it lasts until somebody wakes it.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), flags, value, no_timeout) };
}

/// Wake a thread that sleeps on `word`. Leaves errno alone.
pub fn wake(word: &AtomicU32) {
    let before = super::errno();
    let flags = libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG;
    // SAFETY: the call only looks for threads that sleep on the word's address.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), flags, 1) };
    super::set_errno(before);
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn a_sleeper_wakes_up_when_the_number_has_changed() {
        static WORD: AtomicU32 = AtomicU32::new(0);
        let sleeper = std::thread::spawn(|| {
            while WORD.load(Ordering::Acquire) == 0 {
                wait(&WORD, 0);
            }
        });
        WORD.store(1, Ordering::Release);
        while !sleeper.is_finished() {
            wake(&WORD);
            std::thread::yield_now();
        }
        assert!(sleeper.join().is_ok());
    }
}
