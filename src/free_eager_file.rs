//! The verb *free eager* for a file that the program has mapped itself: its pages leave the process, and the page cache.

use std::ops::ControlFlow;

use crate::device;
use crate::error::{Error, Result};
use crate::model;
use crate::os::mapped_descriptor::MappedDescriptor;
use crate::os::vma::{self, Backing, FileNumber};
use crate::page::PageRange;
use crate::stream::Work;
use crate::stream_argument::StreamArgument;

/// See `gmemFreeEagerFile` in `libgmem.h`.
pub fn free_eager_file(
    addr: usize,
    size: usize,
    descriptor: i32,
    stream: StreamArgument,
) -> Result<()> {
    let pages = model::whole_pages(PageRange::from_arguments(addr, size)?);
    let unusable = |errno| Error::UnusableDescriptor { descriptor, errno };
    let file = MappedDescriptor::copy_of(descriptor).map_err(unusable)?;
    let number = file.file_number().map_err(unusable)?;
    let device = stream.device()?;
    let work = move || {
        let parts = parts_of(pages, number, descriptor)?;
        let outcome = model::free_eager(pages, |rest| device::by_index(device).free_eager(rest));
        // What is mapped is released also if there is a hole.
        if matches!(outcome, Ok(()) | Err(Error::Hole { .. })) {
            parts.iter().for_each(|part| file.drop_cached(part.offset, part.length));
        }
        outcome
    };
    match stream {
        StreamArgument::None => work(),
        stream => stream.enqueue(Work::Task(Box::new(work))),
    }
}

/// A part of a file.
struct Part {
    offset: usize,
    length: usize,
}

/// The parts of the file that are mapped in `pages`; an error if anything else is mapped there.
fn parts_of(pages: PageRange, file: FileNumber, descriptor: i32) -> Result<Vec<Part>> {
    let (mut parts, mut stranger) = (Vec::new(), None);
    let (from, to) = (pages.start(), pages.end());
    vma::walk(pages, |vma| {
        let inside = vma.range.intersect(pages);
        // Memory that processes share has a file as well, but its bytes are nowhere else.
        if vma.file != file || vma.backing != Backing::File {
            stranger = Some(inside.start());
            return ControlFlow::Break(());
        }
        parts.push(Part { offset: vma.file_offset(inside.start()), length: inside.len() });
        ControlFlow::Continue(())
    })
    .map_err(|errno| {
        let (call, remedy) = ("reading /proc/self/maps", "; libgmem needs /proc to be mounted");
        Error::System { call, from, to, errno, remedy }
    })?;
    match stranger {
        None => Ok(parts),
        Some(at) => Err(Error::NotOfTheFile { at, descriptor }),
    }
}
