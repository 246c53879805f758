//! OpenCL as far as libgmem calls it: the loader `libOpenCL.so.1`, opened at run time, and a few of its functions.
//! Names, numbers and rules are those of the OpenCL 3.0 specification.

use std::ffi::{CStr, c_void};
use std::num::NonZero;
use std::ptr::{self, NonNull};

use super::codes::ClCode;
use crate::os::dynamic::{Missing, functions};
use crate::os::mapping::Region;
use crate::page::{PageRange, PageSize};

/// The loader's name, as its binary interface has it.
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

/// The loader.
pub struct Loader {
    functions: Functions,
}

/// A device. Its handle is good as long as the process.
pub struct Device {
    handle: Handle,
    /// What it is.
    pub is: Description,
}

/// A device as its driver describes it.
#[derive(Debug, Clone)]
pub struct Description {
    /// The driver's name for it.
    pub name: String,
    /// Major and minor version of OpenCL.
    pub version: (u32, u32),
    /// Whether its kernels run on the processor, in the process's own memory.
    pub is_processor: bool,
    /// What memory it shares with the processor.
    pub shared: Shared,
}

/// What memory a device and the processor may use at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shared {
    /// None, or only by turns (coarse-grained).
    Nothing,
    /// What `clSVMAlloc` gives.
    Buffers,
    /// All of the process's.
    Everything,
}

impl Loader {
    /// Open it. It stays open: drivers leave threads behind.
    pub fn open() -> Result<Self, Missing> {
        Functions::open(LIBRARY).map(|functions| Self { functions })
    }

