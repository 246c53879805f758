// SPDX-License-Identifier: Apache-2.0
//! Prefetch and eager free of a slice, done on return.

use std::ffi::{c_int, c_ulong};
use std::mem::MaybeUninit;
use std::ptr;

use crate::{Error, Result, ffi};

/// Brings a slice to the memory node `hnid`, so that an access there takes no page fault.
///
/// `gmemPrefetch` in libgmem.h lists the errors. The content stays as it is.
pub fn prefetch<T>(what: &[T], hnid: c_int) -> Result<()> {
    let (address, size) = address_and_size(what);
    // SAFETY: a prefetch moves and populates pages and leaves their content alone.
    Error::check(unsafe { ffi::gmemPrefetch(address, size, hnid, ptr::null_mut()) }).map(drop)
}

/// Gives the physical memory of the whole GMEM pages inside a slice back to the kernel.
///
/// The slice stays mapped, and its content in these pages is lost. Its type says so: nothing may be read from it
/// before it is written. For a vector, that is its spare capacity:
///
/// ```
/// # let mut activations = vec![1u8; 8 << 20];
/// activations.clear();
/// libgmem_sys::free_eager(activations.spare_capacity_mut())?;
/// # Ok::<(), libgmem_sys::Error>(())
/// ```
///
/// `gmemFreeEager` in libgmem.h lists the errors.
pub fn free_eager<T>(what: &mut [MaybeUninit<T>]) -> Result<()> {
    let (address, size) = address_and_size(what);
    // SAFETY: the exclusive borrow means that nobody else uses these bytes, and the type means that they need no value.
    // No byte outside of them is touched.
    Error::check(unsafe { ffi::gmemFreeEager(address, size, ptr::null_mut()) }).map(drop)
}

/// A slice as the C functions take it.
pub(crate) fn address_and_size<T>(what: *const [T]) -> (c_ulong, usize) {
    // Linux has addresses of the size of a long.
    (what.cast::<T>().addr() as c_ulong, what.len() * size_of::<T>())
}
