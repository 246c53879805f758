//! `gmemResidency` and its companions: where the pages of a range are.

use std::ffi::{c_char, c_ulong};
use std::{mem, slice};

use super::text;
use super::versioned_struct::{self, VersionedOut, VersionedStruct};
use crate::error::{Error, Result};
use crate::guard::{IntResult, guard};
use crate::os::mapping;
use crate::residency::tally::Tally;
use crate::residency::{self, PageState, View};

/// `struct gmemResidency_t` of `libgmem.h`. New fields go to the end.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Summary {
    size: usize,
    addr: c_ulong,
    page_size: usize,
    pages: usize,
    known: u32,
    mapped: usize,
    resident: usize,
    huge: usize,
    swapped: usize,
    shared: usize,
    zero: usize,
    hot: usize,
}
// SAFETY: `repr(C)`, all fields are numbers, of which any bits are a value, and `size` is the first.
unsafe impl VersionedStruct for Summary {}

impl Summary {
    /// Refuse numbers that no range of pages can have.
    fn check(&self) -> Result<()> {
        let Self { addr, page_size, pages, .. } = *self;
        let (addr, end) = (addr as usize, 1_u128 << usize::BITS);
        let refuse =
            |argument, value, wanted| Err(Error::ResidencySummary { argument, value, wanted });
        if !page_size.is_power_of_two() {
            return refuse("page_size", page_size, "a power of two");
        }
        if !addr.is_multiple_of(page_size) {
            return refuse("addr", addr, "a multiple of page_size");
        }
        let states = pages.checked_mul(size_of::<PageState>());
        if addr as u128 + pages as u128 * page_size as u128 > end
            || states.is_none_or(|bytes| bytes > isize::MAX as usize)
        {
            return refuse("pages", pages, "a number of pages that the address space holds");
        }
        Ok(())
    }
}

/// # Safety
/// `count` states at `pages` may be written; `pages` may be NULL if `count` is 0. `summary` is NULL or points to a
/// structure whose field `size` says how many of its bytes may be written.
#[unsafe(no_mangle)]
unsafe extern "C" fn gmemResidency(
    addr: c_ulong,
    size: usize,
    ask: u32,
    pages: *mut PageState,
    count: usize,
    summary: *mut Summary,
) -> IntResult {
    const ASK_HOT: u32 = 1;
    guard(|| {
        if ask & !ASK_HOT != 0 {
            return Err(Error::ResidencyAsk { ask });
        }
        if pages.is_null() && count > 0 {
            return Err(Error::Null { argument: "pages", wanted: "the address of `count` states" });
        }
        // SAFETY: `summary` is NULL or may be written for as many bytes as its `size` says, until this call returns.
        let summary = unsafe { VersionedOut::new(summary, "summary->size") }?;
        let residency = residency::read(addr as usize, size, ask & ASK_HOT != 0)?;
        let mut filled = 0;
        let mut tally = Tally::default();
        residency.each(|alike, state| {
            tally.add(alike, state);
            let end = filled + alike.min(count - filled);
            for index in filled..end {
                // SAFETY: `index` is less than `count`, and `count` states may be written.
                unsafe { pages.add(index).write(state) };
            }
            filled = end;
        });
        if let Some(summary) = summary {
            summary.write(&Summary {
                size: size_of::<Summary>(),
                addr: residency.range.start() as c_ulong,
                page_size: mapping::base_page().bytes(),
                pages: residency.pages(),
                known: residency.known.into(),
                mapped: tally.count(residency::MAPPED),
                resident: tally.count(residency::RESIDENT),
                huge: tally.count(residency::HUGE),
                swapped: tally.count(residency::SWAPPED),
                shared: tally.count(residency::SHARED),
                zero: tally.count(residency::ZERO),
                hot: tally.count(residency::HOT),
            });
        }
        Ok(0)
    })
}

/// # Safety
/// `summary` is NULL or points to a structure whose field `size` says how many of its bytes may be read, and `pages` to as
/// many states as `summary->pages` says. `size` bytes at `buffer` may be written; it may be NULL if `size` is 0.
unsafe fn describe(
    summary: *const Summary,
    pages: *const PageState,
    buffer: *mut c_char,
    size: usize,
    write: impl FnOnce(View<'_>) -> Result<String>,
) -> IntResult {
    guard(|| {
        const WANTED: &str = "what gmemResidency() filled";
        // SAFETY: `summary` is NULL or may be read for as many bytes as its `size` says.
        let summary =
            unsafe { versioned_struct::read(summary, "summary->size", Summary::default()) }?
                .ok_or(Error::Null { argument: "summary", wanted: WANTED })?;
        // The fields before `mapped` describe the pages, so they are needed.
        if summary.size < mem::offset_of!(Summary, mapped) {
            let known = size_of::<Summary>();
            return Err(Error::StructSize { argument: "summary->size", size: summary.size, known });
        }
        summary.check()?;
        let Summary { addr, page_size, pages: count, known, .. } = summary;
        let states = match (pages.is_null(), count) {
            (true, 0) => &[],
            (true, _) => return Err(Error::Null { argument: "pages", wanted: WANTED }),
            // SAFETY: `pages` is not NULL, so the caller has `count` states there, which `check` found to be an array
            // that fits into memory; any bits are a PageState.
            (false, count) => unsafe { slice::from_raw_parts(pages, count) },
        };
        let view = View { start: addr as usize, page: page_size, known: known as u16, states };
        // SAFETY: the caller lets `size` bytes at `buffer` be written.
        unsafe { text::copy_out(buffer, size, || write(view)) }
    })
}

/// # Safety
/// `summary` is NULL or a structure of `summary->size` bytes, `pages` an array of `summary->pages` states, and `buffer` an
/// array of `size` bytes that may be written.
#[unsafe(no_mangle)]
unsafe extern "C" fn gmemResidencyText(
    summary: *const Summary,
    pages: *const PageState,
    buffer: *mut c_char,
    size: usize,
) -> IntResult {
    // SAFETY: the arguments are handed on as they are, with what their caller promised of them.
    unsafe { describe(summary, pages, buffer, size, |view| view.to_text()) }
}

/// # Safety
/// `summary` is NULL or a structure of `summary->size` bytes, `pages` an array of `summary->pages` states, and `buffer` an
/// array of `size` bytes that may be written.
#[unsafe(no_mangle)]
unsafe extern "C" fn gmemResidencyJson(
    summary: *const Summary,
    pages: *const PageState,
    buffer: *mut c_char,
    size: usize,
) -> IntResult {
    // SAFETY: the arguments are handed on as they are, with what their caller promised of them.
    unsafe { describe(summary, pages, buffer, size, |view| view.to_json()) }
}

/// # Safety
/// `summary` is NULL or a structure of `summary->size` bytes, `pages` an array of `summary->pages` states, and `buffer` an
/// array of `size` bytes that may be written.
#[unsafe(no_mangle)]
unsafe extern "C" fn gmemResidencySvg(
    summary: *const Summary,
    pages: *const PageState,
    buffer: *mut c_char,
    size: usize,
) -> IntResult {
    // SAFETY: the arguments are handed on as they are, with what their caller promised of them.
    unsafe { describe(summary, pages, buffer, size, |view| view.to_svg()) }
}
