//! Peer-shared memory, which a GMEM kernel maps for the CPU and the device.
//!
//! The flag of `mmap(2)` for it has had three values, and a kernel maps ordinary memory for a value that it does not know. So
//! each value is probed, with a length that is not a multiple of the GMEM page: only peer-shared memory is aligned then.

use std::sync::atomic::{AtomicI32, Ordering};

use crate::error::{Errno, Error, Result};
use crate::os::mapping::Region;
use crate::os::{gmem, machine, mapping, smaps};

/// Map `length` bytes, a multiple of the GMEM page.
pub fn map(length: usize) -> Result<Region> {
    let region = gmem::map(length, bit()?).map_err(|errno| match errno.0 {
        libc::ENOMEM => not_yet(),
        _ => no_memory("mmap(2) refused it", "See the kernel's messages (dmesg)", errno),
    })?;
    if is_aligned(&region) {
        return Ok(region);
    }
    let _ = region.unmap();
    Err(unknown_flag())
}

fn is_aligned(region: &Region) -> bool {
    let start = region.range().start();
    mapping::gmem_page().floor(start) == start
}

/// The meaning of a value of the flag to the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// It maps peer-shared memory.
    Live,
    /// It may map peer-shared memory later: there is no device yet, or no huge page, or no memory.
    NotYet,
    /// It knows the flag and was booted without gmem=on.
    Off,
    /// It maps ordinary memory.
    Unknown,
}

fn no_memory(why: &'static str, remedy: &'static str, errno: Errno) -> Error {
    let why = format!("there is no peer-shared memory: {why}").into();
    Error::DeviceUnavailable { device: "gmem", why, remedy, errno }
}

/// The error if the kernel knows no value of the flag.
fn unknown_flag() -> Error {
    let why = "mmap(2) gives ordinary memory for every known value of MAP_PEER_SHARED";
    no_memory(why, "Boot openEuler's GMEM kernel with gmem=on", Errno(libc::ENODEV))
}

/// The value that maps peer-shared memory. It is found once; a kernel that is not ready yet is probed again.
fn bit() -> Result<i32> {
    const NOT_TRIED: i32 = 0;
    const NONE: i32 = -1;
    const OFF: i32 = -2;
    static FOUND: AtomicI32 = AtomicI32::new(NOT_TRIED);
    let mut found = FOUND.load(Ordering::Relaxed);
    if found == NOT_TRIED {
        let verdicts = gmem::PEER_SHARED_BITS.map(|bit| (try_out(bit), bit));
        let of = |wanted| verdicts.iter().find(|(verdict, _)| *verdict == wanted);
        found = match of(Verdict::Live) {
            Some((_, bit)) => *bit,
            None if of(Verdict::NotYet).is_some() => return Err(not_yet()),
            None if of(Verdict::Off).is_some() => OFF,
            None => NONE,
        };
        FOUND.store(found, Ordering::Relaxed);
    }
    match found {
        NONE => Err(unknown_flag()),
        OFF => {
            let why = "the kernel was booted without gmem=on";
            Err(no_memory(why, "Boot it with gmem=on", Errno(libc::ENODEV)))
        }
        bit => Ok(bit),
    }
}

fn not_yet() -> Error {
    let (why, remedy) = if machine::huge_pages() == machine::HugePages::Never {
        (
            "transparent huge pages are off",
            "As root: echo always > /sys/kernel/mm/transparent_hugepage/enabled",
        )
    } else {
        (
            "no device is attached to this process yet, or no memory is left",
            "Let the accelerator's runtime attach the device first (aclrtSetDevice)",
        )
    };
    no_memory(why, remedy, Errno(libc::ENOMEM))
}

fn try_out(bit: i32) -> Verdict {
    let length = mapping::base_page().bytes();
    let first = match gmem::map(length, bit) {
        Ok(region) => region,
        Err(Errno(libc::EINVAL)) => return Verdict::Off,
        Err(_) => return Verdict::NotYet,
    };
    // Several mappings at the same time are not all aligned by chance.
    let more = [(); 2].map(|()| gmem::map(length, bit));
    let are_aligned =
        is_aligned(&first) && more.iter().all(|mapped| mapped.as_ref().is_ok_and(is_aligned));
    let verdict = match gmem::map_wrongly(length, bit) {
        Err(Errno(libc::EINVAL)) => Verdict::Live,
        Err(_) => Verdict::Unknown,
        Ok(shared) => {
            let _ = shared.unmap();
            // The first kernels accept every combination; some only show the kind in smaps.
            let is_live = are_aligned || smaps::is_peer_shared(first.range().start());
            if is_live { Verdict::Live } else { Verdict::Unknown }
        }
    };
    // A GMEM kernel rounds the length up itself. Unmap no more than was mapped, for the sake of other kernels.
    for region in std::iter::once(first).chain(more.into_iter().flatten()) {
        let _ = region.unmap();
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On a kernel without such memory; on one that has some, or would have, each answer but `Unknown` is as good.
    #[test]
    fn a_kernel_that_ignores_the_flag_is_not_believed() {
        if gmem::open().is_err() {
            let verdicts = gmem::PEER_SHARED_BITS.map(try_out);
            assert_eq!(verdicts, [Verdict::Unknown; 3]);
            assert_eq!(bit(), Err(unknown_flag()));
        }
    }
}
