//! Bindings of OpenCL: the loader `libOpenCL.so.1`, which is opened at run time. Names, numbers and rules are those of the
//! OpenCL 3.0 specification.

use std::ffi::{CStr, c_void};
use std::num::NonZero;
use std::ptr::{self, NonNull};

use super::codes::ClCode;
use crate::os::dynamic::{Missing, functions};
use crate::os::mapping::Region;
use crate::page::{PageRange, PageSize};

/// The name of the loader, which includes the version of its binary interface.
pub const LIBRARY: &CStr = c"libOpenCL.so.1";

/// Result of a call.
pub type ClResult<T> = std::result::Result<T, ClCode>;

type Handle = *mut c_void;
type Notify = *const c_void;

functions! {
    clGetPlatformIDs(u32, *mut Handle, *mut u32) -> i32;
    clGetDeviceIDs(Handle, u64, u32, *mut Handle, *mut u32) -> i32;
    clGetDeviceInfo(Handle, u32, usize, *mut c_void, *mut usize) -> i32;
    clCreateContext(*const isize, u32, *const Handle, Notify, *mut c_void, *mut i32) -> Handle;
    clReleaseContext(Handle) -> i32;
    clCreateCommandQueueWithProperties(Handle, Handle, *const u64, *mut i32) -> Handle;
    clReleaseCommandQueue(Handle) -> i32;
    clSVMAlloc(Handle, u64, usize, u32) -> *mut c_void;
    clSVMFree(Handle, *mut c_void) -> ();
    clEnqueueSVMMemFill(Handle, *mut c_void, *const c_void, usize, usize, u32, *const Handle, *mut Handle) -> i32;
    clEnqueueSVMMigrateMem(Handle, u32, *const *const c_void, *const usize, u64, u32, *const Handle, *mut Handle) -> i32;
    clWaitForEvents(u32, *const Handle) -> i32;
    clReleaseEvent(Handle) -> i32;
}

/// The open loader.
pub struct Loader {
    functions: Functions,
}

/// A device. Its handle is valid as long as the process runs.
pub struct Device {
    handle: Handle,
    /// Its properties.
    pub is: Description,
}

/// The properties of a device, as its driver reports them.
#[derive(Debug, Clone)]
pub struct Description {
    /// The driver's name for the device.
    pub name: String,
    /// The major and minor version of OpenCL.
    pub version: (u32, u32),
    /// Whether its kernels run on the CPU, in the memory of the process.
    pub is_processor: bool,
    /// The memory that it shares with the CPU.
    pub shared: Shared,
}

/// The memory that a device and the CPU can use at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shared {
    /// None, or only in turns (coarse-grained).
    Nothing,
    /// The memory that `clSVMAlloc` returns.
    Buffers,
    /// All memory of the process.
    Everything,
}

impl Loader {
    /// Open the loader. It stays open, because drivers start threads.
    pub fn open() -> Result<Self, Missing> {
        Functions::open(LIBRARY).map(|functions| Self { functions })
    }

    /// The devices of all platforms, in the order of the loader.
    pub fn devices(&self) -> ClResult<Vec<Device>> {
        const ALL_TYPES: u64 = 0xFFFF_FFFF;
        let all = &self.functions;
        let mut found = Vec::new();
        // SAFETY: `out` has capacity for `most` handles, and `count` is writable.
        let platforms =
            list(|most, out, count| unsafe { (all.clGetPlatformIDs)(most, out, count) })?;
        for platform in platforms {
            // SAFETY: the loader gave the platform, `out` has capacity for `most` handles, and `count` is writable. A platform
            // without devices returns an error.
            let devices = list(|most, out, count| unsafe {
                (all.clGetDeviceIDs)(platform, ALL_TYPES, most, out, count)
            });
            found.extend(
                devices.unwrap_or_default().into_iter().map(|device| self.describe(device)),
            );
        }
        Ok(found)
    }

