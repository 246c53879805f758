//! Structures of `libgmem.h` that later versions make longer. The first field is their size in bytes as the caller's
//! header has it; new fields go to the end, and 0 is what a field means that the caller does not know.

use std::marker::PhantomData;
use std::ptr::{self, NonNull};

use crate::error::{Error, Result};

/// A structure of the library's, as long as this version has it.
///
/// # Safety
/// `repr(C)`, the first field is a `usize` with its size, and any bits in the others are a value.
pub unsafe trait Grows: Copy {}

/// A caller's structure to be written.
pub struct Out<T: Grows> {
    start: NonNull<u8>,
    size: usize,
    kind: PhantomData<T>,
}

impl<T: Grows> Out<T> {
    /// `None` for NULL.
    ///
    /// # Safety
    /// NULL, or as many bytes as the first field says may be written from now on until the last `write`.
    pub unsafe fn new(structure: *mut T, argument: &'static str) -> Result<Option<Self>> {
        let Some(start) = NonNull::new(structure.cast::<u8>()) else { return Ok(None) };
        // SAFETY: the caller's promise.
        let size = unsafe { size_of_structure::<T>(start.as_ptr(), argument) }?;
        Ok(Some(Self { start, size, kind: PhantomData }))
    }

    /// Write as much of `value` as the caller has room for, with that number of bytes as its size. What a newer header
    /// has behind it stays as it was.
    pub fn write(&self, value: &T) {
        let filled = self.size.min(size_of::<T>());
        // SAFETY: the promise to `new`; T is at least a usize, which both have.
        unsafe {
            ptr::copy_nonoverlapping(ptr::from_ref(value).cast(), self.start.as_ptr(), filled);
            self.start.cast::<usize>().write(filled);
        }
    }
}

/// What a caller passed: fields that it does not know are as in `unset`. `None` for NULL.
///
/// # Safety
/// NULL, or as many bytes as the first field says may be read.
pub unsafe fn read<T: Grows>(
    structure: *const T,
    argument: &'static str,
    unset: T,
) -> Result<Option<T>> {
    if structure.is_null() {
        return Ok(None);
    }
    let mut value = unset;
    // SAFETY: the caller's promise; any bits are a T.
    unsafe {
        let size = size_of_structure::<T>(structure.cast(), argument)?;
        let known = size.min(size_of::<T>());
        ptr::copy_nonoverlapping(structure.cast::<u8>(), (&raw mut value).cast(), known);
    }
    Ok(Some(value))
}

/// # Safety
/// The first field may be read.
unsafe fn size_of_structure<T>(start: *const u8, argument: &'static str) -> Result<usize> {
    // SAFETY: the caller's promise.
    let size = unsafe { start.cast::<usize>().read() };
    // No version had less than the size and one more field.
    if size < 2 * size_of::<usize>() {
        return Err(Error::StructSize { argument, size, known: size_of::<T>() });
    }
    Ok(size)
}
