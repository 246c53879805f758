//! The program's `CUstream`s. Functions go through `cuLaunchHostFunc`. Prefetches and eager frees of the driver's memory are
//! commands of the driver, because a host function must not call CUDA.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::driver::CuCode;
use super::driver::{Context, CuResult, Event};
use super::{Accelerator, Cuda, opened};
use crate::device::{DriverEvent, DriverStreams, HostFunction, Registered, Request};
use crate::error::{Error, Result, Target};
use crate::os::mapping;
use crate::page::PageRange;
use crate::reserve;

/// `CU_STREAM_LEGACY` and `CU_STREAM_PER_THREAD`.
const LEGACY: usize = 1;
const PER_THREAD: usize = 2;

impl DriverStreams for Cuda {
    fn may_be(&self, stream: usize) -> bool {
        // The last stream that was checked: the check takes longer than the work that follows.
        static SEEN: AtomicUsize = AtomicUsize::new(0);
        if matches!(stream, LEGACY | PER_THREAD) || stream == SEEN.load(Ordering::Relaxed) {
            return true;
        }
        let is_stream = stream.is_multiple_of(align_of::<usize>()) && mapping::is_mapped(stream);
        if is_stream {
            SEEN.store(stream, Ordering::Relaxed);
        }
        is_stream
    }

    fn launch(&self, stream: usize, function: HostFunction, argument: usize) -> Result<()> {
        let device = opened()?;
        device.is_ready("gmemStreamLaunch", stream)?;
        let outcome = device.context.launch(stream, function, argument);
        outcome.map_err(|code| code.error("cuLaunchHostFunc", Target::Stream(stream)))
    }

    fn prefetch(&self, stream: usize, request: &Request<'_>) -> Result<Registered> {
        let device = opened()?;
        device.is_ready("gmemPrefetch", stream)?;
        if request.asked.is_empty() {
            return Ok(Registered { with_driver: false, left: Vec::new() });
        }
        let split = device.split_for_prefetch(request)?;
        device.send(request, &split, stream)?;
        Ok(Registered { with_driver: !split.drivers.is_empty(), left: split.kernels })
    }

    fn free_eager(&self, stream: usize, pages: PageRange) -> Result<Vec<PageRange>> {
        let device = opened()?;
        device.is_ready("gmemFreeEager", stream)?;
        if pages.is_empty() {
            return Ok(Vec::new());
        }
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
        outcome.map_err(|code| code.error("cuStreamSynchronize", Target::Stream(stream)))
    }

    fn is_idle(&self, stream: usize) -> Result<bool> {
        let device = opened()?;
        device.is_ready("gmemStreamQuery", stream)?;
        let outcome = device.context.is_idle(stream);
        outcome.map_err(|code| code.error("cuStreamQuery", Target::Stream(stream)))
    }

    fn identity(&self, stream: usize) -> Result<usize> {
        // A bit that no address of a process has.
        const NUMBERED: usize = 1 << (usize::BITS - 1);
        if !matches!(stream, LEGACY | PER_THREAD) {
            return Ok(stream);
        }
        let device = opened()?;
        device.refuse_in_host_function("a stream without an address")?;
        match device.context.id(stream) {
            Ok(Some(id)) => Ok(id as usize | NUMBERED),
            Ok(None) => Err(CuCode::NOT_SUPPORTED),
            Err(code) => Err(code),
        }
        .map_err(|code| code.error("cuStreamGetId (CUDA 12.0)", Target::Stream(stream)))
    }

    fn record_event(&self, stream: usize) -> Result<Option<Box<dyn DriverEvent>>> {
        let device = opened()?;
        device.is_ready("gmemEventRecord", stream)?;
        reserve::ask(size_of::<RecordedEvent>(), "an event in the stream")?;
        let event = device.record_event(stream)?;
        Ok(Some(Box::new(RecordedEvent { device, stream, event: Some(event) })))
    }
}

/// An event in a stream of the program.
struct RecordedEvent {
    device: &'static Accelerator,
    stream: usize,
    /// Present until the value is dropped.
    event: Option<Event>,
}

impl RecordedEvent {
    fn ask<T>(
        &self,
        what: &'static str,
        call: &'static str,
        ask: impl FnOnce(&Context, &Event) -> CuResult<T>,
    ) -> Result<T> {
        self.device.refuse_in_host_function(what)?;
        let lost = Error::OutOfMemory { what: "an event in the stream" };
        let event = self.event.as_ref().ok_or(lost)?;
        let stream = self.stream;
        let outcome = ask(&self.device.context, event);
        outcome.map_err(|code| code.error(call, Target::Stream(stream)))
    }
}

impl DriverEvent for RecordedEvent {
    fn make_wait(&self, stream: usize) -> Result<()> {
        self.device.is_ready("gmemStreamWaitEvent", stream)?;
        self.ask("gmemStreamWaitEvent", "cuStreamWaitEvent", |context, event| {
            context.make_wait(stream, event)
        })
    }

    fn wait(&self) -> Result<()> {
        self.ask("gmemEventSynchronize", "cuEventSynchronize", Context::wait)
    }

    fn has_completed(&self) -> Result<bool> {
        self.ask("gmemEventQuery", "cuEventQuery", Context::has_completed)
    }
}

impl Drop for RecordedEvent {
    fn drop(&mut self) {
        if let Some(event) = self.event.take() {
            self.device.context.give_back(event);
        }
    }
}

impl Accelerator {
    /// Fails unless calls on a stream are allowed now.
    fn is_ready(&self, what: &'static str, stream: usize) -> Result<()> {
        self.refuse_in_host_function(what)?;
        match self.context.is_capturing(stream) {
            Ok(false) => Ok(()),
            // The legacy stream synchronizes with streams that are being captured, so it is refused, too.
            Ok(true) | Err(CuCode::CAPTURE_IMPLICIT) => Err(Error::StreamNotReady {
                stream,
                why: "is being captured into a graph, which would repeat the call at each launch, while libgmem's streams run \
                      it once",
                remedy: "Call before cuStreamBeginCapture() or after cuStreamEndCapture()",
            }),
            Err(code) => Err(code.error("cuStreamIsCapturing", Target::Stream(stream))),
        }
    }

    /// Discard in the order of a stream. The driver refuses that on the legacy stream, so a stream of libgmem does it then.
    fn discard_in_order(&self, stream: usize, parts: &[PageRange], pages: PageRange) -> Result<()> {
        if stream != LEGACY {
            return self.discard(stream, parts, pages);
        }
        let helper = self.context.helper_stream();
        self.let_wait(helper, stream)?;
        self.discard(helper, parts, pages)?;
        self.let_wait(stream, helper)
    }

    /// Make later work on a stream wait for the present work on another.
    fn let_wait(&self, stream: usize, other: usize) -> Result<()> {
        let event = self.record_event(other)?;
        let outcome = self.context.make_wait(stream, &event);
        self.context.give_back(event);
        outcome.map_err(|code| code.error("cuStreamWaitEvent", Target::Stream(stream)))
    }

    fn record_event(&self, stream: usize) -> Result<Event> {
        let outcome = self.context.record_event(stream);
        outcome.map_err(|code| code.error("cuEventRecord", Target::Stream(stream)))
    }
}