    fn describe(&self, handle: Handle) -> Device {
        // From CL/cl.h.
        const TYPE: u32 = 0x1000;
        const NAME: u32 = 0x102B;
        const VERSION: u32 = 0x102F;
        const SVM_CAPABILITIES: u32 = 0x1053;
        const IS_PROCESSOR: u64 = 1 << 1;
        const FINE_GRAIN_BUFFER: u64 = 1 << 1;
        const FINE_GRAIN_SYSTEM: u64 = 1 << 2;
        let shared = match self.number(handle, SVM_CAPABILITIES) {
            svm if svm & FINE_GRAIN_SYSTEM != 0 => Shared::Everything,
            svm if svm & FINE_GRAIN_BUFFER != 0 => Shared::Buffers,
            _ => Shared::Nothing,
        };
        let is = Description {
            // Short enough for a message.
            name: self.text(handle, NAME).chars().take(100).collect(),
            version: version_of(&self.text(handle, VERSION)),
            is_processor: self.number(handle, TYPE) & IS_PROCESSOR != 0,
            shared,
        };
        Device { handle, is }
    }

    /// A property of a device; 0 if the driver does not know it.
    fn number(&self, device: Handle, what: u32) -> u64 {
        let mut value = 0_u64;
        let out = (&raw mut value).cast();
        // SAFETY: `out` has the 64 bits that are passed as its size.
        unsafe {
            (self.functions.clGetDeviceInfo)(device, what, size_of::<u64>(), out, ptr::null_mut())
        };
        value
    }

    fn text(&self, device: Handle, what: u32) -> String {
        let mut text = [0_u8; 1024];
        // The last byte stays 0, whatever the driver writes.
        let (most, out) = (text.len() - 1, text.as_mut_ptr().cast());
        // SAFETY: the driver writes at most `most` bytes, which the buffer has.
        unsafe { (self.functions.clGetDeviceInfo)(device, what, most, out, ptr::null_mut()) };
        CStr::from_bytes_until_nul(&text).unwrap_or_default().to_string_lossy().into_owned()
    }
}

/// The handles that a driver lists.
fn list(get: impl Fn(u32, *mut Handle, *mut u32) -> i32) -> ClResult<Vec<Handle>> {
    // No machine has more, and a broken driver may report any count.
    const MOST: usize = 64;
    let mut handles = [ptr::null_mut(); MOST];
    let mut count = 0;
    done(get(MOST as u32, handles.as_mut_ptr(), &raw mut count))?;
    let found = &handles[..MOST.min(count as usize)];
    Ok(found.iter().copied().filter(|handle| !handle.is_null()).collect())
}

/// `OpenCL <major>.<minor> <more>`.
fn version_of(text: &str) -> (u32, u32) {
    let numbers = text.split(' ').nth(1).and_then(|version| version.split_once('.'));
    let parsed =
        numbers.and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
    parsed.unwrap_or((0, 0))
}

fn done(code: i32) -> ClResult<()> {
    if code == 0 { Ok(()) } else { Err(ClCode(code)) }
}

/// A block that the driver allocated, by its first byte; the memory that is used begins later. Only [`Context::free`] consumes
/// it, so a block is freed once.
#[derive(Debug)]
pub struct Allocation(NonNull<u8>);
// SAFETY: the address is only passed to the driver, which takes it from any thread.
unsafe impl Send for Allocation {}

/// A context of one device, and an in-order queue in it.
pub struct Context {
    loader: Loader,
    context: Handle,
    queue: Handle,
}

// SAFETY: OpenCL's functions may be called from any thread; the exceptions, which set arguments of kernels, are not used.
unsafe impl Send for Context {}
// SAFETY: OpenCL's functions may be called by several threads at the same time; the exceptions are not used.
unsafe impl Sync for Context {}

impl Context {
    /// Create a context for a device that `loader` listed.
    pub fn new(loader: Loader, device: &Device) -> ClResult<Self> {
        let mut code = 0;
        // SAFETY: the list has one device, as passed; there are no properties and no callback, and `code` is writable.
        let context = unsafe {
            let (none, nobody) = (ptr::null(), ptr::null());
            let create = loader.functions.clCreateContext;
            create(none, 1, &raw const device.handle, nobody, ptr::null_mut(), &raw mut code)
        };
        done(code)?;
        let mut made = Self { loader, context, queue: ptr::null_mut() };
        // SAFETY: the device belongs to the context, and `code` is writable. A queue without properties is in-order.
        made.queue = unsafe {
            let create = made.loader.functions.clCreateCommandQueueWithProperties;
            create(context, device.handle, ptr::null(), &raw mut code)
        };
        done(code).map(|()| made)
    }

    /// The `cl_context`.
    pub fn handle(&self) -> *mut c_void {
        self.context
    }

