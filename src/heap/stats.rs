//! What the heap holds: for `gmemHeapStats`, as JSON, and for `GMEM_STATS=1` at exit.

use std::fmt::Write as _;
use std::sync::atomic::Ordering;

use super::page_map::{self, TOTALS};
use super::{control, device_blocks, foreign, limits, settings};
use crate::os::{file, smaps};

/// Bytes, unless the name says otherwise.
#[derive(Debug, Default, Clone)]
pub struct Stats {
    /// Live blocks, with what threads keep or pass on and what pages of small blocks have left over.
    pub live: usize,
    /// Freed, and kept for the next allocation until it goes back.
    pub idle: usize,
    /// jemalloc's own data, and address space for it.
    pub metadata: usize,
    /// Address space with nothing in use.
    pub retained: usize,
    /// Address space of the heap, all of it.
    pub mapped: usize,
    /// In memory.
    pub resident: usize,
    /// Of the resident memory: on huge pages.
    pub huge: usize,
    /// Given back to the kernel so far.
    pub given_back: usize,
    /// The limits, 0 for none.
    pub soft_limit: usize,
    /// See `soft_limit`.
    pub hard_limit: usize,
    /// Times that the hard limit refused memory.
    pub refused: usize,
    /// Calls that brought a block of another allocator.
    pub foreign: usize,
    /// Live blocks in the memory of a device.
    pub device_live: usize,
    /// Freed ones, kept for the next.
    pub device_idle: usize,
    /// Blocks for which the device had no memory, so that they are ordinary.
    pub device_refused: usize,
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

/// The heap as it is now. Other threads go on meanwhile, so the numbers need not fit to the byte.
pub fn read() -> Stats {
    let mut stats = Stats { arenas: arenas(), ..Stats::default() };
    for arena in &stats.arenas {
        stats.live += arena.live;
        stats.idle += arena.idle;
    }
    let in_use = TOTALS.in_use.load(Ordering::Relaxed);
    stats.metadata = in_use.saturating_sub(stats.live + stats.idle);
    stats.mapped = TOTALS.mapped.load(Ordering::Relaxed);
    let of_devices = &device_blocks::TOTALS;
    stats.device_live = of_devices.live.load(Ordering::Relaxed);
    stats.device_idle = of_devices.idle.load(Ordering::Relaxed);
    stats.device_refused = of_devices.refused.load(Ordering::Relaxed);
    stats.retained = stats.mapped.saturating_sub(in_use + stats.device_live + stats.device_idle);
    stats.given_back = TOTALS.dropped.load(Ordering::Relaxed);
    let seen = smaps::each_mapping(|mapping| {
        // The kernel joins neighbours, but hardly ever the heap's with others': it lies on whole huge pages.
        if page_map::is_owned(mapping.start) {
            stats.resident += mapping.bytes;
            stats.huge += mapping.huge;
        }
    });
    if seen.is_err() {
        // Without /proc: an upper bound.
        stats.resident = page_map::resident_at_most();
    }
    (stats.soft_limit, stats.hard_limit) = limits::get();
    stats.refused = limits::refused();
    stats.foreign = foreign::seen();
    stats
}

impl Stats {
    /// As one JSON object.
    pub fn to_json(&self) -> String {
        let Self {
            live,
            idle,
            metadata,
            retained,
            mapped,
            resident,
            huge,
            given_back,
            soft_limit,
            hard_limit,
            refused,
            foreign,
            device_live,
            device_idle,
            device_refused,
            arenas,
        } = self;
        let mut json = format!(
            "{{\"live\":{live},\"idle\":{idle},\"metadata\":{metadata},\"retained\":{retained},\
             \"mapped\":{mapped},\"resident\":{resident},\"huge\":{huge},\"given_back\":{given_back},\
             \"soft_limit\":{soft_limit},\"hard_limit\":{hard_limit},\"refused\":{refused},\
             \"foreign\":{foreign},\"device_live\":{device_live},\
             \"device_idle\":{device_idle},\"device_refused\":{device_refused},\"arenas\":["
        );
        for (number, Arena { index, threads, live, idle }) in arenas.iter().enumerate() {
            let comma = if number == 0 { "" } else { "," };
            // Writing to a String does not fail.
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
        format!(
            "libgmem: heap: live {:.1} MiB, idle {:.1}, metadata {:.1}, retained {:.1}; resident {:.1}, \
             on huge pages {:.1}; given back {:.1}\n",
            mib(self.live),
            mib(self.idle),
            mib(self.metadata),
            mib(self.retained),
            mib(self.resident),
            mib(self.huge),
            mib(self.given_back)
        )
    }
}

/// At the end of the process, after `exit`'s handlers.
extern "C" fn print_if_asked() {
    if settings::stats_at_exit() {
        file::write_stderr(read().to_lines().as_bytes());
    }
}

#[used]
#[unsafe(link_section = ".fini_array")]
static AT_EXIT: extern "C" fn() = print_if_asked;

fn arenas() -> Vec<Arena> {
    // jemalloc gathers its numbers when told that a new epoch begins.
    control::set(c"epoch", 1_u64);
    // jemalloc's pages are not the kernel's.
    let page = control::number::<usize>(c"arenas.page", None).unwrap_or(0);
    (0..control::number::<u32>(c"arenas.narenas", None).unwrap_or(0))
        .filter_map(|arena| {
            let pages = |name| control::number::<usize>(name, Some(arena));
            Some(Arena {
                index: arena as usize,
                threads: control::number::<u32>(c"stats.arenas.0.nthreads", Some(arena))? as usize,
                live: pages(c"stats.arenas.0.pactive")? * page,
                idle: (pages(c"stats.arenas.0.pdirty")? + pages(c"stats.arenas.0.pmuzzy")?) * page,
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
        assert!(with.live >= SIZE && with.mapped >= with.live + with.idle, "{with:?}");
        // SAFETY: live, and not used again.
        unsafe { super::super::release(block) };
        let json = with.to_json();
        assert!(json.starts_with("{\"live\":") && json.ends_with("]}"), "{json}");
        assert!(with.to_lines().contains("MiB"));
        assert!(!with.arenas.is_empty());
    }
}
