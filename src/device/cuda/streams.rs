//! The program's `CUstream`s. Functions go through `cuLaunchHostFunc`; prefetches and eager frees of the driver's memory do
//! not, because such a function must make no calls of CUDA's: they are commands of the driver's own.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Accelerator, Cuda, opened};
use crate::device::{HostFunction, NativeStreams, Registered, Request};
use crate::error::{Error, Result};
use crate::os::cuda::is_readable;
use crate::os::mapping;
use crate::page::PageRange;

/// `CU_STREAM_LEGACY` and `CU_STREAM_PER_THREAD`.
const LEGACY: usize = 1;
const PER_THREAD: usize = 2;

impl NativeStreams for Cuda {
    fn may_be(&self, stream: usize) -> bool {
        // Where the last one lay: asking the kernel takes longer than what is then done.
        static SEEN: AtomicUsize = AtomicUsize::new(0);
        if matches!(stream, LEGACY | PER_THREAD) || stream == SEEN.load(Ordering::Relaxed) {
            return true;
        }
        let is_one =
            stream.is_multiple_of(align_of::<usize>()) && is_readable(stream, mapping::base_page());
        if is_one {
            SEEN.store(stream, Ordering::Relaxed);
        }
        is_one
    }

    fn launch(&self, stream: usize, function: HostFunction, argument: usize) -> Result<()> {
        let device = opened()?;
        device.is_ready("gmemStreamLaunch", stream)?;
        let outcome = device.context.launch(stream, function, argument);
        outcome.map_err(|code| Error::CudaStream { call: "cuLaunchHostFunc", stream, code })
    }

    fn prefetch(&self, stream: usize, request: &Request<'_>) -> Result<Registered> {
        let device = opened()?;
        device.is_ready("gmemPrefetch", stream)?;
        let split = device.split_for_prefetch(request)?;
        device.send(request, &split, stream)?;
        Ok(Registered { with_driver: !split.drivers.is_empty(), left: split.kernels })
    }

    fn free_eager(&self, stream: usize, pages: PageRange) -> Result<Vec<PageRange>> {
        let device = opened()?;
        device.is_ready("gmemFreeEager", stream)?;
        let split = device.split(pages);
        device.can_discard(&split.drivers)?;
        if !split.drivers.is_empty() {
            device.discard_in_order(stream, &split.drivers, pages)?;
        }
        Ok(split.kernels)
    }

    fn synchronize(&self, stream: usize) -> Result<()> {
        let device = opened()?;
        device.is_ready("gmemStreamSynchronize", stream)?;
        let outcome = device.context.synchronize(stream);
        outcome.map_err(|code| Error::CudaStream { call: "cuStreamSynchronize", stream, code })
    }

    fn is_idle(&self, stream: usize) -> Result<bool> {
        let device = opened()?;
        device.is_ready("gmemStreamQuery", stream)?;
        let outcome = device.context.is_idle(stream);
        outcome.map_err(|code| Error::CudaStream { call: "cuStreamQuery", stream, code })
    }

    fn wait(&self, stream: usize, other: usize) -> Result<bool> {
        let device = opened()?;
        device.is_ready("gmemStreamWaitEvent", stream)?;
        device.is_ready("gmemStreamWaitEvent", other)?;
        device.wait(stream, other).map(|()| true)
    }
}

impl Accelerator {
    /// Whether calls may be made on a stream now.
    fn is_ready(&self, what: &'static str, stream: usize) -> Result<()> {
        self.refuse_in_host_function(what)?;
        match self.context.is_capturing(stream) {
            Ok(false) => Ok(()),
            Ok(true) => Err(Error::Capturing { stream }),
            Err(code) => Err(Error::CudaStream { call: "cuStreamIsCapturing", stream, code }),
        }
    }

    /// The driver refuses to discard on the legacy stream, so libgmem's own does it in its place.
    fn discard_in_order(&self, stream: usize, parts: &[PageRange], pages: PageRange) -> Result<()> {
        if stream != LEGACY {
            return self.discard(stream, parts, pages);
        }
        let own = self.context.own_stream();
        self.wait(own, stream)?;
        self.discard(own, parts, pages)?;
        self.wait(stream, own)
    }

    fn wait(&self, stream: usize, other: usize) -> Result<()> {
        let outcome = self.context.wait(stream, other);
        outcome.map_err(|code| Error::CudaStream { call: "cuStreamWaitEvent", stream, code })
    }
}
