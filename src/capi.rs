//! The C functions of `libgmem.h`; its comments are their documentation.
//!
//! Each takes the arguments apart, calls one verb inside the guard, and gives a number back.

use std::ffi::{CStr, c_char, c_int, c_longlong, c_ulong, c_void};
use std::{mem, ptr, slice};

use crate::error::{Error, Result};
use crate::guard::guard;
use crate::os::probe::Feature;
use crate::os::{faults, mapping};
use crate::residency::tally::Tally;
use crate::residency::{PageState, View};
use crate::{device, free_eager, heap, last_error, prefetch, residency, stream, topology};

// ---- structures that grow, and text ---------------------------------------------------------------

/// How many bytes of a structure, whose first field is its size as the caller knows it, are to be filled.
///
/// # Safety
/// `out` points to such a structure.
unsafe fn room_in<T>(out: *const T, argument: &'static str) -> Result<usize> {
    // SAFETY: the caller's promise: at least the size is there.
    let size = unsafe { out.cast::<usize>().read() };
    if size < 2 * size_of::<usize>() {
        return Err(Error::StructSize { argument, size, known: size_of::<T>() });
    }
    Ok(size.min(size_of::<T>()))
}

/// Fill as much as there is room for. A structure of a newer header keeps the rest as it was.
///
/// # Safety
/// `out` may be written for `room` bytes, which [`room_in`] gave.
unsafe fn fill<T>(out: *mut T, known: T, room: usize) {
    // SAFETY: the caller's promise, and `room` is at most the size of `known`.
    unsafe { ptr::copy_nonoverlapping((&raw const known).cast::<u8>(), out.cast(), room) };
}

/// As snprintf(3): as much of the text as fits, with a NUL behind it; the result is the length of all of it.
///
/// # Safety
/// `buffer` may be written for `size` bytes, or `size` is 0.
unsafe fn give_text(
    buffer: *mut c_char,
    size: usize,
    text: impl FnOnce() -> Result<String>,
) -> Result<c_int> {
    if buffer.is_null() && size > 0 {
        return Err(Error::Null { argument: "buffer", wanted: "room for `size` bytes" });
    }
    let text = text()?;
    if let Some(room) = size.checked_sub(1) {
        let length = text.len().min(room);
        // SAFETY: the caller's promise; one byte is left for the NUL.
        unsafe {
            ptr::copy_nonoverlapping(text.as_ptr().cast(), buffer, length);
            buffer.add(length).write(0);
        }
    }
    Ok(c_int::try_from(text.len()).unwrap_or(c_int::MAX))
}

// ---- ranges -----------------------------------------------------------------------------------

#[unsafe(no_mangle)]
extern "C" fn gmemFreeEager(addr: c_ulong, size: usize, stream: *mut c_void) -> c_int {
    guard(|| free_eager::free_eager(addr as usize, size, stream.addr()).map(|()| 0))
}

#[unsafe(no_mangle)]
extern "C" fn gmemPrefetch(addr: c_ulong, size: usize, hnid: c_int, stream: *mut c_void) -> c_int {
    guard(|| prefetch::prefetch(addr as usize, size, hnid, stream.addr()).map(|()| 0))
}

#[unsafe(no_mangle)]
extern "C" fn gmemGetNumaId() -> c_int {
    guard(|| device::current()?.numa_id())
}

#[unsafe(no_mangle)]
extern "C" fn gmemGetPageSize() -> usize {
    mapping::gmem_page().bytes()
}

// ---- what the machine has -----------------------------------------------------------------------

/// A word of the kernel's as C has it: empty where there is none.
type Word = [c_char; 16];

/// `struct gmemTopology_t` of `libgmem.h`. New fields go to the end.
#[repr(C)]
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
/// `machine` is NULL or points to a structure of which as many bytes may be written as its `size` says; `nodes` may be
/// written for `count * node_size` bytes, or `count` is 0.
#[unsafe(no_mangle)]
unsafe extern "C" fn gmemTopology(
    machine: *mut Machine,
    nodes: *mut u8,
    count: usize,
    node_size: usize,
) -> c_int {
    guard(|| {
        let room = if machine.is_null() {
            None
        } else {
            // SAFETY: not NULL, so the caller's promise holds.
            Some(unsafe { room_in(machine, "machine->size") }?)
        };
        if nodes.is_null() && count > 0 {
            return Err(Error::Null { argument: "nodes", wanted: "room for `count` nodes" });
        }
        if count > 0 && node_size < size_of::<c_int>() {
            let known = size_of::<Node>();
            return Err(Error::StructSize { argument: "node_size", size: node_size, known });
        }
        let topology = topology::read()?;
        for (index, node) in topology.nodes.iter().take(count).enumerate() {
            let known = node_of(node);
            let filled = node_size.min(size_of::<Node>());
            // SAFETY: `index` is less than `count`, and there is room for `node_size` bytes for each. What a newer
            // header has and this library does not know reads as zero.
            unsafe {
                let at = nodes.add(index * node_size);
                ptr::copy_nonoverlapping((&raw const known).cast::<u8>(), at, filled);
                at.add(filled).write_bytes(0, node_size - filled);
            }
        }
        if let Some(room) = room {
            // SAFETY: the caller's promise.
            unsafe { fill(machine, Machine { size: room, ..machine_of(&topology) }, room) };
        }
        Ok(c_int::try_from(topology.nodes.len()).unwrap_or(c_int::MAX))
    })
}

