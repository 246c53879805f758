//! Memory nodes: which exist, on which the caller runs, where pages are, and moving pages.

use std::ffi::{c_int, c_ulong, c_void};
use std::ops::RangeInclusive;

use super::{SysResult, errno, file};
use crate::error::Errno;
use crate::page::PageSize;

/// The maximum number of nodes of a kernel (`CONFIG_NODES_SHIFT` is at most 10).
pub const MAX_NODES: usize = 1024;
const WORD_BITS: usize = c_ulong::BITS as usize;

/// A set of node ids, in the layout of the kernel's system calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeSet([c_ulong; MAX_NODES / WORD_BITS]);

impl NodeSet {
    /// The empty set.
    pub const EMPTY: Self = Self([0; MAX_NODES / WORD_BITS]);

    /// The set of one node.
    pub fn only(node: usize) -> Self {
        let mut set = Self::EMPTY;
        set.insert(node);
        set
    }

    fn insert(&mut self, node: usize) {
        if let Some(word) = self.0.get_mut(node / WORD_BITS) {
            *word |= 1 << (node % WORD_BITS);
        }
    }

    /// Whether `node` is in the set.
    pub fn contains(&self, node: usize) -> bool {
        self.0.get(node / WORD_BITS).is_some_and(|word| word & (1 << (node % WORD_BITS)) != 0)
    }

    /// The number of nodes.
    pub fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The ids, ascending.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        (0..MAX_NODES).filter(|node| self.contains(*node))
    }

    /// Parse the kernel's list format: `0-2,5`.
    fn parse(text: &str) -> Option<Self> {
        let mut set = Self::EMPTY;
        for range in list_of_numbers(text) {
            let range = range?;
            for node in *range.start()..=(*range.end()).min(MAX_NODES - 1) {
                set.insert(node);
            }
        }
        Some(set)
    }
}

impl FromIterator<usize> for NodeSet {
    /// Ignores ids that are too large for a node.
    fn from_iter<I: IntoIterator<Item = usize>>(nodes: I) -> Self {
        let mut set = Self::EMPTY;
        nodes.into_iter().for_each(|node| set.insert(node));
        set
    }
}

impl std::fmt::Display for NodeSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ids: Vec<_> = self.iter().map(|node| node.to_string()).collect();
        f.write_str(&ids.join(","))
    }
}

/// The nodes that have memory now; only node 0 on a kernel without NUMA.
pub fn memory_nodes() -> NodeSet {
    let mut buffer = [0; 4096];
    file::read_start(c"/sys/devices/system/node/has_memory", &mut buffer)
        .ok()
        .and_then(|text| NodeSet::parse(std::str::from_utf8(text).ok()?))
        .filter(|nodes| !nodes.is_empty())
        .unwrap_or_else(|| NodeSet::only(0))
}

/// The nodes that may ever exist, with or without memory.
pub fn possible_nodes() -> NodeSet {
    let mut buffer = [0; 4096];
    file::read_start(c"/sys/devices/system/node/possible", &mut buffer)
        .ok()
        .and_then(|text| NodeSet::parse(std::str::from_utf8(text).ok()?))
        .unwrap_or_else(|| NodeSet::only(0))
}

/// The first id that no memory node of this machine can ever have.
pub fn first_impossible_node() -> usize {
    possible_nodes().iter().last().map_or(1, |last| last + 1)
}

/// The node of the CPU on which the caller runs.
pub fn current_node() -> usize {
    let (mut cpu, mut node) = (0_u32, 0_u32);
    // SAFETY: both pointers point to writable unsigned ints; the third argument is unused.
    let result = unsafe { libc::syscall(libc::SYS_getcpu, &raw mut cpu, &raw mut node, 0_usize) };
    if result == 0 { node as usize } else { 0 }
}

/// The distance between two nodes, as the firmware reports it (10 is local); `None` if it does not.
pub fn distance(from: usize, to: usize) -> Option<usize> {
    distances(from)?.find(|(node, _)| *node == to).map(|(_, distance)| distance)
}

