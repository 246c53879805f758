//! The machine's memory nodes and its kernel's features, as data, text and JSON.

use std::ffi::CStr;
use std::fmt::Write as _;

use crate::device;
use crate::error::{Error, Result};
use crate::os::machine::{self, HugePageModes};
use crate::os::probe::Feature;
use crate::os::{gmem, mapping, numa};
use crate::reserve;

/// One memory node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Heterogeneous NUMA id, as for `gmemPrefetch`.
    pub id: usize,
    /// The device that the memory belongs to.
    pub device: &'static CStr,
    /// Processors online on the node; 0 for a memory-only node.
    pub cpus: usize,
    /// Memory tier, where the kernel has tiers. Lower is faster.
    pub tier: Option<usize>,
    /// Whether this process may take memory from it.
    pub is_allowed: bool,
    /// Size in bytes; `None` where a device does not report it.
    pub total: Option<usize>,
    /// Free bytes.
    pub free: Option<usize>,
    /// Pages in the hugetlb pool for GMEM pages.
    pub hugetlb_total: usize,
    /// Free pages in that pool.
    pub hugetlb_free: usize,
}

/// The machine at one moment.
#[derive(Debug, Clone)]
pub struct Topology {
    /// The nodes with memory in ascending order, then those of the current device.
    pub nodes: Vec<Node>,
    /// Size of the kernel's page in bytes.
    pub base_page: usize,
    /// Size of the GMEM page in bytes.
    pub gmem_page: usize,
    /// Size of the kernel's huge page in bytes.
    pub huge_page: usize,
    /// Whether the kernel may make huge pages of the GMEM page's size, which the heap needs.
    pub has_huge_gmem_pages: bool,
    /// The modes of transparent huge pages.
    pub huge_pages: HugePageModes,
    /// `kernel.numa_balancing`.
    pub numa_balancing: Option<usize>,
    /// Whether idle memory moves to slower nodes.
    pub demotion: Option<bool>,
    /// Whether pages are aged by the multi-generational lists.
    pub multi_generational: Option<bool>,
    /// Bytes of swap space.
    pub swap_total: usize,
    /// Free bytes of swap space.
    pub swap_free: usize,
    /// The counters of a GMEM kernel, by its own names.
    pub gmem_statistics: Option<Vec<(String, u64)>>,
    /// Kernel features that work here.
    pub features: Vec<Feature>,
    /// The name of the current device; `None` if it cannot be used.
    pub device: Option<&'static str>,
    /// Why it is the current device, or why it cannot be used.
    pub device_reason: String,
}

/// The machine now.
pub fn read() -> Result<Topology> {
    // More than the data and its text need.
    reserve::ask(1 << 18, "the machine's topology")?;
    let (swap_total, swap_free) = machine::swap().unwrap_or_default();
    let (device, device_reason) = match device::explain() {
        Ok((name, reason)) => (Some(name), reason.into_owned()),
        Err(failure) => (None, failure.to_string()),
    };
    Ok(Topology {
        nodes: nodes(),
        base_page: mapping::base_page().bytes(),
        gmem_page: mapping::gmem_page().bytes(),
        huge_page: mapping::huge_page().bytes(),
        has_huge_gmem_pages: machine::has_huge_gmem_pages(),
        huge_pages: machine::huge_page_modes(),
        numa_balancing: machine::numa_balancing(),
        demotion: machine::demotion(),
        multi_generational: machine::multi_generational(),
        swap_total,
        swap_free,
        gmem_statistics: gmem::statistics(),
        features: Feature::ALL.into_iter().filter(|feature| feature.works()).collect(),
        device,
        device_reason,
    })
}

/// The nodes with memory now; only the machine's if the current device cannot be used.
fn nodes() -> Vec<Node> {
    let tiers = numa::tiers();
    let allowed = numa::allowed_nodes();
    let of_machine = |id| {
        let (total, free) = numa::memory(id).unwrap_or_default();
        let pool = numa::hugetlb_pages(id, mapping::gmem_page());
        let (hugetlb_total, hugetlb_free) = pool.unwrap_or_default();
        Node {
            id,
            device: device::host_name(),
            // On a kernel without NUMA, all processors belong to the only node.
            cpus: numa::cpus(id).unwrap_or_else(machine::cpus),
            tier: tiers.iter().find(|(_, nodes)| nodes.contains(id)).map(|(tier, _)| *tier),
            is_allowed: allowed.as_ref().is_none_or(|allowed| allowed.contains(id)),
            total: Some(total),
            free: Some(free),
            hugetlb_total,
            hugetlb_free,
        }
    };
    let mut nodes: Vec<_> = numa::memory_nodes().iter().map(of_machine).collect();
    if let Ok(current) = device::current() {
        nodes.extend(current.nodes().into_iter().map(|node| Node {
            id: node.id,
            device: current.c_name(),
            cpus: 0,
            tier: None,
            is_allowed: true,
            total: node.total,
            free: node.free,
            hugetlb_total: 0,
            hugetlb_free: 0,
        }));
    }
    nodes
}

