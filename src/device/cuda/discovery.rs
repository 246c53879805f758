//! Finding the driver and the GPU.

use std::sync::{Arc, Mutex, PoisonError};

use super::driver::{Context, CuCode, Driver, Gpu, unavailable};
use super::{Accelerator, Memory, Node};
use crate::config::{self, LogLevel, Setting, log};
use crate::error::{Error, Result};
use crate::os::dynamic::Missing;
use crate::os::process::PerProcess;
use crate::os::{env, numa};

/// `GMEM_CUDA_DEVICE`.
pub static WHICH: Setting<String> = Setting {
    name: c"GMEM_CUDA_DEVICE",
    form: "the number of a GPU, or the beginning of its UUID",
    default: "the first GPU that can be used",
    about: "The GPU that the device `cuda` uses.",
    parse: config::text,
};

/// `GMEM_CUDA_MEMORY`. A bad value is an error when the device is opened.
pub static MEMORY: Setting<String> = Setting {
    name: c"GMEM_CUDA_MEMORY",
    form: "`managed` or `system`",
    default: "`system` if the GPU reads ordinary memory, else `managed`",
    about: "The memory that large blocks of the heap come from on the device `cuda`.",
    parse: config::text,
};

/// The oldest CUDA version that will do: 1000 for each major version, 10 for each minor one.
const VERSION: i32 = 11000;

/// Open the driver and the GPU.
pub fn open() -> Result<Accelerator> {
    // Only one thread at a time opens the driver.
    static ONE: PerProcess<Mutex<()>> = PerProcess::new(|_| Mutex::new(()));
    let _one = ONE.get().lock().unwrap_or_else(PoisonError::into_inner);
    let driver = Arc::new(Driver::open().map_err(no_driver)?);
    is_new_enough(driver.version())?;
    driver.initialize().map_err(not_initialized)?;
    let gpus = listed(driver.gpus())?;
    let chosen = choose(&gpus, WHICH.get().as_deref())?;
    let memory = memory_of(&gpus[chosen], MEMORY.get().as_deref())?;
    let gave_nothing = |code: CuCode| {
        unavailable(
            format!("{} gave no context: {code}", gpus[chosen].name),
            "See whether another process has all of its memory, or has it alone (nvidia-smi)",
        )
    };
    let context = Context::new(Arc::clone(&driver), &gpus[chosen]).map_err(gave_nothing)?;
    let free = context.free_bytes().map_err(gave_nothing)?;
    let ordinal = gpus[chosen].ordinal;
    let nodes = nodes_of(gpus);
    let current = nodes.iter().position(|node| node.gpu.ordinal == ordinal).unwrap_or(0);
    log(LogLevel::Trace, || describe(&nodes[current], memory, free));
    Ok(Accelerator::new(context, driver, nodes, current, memory, free))
}

fn describe(node: &Node, memory: Memory, free: usize) -> String {
    let kind = match memory {
        Memory::Managed => "managed memory (cuMemAllocManaged)",
        Memory::Ordinary => "ordinary memory, which the GPU reads (pageable access)",
    };
    let Gpu { ordinal, name, uuid, total, .. } = &node.gpu;
    format!(
        "device cuda is GPU {ordinal}, {name}, {uuid}, node {}, with {free} of {total} bytes free; large blocks are {kind}",
        node.node
    )
}

/// The GPUs that can be used, each with its node: the kernel's if the memory of the GPU is one, else an id above all that the
/// kernel can have.
fn nodes_of(gpus: Vec<Gpu>) -> Vec<Node> {
    let first = numa::first_impossible_node();
    let usable = gpus.into_iter().filter(|gpu| why_not(gpu).is_none());
    usable
        .map(|gpu| {
            let behind = first + usize::try_from(gpu.ordinal).unwrap_or(0);
            Node { node: gpu.numa_node.unwrap_or(behind), gpu }
        })
        .collect()
}