fn machine_of(topology: &topology::Topology) -> Machine {
    let number = |value: Option<usize>| value.and_then(|value| value.try_into().ok()).unwrap_or(-1);
    let switch = |value: Option<bool>| value.map_or(-1, c_int::from);
    Machine {
        size: 0,
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
        total: node.total,
        free: node.free,
        hugetlb_total: node.hugetlb_total,
        hugetlb_free: node.hugetlb_free,
    }
}

/// The `GMEM_HAS_*` of `libgmem.h`.
const fn feature_bit(feature: Feature) -> u32 {
    match feature {
        Feature::Populate => 1,
        Feature::DropLocked => 2,
        Feature::Collapse => 4,
        Feature::PagemapScan => 8,
        Feature::ProcmapQuery => 16,
        Feature::FaultCounter => 32,
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
extern "C" fn gmemNodeDistance(from: c_int, to: c_int) -> c_int {
    guard(|| topology::distance(from, to))
}

/// # Safety
/// `buffer` may be written for `size` bytes, or `size` is 0.
#[unsafe(no_mangle)]
unsafe extern "C" fn gmemTopologyText(buffer: *mut c_char, size: usize) -> c_int {
    // SAFETY: the caller's promise.
    guard(|| unsafe { give_text(buffer, size, || Ok(topology::read()?.to_text())) })
}

/// # Safety
/// As above.
#[unsafe(no_mangle)]
unsafe extern "C" fn gmemTopologyJson(buffer: *mut c_char, size: usize) -> c_int {
    // SAFETY: the caller's promise.
    guard(|| unsafe { give_text(buffer, size, || Ok(topology::read()?.to_json())) })
}

// ---- where pages are ----------------------------------------------------------------------------

/// `struct gmemResidency_t` of `libgmem.h`. New fields go to the end.
#[repr(C)]
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
        let room = if summary.is_null() {
            None
        } else {
            // SAFETY: not NULL, so the caller's promise holds.
            Some(unsafe { room_in(summary, "summary->size") }?)
        };
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
        if let Some(room) = room {
            let known = Summary {
                size: room,
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
            };
            // SAFETY: the caller's promise.
            unsafe { fill(summary, known, room) };
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
        if summary.is_null() {
            return Err(Error::Null { argument: "summary", wanted: WANTED });
        }
        // SAFETY: not NULL, so the caller's promise holds.
        let room = unsafe { room_in(summary, "summary->size") }?;
        if room < mem::offset_of!(Summary, mapped) {
            let known = size_of::<Summary>();
            return Err(Error::StructSize { argument: "summary->size", size: room, known });
        }
        // SAFETY: what is read was filled.
        let (start, page, count, known) = unsafe {
            (
                (&raw const (*summary).addr).read() as usize,
                (&raw const (*summary).page_size).read(),
                (&raw const (*summary).pages).read(),
                (&raw const (*summary).known).read() as u16,
            )
        };
        let states = match (pages.is_null(), count) {
            (true, 0) => &[],
            (true, _) => return Err(Error::Null { argument: "pages", wanted: WANTED }),
            // SAFETY: the caller's promise.
            (false, count) => unsafe { slice::from_raw_parts(pages, count) },
        };
        let view = View { start, page, known, states };
        // SAFETY: the caller's promise.
        unsafe { give_text(buffer, size, || write(view)) }
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

// ---- page faults ------------------------------------------------------------------------------

/// # Safety
/// `scope` is NULL or points to one that may be written.
#[unsafe(no_mangle)]
unsafe extern "C" fn gmemFaultScopeBegin(scope: *mut faults::Counter, whose: c_int) -> c_int {
    guard(|| {
        if scope.is_null() {
            return Err(Error::Null {
                argument: "scope",
                wanted: "the address of a gmemFaultScope_t",
            });
        }
        let whose = match whose {
            0 => faults::Whose::Thread,
            1 => faults::Whose::Process,
            _ => return Err(Error::FaultScope { whose }),
        };
        let counter =
            faults::Counter::open(whose).map_err(|errno| Error::FaultsNotCounted { errno })?;
        // SAFETY: not NULL, so the caller's promise holds.
        unsafe { scope.write(counter) };
        Ok(0)
    })
}

/// # Safety
/// `scope` is NULL or points to one that gmemFaultScopeBegin() filled.
#[unsafe(no_mangle)]
unsafe extern "C" fn gmemFaultScopeCount(scope: *const faults::Counter) -> c_longlong {
    let mut count = 0;
    let failed = guard(|| {
        // SAFETY: the caller's promise.
        let Some(counter) = (unsafe { scope.as_ref() }) else {
            return Err(Error::Null {
                argument: "scope",
                wanted: "the address of a gmemFaultScope_t",
            });
        };
        count = counter.read().map_err(|errno| Error::FaultsNotCounted { errno })?;
        Ok(0)
    });
    if failed == 0 { c_longlong::try_from(count).unwrap_or(c_longlong::MAX) } else { failed.into() }
}

/// # Safety
/// As above.
#[unsafe(no_mangle)]
unsafe extern "C" fn gmemFaultScopeEnd(scope: *mut faults::Counter) {
    guard(|| {
        // SAFETY: the caller's promise.
        if let Some(counter) = unsafe { scope.as_mut() } {
            counter.close();
        }
        Ok(0)
    });
}

// ---- errors, version, device ------------------------------------------------------------------

#[unsafe(no_mangle)]
extern "C" fn gmemLastError() -> *const c_char {
    last_error::last_message_ptr()
}

#[unsafe(no_mangle)]
extern "C" fn gmemVersion() -> *const c_char {
    const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
    VERSION.as_ptr().cast()
}

/// # Safety
/// `name` is NULL or NUL-terminated.
#[unsafe(no_mangle)]
unsafe extern "C" fn gmemSetDevice(name: *const c_char) -> c_int {
    guard(|| {
        if name.is_null() {
            return Err(Error::Null {
                argument: "name",
                wanted: "the name of a device, e.g. \"host\"",
            });
        }
        // SAFETY: not NULL, so the caller's promise holds.
        let name = unsafe { CStr::from_ptr(name) };
        device::set_current(&name.to_string_lossy()).map(|()| 0)
    })
}

#[unsafe(no_mangle)]
extern "C" fn gmemGetDevice() -> *const c_char {
    let mut name = ptr::null();
    guard(|| {
        name = device::current()?.c_name().as_ptr();
        Ok(0)
    });
    name
}

// ---- streams ----------------------------------------------------------------------------------

/// # Safety
/// `out` is NULL or points to a handle that may be written.
#[unsafe(no_mangle)]
unsafe extern "C" fn gmemStreamCreate(out: *mut *mut c_void) -> c_int {
    guard(|| {
        if out.is_null() {
            return Err(Error::Null {
                argument: "stream",
                wanted: "the address of a gmemStream_t",
            });
        }
        let handle = stream::create()?;
        // SAFETY: not NULL, so the caller's promise holds.
        unsafe { out.write(ptr::without_provenance_mut(handle)) };
        Ok(0)
    })
}

/// A C function with its argument, on its way to a stream's thread.
struct Launch {
    function: unsafe extern "C" fn(*mut c_void),
    argument: *mut c_void,
}
// SAFETY: whoever launches it says that it may run on another thread; that is what launching means.
unsafe impl Send for Launch {}

impl Launch {
    fn run(self) -> Result<()> {
        // SAFETY: the caller of gmemStreamLaunch answers for the function and its argument.
        unsafe { (self.function)(self.argument) };
        Ok(())
    }
}

/// # Safety
/// `function` is NULL or may be called once with `argument` on any thread.
#[unsafe(no_mangle)]
unsafe extern "C" fn gmemStreamLaunch(
    handle: *mut c_void,
    function: Option<unsafe extern "C" fn(*mut c_void)>,
    argument: *mut c_void,
) -> c_int {
    guard(|| {
        let function = function.ok_or(Error::Null { argument: "fn", wanted: "a function" })?;
        let launch = Launch { function, argument };
        heap::reserve::ask(size_of::<Launch>(), "the function to launch")?;
        stream::launch(handle.addr(), Box::new(move || launch.run())).map(|()| 0)
    })
}

#[unsafe(no_mangle)]
extern "C" fn gmemStreamQuery(handle: *mut c_void) -> c_int {
    guard(|| Ok(if stream::is_idle(handle.addr())? { 0 } else { -libc::EBUSY }))
}

#[unsafe(no_mangle)]
extern "C" fn gmemStreamSynchronize(handle: *mut c_void) -> c_int {
    guard(|| stream::synchronize(handle.addr()).map(|()| 0))
}

#[unsafe(no_mangle)]
extern "C" fn gmemStreamDestroy(handle: *mut c_void) -> c_int {
    guard(|| stream::destroy(handle.addr()).map(|()| 0))
}

// ---- the heap ---------------------------------------------------------------------------------

/// `struct gmemHeapStats_t` of `libgmem.h`. New fields go to the end.
#[repr(C)]
struct HeapStats {
    size: usize,
    live: usize,
    idle: usize,
    metadata: usize,
    retained: usize,
    mapped: usize,
    resident: usize,
    huge: usize,
    given_back: usize,
    soft_limit: usize,
    hard_limit: usize,
    refused: usize,
    foreign: usize,
    arenas: usize,
}

/// # Safety
/// `out` is NULL or points to a structure of which as many bytes may be written as its `size` says.
#[unsafe(no_mangle)]
unsafe extern "C" fn gmemHeapStats(out: *mut HeapStats) -> c_int {
    guard(|| {
        if out.is_null() {
            return Err(Error::Null { argument: "stats", wanted: "a gmemHeapStats_t" });
        }
        // SAFETY: not NULL, so the caller's promise holds.
        let room = unsafe { room_in(out, "stats->size") }?;
        let stats = heap::stats::read();
        let known = HeapStats {
            size: room,
            live: stats.live,
            idle: stats.idle,
            metadata: stats.metadata,
            retained: stats.retained,
            mapped: stats.mapped,
            resident: stats.resident,
            huge: stats.huge,
            given_back: stats.given_back,
            soft_limit: stats.soft_limit,
            hard_limit: stats.hard_limit,
            refused: stats.refused,
            foreign: stats.foreign,
            arenas: stats.arenas.len(),
        };
        // SAFETY: the caller's promise.
        unsafe { fill(out, known, room) };
        Ok(0)
    })
}

/// # Safety
/// `buffer` may be written for `size` bytes, or `size` is 0.
#[unsafe(no_mangle)]
unsafe extern "C" fn gmemHeapStatsJson(buffer: *mut c_char, size: usize) -> c_int {
    // SAFETY: the caller's promise.
    guard(|| unsafe { give_text(buffer, size, || Ok(heap::stats::read().to_json())) })
}

#[unsafe(no_mangle)]
extern "C" fn gmemHeapSetLimits(soft: usize, hard: usize) -> c_int {
    guard(|| {
        if soft > hard && hard != heap::limits::NONE {
            return Err(Error::Limits { soft, hard });
        }
        heap::limits::set(soft, hard);
        Ok(0)
    })
}

// What cpp/heap.cpp makes the names of C of. Not exported. No guard: the allocation path neither panics nor
// touches a thread-local of Rust's.

#[unsafe(no_mangle)]
extern "C" fn gmem_heap_calloc(count: usize, size: usize) -> *mut c_void {
    heap::calloc(count, size)
}

/// # Safety
/// As `realloc(3)`.
#[unsafe(no_mangle)]
unsafe extern "C" fn gmem_heap_realloc(ptr: *mut c_void, size: usize) -> *mut c_void {
    // SAFETY: the caller's promise.
    unsafe { heap::realloc(ptr, size) }
}

/// # Safety
/// As `posix_memalign(3)`: `out` may be written.
#[unsafe(no_mangle)]
unsafe extern "C" fn gmem_heap_posix_memalign(
    out: *mut *mut c_void,
    alignment: usize,
    size: usize,
) -> c_int {
    match heap::posix_memalign(alignment, size) {
        Ok(block) => {
            // SAFETY: the caller's promise.
            unsafe { out.write(block) };
            0
        }
        Err(errno) => errno.0,
    }
}

#[unsafe(no_mangle)]
extern "C" fn gmem_heap_aligned_alloc(alignment: usize, size: usize) -> *mut c_void {
    heap::aligned_alloc(alignment, size)
}

#[unsafe(no_mangle)]
extern "C" fn gmem_heap_memalign(alignment: usize, size: usize) -> *mut c_void {
    heap::memalign(alignment, size)
}

#[unsafe(no_mangle)]
extern "C" fn gmem_heap_valloc(size: usize) -> *mut c_void {
    heap::valloc(size)
}

#[unsafe(no_mangle)]
extern "C" fn gmem_heap_pvalloc(size: usize) -> *mut c_void {
    heap::pvalloc(size)
}

/// # Safety
/// `ptr` is NULL or a live block.
#[unsafe(no_mangle)]
unsafe extern "C" fn gmem_heap_usable_size(ptr: *mut c_void) -> usize {
    // SAFETY: the caller's promise.
    unsafe { heap::usable_size(ptr) }
}

/// # Safety
/// `cache` is NULL or the calling thread's.
#[unsafe(no_mangle)]
unsafe extern "C" fn gmem_heap_trim(cache: *mut heap::ThreadCache) -> usize {
    // SAFETY: the caller's promise.
    unsafe { heap::trim(cache) }
}