/// The online nodes, each with its distance from `from`.
pub fn distances(from: usize) -> Option<impl Iterator<Item = (usize, usize)>> {
    let line = node_file(from, "distance")?;
    // The line has a number per online node, in ascending order of their ids.
    let mut online = [0; 4096];
    let online = file::read_start(c"/sys/devices/system/node/online", &mut online).ok()?;
    let nodes: Vec<_> = NodeSet::parse(std::str::from_utf8(online).ok()?)?.iter().collect();
    let numbers: Vec<_> =
        line.split_ascii_whitespace().map_while(|word| word.parse().ok()).collect();
    Some(nodes.into_iter().zip(numbers))
}

/// The text of `/sys/devices/system/node/node<N>/<name>`.
fn node_file(node: usize, name: &str) -> Option<String> {
    file::read_text(&format!("/sys/devices/system/node/node{node}/{name}"))
}

/// The number of online processors of a node; `None` if the kernel does not report it.
pub fn cpus(node: usize) -> Option<usize> {
    // Not a NodeSet: machines have more processors than nodes.
    count(&node_file(node, "cpulist")?)
}

/// The number of ids in the kernel's list format.
fn count(list: &str) -> Option<usize> {
    list_of_numbers(list).try_fold(0_usize, |sum, range| {
        let (first, last) = range?.into_inner();
        sum.checked_add(last.checked_sub(first)?)?.checked_add(1)
    })
}

/// The ranges in the kernel's list format, `0-2,5`; `None` for one that cannot be read.
fn list_of_numbers(text: &str) -> impl Iterator<Item = Option<RangeInclusive<usize>>> {
    text.trim().split(',').filter(|part| !part.is_empty()).map(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse().ok()?..=last.parse().ok()?)
    })
}

/// The bytes of memory of a node, and how many are free. Without NUMA: of the machine.
pub fn memory(node: usize) -> Option<(usize, usize)> {
    let text = node_file(node, "meminfo").or_else(|| file::read_text("/proc/meminfo"))?;
    let bytes = |name| file::kilobytes(text.as_bytes(), name);
    Some((bytes("MemTotal:")?, bytes("MemFree:")?))
}

/// The pages of a node's hugetlb pool, and how many are free; `None` if it has no pool for that page size.
pub fn hugetlb_pages(node: usize, page: PageSize) -> Option<(usize, usize)> {
    let pool = format!("hugepages/hugepages-{}kB", page.bytes() >> 10);
    let number = |name| node_file(node, &format!("{pool}/{name}"))?.trim().parse().ok();
    Some((number("nr_hugepages")?, number("free_hugepages")?))
}

/// The memory tiers (Linux 6.1), each with its nodes. The lower the number the faster the memory.
pub fn tiers() -> Vec<(usize, NodeSet)> {
    let tier = |name: String| -> Option<(usize, NodeSet)> {
        let tier = name.strip_prefix("memory_tier")?.parse().ok()?;
        let nodes = format!("/sys/devices/virtual/memory_tiering/{name}/nodelist");
        Some((tier, NodeSet::parse(&file::read_text(&nodes)?)?))
    };
    let names = file::list_folder(c"/sys/devices/virtual/memory_tiering");
    names.into_iter().filter_map(tier).collect()
}

/// The nodes on which the cpuset(7) of this process allows memory. `None` if the kernel does not tell.
pub fn allowed_nodes() -> Option<NodeSet> {
    const MPOL_F_MEMS_ALLOWED: usize = 1 << 2;
    let mut nodes = NodeSet::EMPTY;
    let none = std::ptr::null_mut::<c_int>();
    // SAFETY: the mask is MAX_NODES bits long and writable; the mode and the address are not asked for.
    let result = unsafe {
        libc::syscall(
            libc::SYS_get_mempolicy,
            none,
            nodes.0.as_mut_ptr(),
            MAX_NODES,
            0_usize,
            MPOL_F_MEMS_ALLOWED,
        )
    };
    if result == 0 { Some(nodes) } else { allowed_nodes_in_text() }
}

