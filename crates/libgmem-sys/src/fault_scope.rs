// SPDX-License-Identifier: Apache-2.0
//! [`FaultScope`]: the page faults between two points.

use std::ffi::c_int;
use std::marker::PhantomData;

use crate::{Error, Result, ffi};

/// Counts page faults, minor and major, as long as it lives.
pub struct FaultScope {
    scope: ffi::gmemFaultScope_t,
    /// Not Send: a thread's scope may be read by that thread only.
    _thread: PhantomData<*const ()>,
}

impl FaultScope {
    /// Counts the faults of the calling thread.
    pub fn thread() -> Result<FaultScope> {
        FaultScope::new(ffi::GMEM_FAULTS_THREAD)
    }

    /// Counts the faults of all threads.
    pub fn process() -> Result<FaultScope> {
        FaultScope::new(ffi::GMEM_FAULTS_PROCESS)
    }

    /// Counts the faults of all threads, less those that libgmem takes to prefetch.
    pub fn program() -> Result<FaultScope> {
        FaultScope::new(ffi::GMEM_FAULTS_PROGRAM)
    }

    fn new(whose: c_int) -> Result<FaultScope> {
        let mut scope = ffi::gmemFaultScope_t { counter: -1, is_process: 0, before: 0 };
        // SAFETY: the scope may be written, and the library keeps no pointer to it.
        Error::check(unsafe { ffi::gmemFaultScopeBegin(&raw mut scope, whose) })?;
        Ok(FaultScope { scope, _thread: PhantomData })
    }

    /// Faults so far.
    pub fn count(&self) -> Result<u64> {
        // SAFETY: gmemFaultScopeBegin filled the scope, which ends in drop.
        Error::check_count(unsafe { ffi::gmemFaultScopeCount(&raw const self.scope) })
    }
}

impl Drop for FaultScope {
    fn drop(&mut self) {
        // SAFETY: gmemFaultScopeBegin filled the scope, and nobody uses it after this.
        unsafe { ffi::gmemFaultScopeEnd(&raw mut self.scope) };
    }
}
