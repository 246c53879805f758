//! Fault scopes: `gmemFaultScopeBegin` and its companions.

use std::ffi::{c_int, c_longlong};

use crate::error::Error;
use crate::guard::{IntResult, guard, guard_wide};
use crate::os::faults::{Counter, Whose};

/// # Safety
/// `scope` is NULL or points to a `gmemFaultScope_t` that may be written.
#[unsafe(no_mangle)]
unsafe extern "C" fn gmemFaultScopeBegin(scope: *mut Counter, whose: c_int) -> IntResult {
    guard(|| {
        if scope.is_null() {
            return Err(null());
        }
        let whose = match whose {
            0 => Whose::Thread,
            1 => Whose::Process,
            2 => Whose::Program,
            _ => return Err(Error::FaultScope { whose }),
        };
        let counter = Counter::open(whose).map_err(|errno| Error::FaultsNotCounted { errno })?;
        // SAFETY: `scope` is not NULL, so the caller lets the structure be written. Any old content is plain numbers and
        // needs no drop.
        unsafe { scope.write(counter) };
        Ok(0)
    })
}

/// # Safety
/// `scope` is NULL or points to a `gmemFaultScope_t`, whatever it contains.
#[unsafe(no_mangle)]
unsafe extern "C" fn gmemFaultScopeCount(scope: *const Counter) -> c_longlong {
    guard_wide(|| {
        // SAFETY: `scope` is NULL or points to a structure of plain numbers, of which any bits are a value; no other
        // thread writes it during the call.
        let counter = unsafe { scope.as_ref() }.ok_or_else(null)?;
        let count = counter.read().map_err(|errno| Error::FaultsNotCounted { errno })?;
        Ok(c_longlong::try_from(count).unwrap_or(c_longlong::MAX))
    })
}

/// # Safety
/// `scope` is NULL or points to a `gmemFaultScope_t` that may be written, whatever it contains.
#[unsafe(no_mangle)]
unsafe extern "C" fn gmemFaultScopeEnd(scope: *mut Counter) {
    guard(|| {
        // SAFETY: `scope` is NULL or points to a structure of plain numbers, of which any bits are a value; no other
        // thread uses it during the call.
        if let Some(counter) = unsafe { scope.as_mut() } {
            counter.close();
        }
        Ok(0)
    });
}

fn null() -> Error {
    Error::Null { argument: "scope", wanted: "the address of a gmemFaultScope_t" }
}