/// The allowed nodes as `/proc/self/status` lists them, for sandboxes that refuse the system call.
fn allowed_nodes_in_text() -> Option<NodeSet> {
    let mut buffer = [0; 8192];
    let text = file::read_start(c"/proc/self/status", &mut buffer).ok()?;
    let text = std::str::from_utf8(text).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Mems_allowed_list:"))?;
    NodeSet::parse(line)
}

/// While this lives, pages that the calling thread touches first come from one node if possible. A mapping that has a policy
/// keeps it. Drop restores the thread.
///
/// The thread has a memory policy, so no mapping is split, and none has a policy afterwards. Where a sandbox refuses policies, the
/// thread runs on the processors of the node, whose memory the kernel takes first.
pub struct PreferNode(Before);

/// The state of the thread before.
#[allow(clippy::large_enum_variant, reason = "one lies on the stack of each thread that populates")]
enum Before {
    Policy(c_int, NodeSet),
    Processors(ProcessorSet),
}

impl PreferNode {
    /// Prefer `node` from now on. Fails where policies are refused if the node has no processor for this process.
    pub fn new(node: usize) -> SysResult<Self> {
        let preferred = policy().and_then(|(mode, nodes)| {
            set_policy(libc::MPOL_PREFERRED, &NodeSet::only(node))?;
            Ok(Before::Policy(mode, nodes))
        });
        preferred.or_else(|_| run_on(node).map(Before::Processors)).map(Self)
    }
}

impl Drop for PreferNode {
    fn drop(&mut self) {
        // Both were valid a moment ago; if the cpuset has shrunk since, the kernel adapts them.
        let _ = match &self.0 {
            Before::Policy(mode, nodes) => set_policy(*mode, nodes),
            Before::Processors(processors) => set_processors(processors),
        };
    }
}

/// Whether a thread may have a memory policy; otherwise the errno and the system call that a sandbox refuses.
pub fn has_policies() -> Result<(), (Errno, &'static str)> {
    let (mode, nodes) = policy().map_err(|errno| (errno, "get_mempolicy"))?;
    set_policy(mode, &nodes).map_err(|errno| (errno, "set_mempolicy"))
}

/// A set of processors, in the layout of the kernel's system calls.
type ProcessorSet = [u64; 128];

/// Have the calling thread run on the processors of a node. Returns those on which it was allowed to run.
fn run_on(node: usize) -> SysResult<ProcessorSet> {
    let mut before = [0_u64; 128];
    // SAFETY: the mask is writable for its size. 0 is the calling thread.
    let known = unsafe {
        let (size, mask) = (size_of_val(&before), before.as_mut_ptr());
        libc::syscall(libc::SYS_sched_getaffinity, 0, size, mask)
    };
    if known < 0 {
        return Err(errno());
    }
    let mut processors = [0_u64; 128];
    let list = node_file(node, "cpulist").ok_or(Errno(libc::ENODEV))?;
    for processor in list_of_numbers(&list).flatten().flatten() {
        if let Some(word) = processors.get_mut(processor / 64) {
            *word |= 1 << (processor % 64);
        }
    }
    // The kernel refuses an empty set, as that of a node without processors.
    set_processors(&processors)?;
    Ok(before)
}

fn set_processors(processors: &ProcessorSet) -> SysResult<()> {
    let (size, mask) = (size_of_val(processors), processors.as_ptr());
    // SAFETY: the mask is readable for its size. 0 is the calling thread.
    let result = unsafe { libc::syscall(libc::SYS_sched_setaffinity, 0, size, mask) };
    if result == 0 { Ok(()) } else { Err(errno()) }
}

