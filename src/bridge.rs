//! The cxx bridge: functions for the C++ headers that C's types cannot express.
//!
//! It lives in `gmem::detail`. No public header shows it, or any type of `rust::`. Results are those of the C functions,
//! because an exception of cxx carries only a text and no number.

use cxx::UniquePtr;

use crate::error::{Error, Result};
use crate::free_eager as free_eager_verb;
use crate::guard::guard;
use crate::reserve;
use crate::stream::Work;
use crate::stream_argument::StreamArgument;

#[cxx::bridge(namespace = "gmem::detail")]
mod ffi {
    extern "Rust" {
        /// Rules and results of gmemFreeEager.
        /// # Safety
        /// Nobody uses the contents of the whole GMEM pages in the range again before they are written.
        unsafe fn free_eager(addr: usize, size: usize, stream: usize) -> i32;
        /// Register a callable with a stream, which calls and then destroys it.
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

/// # Safety
/// Nobody uses the contents of the whole GMEM pages in the range again before they are written.
unsafe fn free_eager(addr: usize, size: usize, stream: usize) -> i32 {
    guard(|| free_eager_verb::free_eager(addr, size, StreamArgument::classify(stream)?).map(|()| 0))
        .into()
}

/// A C++ callable for a stream's thread.
struct Callable(UniquePtr<ffi::task>);
// SAFETY: `gmem::stream::launch` promises its caller that the callable runs and is destroyed on another thread, so the
// callable allows that; nothing else holds it once it is here.
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
        let task = Box::new(move || work.run());
        StreamArgument::classify(stream)?.enqueue(Work::Task(task)).map(|()| 0)
    })
    .into()
}