fn no_driver(missing: Missing) -> Error {
    let folders = env::secure("LD_LIBRARY_PATH").map_or_else(
        || "LD_LIBRARY_PATH (unset)".to_owned(),
        |value| format!("LD_LIBRARY_PATH = {value:?}"),
    );
    match missing {
        Missing::Library(text) => unavailable(
            format!(
                "libcuda.so.1 could not be opened ({text}); looked in {folders} and the system's folders"
            ),
            "Install NVIDIA's driver (Debian: nvidia-driver and libcuda1; in a container, its toolkit), or mend \
                     the variable",
        ),
        Missing::Function(name) => unavailable(
            format!(
                "libcuda.so.1, found in {folders} or the system's folders, has no {name}, so it is broken or older than \
                 CUDA 11.0"
            ),
            "Install a newer driver of NVIDIA's, or mend the variable",
        ),
    }
}

fn is_new_enough(version: std::result::Result<i32, CuCode>) -> Result<()> {
    let why = match version {
        Ok(version) if version >= VERSION => return Ok(()),
        Ok(version) => format!(
            "the driver supports CUDA {}.{}, and CUDA 11.0 is the oldest that libgmem supports",
            version / 1000,
            version % 1000 / 10
        ),
        Err(code) => format!("the driver does not report its version: {code}"),
    };
    Err(unavailable(why, "Install a newer driver of NVIDIA's"))
}

fn not_initialized(code: CuCode) -> Error {
    let remedy = match code {
        CuCode::NO_DEVICE => "Install a GPU, or correct CUDA_VISIBLE_DEVICES",
        CuCode::STUB_LIBRARY => "Remove the folder of the toolkit's stubs from LD_LIBRARY_PATH",
        CuCode::SYSTEM_DRIVER_MISMATCH => {
            "Load the kernel module of the driver's own version: restart, or `modprobe -r` and `modprobe nvidia`"
        }
        CuCode::SYSTEM_NOT_READY => {
            "Start the fabric manager of the driver's own version (nvidia-fabricmanager)"
        }
        _ => "See whether nvidia-smi works, and whether /dev/nvidia* may be opened",
    };
    unavailable(format!("the driver finds no GPU that works: {code}"), remedy)
}

fn listed(gpus: std::result::Result<Vec<Gpu>, CuCode>) -> Result<Vec<Gpu>> {
    match gpus {
        Ok(gpus) if !gpus.is_empty() => Ok(gpus),
        Ok(_) => Err(not_initialized(CuCode::NO_DEVICE)),
        Err(code) => Err(not_initialized(code)),
    }
}

/// The index of the GPU that is `wanted`, by its number or the beginning of its UUID, or else of the first that can be used.
fn choose(gpus: &[Gpu], wanted: Option<&str>) -> Result<usize> {
    let refused = |why: String| {
        unavailable(
            format!("{why}; the GPUs are {}", list(gpus)),
            "Set GMEM_CUDA_DEVICE to the number, or the beginning of the UUID, of one that can be used",
        )
    };
    let Some(wanted) = wanted else {
        let first = gpus.iter().position(|gpu| why_not(gpu).is_none());
        return first.ok_or_else(|| refused("no GPU can be used".into()));
    };
    let index = match wanted.parse() {
        Ok(number) => gpus.iter().position(|gpu| gpu.ordinal == number),
        Err(_) => gpus.iter().position(|gpu| is_beginning(wanted, &gpu.uuid)),
    };
    let index = index
        .ok_or_else(|| refused(format!("GMEM_CUDA_DEVICE = {wanted:?} is none of the GPUs")))?;
    match why_not(&gpus[index]) {
        None => Ok(index),
        Some(why) => Err(refused(format!("GMEM_CUDA_DEVICE = {wanted:?} has {why}"))),
    }
}

fn is_beginning(of: &str, uuid: &str) -> bool {
    uuid.get(..of.len()).is_some_and(|start| start.eq_ignore_ascii_case(of))
        && of.len() > "GPU-".len()
}

/// The reason why a GPU cannot be used, if there is one.
fn why_not(gpu: &Gpu) -> Option<&'static str> {
    if !gpu.managed {
        Some("no managed memory")
    } else if !gpu.concurrent {
        Some(
            "no managed memory that the processor may use meanwhile (concurrentManagedAccess: Pascal or newer)",
        )
    } else {
        None
    }
}