/// The memory policy of the calling thread.
fn policy() -> SysResult<(c_int, NodeSet)> {
    let (mut mode, mut nodes) = (0, NodeSet::EMPTY);
    // SAFETY: mode and mask are writable, and the mask is MAX_NODES bits long.
    let result = unsafe {
        libc::syscall(
            libc::SYS_get_mempolicy,
            &raw mut mode,
            nodes.0.as_mut_ptr(),
            MAX_NODES,
            0_usize,
            0_usize,
        )
    };
    if result == 0 { Ok((mode, nodes)) } else { Err(errno()) }
}

fn set_policy(mode: c_int, nodes: &NodeSet) -> SysResult<()> {
    // SAFETY: the mask is MAX_NODES bits long. The kernel reads maxnode - 1 bits.
    let result =
        unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, nodes.0.as_ptr(), MAX_NODES + 1) };
    if result == 0 { Ok(()) } else { Err(errno()) }
}

/// The location of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// On a node.
    Node(usize),
    /// Not present, or the reason why the kernel cannot tell.
    Unknown(Errno),
}

/// Call `visit` with the location of each of the pages at `addresses` (`move_pages(2)` without a destination, or where a sandbox
/// refuses that, `get_mempolicy(2)` for each page that is in memory).
pub fn placement(addresses: &[usize], mut visit: impl FnMut(usize, Placement)) -> SysResult<()> {
    in_batches(addresses, |pages, status| {
        match move_pages(pages, None, status) {
            Err(errno) if is_refusal(errno) => {
                for (page, status) in pages.iter().zip(status.iter_mut()) {
                    *status = node_of(*page)?;
                }
            }
            outcome => outcome?,
        }
        for (page, status) in pages.iter().zip(status) {
            let at = usize::try_from(*status)
                .map_or(Placement::Unknown(Errno(-*status)), Placement::Node);
            visit(page.addr(), at);
        }
        Ok(())
    })
}

/// Whether an errno is the answer of a sandbox.
pub const fn is_refusal(errno: Errno) -> bool {
    matches!(errno.0, libc::EPERM | libc::ENOSYS | libc::EACCES)
}

/// The node of a page that is in memory.
fn node_of(page: *mut c_void) -> SysResult<c_int> {
    const MPOL_F_NODE_OF_ADDRESS: usize = 1 << 0 | 1 << 1;
    let mut node = 0;
    let no_mask = std::ptr::null_mut::<c_ulong>();
    // SAFETY: the node is writable, and no mask is asked for.
    let result = unsafe {
        libc::syscall(
            libc::SYS_get_mempolicy,
            &raw mut node,
            no_mask,
            0_usize,
            page,
            MPOL_F_NODE_OF_ADDRESS,
        )
    };
    if result == 0 { Ok(node) } else { Err(errno()) }
}

/// Whether this process may move pages; otherwise the errno.
pub fn can_move() -> SysResult<()> {
    move_pages(&[], None, &mut [])
}

/// Move the pages at `addresses` to `node`. For a huge page one address suffices.
///
/// Call [`placement`] afterwards to learn which pages moved: kernels differ in what they report if some did not.
pub fn migrate(addresses: &[usize], node: usize) -> SysResult<()> {
    let node = c_int::try_from(node).map_err(|_| Errno(libc::ENODEV))?;
    let nodes = [node; BATCH];
    in_batches(addresses, |pages, status| {
        let _ = move_pages(pages, nodes.get(..pages.len()), status);
        Ok(())
    })
}

/// The pages of one call: 4 MiB of base pages, or 2 GiB of huge ones. The arrays are on the stack, because there may be no
/// memory.
const BATCH: usize = 1024;

