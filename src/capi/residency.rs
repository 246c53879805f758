//! `gmemResidency` and its like: the pages of a range as C has them.

use std::ffi::{c_char, c_int, c_ulong};
use std::{mem, slice};

use super::growing::{self, Grows, Out};
use super::text;
use crate::error::{Error, Result};
use crate::guard::guard;
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
// SAFETY: numbers alone, the size first.
unsafe impl Grows for Summary {}

/// # Safety
/// `pages` may be written for `count` states, or `count` is 0; `summary` is NULL or points to a structure of which as
/// many bytes may be written as its `size` says.
#[unsafe(no_mangle)]
unsafe extern "C" fn gmemResidency(
    addr: c_ulong,
    size: usize,
    ask: u32,
    pages: *mut PageState,
    count: usize,
    summary: *mut Summary,
) -> c_int {
    const ASK_HOT: u32 = 1;
    guard(|| {
        if ask & !ASK_HOT != 0 {
            return Err(Error::ResidencyAsk { ask });
        }
        if pages.is_null() && count > 0 {
            return Err(Error::Null { argument: "pages", wanted: "room for `count` states" });
        }
        // SAFETY: the caller's promise.
        let summary = unsafe { Out::new(summary, "summary->size") }?;
        let residency = residency::read(addr as usize, size, ask & ASK_HOT != 0)?;
        let mut filled = 0;
        let mut tally = Tally::default();
        residency.each(|alike, state| {
            tally.add(alike, state);
            let end = filled + alike.min(count - filled);
            for index in filled..end {
                // SAFETY: less than `count`.
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
/// `summary` is NULL or points to what gmemResidency() filled, `pages` to as many states as that says; `buffer` may be
/// written for `size` bytes, or `size` is 0.
unsafe fn residency_in_words(
    summary: *const Summary,
    pages: *const PageState,
    buffer: *mut c_char,
    size: usize,
    write: impl FnOnce(View<'_>) -> Result<String>,
) -> c_int {
    guard(|| {
        const WANTED: &str = "what gmemResidency() filled";
        // SAFETY: the caller's promise.
        let summary = unsafe { growing::read(summary, "summary->size", Summary::default()) }?
            .ok_or(Error::Null { argument: "summary", wanted: WANTED })?;
        // Without these it says nothing of the pages.
        if summary.size < mem::offset_of!(Summary, mapped) {
            let known = size_of::<Summary>();
            return Err(Error::StructSize { argument: "summary->size", size: summary.size, known });
        }
        let Summary { addr, page_size, pages: count, known, .. } = summary;
        let states = match (pages.is_null(), count) {
            (true, 0) => &[],
            (true, _) => return Err(Error::Null { argument: "pages", wanted: WANTED }),
            // SAFETY: the caller's promise.
            (false, count) => unsafe { slice::from_raw_parts(pages, count) },
        };
        let view = View { start: addr as usize, page: page_size, known: known as u16, states };
        // SAFETY: the caller's promise.
        unsafe { text::give(buffer, size, || write(view)) }
    })
}

/// # Safety
/// See [`residency_in_words`].
#[unsafe(no_mangle)]
unsafe extern "C" fn gmemResidencyText(
    summary: *const Summary,
    pages: *const PageState,
    buffer: *mut c_char,
    size: usize,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { residency_in_words(summary, pages, buffer, size, |view| view.to_text()) }
}

/// # Safety
/// See [`residency_in_words`].
#[unsafe(no_mangle)]
unsafe extern "C" fn gmemResidencyJson(
    summary: *const Summary,
    pages: *const PageState,
    buffer: *mut c_char,
    size: usize,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { residency_in_words(summary, pages, buffer, size, |view| view.to_json()) }
}

/// # Safety
/// See [`residency_in_words`].
#[unsafe(no_mangle)]
unsafe extern "C" fn gmemResidencySvg(
    summary: *const Summary,
    pages: *const PageState,
    buffer: *mut c_char,
    size: usize,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { residency_in_words(summary, pages, buffer, size, |view| view.to_svg()) }
}
