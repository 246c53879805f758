//! The contents of the heap in numbers: for `gmemHeapStats`, as JSON, and for `GMEM_STATS=1` at exit.
//!
//! [`Counters`] is the only list of the statistics. `gmemHeapStats` copies it, the JSON prints its table, and a test compares
//! `libgmem.h` with it.

use std::fmt::Write as _;
use std::sync::atomic::Ordering;

use super::page_map::{self, BASE_PAGE, TOTALS};
use super::{control, device_blocks, foreign_block, limits, profile, settings};
use crate::os::{file, smaps};

/// Makes the structure, and a table of its fields' names and descriptions, of one list.
macro_rules! counters {
    ($($name:ident: $description:literal,)*) => {
        /// `gmemHeapStats_t` of `libgmem.h`: bytes unless the description says otherwise.
        #[repr(C)]
        #[derive(Debug, Default, Clone, Copy)]
        pub struct Counters {
            /// Bytes of the structure.
            pub size: usize,
            $(#[doc = $description] pub $name: usize,)*
        }

        impl Counters {
            /// Name, description and value of each field behind the size.
            fn table(&self) -> impl Iterator<Item = (&'static str, &'static str, usize)> {
                [$((stringify!($name), $description, self.$name)),*].into_iter()
            }
        }
    };
}

counters! {
    live: "allocated blocks, including thread caches (at most 8 MiB in transit) and the slack of pages of small blocks",
    idle: "freed, and kept for reuse until released",
    metadata: "the heap's own data, including reserved space",
    retained: "unused address space; a part of it is resident where a 2 MiB page is partly in use",
    mapped: "all address space",
    resident: "in memory",
    huge: "resident memory on huge pages",
    released: "released to the kernel so far",
    soft_limit: "0: none",
    hard_limit: "0: none",
    refused: "times that the hard limit refused memory; an allocation may count several times",
    foreign_blocks: "calls that passed a block of another allocator",
    arenas: "arenas in use",
    device_live: "live blocks in a device's memory; not part of `live`, and not limited",
    device_idle: "freed blocks in a device's memory, kept for reuse",
    device_refused: "large blocks that fell back to ordinary memory because the device had none left",
}

/// The counters and each arena's part.
#[derive(Debug, Default, Clone)]
pub struct Stats {
    /// The whole heap.
    pub counters: Counters,
    /// Each arena's part.
    pub arenas: Vec<Arena>,
}

/// One of jemalloc's arenas.
#[derive(Debug, Default, Clone, Copy)]
pub struct Arena {
    /// Its number.
    pub index: usize,
    /// Threads that allocate from it.
    pub threads: usize,
    /// Bytes, as for the whole heap.
    pub live: usize,
    /// See `live`.
    pub idle: usize,
}

/// The heap as it is now. Other threads go on meanwhile, so the numbers need not add up to the byte.
pub fn read() -> Stats {
    let arenas = arenas();
    let live: usize = arenas.iter().map(|arena| arena.live).sum();
    let kept = TOTALS.kept.load(Ordering::Relaxed);
    let idle_in_arenas: usize = arenas.iter().map(|arena| arena.idle).sum();
    let in_use = TOTALS.in_use.load(Ordering::Relaxed);
    let mapped = TOTALS.mapped.load(Ordering::Relaxed);
    let of_devices = &device_blocks::TOTALS;
    let device_live = of_devices.live.load(Ordering::Relaxed);
    let device_idle = of_devices.idle.load(Ordering::Relaxed);
    let (resident, huge) = resident_and_huge();
    let (soft_limit, hard_limit) = limits::get();
    let counters = Counters {
        size: size_of::<Counters>(),
        live,
        idle: idle_in_arenas + kept,
        metadata: in_use.saturating_sub(live + idle_in_arenas),
        retained: mapped.saturating_sub(in_use + kept + device_live + device_idle),
        mapped,
        resident,
        huge,
        released: TOTALS.dropped.load(Ordering::Relaxed),
        soft_limit,
        hard_limit,
        refused: limits::refused(),
        foreign_blocks: foreign_block::seen(),
        arenas: arenas.len(),
        device_live,
        device_idle,
        device_refused: of_devices.refused.load(Ordering::Relaxed),
    };
    Stats { counters, arenas }
}

/// Bytes of the heap in memory, and on huge pages.
fn resident_and_huge() -> (usize, usize) {
    let (mut resident, mut huge) = (0, 0);
    let seen = smaps::each_mapping(|mapping| {
        // The kernel joins neighbouring mappings, but hardly ever the heap's with another's: the heap's are whole heap
        // pages.
        if page_map::is_owned(mapping.start) {
            resident += mapping.bytes;
            huge += mapping.huge;
        }
    });
    match seen {
        Ok(()) => (resident, huge),
        // Without /proc only an upper bound is known.
        Err(_) => (TOTALS.charged.load(Ordering::Relaxed), 0),
    }
}

impl Stats {
    /// One JSON object.
    pub fn to_json(&self) -> String {
        let mut json = String::from("{");
        // Writing to a String does not fail.
        for (name, _, value) in self.counters.table().filter(|(name, ..)| *name != "arenas") {
            let _ = write!(json, "\"{name}\":{value},");
        }
        json.push_str("\"arenas\":[");
        for (number, Arena { index, threads, live, idle }) in self.arenas.iter().enumerate() {
            let comma = if number == 0 { "" } else { "," };
            let _ = write!(
                json,
                "{comma}{{\"index\":{index},\"threads\":{threads},\"live\":{live},\"idle\":{idle}}}"
            );
        }
        json.push_str("]}");
        json
    }

    fn to_lines(&self) -> String {
        let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
        let Counters { live, idle, metadata, retained, resident, huge, released, .. } =
            self.counters;
        format!(
            "libgmem: heap: live {:.1} MiB, idle {:.1}, metadata {:.1}, retained {:.1}; resident {:.1}, \
             on huge pages {:.1}; released {:.1}\n",
            mib(live),
            mib(idle),
            mib(metadata),
            mib(retained),
            mib(resident),
            mib(huge),
            mib(released)
        )
    }
}

/// Runs at the end of the process, after `exit`'s handlers.
extern "C" fn print_if_asked() {
    if settings::stats_at_exit() {
        file::write_stderr(read().to_lines().as_bytes());
    }
    profile::dump_at_exit();
}

#[used]
#[unsafe(link_section = ".fini_array")]
static AT_EXIT: extern "C" fn() = print_if_asked;

fn arenas() -> Vec<Arena> {
    // jemalloc gathers its numbers when a new epoch begins.
    control::set(c"epoch", 1_u64);
    (0..control::number::<u32>(c"arenas.narenas", None).unwrap_or(0))
        .filter_map(|arena| {
            let pages = |name| control::number::<usize>(name, Some(arena));
            Some(Arena {
                index: arena as usize,
                threads: control::number::<u32>(c"stats.arenas.0.nthreads", Some(arena))? as usize,
                live: pages(c"stats.arenas.0.pactive")? * BASE_PAGE,
                idle: (pages(c"stats.arenas.0.pdirty")? + pages(c"stats.arenas.0.pmuzzy")?)
                    * BASE_PAGE,
            })
        })
        .filter(|arena| arena.threads + arena.live + arena.idle > 0)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_live_block_is_counted_and_an_idle_one_moves_over() {
        const SIZE: usize = 96 << 20;
        let block = super::super::malloc(SIZE);
        let with = read();
        let Counters { live, idle, mapped, .. } = with.counters;
        assert!(live >= SIZE && mapped >= live + idle, "{with:?}");
        // SAFETY: live, and not used again.
        unsafe { super::super::release(block) };
        let json = with.to_json();
        assert!(json.starts_with("{\"live\":") && json.ends_with("]}"), "{json}");
        assert!(with.to_lines().contains("MiB"));
        assert!(!with.arenas.is_empty());
    }

    /// The words of a text, with its markup and line breaks removed.
    fn words(text: &str) -> Vec<&str> {
        text.split(|letter: char| letter.is_whitespace() || letter == '*' || letter == '`')
            .filter(|word| !word.is_empty())
            .collect()
    }

    #[test]
    fn the_header_documents_each_counter_in_order() {
        let header = include_str!("../../include/libgmem.h");
        let end = header.find("} gmemHeapStats_t;").unwrap_or(0);
        let start = header[..end].rfind("typedef struct {").unwrap_or(0);
        let fields: Vec<_> = header[start..end].split("size_t ").skip(2).collect();
        let table: Vec<_> = Counters::default().table().collect();
        assert_eq!(fields.len(), table.len());
        for (field, (name, description, _)) in fields.iter().zip(table) {
            let (declared, comment) = field.split_once("/**<").unwrap_or((field, ""));
            assert_eq!(declared.trim(), format!("{name};"));
            let comment = comment.split("*/").next().unwrap_or_default();
            assert_eq!(words(comment), words(description), "libgmem.h, {name}");
        }
    }
}