fn in_batches(
    addresses: &[usize],
    mut call: impl FnMut(&[*mut c_void], &mut [c_int]) -> SysResult<()>,
) -> SysResult<()> {
    let mut pages = [std::ptr::null_mut(); BATCH];
    let mut status = [0; BATCH];
    for batch in addresses.chunks(BATCH) {
        for (page, address) in pages.iter_mut().zip(batch) {
            *page = std::ptr::with_exposed_provenance_mut(*address);
        }
        call(&pages[..batch.len()], &mut status[..batch.len()])?;
    }
    Ok(())
}

fn move_pages(
    pages: &[*mut c_void],
    nodes: Option<&[c_int]>,
    status: &mut [c_int],
) -> SysResult<()> {
    const MPOL_MF_MOVE: c_int = 2;
    // SAFETY: the three arrays have one element per page; moving a page does not change its bytes.
    let result = unsafe {
        libc::syscall(
            libc::SYS_move_pages,
            0,
            pages.len(),
            pages.as_ptr(),
            nodes.map_or(std::ptr::null(), <[c_int]>::as_ptr),
            status.as_mut_ptr(),
            MPOL_MF_MOVE,
        )
    };
    // A positive result counts pages that did not move.
    if result >= 0 { Ok(()) } else { Err(errno()) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::mangled;
    use crate::os::mapping::Mapping;

    #[test]
    fn node_lists_are_the_kernels() {
        let set = NodeSet::parse("0-2,5\n").unwrap();
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 1, 2, 5]);
        assert_eq!(set.to_string(), "0,1,2,5");
        assert_eq!(NodeSet::parse(""), Some(NodeSet::EMPTY));
        assert_eq!(NodeSet::parse("x"), None);
        assert_eq!(set.len(), 4);
        assert!(!set.contains(usize::MAX) && !set.is_empty());
    }

    #[test]
    fn mangled_lists() {
        mangled::texts(&["0\n", "0-2,5\n", "0-3,8-11,64-1023\n"], |text| {
            let Ok(text) = std::str::from_utf8(text) else { return };
            let counted = count(text);
            let Some(set) = NodeSet::parse(text) else { return };
            assert!(set.iter().all(|node| node < MAX_NODES));
            assert_eq!(NodeSet::parse(&set.to_string()), Some(set.clone()));
            assert!(counted.is_none_or(|counted| counted >= set.len()));
        });
        assert_eq!((count("0-2,5\n"), count(""), count("3-1")), (Some(4), Some(0), None));
    }

    #[test]
    fn a_touched_page_is_on_a_memory_node() {
        let mut mapping = Mapping::of_base_pages(1);
        mapping.bytes().fill(1);
        let mut places = Vec::new();
        placement(&[mapping.range().start()], |_, at| places.push(at)).unwrap();
        assert!(matches!(places[..], [Placement::Node(node)] if memory_nodes().contains(node)));
    }

    #[test]
    fn every_memory_node_is_described() {
        let allowed = allowed_nodes().unwrap();
        let tiers = tiers();
        for node in memory_nodes().iter() {
            assert_eq!(distance(node, node), Some(10));
            assert!(distances(node).unwrap().all(|(_, distance)| distance >= 10));
            assert!(memory(node).is_some_and(|(total, free)| total > free && free > 0));
            assert!(cpus(node).is_some_and(|cpus| cpus < 1 << 16));
            assert!(tiers.is_empty() || tiers.iter().any(|(_, nodes)| nodes.contains(node)));
        }
        assert!(memory_nodes().iter().any(|node| allowed.contains(node)));
        assert_eq!((distance(MAX_NODES, 0), cpus(MAX_NODES)), (None, None));
        assert_eq!(hugetlb_pages(0, PageSize::new(1 << 40).unwrap()), None);
    }

    #[test]
    fn preferring_a_node_leaves_the_policy_as_it_was() {
        let before = policy().unwrap();
        let node = memory_nodes().iter().next().unwrap();
        let preferred = PreferNode::new(node).unwrap();
        assert_eq!(policy().unwrap().0, libc::MPOL_PREFERRED);
        drop(preferred);
        assert_eq!(policy().unwrap(), before);
    }
}