    /// The devices of all platforms, in the loader's order.
    pub fn devices(&self) -> ClResult<Vec<Device>> {
        const ALL_TYPES: u64 = 0xFFFF_FFFF;
        let all = &self.functions;
        let mut found = Vec::new();
        // SAFETY: a list of that many elements, or none and where their number goes.
        let platforms =
            list(|room, out, count| unsafe { (all.clGetPlatformIDs)(room, out, count) })?;
        for platform in platforms {
            // SAFETY: as above, of a platform that the loader gave. One without devices says so with an error.
            let devices = list(|room, out, count| unsafe {
                (all.clGetDeviceIDs)(platform, ALL_TYPES, room, out, count)
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
            // Enough to know it by, and to fit into a message.
            name: self.text(handle, NAME).chars().take(100).collect(),
            version: version_of(&self.text(handle, VERSION)),
            is_processor: self.number(handle, TYPE) & IS_PROCESSOR != 0,
            shared,
        };
        Device { handle, is }
    }

    /// 0 where the driver does not know what is asked for.
    fn number(&self, device: Handle, what: u32) -> u64 {
        let mut value = 0_u64;
        let out = (&raw mut value).cast();
        // SAFETY: the result is a number of 64 bits.
        unsafe {
            (self.functions.clGetDeviceInfo)(device, what, size_of::<u64>(), out, ptr::null_mut())
        };
        value
    }

    fn text(&self, device: Handle, what: u32) -> String {
        let mut text = [0_u8; 1024];
        // The last byte stays 0, whatever the driver writes.
        let (room, out) = (text.len() - 1, text.as_mut_ptr().cast());
        // SAFETY: the result is a text of at most so many bytes, or an error.
        unsafe { (self.functions.clGetDeviceInfo)(device, what, room, out, ptr::null_mut()) };
        CStr::from_bytes_until_nul(&text).unwrap_or_default().to_string_lossy().into_owned()
    }
}

/// What a driver lists, as far as it is there.
fn list(get: impl Fn(u32, *mut Handle, *mut u32) -> i32) -> ClResult<Vec<Handle>> {
    // No machine has more, and a broken driver may say anything.
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

/// Where a block of the driver's begins, some bytes before the memory in it that is used.
#[derive(Debug)]
pub struct Allocation(NonNull<u8>);
// SAFETY: only an address, for the driver.
unsafe impl Send for Allocation {}

/// A context of one device, with an in-order queue.
pub struct Context {
    loader: Loader,
    context: Handle,
    queue: Handle,
}

// SAFETY: OpenCL's functions may be called from any thread, but for those that set a kernel's arguments.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

impl Context {
    /// For a device that `loader` lists.
    pub fn new(loader: Loader, device: &Device) -> ClResult<Self> {
        let mut code = 0;
        // SAFETY: one device, no properties, nobody to be notified.
        let context = unsafe {
            let (none, nobody) = (ptr::null(), ptr::null());
            let create = loader.functions.clCreateContext;
            create(none, 1, &raw const device.handle, nobody, ptr::null_mut(), &raw mut code)
        };
        done(code)?;
        let mut made = Self { loader, context, queue: ptr::null_mut() };
        // SAFETY: the context's device; no properties are an in-order queue.
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

    /// Memory that the device and the processor may use at the same time, on a multiple of `page`, with anything in it;
    /// and what it is given back by.
    pub fn allocate(&self, length: usize, page: PageSize) -> Option<(Region, Allocation)> {
        const READ_WRITE: u64 = 1 << 0;
        const FINE_GRAIN_BUFFER: u64 = 1 << 10;
        let flags = READ_WRITE | FINE_GRAIN_BUFFER;
        // OpenCL aligns to no more than its largest type.
        let padded = length.checked_add(page.bytes())?;
        // SAFETY: a live context; what cannot be had is NULL.
        let given = unsafe { (self.loader.functions.clSVMAlloc)(self.context, flags, padded, 0) };
        let given = NonNull::new(given.cast::<u8>())?;
        let start = given.map_addr(|address| {
            let aligned = page.ceil(address.get()).and_then(NonZero::new);
            aligned.unwrap_or(address)
        });
        // SAFETY: given just now, with a page more than `length`, which is room to align in.
        Some((unsafe { Region::new(start, length) }, Allocation(given)))
    }

    /// Give it back, when nobody uses the memory any more.
    pub fn free(&self, given: Allocation) {
        // SAFETY: what the driver gave, once.
        unsafe { (self.loader.functions.clSVMFree)(self.context, given.0.as_ptr().cast()) };
    }

    /// Have the device write zeros to what [`allocate`](Self::allocate) gave, and wait for it.
    pub fn zero(&self, region: &mut Region) -> ClResult<()> {
        let zero = 0_u64;
        let (start, length) = (region.start().as_ptr().cast(), region.range().len());
        let mut event = ptr::null_mut();
        // SAFETY: the region is the caller's. Whole pages are a multiple of the pattern.
        done(unsafe {
            let fill = self.loader.functions.clEnqueueSVMMemFill;
            let (zero, size) = ((&raw const zero).cast(), size_of::<u64>());
            fill(self.queue, start, zero, size, length, 0, ptr::null(), &raw mut event)
        })?;
        self.wait(event)
    }

    /// Have ranges moved to the device, or to the processor's memory, and wait for it.
    pub fn migrate(&self, ranges: &[PageRange], to_host: bool) -> ClResult<()> {
        const HOST: u64 = 1 << 0;
        let starts: Vec<_> =
            ranges.iter().map(|range| ptr::with_exposed_provenance(range.start())).collect();
        let sizes: Vec<_> = ranges.iter().map(|range| range.len()).collect();
        let count = u32::try_from(ranges.len()).unwrap_or(u32::MAX);
        let flags = if to_host { HOST } else { 0 };
        let mut event = ptr::null_mut();
        // SAFETY: as many addresses as sizes; the bytes stay what they are, and the driver refuses what is not its own.
        done(unsafe {
            let migrate = self.loader.functions.clEnqueueSVMMigrateMem;
            let (starts, sizes) = (starts.as_ptr(), sizes.as_ptr());
            migrate(self.queue, count, starts, sizes, flags, 0, ptr::null(), &raw mut event)
        })?;
        self.wait(event)
    }

    /// Until the command is done; unlike `clFinish` it tells how that went.
    fn wait(&self, event: Handle) -> ClResult<()> {
        // SAFETY: one event, which the call before gave and nobody else has.
        unsafe {
            let outcome = (self.loader.functions.clWaitForEvents)(1, &raw const event);
            (self.loader.functions.clReleaseEvent)(event);
            done(outcome)
        }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: both are this value's own; the queue may not have been made.
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
    fn a_list_is_never_longer_than_its_room() {
        let lies = list(|_, _, count| {
            // SAFETY: where the number goes.
            unsafe { count.write(u32::MAX) };
            0
        });
        assert_eq!(lies, Ok(Vec::new()));
        assert_eq!(list(|_, _, _| -1001), Err(ClCode(-1001)));
    }
}
