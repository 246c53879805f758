//! The constants that Rust shares with C and C++, generated from `cpp/heap_constants.h` by `src/build.rs`.

include!(concat!(env!("OUT_DIR"), "/heap_constants.rs"));
