// SPDX-License-Identifier: Apache-2.0
//! Another Rust library of the same program, with a standard library, threads and panics of its own.
#![allow(clippy::unwrap_used, reason = "it panics on purpose")]

/// The digits of the numbers below `count`, made on another thread; a panic on this one is caught.
#[unsafe(no_mangle)]
pub extern "C" fn second_rust(count: usize) -> usize {
    std::panic::set_hook(Box::new(|_| {}));
    let digits = std::thread::spawn(move || {
        let all: Vec<String> = (0..count).map(|number| number.to_string()).collect();
        all.iter().map(String::len).sum::<usize>()
    });
    let caught = std::panic::catch_unwind(|| None::<usize>.unwrap()).is_err();
    digits.join().unwrap() + usize::from(caught)
}