fn list(gpus: &[Gpu]) -> String {
    let lines = gpus.iter().map(|gpu| {
        let lacks = why_not(gpu).map(|why| format!(" ({why})")).unwrap_or_default();
        format!("{}: {} {}{lacks}", gpu.ordinal, gpu.name, gpu.uuid)
    });
    lines.collect::<Vec<_>>().join(", ")
}

/// The memory for large blocks of the heap.
fn memory_of(gpu: &Gpu, wanted: Option<&str>) -> Result<Memory> {
    let why = match wanted {
        None if gpu.pageable => return Ok(Memory::Ordinary),
        None | Some("managed") => return Ok(Memory::Managed),
        Some("system") if gpu.pageable => return Ok(Memory::Ordinary),
        Some("system") => format!(
            "GMEM_CUDA_MEMORY = \"system\", and {} reads no memory of the process but managed memory \
             (pageableMemoryAccess)",
            gpu.name
        ),
        Some(other) => {
            format!("GMEM_CUDA_MEMORY = {other:?} is neither \"managed\" nor \"system\"")
        }
    };
    Err(unavailable(why, "Unset GMEM_CUDA_MEMORY, or make it \"managed\""))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn gpu(ordinal: i32, uuid: &str, managed: bool, concurrent: bool) -> Gpu {
        let name = format!("GPU of {ordinal}");
        Gpu::for_tests(ordinal, name, uuid.into(), managed, concurrent)
    }

    #[test]
    fn the_first_that_can_be_used_unless_one_is_named() {
        let gpus = [
            gpu(0, "GPU-00aa", false, false),
            gpu(1, "GPU-11bb", true, false),
            gpu(2, "GPU-22cc", true, true),
            gpu(3, "GPU-22dd", true, true),
        ];
        assert_eq!(choose(&gpus, None), Ok(2));
        assert_eq!(choose(&gpus, Some("3")), Ok(3));
        assert_eq!(choose(&gpus, Some("gpu-22D")), Ok(3));
        assert_eq!(choose(&gpus, Some("GPU-22")), Ok(2));
        for (wanted, why) in [
            ("0", "no managed memory;"),
            ("GPU-11", "concurrentManagedAccess"),
            ("4", "none of"),
            ("-1", "none of"),
            ("GPU-", "none of"),
            ("ä", "none of"),
        ] {
            let text = choose(&gpus, Some(wanted)).unwrap_err().to_string();
            assert!(
                text.contains(why) && text.contains("2: GPU of 2 GPU-22cc"),
                "{wanted}: {text}"
            );
        }
        let text = choose(&gpus[..2], None).unwrap_err().to_string();
        assert!(text.contains("no GPU can be used; the GPUs are 0: GPU of 0"), "{text}");
    }

    #[test]
    fn nodes_lie_behind_those_of_the_machine_unless_the_driver_has_one() {
        let mut on_a_node = gpu(1, "GPU-1", true, true);
        on_a_node.numa_node = Some(7);
        let nodes =
            nodes_of(vec![gpu(0, "GPU-0", true, true), on_a_node, gpu(2, "GPU-2", true, true)]);
        let ids: Vec<_> = nodes.iter().map(|node| node.node).collect();
        let first = numa::first_impossible_node();
        assert_eq!(ids, [first, 7, first + 2]);
    }

    #[test]
    fn what_memory_is_follows_the_gpu_unless_it_is_named() {
        let mut gpu = gpu(0, "GPU-0", true, true);
        assert_eq!(memory_of(&gpu, None), Ok(Memory::Managed));
        assert!(memory_of(&gpu, Some("system")).unwrap_err().to_string().contains("pageable"));
        gpu.pageable = true;
        assert_eq!(memory_of(&gpu, None), Ok(Memory::Ordinary));
        assert_eq!(memory_of(&gpu, Some("system")), Ok(Memory::Ordinary));
        assert_eq!(memory_of(&gpu, Some("managed")), Ok(Memory::Managed));
        assert!(memory_of(&gpu, Some("vram")).unwrap_err().to_string().contains("\"vram\""));
    }

    #[test]
    fn an_old_driver_is_named() {
        let text = is_new_enough(Ok(10020)).unwrap_err().to_string();
        assert!(text.contains("CUDA 10.2"), "{text}");
        assert_eq!(is_new_enough(Ok(13000)), Ok(()));
    }
}
