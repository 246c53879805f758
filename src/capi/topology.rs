//! `gmemTopology` and its companions: the memory of the machine.

use std::ffi::{c_char, c_int};
use std::ptr;

use super::text;
use super::versioned_struct::{VersionedOut, VersionedStruct};
use crate::error::Error;
use crate::guard::{IntResult, guard};
use crate::os::probe::Feature;
use crate::topology;

/// A word of the kernel for C; empty where there is none.
type Word = [c_char; 16];

/// `struct gmemTopology_t` of `libgmem.h`. New fields go to the end.
#[repr(C)]
#[derive(Clone, Copy)]
struct Machine {
    size: usize,
    base_page: usize,
    gmem_page: usize,
    swap_total: usize,
    swap_free: usize,
    features: u32,
    numa_balancing: c_int,
    demotion: c_int,
    lru_gen: c_int,
    thp_enabled: Word,
    thp_defrag: Word,
    thp_shmem: Word,
}
// SAFETY: `repr(C)`, all fields are numbers or letters, of which any bits are a value, and `size` is the first.
unsafe impl VersionedStruct for Machine {}

/// `struct gmemNode_t` of `libgmem.h`. New fields go to the end.
#[repr(C)]
struct Node {
    node: c_int,
    tier: c_int,
    cpus: c_int,
    allowed: c_int,
    device: *const c_char,
    total: usize,
    free: usize,
    hugetlb_total: usize,
    hugetlb_free: usize,
}

/// # Safety
/// `machine` is NULL or points to a structure whose field `size` says how many of its bytes may be written. `count *
/// node_size` bytes at `nodes` may be written; `nodes` may be NULL if `count` is 0.
#[unsafe(no_mangle)]
unsafe extern "C" fn gmemTopology(
    machine: *mut Machine,
    nodes: *mut u8,
    count: usize,
    node_size: usize,
) -> IntResult {
    guard(|| {
        // SAFETY: `machine` is NULL or may be written for as many bytes as its `size` says, until this call returns.
        let machine = unsafe { VersionedOut::new(machine, "machine->size") }?;
        if nodes.is_null() && count > 0 {
            return Err(Error::Null { argument: "nodes", wanted: "the address of `count` nodes" });
        }
        // An array longer than the address space does not exist.
        let is_array =
            count.checked_mul(node_size).is_some_and(|bytes| bytes <= isize::MAX as usize);
        if count > 0 && (node_size < size_of::<c_int>() || !is_array) {
            let known = size_of::<Node>();
            return Err(Error::StructSize { argument: "node_size", size: node_size, known });
        }
        let topology = topology::read()?;
        for (index, node) in topology.nodes.iter().take(count).enumerate() {
            let known = node_of(node);
            let filled = node_size.min(size_of::<Node>());
            // Fields of a newer header are zero.
            // SAFETY: `index` is less than `count`, and `nodes` has `node_size` bytes for each of `count` nodes, of which
            // `filled` is at most all. `known` is a structure of our own.
            unsafe {
                let at = nodes.add(index * node_size);
                ptr::copy_nonoverlapping((&raw const known).cast::<u8>(), at, filled);
                at.add(filled).write_bytes(0, node_size - filled);
            }
        }
        if let Some(machine) = machine {
            machine.write(&machine_of(&topology));
        }
        Ok(c_int::try_from(topology.nodes.len()).unwrap_or(c_int::MAX))
    })
}

fn machine_of(topology: &topology::Topology) -> Machine {
    let number = |value: Option<usize>| value.and_then(|value| value.try_into().ok()).unwrap_or(-1);
    let switch = |value: Option<bool>| value.map_or(-1, c_int::from);
    Machine {
        size: size_of::<Machine>(),
        base_page: topology.base_page,
        gmem_page: topology.gmem_page,
        swap_total: topology.swap_total,
        swap_free: topology.swap_free,
        features: topology.features.iter().fold(0, |all, feature| all | feature_bit(*feature)),
        numa_balancing: number(topology.numa_balancing),
        demotion: switch(topology.demotion),
        lru_gen: switch(topology.multi_generational),
        thp_enabled: word(topology.huge_pages.enabled.as_deref()),
        thp_defrag: word(topology.huge_pages.defrag.as_deref()),
        thp_shmem: word(topology.huge_pages.shared.as_deref()),
    }
}

fn node_of(node: &topology::Node) -> Node {
    let number = |value: usize| c_int::try_from(value).unwrap_or(c_int::MAX);
    Node {
        node: number(node.id),
        tier: node.tier.map_or(-1, number),
        cpus: number(node.cpus),
        allowed: node.is_allowed.into(),
        device: node.device.as_ptr(),
        total: node.total.unwrap_or_default(),
        free: node.free.unwrap_or_default(),
        hugetlb_total: node.hugetlb_total,
        hugetlb_free: node.hugetlb_free,
    }
}

/// The `GMEM_HAS_*` bit of a feature.
const fn feature_bit(feature: Feature) -> u32 {
    match feature {
        Feature::Populate => 1,
        Feature::DropLocked => 2,
        Feature::Collapse => 4,
        Feature::PagemapScan => 8,
        Feature::ProcmapQuery => 16,
        Feature::FaultCounter => 32,
        Feature::MemoryPolicy => 64,
        Feature::MovePages => 128,
    }
}

fn word(text: Option<&str>) -> Word {
    let mut word = [0; 16];
    // One byte stays for the NUL.
    for (at, byte) in word.iter_mut().take(15).zip(text.unwrap_or_default().bytes()) {
        *at = byte as c_char;
    }
    word
}

#[unsafe(no_mangle)]
extern "C" fn gmemNodeDistance(from: c_int, to: c_int) -> IntResult {
    guard(|| topology::distance(from, to))
}

/// # Safety
/// `size` bytes at `buffer` may be written; `buffer` may be NULL if `size` is 0.
#[unsafe(no_mangle)]
unsafe extern "C" fn gmemTopologyText(buffer: *mut c_char, size: usize) -> IntResult {
    // SAFETY: the caller lets `size` bytes at `buffer` be written.
    guard(|| unsafe { text::copy_out(buffer, size, || Ok(topology::read()?.to_text())) })
}

/// # Safety
/// `size` bytes at `buffer` may be written; `buffer` may be NULL if `size` is 0.
#[unsafe(no_mangle)]
unsafe extern "C" fn gmemTopologyJson(buffer: *mut c_char, size: usize) -> IntResult {
    // SAFETY: the caller lets `size` bytes at `buffer` be written.
    guard(|| unsafe { text::copy_out(buffer, size, || Ok(topology::read()?.to_json())) })
}
