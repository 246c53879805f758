//! Structures of `libgmem.h` that later versions extend. The first field is the size in bytes according to the caller's
//! header. New fields go to the end, and 0 is the value of a field that the caller does not know.

use std::marker::PhantomData;
use std::ptr::{self, NonNull};

use crate::error::{Error, Result};

/// A structure as this version knows it.
///
/// # Safety
/// `repr(C)`, the first field is a `usize` with the size, and any bits are a value of the others.
pub unsafe trait VersionedStruct: Copy {}

/// A caller's structure that is to be filled.
pub struct VersionedOut<T: VersionedStruct> {
    start: NonNull<u8>,
    size: usize,
    kind: PhantomData<T>,
}

impl<T: VersionedStruct> VersionedOut<T> {
    /// `None` for NULL.
    ///
    /// # Safety
    /// `structure` is NULL, or as many bytes as its first field says may be written from now until the last `write`.
    pub unsafe fn new(structure: *mut T, argument: &'static str) -> Result<Option<Self>> {
        let Some(start) = NonNull::new(structure.cast::<u8>()) else { return Ok(None) };
        // SAFETY: not NULL, so there is a structure, and its first field may be read.
        let size = unsafe { size_of_structure::<T>(start.as_ptr(), argument) }?;
        Ok(Some(Self { start, size, kind: PhantomData }))
    }

    /// Write as much of `value` as the caller's structure holds, and that number of bytes as its size. Fields of a newer
    /// header stay as they were.
    pub fn write(&self, value: &T) {
        let filled = self.size.min(size_of::<T>());
        // SAFETY: `filled` is at most `size`, and that many bytes may be written, as promised to `new`. Both structures
        // begin with a usize. `value` is the library's own, so the two do not overlap.
        unsafe {
            ptr::copy_nonoverlapping(ptr::from_ref(value).cast(), self.start.as_ptr(), filled);
            self.start.cast::<usize>().write(filled);
        }
    }
}

/// Read a caller's structure. Fields that the caller does not know have their value from `unset`. `None` for NULL.
///
/// # Safety
/// `structure` is NULL, or as many bytes as its first field says may be read.
pub unsafe fn read<T: VersionedStruct>(
    structure: *const T,
    argument: &'static str,
    unset: T,
) -> Result<Option<T>> {
    if structure.is_null() {
        return Ok(None);
    }
    let mut value = unset;
    // SAFETY: not NULL, so there is a structure. `known` is at most its size and at most the size of T, of which any bits
    // are a value.
    unsafe {
        let size = size_of_structure::<T>(structure.cast(), argument)?;
        let known = size.min(size_of::<T>());
        ptr::copy_nonoverlapping(structure.cast::<u8>(), (&raw mut value).cast(), known);
    }
    Ok(Some(value))
}

/// # Safety
/// `start` points to a structure whose first field, a `usize`, may be read.
unsafe fn size_of_structure<T>(start: *const u8, argument: &'static str) -> Result<usize> {
    // SAFETY: the first field may be read.
    let size = unsafe { start.cast::<usize>().read() };
    // No version had fewer fields than the size and one more.
    if size < 2 * size_of::<usize>() {
        return Err(Error::StructSize { argument, size, known: size_of::<T>() });
    }
    Ok(size)
}
