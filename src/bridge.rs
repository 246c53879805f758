//! The cxx bridge: what the C++ headers call where C's types would lose something.
//!
//! It lives in `gmem::detail`; a public header shows neither it nor a type of `rust::`. The results
//! are those of the C functions, because an exception of cxx's carries a text only and no number.

use cxx::UniquePtr;

use crate::error::{Error, Result};
use crate::guard::guard;
use crate::reserve;
use crate::{free_eager as free_eager_verb, native_stream, stream};

#[cxx::bridge(namespace = "gmem::detail")]
mod ffi {
    extern "Rust" {
        /// Rules and results of gmemFreeEager; `stream` 0 is no stream.
        fn free_eager(addr: usize, size: usize, stream: usize) -> i32;
        /// Hand a callable to a stream, which destroys it after its turn.
        fn stream_launch(stream: usize, work: UniquePtr<task>) -> i32;
    }

    unsafe extern "C++" {
        include!("libgmem/detail/task.hpp");
        /// A C++ callable.
        type task;
        /// Call it; an exception comes back as an error.
        fn run(self: Pin<&mut task>) -> Result<()>;
    }
}

fn free_eager(addr: usize, size: usize, stream: usize) -> i32 {
    guard(|| free_eager_verb::free_eager(addr, size, stream).map(|()| 0))
}

/// A C++ callable on its way to a stream's thread.
struct Callable(UniquePtr<ffi::task>);
// SAFETY: whoever launches it says that it may run, and be destroyed, on another thread.
unsafe impl Send for Callable {}

impl Callable {
    fn run(mut self) -> Result<()> {
        let Some(task) = self.0.as_mut() else {
            return Err(Error::Null { argument: "work", wanted: "a callable" });
        };
        task.run().map_err(|thrown| Error::TaskFailed { message: thrown.what().to_owned() })
    }
}

fn stream_launch(stream: usize, work: UniquePtr<ffi::task>) -> i32 {
    let work = Callable(work);
    guard(|| {
        reserve::ask(size_of::<Callable>(), "the function to launch")?;
        let stream = native_stream::resolve(stream)?;
        stream::launch(stream, Box::new(move || work.run())).map(|()| 0)
    })
}
