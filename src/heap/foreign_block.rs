//! Blocks of other allocators. Where libgmem is malloc for a part of a process only (it was dlopened, or a program brings
//! its own malloc), a block of another allocator may come here. It is handed to the next `free` in the dynamic linker's
//! search order.

use std::ffi::c_void;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::config::{LogLevel, log};
use crate::os::dynamic;

type Free = unsafe extern "C" fn(*mut c_void);
type Realloc = unsafe extern "C" fn(*mut c_void, usize) -> *mut c_void;
type UsableSize = unsafe extern "C" fn(*mut c_void) -> usize;

static SEEN: AtomicUsize = AtomicUsize::new(0);

/// Number of calls that brought such a block.
pub fn seen() -> usize {
    SEEN.load(Ordering::Relaxed)
}

/// `free(3)` of the next allocator. Without one, the block leaks.
///
/// # Safety
/// `block` is a live block of another allocator.
#[cold]
pub unsafe fn free(block: *mut c_void) {
    if let Some(address) = next(c"free", "freed", block) {
        // SAFETY: the symbol `free` has this type, and the caller promises a live block of another allocator.
        unsafe { std::mem::transmute::<*mut c_void, Free>(address)(block) };
    }
}

/// `realloc(3)` of the next allocator; NULL where there is none.
///
/// # Safety
/// `block` is a live block of another allocator.
#[cold]
pub unsafe fn realloc(block: *mut c_void, size: usize) -> *mut c_void {
    match next(c"realloc", "reallocated", block) {
        // SAFETY: the symbol `realloc` has this type, and the caller promises a live block of another allocator.
        Some(address) => unsafe {
            std::mem::transmute::<*mut c_void, Realloc>(address)(block, size)
        },
        None => super::or_out_of_memory(std::ptr::null_mut()),
    }
}

/// `malloc_usable_size(3)` of the next allocator; 0 where there is none.
///
/// # Safety
/// `block` is a live block of another allocator.
#[cold]
pub unsafe fn usable_size(block: *mut c_void) -> usize {
    match next(c"malloc_usable_size", "measured", block) {
        // SAFETY: the symbol `malloc_usable_size` has this type, and the caller promises a live block of another allocator.
        Some(address) => unsafe { std::mem::transmute::<*mut c_void, UsableSize>(address)(block) },
        None => 0,
    }
}

/// The next allocator's function.
fn next(name: &'static std::ffi::CStr, done: &str, block: *mut c_void) -> Option<*mut c_void> {
    SEEN.fetch_add(1, Ordering::Relaxed);
    let found = dynamic::next_symbol(name);
    if found.is_none() {
        log(LogLevel::Error, || {
            format!(
                "{block:?} is no block of libgmem's, and no other allocator's {} is there: it is not {done}; \
                 load libgmem before the allocator that it came from, or free it there",
                name.to_string_lossy()
            )
        });
    }
    found
}