/// Distance from node `from` to memory on node `to`; 10 is a node's distance to itself. `from` may
/// be a node without memory.
pub fn distance(from: i32, to: i32) -> Result<i32> {
    let unknown =
        |hnid: i32| Error::NotAMemoryNode { hnid, nodes: numa::memory_nodes().to_string() };
    let to_node = usize::try_from(to).map_err(|_| unknown(to))?;
    if !numa::memory_nodes().contains(to_node) {
        return Err(unknown(to));
    }
    let from_node = usize::try_from(from).map_err(|_| unknown(from))?;
    let distance = known_distance(from_node, to_node).ok_or_else(|| unknown(from))?;
    Ok(i32::try_from(distance).unwrap_or(i32::MAX))
}

/// The firmware's value, or the distance of a node to itself.
fn known_distance(from: usize, to: usize) -> Option<usize> {
    const LOCAL: usize = 10;
    numa::distance(from, to).or((from == to).then_some(LOCAL))
}

impl Topology {
    /// Distances from `from` to each node, in their order.
    fn distances(&self, from: usize) -> Vec<Option<usize>> {
        let known: Vec<_> = numa::distances(from).map(Iterator::collect).unwrap_or_default();
        let distance = |to| known.iter().find(|(node, _)| *node == to).map(|(_, tenths)| *tenths);
        self.nodes.iter().map(|to| distance(to.id)).collect()
    }

    /// A table of the nodes, three lines about the machine and one about the current device; one more on a GMEM kernel.
    pub fn to_text(&self) -> String {
        let mut text =
            String::from("node device  CPUs tier       total        free hugetlb  distance to");
        for node in &self.nodes {
            let _ = write!(text, " {:>3}", node.id);
        }
        text.push('\n');
        for node in &self.nodes {
            let cpus = if node.cpus == 0 { "none".to_owned() } else { node.cpus.to_string() };
            let _ = write!(
                text,
                "{:>4} {:<7} {cpus:>4} {:>4} {:>7} MiB {:>7} MiB {:>7}             ",
                node.id,
                node.device.to_string_lossy(),
                or_dash(node.tier),
                or_dash(node.total.map(|bytes| bytes >> 20)),
                or_dash(node.free.map(|bytes| bytes >> 20)),
                format!("{}/{}", node.hugetlb_free, node.hugetlb_total),
            );
            for distance in self.distances(node.id) {
                let _ = write!(text, "{:>4}", or_dash(distance));
            }
            text.push_str(if node.is_allowed { "\n" } else { "  not for this process\n" });
        }
        let modes = &self.huge_pages;
        let word = |mode: &Option<String>| mode.clone().unwrap_or_else(|| "-".to_owned());
        let _ = writeln!(
            text,
            "pages: {} KiB, GMEM {} KiB, huge {} KiB; huge pages: {}, made by {}, in shared memory {}",
            self.base_page >> 10,
            self.gmem_page >> 10,
            self.huge_page >> 10,
            word(&modes.enabled),
            word(&modes.defrag),
            word(&modes.shared)
        );
        if !self.has_huge_gmem_pages {
            text.push_str(
                "the heap has no huge pages, because the kernel makes none of 2 MiB; as root: \
                 echo inherit > /sys/kernel/mm/transparent_hugepage/hugepages-2048kB/enabled (Linux 6.8)\n",
            );
        }
        let switch = |on: Option<bool>| match on {
            Some(true) => "on",
            Some(false) => "off",
            None => "-",
        };
        let _ = writeln!(
            text,
            "kernel: numa_balancing {}, demotion {}, lru_gen {}, swap {} MiB ({} free)",
            or_dash(self.numa_balancing),
            switch(self.demotion),
            switch(self.multi_generational),
            self.swap_total >> 20,
            self.swap_free >> 20
        );
        if let Some(counters) = &self.gmem_statistics {
            let listed: Vec<_> =
                counters.iter().map(|(name, count)| format!("{name} {count}")).collect();
            let _ = writeln!(text, "GMEM kernel: {}", listed.join(", "));
        }
        let listed = |works: bool| {
            let names: Vec<_> = Feature::ALL
                .iter()
                .filter(|feature| self.features.contains(feature) == works)
                .map(|feature| feature.name())
                .collect();
            if names.is_empty() { "-".to_owned() } else { names.join(" ") }
        };
        let _ = writeln!(text, "it has: {}; it lacks: {}", listed(true), listed(false));
        if let Some(remedy) = self.sandbox_remedy() {
            let _ = writeln!(
                text,
                "a sandbox refuses system calls that place pages on nodes; {remedy}"
            );
        }
        let _ = writeln!(text, "device: {}, {}", self.device.unwrap_or("none"), self.device_reason);
        text
    }