    /// Allocate memory that the device and the CPU can use at the same time, aligned to `page`, with arbitrary contents.
    pub fn allocate(&self, length: usize, page: PageSize) -> Option<(Region, Allocation)> {
        const READ_WRITE: u64 = 1 << 0;
        const FINE_GRAIN_BUFFER: u64 = 1 << 10;
        let flags = READ_WRITE | FINE_GRAIN_BUFFER;
        // OpenCL aligns to no more than its largest type.
        let padded = length.checked_add(page.bytes())?;
        // SAFETY: this value keeps the context alive. The result is NULL on failure.
        let given = unsafe { (self.loader.functions.clSVMAlloc)(self.context, flags, padded, 0) };
        let given = NonNull::new(given.cast::<u8>())?;
        let start = given.map_addr(|address| {
            let aligned = page.ceil(address.get()).and_then(NonZero::new);
            aligned.unwrap_or(address)
        });
        // SAFETY: the driver has just allocated the block, for this caller alone, with a page more than `length`, so the
        // aligned bytes lie inside it.
        Some((unsafe { Region::new(start, length) }, Allocation(given)))
    }

    /// Free a block whose memory is not used any more.
    pub fn free(&self, given: Allocation) {
        // SAFETY: the driver allocated the block in this context, and the value that stands for it ends here.
        unsafe { (self.loader.functions.clSVMFree)(self.context, given.0.as_ptr().cast()) };
    }

    /// Have the device write zeros to a region that [`allocate`](Self::allocate) returned, and wait for it.
    pub fn zero(&self, region: &mut Region) -> ClResult<()> {
        let zero = 0_u64;
        let (start, length) = (region.start().as_ptr().cast(), region.range().len());
        let mut event = ptr::null_mut();
        // SAFETY: the caller owns the region, whose length is a multiple of the pattern's; the pattern is copied.
        done(unsafe {
            let fill = self.loader.functions.clEnqueueSVMMemFill;
            let (zero, size) = ((&raw const zero).cast(), size_of::<u64>());
            fill(self.queue, start, zero, size, length, 0, ptr::null(), &raw mut event)
        })?;
        self.wait(event)
    }

    /// Move ranges to the device, or to the memory of the machine, and wait for it.
    pub fn migrate(&self, ranges: &[PageRange], to_host: bool) -> ClResult<()> {
        const HOST: u64 = 1 << 0;
        let starts: Vec<_> =
            ranges.iter().map(|range| ptr::with_exposed_provenance(range.start())).collect();
        let sizes: Vec<_> = ranges.iter().map(|range| range.len()).collect();
        let count = u32::try_from(ranges.len()).unwrap_or(u32::MAX);
        let flags = if to_host { HOST } else { 0 };
        let mut event = ptr::null_mut();
        // SAFETY: the lists have `count` elements. The driver refuses addresses that it did not allocate, and moving does not
        // change the bytes.
        done(unsafe {
            let migrate = self.loader.functions.clEnqueueSVMMigrateMem;
            let (starts, sizes) = (starts.as_ptr(), sizes.as_ptr());
            migrate(self.queue, count, starts, sizes, flags, 0, ptr::null(), &raw mut event)
        })?;
        self.wait(event)
    }

    /// Wait for a command; unlike `clFinish`, this returns its result.
    fn wait(&self, event: Handle) -> ClResult<()> {
        // SAFETY: the call before returned the event to this caller alone, which releases it once.
        unsafe {
            let outcome = (self.loader.functions.clWaitForEvents)(1, &raw const event);
            (self.loader.functions.clReleaseEvent)(event);
            done(outcome)
        }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: this value is the only owner of both handles, and ends here. The queue is NULL if it was not created.
        unsafe {
            if !self.queue.is_null() {
                (self.loader.functions.clReleaseCommandQueue)(self.queue);
            }
            (self.loader.functions.clReleaseContext)(self.context);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_numbers() {
        assert_eq!(version_of("OpenCL 3.0 PoCL HSTR: cpu"), (3, 0));
        assert_eq!(version_of("OpenCL 2.1"), (2, 1));
        assert_eq!(version_of(""), (0, 0));
    }

    #[test]
    fn a_list_is_never_longer_than_its_buffer() {
        let lies = list(|_, _, count| {
            // SAFETY: `count` is writable.
            unsafe { count.write(u32::MAX) };
            0
        });
        assert_eq!(lies, Ok(Vec::new()));
        assert_eq!(list(|_, _, _| -1001), Err(ClCode(-1001)));
    }
}