    /// How a container is allowed what places pages on nodes; `None` if nothing is refused, or there is one node.
    fn sandbox_remedy(&self) -> Option<&'static str> {
        let has = |feature| self.features.contains(&feature);
        let of_machine = |node: &&Node| node.device == device::host_name();
        if self.nodes.iter().filter(of_machine).count() < 2 {
            return None;
        }
        match (has(Feature::MemoryPolicy), has(Feature::MovePages)) {
            (true, true) => None,
            (false, true) => {
                Some("docker run --cap-add SYS_NICE allows get_mempolicy and set_mempolicy")
            }
            (_, false) => Some(
                "docker run --security-opt seccomp=FILE with a profile that allows move_pages (and \
                 get_mempolicy, set_mempolicy, as --cap-add SYS_NICE does)",
            ),
        }
    }

    /// One JSON object, with `null` for what the kernel lacks.
    pub fn to_json(&self) -> String {
        let modes = &self.huge_pages;
        let mut json = format!(
            "{{\"base_page\":{},\"gmem_page\":{},\"huge_page\":{},\"thp_enabled\":{},\"thp_defrag\":{},\
             \"thp_shmem\":{},\"numa_balancing\":{},\"demotion\":{},\"lru_gen\":{},\"swap_total\":{},\
             \"swap_free\":{},\"features\":{{",
            self.base_page,
            self.gmem_page,
            self.huge_page,
            or_null(modes.enabled.as_ref().map(|word| format!("{word:?}"))),
            or_null(modes.defrag.as_ref().map(|word| format!("{word:?}"))),
            or_null(modes.shared.as_ref().map(|word| format!("{word:?}"))),
            or_null(self.numa_balancing),
            or_null(self.demotion),
            or_null(self.multi_generational),
            self.swap_total,
            self.swap_free,
        );
        let features: Vec<_> = Feature::ALL
            .iter()
            .map(|feature| format!("\"{}\":{}", feature.name(), self.features.contains(feature)))
            .collect();
        let counters = self.gmem_statistics.as_ref().map(|counters| {
            let listed: Vec<_> =
                counters.iter().map(|(name, count)| format!("{name:?}:{count}")).collect();
            format!("{{{}}}", listed.join(","))
        });
        let nodes: Vec<_> = self.nodes.iter().map(|node| self.node_to_json(node)).collect();
        let _ = write!(
            json,
            "{}}},\"device\":{},\"device_reason\":{},\"gmem_statistics\":{},\"nodes\":[{}]}}",
            features.join(","),
            or_null(self.device.map(|name| format!("{name:?}"))),
            json_text(&self.device_reason),
            or_null(counters),
            nodes.join(",")
        );
        json
    }

    fn node_to_json(&self, node: &Node) -> String {
        let distances: Vec<_> = self.distances(node.id).into_iter().map(or_null).collect();
        format!(
            "{{\"node\":{},\"device\":{:?},\"cpus\":{},\"tier\":{},\"allowed\":{},\"total\":{},\"free\":{},\
             \"hugetlb_total\":{},\"hugetlb_free\":{},\"distances\":[{}]}}",
            node.id,
            node.device.to_string_lossy(),
            node.cpus,
            or_null(node.tier),
            node.is_allowed,
            or_null(node.total),
            or_null(node.free),
            node.hugetlb_total,
            node.hugetlb_free,
            distances.join(",")
        )
    }
}

/// A JSON string. Control characters become spaces.
fn json_text(text: &str) -> String {
    let mut json = String::from("\"");
    for letter in text.chars() {
        match letter {
            '"' | '\\' => json.extend(['\\', letter]),
            letter if letter.is_control() => json.push(' '),
            letter => json.push(letter),
        }
    }
    json.push('"');
    json
}

fn or_dash(number: Option<usize>) -> String {
    number.map_or_else(|| "-".to_owned(), |number| number.to_string())
}

fn or_null(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "null".to_owned(), |value| value.to_string())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Two nodes, one of them memory-only, and a kernel that lacks most features.
    fn machine() -> Topology {
        let node = |id, cpus, tier| Node {
            id,
            device: c"host",
            cpus,
            tier,
            is_allowed: id != 2,
            total: (id < 2).then_some(1 << 30),
            free: (id < 2).then_some(1 << 29),
            hugetlb_total: 8,
            hugetlb_free: 7,
        };
        Topology {
            nodes: vec![node(0, 64, Some(4)), node(2, 0, None)],
            base_page: 4096,
            gmem_page: 2 << 20,
            huge_page: 2 << 20,
            has_huge_gmem_pages: true,
            huge_pages: HugePageModes { enabled: Some("madvise".into()), ..Default::default() },
            numa_balancing: Some(2),
            demotion: None,
            multi_generational: Some(true),
            swap_total: 3 << 20,
            swap_free: 1 << 20,
            gmem_statistics: Some(vec![
                ("migrating \"H2D\"".into(), 3),
                ("migrating D2H".into(), 0),
            ]),
            features: vec![Feature::Collapse, Feature::MemoryPolicy, Feature::MovePages],
            device: Some("host"),
            device_reason: "chosen: the kernel has no \"GMEM\"".into(),
        }
    }

    #[test]
    fn text_says_what_is_there_and_what_is_not() {
        let text = machine().to_text();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 8, "{text}");
        assert!(lines[1].contains("host      64    4    1024 MiB     512 MiB     7/8"), "{text}");
        assert!(
            lines[2].contains("none    -       - MiB       - MiB")
                && lines[2].ends_with("not for this process")
        );
        assert!(lines[3].ends_with("huge pages: madvise, made by -, in shared memory -"));
        assert!(lines[4].contains("numa_balancing 2, demotion -, lru_gen on, swap 3 MiB (1 free)"));
        assert_eq!(lines[5], "GMEM kernel: migrating \"H2D\" 3, migrating D2H 0");
        assert!(lines[6].starts_with(
            "it has: MADV_COLLAPSE set_mempolicy move_pages; it lacks: MADV_POPULATE"
        ));
        assert_eq!(lines[7], "device: host, chosen: the kernel has no \"GMEM\"");
    }

    #[test]
    fn json_has_null_for_what_the_kernel_lacks() {
        let json = machine().to_json();
        for part in [
            "{\"base_page\":4096,\"gmem_page\":2097152,\"huge_page\":2097152,\"thp_enabled\":\"madvise\",\"thp_defrag\":null,",
            "\"numa_balancing\":2,\"demotion\":null,\"lru_gen\":true,\"swap_total\":3145728,",
            "\"MADV_COLLAPSE\":true,\"PAGEMAP_SCAN\":false,",
            "{\"node\":2,\"device\":\"host\",\"cpus\":0,\"tier\":null,\"allowed\":false,\"total\":null,\"free\":null,",
            "},\"device\":\"host\",\"device_reason\":\"chosen: the kernel has no \\\"GMEM\\\"\",\"gmem_statistics\":{\"migrating \\\"H2D\\\"\":3,\"migrating D2H\":0},\"nodes\":[{\"node\":0,",
            "\"tier\":4,\"allowed\":true,\"total\":1073741824,",
        ] {
            assert!(json.contains(part), "{part} in {json}");
        }
        assert!(json.ends_with("]}]}"), "{json}");
    }

    #[test]
    fn this_machine_has_a_node_for_us() {
        let here = read().unwrap();
        assert!(here.nodes.iter().any(|node| node.is_allowed && node.total > node.free));
        let first = i32::try_from(here.nodes[0].id).unwrap();
        assert_eq!(distance(first, first), Ok(10));
        assert!(distance(first, -1).is_err() && distance(-1, first).is_err());
        assert!(distance(i32::MAX, first).is_err());
    }
}
