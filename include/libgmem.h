/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file libgmem.h
 * @brief The C interface of libgmem: memory shared by a CPU and its accelerators.
 *
 * A program allocates as usual, says where its data must be next (gmemPrefetch) and drops
 * what it no longer needs at once (gmemFreeEager), either now or in the order of a work stream.
 *
 * Conventions that hold for every function here:
 *  - A function that returns int returns 0 or a **negative errno**; gmemLastError() then says in
 *    words which argument was wrong, its value, what is allowed and what to do.
 *  - A range is [addr, addr + size), in bytes. The **GMEM page** has 2 MiB on every machine (gmemGetPageSize()). It is
 *    the huge page of kernels with base pages of 4 KiB.
 *  - Every function may be called from any thread at any time, also from several at once, but not from a
 *    signal handler: like malloc(3), none is async-signal-safe.
 *  - Beside the errors listed, what the kernel says comes through: -ENOENT where /proc is not mounted,
 *    -EMFILE, -EPERM for a sealed memfd.
 *  - Nothing is printed, no signal is raised, the process is never ended. GMEM_LOG=error (or
 *    =trace) in the environment asks for lines on stderr.
 *  - Loading the library opens nothing and starts nothing.
 *
 * Not caught, because C cannot: a pointer to host functions that is not a function, and freeing a
 * pointer that this heap did not hand out.
 */
#ifndef LIBGMEM_H
#define LIBGMEM_H

#include <stddef.h>

/** Version of this header; gmemVersion() gives that of the library loaded. */
#define LIBGMEM_VERSION_MAJOR 0
#define LIBGMEM_VERSION_MINOR 1
#define LIBGMEM_VERSION_PATCH 0

#ifdef __cplusplus
#define LIBGMEM_NODISCARD [[nodiscard]]
#define LIBGMEM_NOEXCEPT noexcept
extern "C" {
#else
#define LIBGMEM_NODISCARD
#define LIBGMEM_NOEXCEPT
#endif

#if defined(__GNUC__)
#define LIBGMEM_MALLOC __attribute__((malloc))
#define LIBGMEM_SIZE(n) __attribute__((alloc_size(n)))
#define LIBGMEM_SIZE2(n, m) __attribute__((alloc_size(n, m)))
#else
#define LIBGMEM_MALLOC
#define LIBGMEM_SIZE(n)
#define LIBGMEM_SIZE2(n, m)
#endif

/* ---- ranges ------------------------------------------------------------------------------- */

/**
 * @brief Give the physical memory of a range back to the kernel now.
 *
 * The range is rounded **inward** to whole GMEM pages; no byte outside them is touched, and a
 * range without a whole page is 0. On return the pages are the kernel's again (the process's
 * resident size falls) and the next read of them gives zeros. The addresses stay mapped.
 * Private and shared anonymous memory, memfd, /dev/shm and System V shared memory, locked and
 * hugetlb memory are all freed; for shared memory that means for everyone who maps it. Memory that a userfaultfd(2)
 * serves is freed, too: its monitor is told (UFFD_EVENT_REMOVE) and is asked again at the next touch.
 *
 * On the device "cuda" *managed* memory is the exception: its driver discards (cuMemDiscardBatchAsync, CUDA 13.0),
 * takes the pages away when it needs them, and lets a read find **anything** until the memory is written: the old
 * bytes, zeros, or other ones. What is written reads as written. Ordinary memory reads as zeros there as everywhere.
 *
 * @param addr   start of the range
 * @param size   its length in bytes; 0 is a range without a page
 * @param stream NULL: done on return. Else a gmemStream_t, or a stream of the current device's driver (see there): the
 *               call is registered behind the work already there and returns at once; a failure comes out of
 *               gmemStreamSynchronize().
 * @return 0;
 *   -EINVAL  addr + size exceeds the address space; unknown stream; the whole pages hold a file
 *            mapping or a device mapping (nothing is dropped);
 *   -ENOMEM  part of the whole pages is not mapped (the mapped part is freed, as madvise(2) does);
 *   -EACCES  a shared mapping that may not be written (nothing is dropped);
 *   -EOPNOTSUPP  memory of a device that gives back whole blocks only, as managed memory of a CUDA driver before 13.0
 *            (nothing is dropped); a CUDA stream that is being captured;
 *   -ENODEV  the current device cannot be used (see gmemSetDevice()).
 */
int gmemFreeEager(unsigned long addr, size_t size, void *stream) LIBGMEM_NOEXCEPT;

/**
 * @brief Bring a range to a memory node so that no page fault follows there.
 *
 * The range is rounded **outward** to GMEM pages. Pages not there yet are populated on the node,
 * pages on another node are moved to it, pages already there are marked as used. After success an
 * access that the mapping's protection permits takes no page fault, until memory pressure, a
 * fork or automatic NUMA balancing undoes it. A writable private file mapping therefore gets its
 * own copies; map files read-only to keep sharing the page cache. The margin that rounding adds is
 * populated where it is this process's private anonymous memory and skipped where it is not. What is missing of memory
 * that a userfaultfd(2) serves is asked of its monitor, so the monitor itself must not prefetch it.
 *
 * @param hnid   heterogeneous NUMA id: a node with memory (see gmemGetNumaId())
 * @param stream as for gmemFreeEager()
 * @return 0 (also for size 0);
 *   -EINVAL  addr + size exceeds the address space; hnid is not a memory node; unknown stream; a
 *            device mapping; memory that the device hnid stands for cannot have (nothing is moved);
 *   -ENOMEM  part of [addr, addr + size) is not mapped, or the node has too little memory free (nothing is moved);
 *            no memory is left;
 *   -EACCES  part of it is mapped without any access (PROT_NONE; nothing is moved);
 *   -EBUSY   pages that could not be moved, because they are pinned or shared between processes;
 *   -EACCES  also: the process's cpuset does not have the node (nothing is moved);
 *   -EFAULT  part of a file mapping lies beyond the end of its file;
 *   -EOPNOTSUPP  the kernel is older than Linux 5.14;
 *   -ENODEV  the current device cannot be used (see gmemSetDevice());
 *   -EIO     the device's driver failed (gmemLastError() has its code).
 *
 * On the devices "gmem" and "ascend" hnid may also be an accelerator's. The range then goes there in whole GMEM pages;
 * it has to be peer-shared memory (see gmemSetDevice()), and the next touch by the processor brings a page back, with a
 * fault. Then also: -EINVAL  it is other memory, or hnid is neither a node nor a device; -ENODEV  there is no GMEM
 * kernel, or the process has no device yet; -EFAULT  the device failed or is full: some pages are where they were;
 * -EAGAIN, -EEXIST, -EIO, -EOPNOTSUPP  as the kernel's driver has it (gm_ret 4, 2, 3, 6).
 *
 * On the device "cuda" hnid may also be a GPU's. The range then goes there in the driver's pages; kernels that read it
 * take no fault, and the processor may still touch it, with faults that bring it back. It has to be managed memory
 * (large blocks of libgmem's heap, or the program's own cuMemAllocManaged), or the GPU has to read all memory of the
 * process. Then also: -EINVAL  it is other memory; -ENOMEM  the GPU has less free than what of the range was not sent
 * there before (looked at up to 100 ms ago for a small range; nothing is moved); -EIO  the driver failed or its context
 * is lost; -EOPNOTSUPP  the stream is being captured into a graph; -EDEADLK  called from a function that the driver
 * calls.
 */
int gmemPrefetch(unsigned long addr, size_t size, int hnid, void *stream) LIBGMEM_NOEXCEPT;

/* ---- prefetch with options and a receipt -------------------------------------------------------- */

/** Huge pages or not. */
enum { /* NOLINT(performance-enum-size): C has no smaller ones */
	/** What the mapping (madvise(2)) and the system say. */
	GMEM_HUGE_AS_IS = 0,
	/** Base pages. */
	GMEM_HUGE_OFF = 1,
	/** Huge pages where the kernel has some at hand; base pages elsewhere, which are made huge in the background. */
	GMEM_HUGE_PREFER = 2,
	/** Huge pages for each part of the range that can be one as a whole, or an error before anything is touched. Needs Linux 6.1.
	 *  Such a part is a GMEM page, or 32 or 512 MiB where the kernel's base pages have 16 or 64 KiB. */
	GMEM_HUGE_REQUIRE = 3
};

/** A number that the kernel does not tell. */
#define GMEM_UNKNOWN ((size_t)-1)

/**
 * The receipt of a prefetch. It is about [addr, addr + size) widened to whole base pages (sysconf(_SC_PAGESIZE)), not
 * about the margin up to whole GMEM pages. Set `size` before the call; a later version adds fields at the end, and
 * fills as many as `size` has room for.
 */
typedef struct {
	size_t size;                /**< in: sizeof(gmemPrefetchReport_t); out: bytes filled */
	int result;                 /**< 0, a negative errno, or -EINPROGRESS as long as it waits on a stream */
	unsigned threads;           /**< threads that worked on it, the caller's included */
	size_t bytes;               /**< asked for */
	size_t there;               /**< base pages that were on the node before; GMEM_UNKNOWN, as the two that follow,
									 where the node is a device of the GMEM kernel's, or CUDA's driver moved some */
	size_t populated;           /**< base pages that were not in memory, or swapped out, and are on the node now */
	size_t migrated;            /**< base pages that were on another node and are on this one now */
	size_t failed;              /**< base pages that are not on the node now; GMEM_UNKNOWN where such a device failed */
	size_t huge;                /**< GMEM pages that lie on a huge page now; GMEM_UNKNOWN before Linux 6.7 */
	size_t fallen_back;         /**< whole GMEM pages that were to be huge (prefer, require, or the system's
									 setting) and are not; GMEM_UNKNOWN before Linux 6.7 */
	unsigned long first_failed; /**< address of the first page that failed; 0 for none */
	int first_errno;            /**< why, as a positive errno; 0 for none */
	int stalled;                /**< 1: the kernel had to move pages for each huge page, and the rest got base pages */
	unsigned long long nanoseconds; /**< from the beginning of the work to its end; 0 where a CUDA stream did it */
} gmemPrefetchReport_t;

/**
 * How to prefetch. Fill it with zeros, set `size`, and then what you want. It need not outlive the call; what it points
 * to has to, until the work is done.
 */
typedef struct {
	size_t size;                   /**< sizeof(gmemPrefetchOptions_t) */
	int huge;                      /**< GMEM_HUGE_...; AS_IS: the policy of the range, else that of the process */
	unsigned threads;              /**< at most as many, the caller's included; 0: as many as help */
	unsigned long long timeout_ns; /**< -ETIMEDOUT when it takes longer than that from the call on; 0: no limit */
	/** Not NULL: -ECANCELED as soon as it is not 0; any thread may set it (atomically). */
	const int *cancel;
	/** Not NULL: called on the thread that does the work after each piece of it with the bytes done, and those in all;
	 * a result other than 0 cancels. */
	int (*progress)(size_t done, size_t total, void *arg);
	void *progress_arg;
	/** Not NULL: called once, when it is over and the report filled, on the calling thread or on the stream's; also
	 *  where the call fails at once, unless for a wrong size or policy. */
	void (*finished)(void *arg);
	void *finished_arg;
} gmemPrefetchOptions_t;

/**
 * @brief gmemPrefetch() with options, and a receipt of what it did.
 *
 * A range of more than 48 MiB is populated by several threads, if the first 16 MiB show that there is something to do;
 * as many as the caller may use processors, at most 16 for one call, and for the process at most
 * GMEM_PREFETCH_THREADS (from the environment; 16). It is done in pieces of 16 MiB: that is how often the time,
 * `cancel` and `progress` are looked at. What was done before stays in memory. When the kernel has to move pages around
 * for each huge page (it counts that: compact_stall in /proc/vmstat), the rest is given base pages and made huge in the
 * background.
 *
 * @param options NULL for none
 * @param report  NULL for none. With a stream it is written when the stream has passed the call, and has to stay until
 *                then; `result` is -EINPROGRESS meanwhile.
 * @return as gmemPrefetch(), and
 *   -EINVAL     options->huge is none of the four; a size is less than that of two fields (nothing is done);
 *   -ENOMEM     the node, or the machine, has less memory free than the range needs (nothing is moved); huge pages are
 *               required and missing (nothing is touched; gmemLastError() says how many, and what helps);
 *   -EACCES     the process's cpuset does not have the node (nothing is moved);
 *   -EOPNOTSUPP huge pages are required and the system or the mapping cannot have any (nothing is touched);
 *   -ECANCELED, -ETIMEDOUT  it ended early.
 */
int gmemPrefetchEx(unsigned long addr, size_t size, int hnid, void *stream, const gmemPrefetchOptions_t *options,
	gmemPrefetchReport_t *report) LIBGMEM_NOEXCEPT;

/**
 * @brief The policy of the process, for prefetches that ask for none and ranges that have none. Before the first call
 *        it is GMEM_HUGE_PAGES of the environment (off, prefer, require), else GMEM_HUGE_AS_IS.
 * @return 0; -EINVAL: policy is none of the four
 */
int gmemSetHugePolicy(int policy) LIBGMEM_NOEXCEPT;

/**
 * @brief The policy of a range, for prefetches that ask for none and begin in it; and the kernel is told at once
 *        (madvise(2), MADV_HUGEPAGE or MADV_NOHUGEPAGE) for what is mapped there.
 *
 * It is kept for the addresses until it is changed, also when something else is mapped there: set GMEM_HUGE_AS_IS
 * before you unmap the range. Policies are for few large ranges: each change leaves a few bytes behind.
 * @return 0; -EINVAL: addr + size exceeds the address space, or policy is none of the four
 */
int gmemSetRangeHugePolicy(unsigned long addr, size_t size, int policy) LIBGMEM_NOEXCEPT;

/** @brief The policy that a prefetch beginning at `addr` has: the range's, else the process's. Never fails. */
int gmemGetHugePolicy(unsigned long addr) LIBGMEM_NOEXCEPT;

/**
 * @brief The heterogeneous NUMA id of the current device.
 *
 * On the device "host" it is the memory node nearest to the CPU that the caller runs on; on "opencl" the same if the
 * device is the processor, else a number behind those that memory nodes of the machine can have; on "gmem" and "ascend"
 * the first device that is attached to the process (-ENODEV as long as there is none; it is asked anew each time);
 * on "cuda" the GPU's: the kernel's node where the GPU's memory is one, else the number of the GPU behind those that
 * nodes can have.
 * @return an id >= 0 to pass to gmemPrefetch(), or a negative errno if there is no device.
 */
int gmemGetNumaId(void) LIBGMEM_NOEXCEPT;

/** @brief Size of the GMEM page in bytes: the granularity of the two functions above. */
size_t gmemGetPageSize(void) LIBGMEM_NOEXCEPT;

/* ---- what the machine has -------------------------------------------------------------------- */

/** One memory node. A later version adds fields at the end. */
typedef struct {
	int node;             /**< its heterogeneous NUMA id, to pass to gmemPrefetch() */
	int tier;             /**< memory tier, the lower the faster; -1: the kernel has no tiers (before Linux 6.1) */
	int cpus;             /**< processors that are online on it; 0: memory alone, an expander for one */
	int allowed;          /**< 1: this process may take memory from it, 0: its cpuset forbids that */
	const char *device;   /**< name of the device whose memory it is, "host" for the machine's own; never freed. A node
							   of a device has no tier, no processors and no distance to others */
	size_t total;         /**< bytes; 0: a device that does not say */
	size_t free;          /**< bytes that nobody uses; the kernel can give more, because caches shrink. 0 also where a
							   device does not say */
	size_t hugetlb_total; /**< pages in the node's hugetlb pool, of the size of the GMEM page */
	size_t hugetlb_free;  /**< those of them that nobody has taken */
} gmemNode_t;

/** What not every kernel has and lets a process do. Tried out, not concluded from a version. */
enum {                            /* NOLINT(performance-enum-size): C has no smaller ones */
	GMEM_HAS_POPULATE = 1,        /**< MADV_POPULATE_READ and _WRITE (Linux 5.14), which gmemPrefetch() needs */
	GMEM_HAS_DONTNEED_LOCKED = 2, /**< MADV_DONTNEED_LOCKED (5.18): eager free of locked memory */
	GMEM_HAS_COLLAPSE = 4,        /**< MADV_COLLAPSE (6.1) */
	GMEM_HAS_PAGEMAP_SCAN = 8,    /**< the ioctl PAGEMAP_SCAN (6.7) */
	GMEM_HAS_PROCMAP_QUERY = 16,  /**< the ioctl PROCMAP_QUERY (6.11) */
	GMEM_HAS_FAULT_COUNTER = 32   /**< the software counter of page faults, see GMEM_FAULTS_THREAD */
};

/**
 * The machine. Set `size` before the call; a later version adds fields at the end, and fills as many as `size` has
 * room for. A mode is the kernel's own word, "" where it has no such mode; -1 stands for a switch it does not have.
 */
typedef struct {
	size_t size;          /**< in: sizeof(gmemTopology_t); out: bytes filled */
	size_t base_page;     /**< bytes in the kernel's page */
	size_t gmem_page;     /**< bytes in the GMEM page */
	size_t swap_total;    /**< bytes of swap space; 0: none */
	size_t swap_free;     /**< bytes of it that are free */
	unsigned features;    /**< GMEM_HAS_* that work here */
	int numa_balancing;   /**< kernel.numa_balancing: 0 off, 1 on, 2 between tiers, 3 both */
	int demotion;         /**< 1: idle memory moves to slower nodes instead of being swapped out */
	int lru_gen;          /**< 1: pages are aged by the multi-generational lists */
	char thp_enabled[16]; /**< who gets huge pages: "always", "madvise", "never" */
	char thp_defrag[16];  /**< how hard a fault tries: "always", "defer", "defer+madvise", "madvise", "never" */
	char thp_shmem[16];   /**< the same in shared memory: "always", "within_size", "advise", "never", "deny", "force" */
} gmemTopology_t;

/**
 * @brief The memory of the machine as it is now: /sys/devices/system/node, /sys/kernel/mm, sysinfo(2). And that of the
 *        current device, if it has nodes of its own ("gmem", "ascend": /sys/kernel/mm/gmem) and can be used.
 *
 * @param machine   filled unless NULL
 * @param nodes     the nodes with memory, ascending by `node`, those of the device behind the machine's: as many as
 *                  there are, at most `count`
 * @param count     elements that `nodes` has room for; 0, with `nodes` NULL, to learn how many there are
 * @param node_size sizeof(gmemNode_t). Fields that the caller knows and the library does not are 0
 * @return the number of nodes with memory, which may exceed `count`; -EINVAL: machine->size has no room for two fields,
 *         nodes is NULL and count is not 0, or node_size is less than that of one field; -ENOMEM
 */
int gmemTopology(gmemTopology_t *machine, gmemNode_t *nodes, size_t count, size_t node_size) LIBGMEM_NOEXCEPT;

/**
 * @brief How far the memory of node `to` is from node `from`, by the firmware's table: 10 is a node's own, 20 twice as
 *        far.
 * @return a number >= 10; -EINVAL: `to` has no memory, `from` is no node (it may be one of processors alone); of the
 *         nodes of devices no firmware tells
 */
int gmemNodeDistance(int from, int to) LIBGMEM_NOEXCEPT;

/**
 * @brief All of it for people: a table of the nodes with their distances, and three lines about the machine. A GMEM
 *        kernel has one more, with what it has counted (/proc/gmemstats, gmemstat before), in its own words: migrations
 *        that had to wait because the device was overcommitted.
 *
 * NUL-terminated, as much as fits.
 * @return the length without the NUL that the whole text has, as snprintf(3); -EINVAL: buffer is NULL, and size is not
 * 0
 */
int gmemTopologyText(char *buffer, size_t size) LIBGMEM_NOEXCEPT;

/** @brief The same as one JSON object, with null for what the kernel does not have or tell; the GMEM kernel's counts
 * are "gmem_statistics". @return as gmemTopologyText() */
int gmemTopologyJson(char *buffer, size_t size) LIBGMEM_NOEXCEPT;

/* ---- where pages are --------------------------------------------------------------------------- */

/** What may hold for a page. */
enum {                      /* NOLINT(performance-enum-size): C has no smaller ones */
	GMEM_PAGE_MAPPED = 1,   /**< something is mapped there */
	GMEM_PAGE_RESIDENT = 2, /**< in memory, and in this process's page table. A page of a file or of shared memory that
							   is in memory but that this process has not touched is not, and the memory
								 of a device is mapped only */
	GMEM_PAGE_HUGE = 4,     /**< part of a huge page that is mapped as a whole, hugetlb included */
	GMEM_PAGE_SWAPPED = 8,  /**< a private page that is swapped out, or that the kernel moves at this moment. Shared
							   memory  that is swapped out is just not resident */
	GMEM_PAGE_SHARED = 16,  /**< resident, and a page of a file or of shared memory, which others may have, too */
	GMEM_PAGE_ZERO = 32,    /**< resident, but the kernel's page of zeros: read and never written, takes no memory */
	GMEM_PAGE_HOT = 64, /**< the kernel has it marked as referenced or as active. It notes that when system calls use
							 the page and when it looks for memory to reclaim, not at each access */
	GMEM_KNOWS_NODE = 1 << 15 /**< in gmemResidency_t::known only: resident pages have a node */
};

/** One base page. Does not grow: arrays of it are large. */
typedef struct {
	short node;           /**< its memory node; -1: not resident, or not known, as that of the page of zeros may be */
	unsigned short flags; /**< GMEM_PAGE_* */
} gmemPageState_t;

/**
 * A range, in numbers of base pages. Set `size` before the call; a later version adds fields at the end, and fills as
 * many as `size` has room for.
 */
typedef struct {
	size_t size;        /**< in: sizeof(gmemResidency_t); out: bytes filled */
	unsigned long addr; /**< of the first page */
	size_t page_size;   /**< bytes in a base page */
	size_t pages;       /**< all pages of the range */
	/** The GMEM_PAGE_* that are told here, and GMEM_KNOWS_NODE. A flag that is missing here is set in no page, and a
	 * page may have it all the same: huge before Linux 6.7, where the kernel's counts fit to more than one answer; zero
	 *  before 6.7; hot unless asked for and allowed (root); the node where system calls are filtered. */
	unsigned known;
	size_t mapped;
	size_t resident;
	size_t huge;
	size_t swapped;
	size_t shared;
	size_t zero;
	size_t hot;
} gmemResidency_t;

/** What gmemResidency() does not look for unless it is asked to. */
enum {               /* NOLINT(performance-enum-size): C has no smaller ones */
	GMEM_ASK_HOT = 1 /**< GMEM_PAGE_HOT: looks each small page up, which takes twenty times as long as all the rest */
};

/**
 * @brief Where each page of a range of this process is, at the moment at which the kernel looks at it.
 *
 * The range is rounded **outward** to base pages. Nothing is touched, moved or populated, and holes are no error: their
 * pages are not mapped. A million pages take some 20 ms, huge ones 1 or 2 ms; with several memory nodes the kernel
 * is asked about each small page (move_pages(2)), which takes some times as long. The sources are /proc/self/maps,
 * /proc/self/pagemap and, for hot pages, /proc/kpageflags.
 *
 * @param addr    start of the range
 * @param size    its length in bytes
 * @param ask     0 or GMEM_ASK_HOT
 * @param pages   a state for each page from the first on, at most `count`
 * @param count   elements that `pages` has room for; 0, with `pages` NULL, for the numbers alone
 * @param summary filled unless NULL
 * @return 0; -EINVAL: addr + size exceeds the address space, ask has other bits, pages is NULL and count is not 0,
 *         summary->size has no room for two fields; -ENOMEM
 */
int gmemResidency(unsigned long addr, size_t size, unsigned ask, gmemPageState_t *pages, size_t count,
	gmemResidency_t *summary) LIBGMEM_NOEXCEPT;

/**
 * @brief A residency as text: its numbers, and a line for each GMEM page with a sign for each 64th of it.
 *
 * Needs nothing but what it is given, so it may be called much later. NUL-terminated, as much as fits.
 * @param summary what gmemResidency() filled, at least as far as `known`
 * @param pages   summary->pages states
 * @return the length without the NUL that the whole text has, as snprintf(3); -EINVAL: summary, or pages, or buffer
 * while size is not 0, is NULL; summary->size is less than that of the fields up to `known`; -ENOMEM
 */
int gmemResidencyText(
	const gmemResidency_t *summary, const gmemPageState_t *pages, char *buffer, size_t size) LIBGMEM_NOEXCEPT;

/** @brief The same as one JSON object, with neighbouring pages that are alike as one run, and null for the number of
 * what is not known. @return as gmemResidencyText() */
int gmemResidencyJson(
	const gmemResidency_t *summary, const gmemPageState_t *pages, char *buffer, size_t size) LIBGMEM_NOEXCEPT;

/** @brief The same as a picture, an SVG document: a square for each page, or for each GMEM page of more than 64 MiB.
 *  @return as gmemResidencyText() */
int gmemResidencySvg(
	const gmemResidency_t *summary, const gmemPageState_t *pages, char *buffer, size_t size) LIBGMEM_NOEXCEPT;

/* ---- page faults ----------------------------------------------------------------------------- */

/** Counts page faults from gmemFaultScopeBegin() on, to show that none follow a prefetch. The fields are the
 *  library's. */
typedef struct {
	int counter;
	int is_process;
	unsigned long long before;
} gmemFaultScope_t;

/** Whose faults. */
enum { /* NOLINT(performance-enum-size): C has no smaller ones */
	/** The calling thread's. By the kernel's software counter (perf_event_open(2)): what the thread stumbles over, not
	 *  what a system call populates. Where the system forbids that counter, by getrusage(2), which counts both. */
	GMEM_FAULTS_THREAD = 0,
	/** All threads', ended ones included; by getrusage(2). */
	GMEM_FAULTS_PROCESS = 1
};

/**
 * @brief Begin to count. A thread's scope takes a file descriptor (close-on-exec) until gmemFaultScopeEnd().
 * @return 0, or -EINVAL: scope is NULL, or whose is neither of the two
 */
int gmemFaultScopeBegin(gmemFaultScope_t *scope, int whose) LIBGMEM_NOEXCEPT;

/**
 * @brief Faults since the beginning, minor and major. To be asked by the thread that began; others are not counted.
 * @return a number >= 0, or a negative errno: -EINVAL for NULL, -EBADF for a scope that was never begun
 */
LIBGMEM_NODISCARD long long gmemFaultScopeCount(const gmemFaultScope_t *scope) LIBGMEM_NOEXCEPT;

/** @brief Stop counting. NULL and a scope that has ended are fine. */
void gmemFaultScopeEnd(gmemFaultScope_t *scope) LIBGMEM_NOEXCEPT;

/* ---- errors, version, device ---------------------------------------------------------------- */

/**
 * @brief What the last failing libgmem call of this thread failed of, in words.
 * @return never NULL, "" before the first failure; the same address for the life of the thread,
 *   with the text of its latest failure.
 */
const char *gmemLastError(void) LIBGMEM_NOEXCEPT;

/** @brief Version of the library loaded, "major.minor.patch". */
const char *gmemVersion(void) LIBGMEM_NOEXCEPT;

/**
 * @brief Make a device the current one for the whole process.
 *
 * The first use of a device picks GMEM_DEVICE from the environment, else the one chosen when the
 * library was configured (-DLIBGMEM_DEVICE, "host" unless set).
 *
 * "host" is the machine's own memory.
 *
 * "opencl" is the first OpenCL device that has fine-grained buffers of shared virtual memory and OpenCL 2.1, or the
 * one that GMEM_OPENCL_DEVICE names by its number, counted from 0 through all platforms, or by a part of its name.
 * libOpenCL.so.1 is opened when the device is first used, and what comes of that holds for the life of the process.
 * A device that runs its kernels on the processor has the machine's memory nodes, and ranges are prefetched and
 * freed as on "host". Any other has one node of its own (gmemGetNumaId()), to which it takes memory of its own
 * context only; of that gmemFreeEager() frees nothing (-EOPNOTSUPP), and a receipt counts each page that the driver
 * was asked to move as migrated, since the driver does not tell what it did. A forked child has no OpenCL: ranges
 * are prefetched and freed there as on "host", and what needs the driver is -ENODEV.
 *
 * "gmem" is openEuler's GMEM kernel with an accelerator; on it large blocks of the heap are *peer-shared*: the
 * kernel moves them between the processor and the device, whichever touches them. To choose "gmem" succeeds on any
 * machine, and ordinary memory is treated as on "host"; what needs the device fails with -ENODEV, -EACCES
 * (/dev/gmem is root's unless udev says otherwise) or -ENOMEM and the reason, and works once the driver is there.
 * Peer-shared memory is not inherited: after fork(2) the child reads zeros there.
 *
 * "ascend" is "gmem" for Huawei's accelerators: an aclrtStream is a stream as it is (see gmemStream_t). For that
 * libascendcl.so is needed when the first one comes: the process's own, else that of the dynamic linker, of
 * ASCEND_TOOLKIT_HOME, of ASCEND_HOME_PATH, of /etc/Ascend/ascend_cann_install.info, below /usr/local/Ascend.
 * Functions go through aclrtLaunchHostFunc(). A runtime older than CANN 8.3 has only aclrtLaunchCallback(); then,
 * where the program has subscribed no thread of its own to the stream (aclrtSubscribeReport()), libgmem subscribes
 * one, the same for all streams of an accelerator. A stream that is launched on with the call that libgmem does not
 * use is refused (-EOPNOTSUPP).
 *
 * "cuda" is the first GPU of NVIDIA's with managed memory that the processor may use meanwhile, or the one that
 * GMEM_CUDA_DEVICE names by its number (among those that CUDA_VISIBLE_DEVICES leaves) or the beginning of its UUID.
 * libcuda.so.1 (CUDA 11.0 or newer) is opened when the device is first used, and its primary context is used, which
 * CUDA's own runtime uses, too. Each GPU that can be used has a node. Where the GPU reads all memory of the process
 * (HMM, ATS), all memory may go there and blocks of the heap are ordinary; else large blocks are managed memory,
 * together at most what the GPU had free when it was opened, and ordinary beyond that (device_refused of
 * gmemHeapStats()). GMEM_CUDA_MEMORY=managed or =system chooses; GMEM_LOG=trace says what was chosen. The driver
 * does not tell what it moved: a receipt has GMEM_UNKNOWN for pages there, populated and migrated, and a prefetch
 * cannot be cancelled once it was handed to the driver. A forked child has no CUDA, and none of its parent's
 * managed memory. Managed blocks live as long as the primary context: cudaDeviceReset() and
 * cuDevicePrimaryCtxReset() take them away with all that is in them, so a program that calls these takes
 * GMEM_CUDA_MEMORY=system, or another device. calloc() writes its zeros into managed blocks itself. When the process
 * ends, the driver goes before whatever was made before it was opened.
 *
 * @param name "host", "gmem", "ascend", "opencl" or "cuda"
 * @return 0; -EINVAL for an unknown or NULL name (the error lists the valid ones); -ENODEV if "opencl" or "cuda"
 *   cannot be used (the error says what is missing and where it was looked for). After an error the device is what
 *   it was.
 */
int gmemSetDevice(const char *name) LIBGMEM_NOEXCEPT;

/** @brief Name of the current device, or NULL when GMEM_DEVICE names none that exists and can be used. */
const char *gmemGetDevice(void) LIBGMEM_NOEXCEPT;

/**
 * @brief The driver's own object that the current device's memory belongs to: on "opencl" its cl_context, on "cuda"
 *   the CUcontext, good for the life of the process. Kernels that get libgmem's memory by its address
 *   (clSetKernelArgSVMPointer) are made in it.
 * @return NULL on "host", and when there is no device.
 */
void *gmemGetDeviceContext(void) LIBGMEM_NOEXCEPT;

/* ---- streams ---------------------------------------------------------------------------------- */

/**
 * @brief A work stream: runs what is registered on it one after the other, in order.
 *
 * libgmem's own streams (gmemStreamCreate()): any number is served by at most four threads at once, which start
 * on first use, block all signals and live until the process exits; a program that ends main with
 * pthread_exit(3) must call exit(3) in the end. Work that waits for other work does so with
 * gmemStreamSynchronize() or gmemEventSynchronize(), which let another thread serve meanwhile (-EAGAIN if none
 * can be started), or better with gmemStreamWaitEvent(), which needs no thread; four pieces of work that wait by
 * other means keep everything else waiting, and two streams that synchronize each other wait for ever.
 *
 * An eager free with nothing but eager frees behind it waits a little, from 0.1 up to 4 milliseconds while more
 * keep coming, so that neighbours become one system call; not when anything else is registered behind it, or
 * when somebody synchronizes or queries the stream.
 *
 * A stream of the current device's driver is one as it is, wherever a function takes a stream: on the device
 * "ascend" an aclrtStream, on "cuda" a CUstream or cudaStream_t. libgmem's calls lie in its order, among the driver's
 * own work, as gmemStreamWrap() has it. What is no stream of libgmem's is told by its value alone and never followed;
 * on a device without such streams it is unknown (-EINVAL), on the others it is the driver's, which has to know it.
 *  - Calls are made with the stream's context current on the calling thread, as the driver wants it for its own,
 *    and after an error of the driver's (its number is in gmemLastError(); -EINVAL, -ENODEV, -EOPNOTSUPP, -ENOMEM,
 *    else -EIO) nothing is registered.
 *  - libgmem keeps a few hundred bytes for each such stream from the first call on. gmemStreamDestroy() drops them,
 *    and what the driver was told for libgmem's sake: synchronize the stream, then gmemStreamDestroy(), then the
 *    driver's own destruction (gmemStreamDestroy() leaves the driver's stream alone, and is 0 for one it has not
 *    seen). A stream that is destroyed without that costs the bytes; the next one at its address is taken for the
 *    same stream, and has its failures.
 *  - It belongs to the device that was current when it was used: after gmemSetDevice() it is unknown until that
 *    device is the current one again; work on it goes on.
 *  - gmemStreamLaunch() has fn run where drivers allow no calls of theirs. The driver's default stream, where that
 *    is NULL, cannot be named: NULL is no stream here.
 *  - -ENODEV: the driver's library is not there or broken (gmemLastError() says where it was looked for; the next
 *    call looks again), or the process has been forked since.
 *
 * On "cuda" CU_STREAM_LEGACY (1) and CU_STREAM_PER_THREAD (2) are such streams, too, but not CUDA's NULL, which is
 * no stream. Prefetches and eager frees of the GPU's memory are then commands of the driver's own in that stream's
 * order, without a function in between; functions, receipts and work on ordinary memory are host functions
 * (cuLaunchHostFunc), which must make no calls of CUDA's: what needs CUDA fails there with -EDEADLK. Between two
 * such streams gmemStreamWaitEvent() is the driver's own wait. A stream that is being captured into a graph is
 * refused (-EOPNOTSUPP), since libgmem does things once. After the loss of the context gmemStreamSynchronize() says
 * so (-EIO), and what waited is not done. A stream that CUDA has destroyed is told from others only as far as the
 * driver does that.
 *
 * After fork() the child has none of its parent's streams and events: they are unknown there (-EINVAL; a driver's
 * -ENODEV) and it makes its own. Work still pending when the process exits is dropped, in the middle of a function or
 * before it: synchronize first. It still runs while exit(3) runs handlers and destructors.
 */
typedef struct gmemStream *gmemStream_t;

/** @brief A function that a stream runs. It must return: no exception, no longjmp, no pthread_exit. */
typedef void (*gmemHostFn)(void *arg);

/** @brief Make a stream. @return 0; -EINVAL if stream is NULL; -EAGAIN if no thread can start; -ENOMEM. */
int gmemStreamCreate(gmemStream_t *stream) LIBGMEM_NOEXCEPT;

/**
 * @brief Register fn(arg) behind the work already on the stream, and return at once.
 *
 * A stream holds at most 65,536 waiting pieces of work; a call beyond that waits until half of them are done,
 * except from a function that a stream is running, which gets -EAGAIN.
 * @return 0; -EINVAL for an unknown stream or a NULL function; -ENOMEM; on a wrapped stream also what its
 *   launch function says (see gmemStreamWrap()). After an error nothing is registered.
 */
int gmemStreamLaunch(gmemStream_t stream, gmemHostFn fn, void *arg) LIBGMEM_NOEXCEPT;

/** @brief 0 if all work on the stream is done, -EBUSY if not, -EINVAL for an unknown stream. */
int gmemStreamQuery(gmemStream_t stream) LIBGMEM_NOEXCEPT;

/**
 * @brief Wait until all work registered before this call is done.
 *
 * @return 0, or the errno of the first failure since the last synchronize (gmemLastError() says
 *   which call it was, of which range, and why it failed); the stream goes on after a failure and the failure is
 *   then forgotten. -EINVAL for an unknown stream; -EDEADLK when called from work running on the same stream;
 *   -EAGAIN when called from work on another stream and no thread can be started to take this one's place.
 */
int gmemStreamSynchronize(gmemStream_t stream) LIBGMEM_NOEXCEPT;

/**
 * @brief Give the stream up. Work already on it still runs; its handle is unknown from now on.
 * @return 0, -EINVAL for an unknown stream (also for one destroyed before).
 */
int gmemStreamDestroy(gmemStream_t stream) LIBGMEM_NOEXCEPT;

/* ---- streams of others --------------------------------------------------------------------------- */

/**
 * @brief How an executor is given a function: have fn(arg) called **once**, on any thread, behind what `native`
 *   has been given before and before what it is given later, and return at once.
 *
 * It may call fn(arg) itself before it returns; it must not wait for another thread to do so, nor throw.
 * @return 0, or another number if fn(arg) will not be called: a negative errno, which becomes the result of the
 *   libgmem call, or any code of the executor's, which becomes -EIO with the code in gmemLastError().
 */
typedef int (*gmemLaunchFn)(void *native, gmemHostFn fn, void *arg);

/**
 * @brief Make a stream of somebody else's executor: a CUDA or HIP stream, an OpenCL queue, a thread pool.
 *
 * gmemPrefetch(), gmemFreeEager() and every function for streams and events take it as they take libgmem's own.
 * Each call on it takes a place in the executor's order, so it runs behind the executor's own work that was
 * there before and ahead of what comes later. An executor that runs several functions at once keeps libgmem's calls
 * in order, one at a time. Neighbouring ranges become one call if the executor has come to the places of
 * both by the time the first is done: between two places may lie work of its own.
 *
 * `launch` is called by one thread at a time, from the thread that makes the libgmem call. `native` is only handed
 * on (NULL is a value like any other) and has to live as long as calls are made on the stream.
 * gmemStreamWaitEvent() keeps the executor's thread waiting, since the executor's own work has to wait as well.
 * gmemStreamDestroy() leaves the executor alone; its places that are still ahead do their work when
 * they are reached. An executor that ends without calling fn(arg) calls gmemLaunchDropped(arg) instead, or the work
 * of that place, and all behind it, stays undone and a synchronize waits for ever.
 * C++ has adapters: <libgmem/streams/cuda.hpp> and its neighbours. A stream of the current device's driver needs no
 * wrapping (see gmemStream_t).
 *
 * @return 0; -EINVAL if launch or stream is NULL; -ENOMEM
 */
int gmemStreamWrap(gmemLaunchFn launch, void *native, gmemStream_t *stream) LIBGMEM_NOEXCEPT;

/**
 * @brief Instead of fn(arg), by an executor that will not call it: the work of that place is not done, and
 *   -ECANCELED comes out of gmemStreamSynchronize(). An arg that is not waiting is ignored.
 */
void gmemLaunchDropped(void *arg) LIBGMEM_NOEXCEPT;

/* ---- events ------------------------------------------------------------------------------------- */

/**
 * @brief A place in a stream that other streams and threads wait for. It may be recorded again and again; each
 *   call below means the latest recording at the time of the call, and one that was never recorded has passed.
 *   A failure of work ahead of the place stays with the stream, and the event passes all the same.
 */
typedef struct gmemEvent *gmemEvent_t;

/** @brief Make an event. @return 0; -EINVAL if event is NULL; -ENOMEM. */
int gmemEventCreate(gmemEvent_t *event) LIBGMEM_NOEXCEPT;

/**
 * @brief The event is now the place behind the work already on the stream; it passes when that work is done.
 * @return 0; -EINVAL for an unknown event or stream; else as gmemStreamLaunch(). After an error the event is what
 *   it was.
 */
int gmemEventRecord(gmemEvent_t event, gmemStream_t stream) LIBGMEM_NOEXCEPT;

/**
 * @brief What is registered on the stream from now on waits for the event. Takes no thread on a stream of libgmem's
 *   own, any number of which may wait. The stream on which the event was recorded may be destroyed meanwhile, the
 *   event too.
 *
 * A stream of others or of a driver waits in a function that its executor runs. An executor with one thread for all its
 * streams (a driver may have one for all functions) stands still meanwhile: what is waited for must not need that
 * thread, also not by way of a third stream. Two streams of "cuda" wait for each other without a function. A stream of
 * libgmem's own that waits for one of "cuda" does so for ever once that one's context is lost; gmemEventSynchronize()
 * says so (-EIO).
 * @return 0; -EINVAL for an unknown stream or event; else as gmemStreamLaunch()
 */
int gmemStreamWaitEvent(gmemStream_t stream, gmemEvent_t event) LIBGMEM_NOEXCEPT;

/**
 * @return 0 if the event has passed, -EBUSY if not, -EINVAL for an unknown event; -EIO if it lies on a stream of "cuda"
 *   whose context is lost, so that it never will (gmemEventSynchronize() says so, too).
 */
int gmemEventQuery(gmemEvent_t event) LIBGMEM_NOEXCEPT;

/**
 * @brief Wait until the event has passed.
 * @return 0; -EINVAL for an unknown event; -EDEADLK when called from work that the event comes behind on the same
 *   stream; -EAGAIN as gmemStreamSynchronize()
 */
int gmemEventSynchronize(gmemEvent_t event) LIBGMEM_NOEXCEPT;

/** @brief Give the event up. Who waits for it goes on waiting. @return 0, -EINVAL for an unknown event. */
int gmemEventDestroy(gmemEvent_t event) LIBGMEM_NOEXCEPT;

/* ---- the heap ----------------------------------------------------------------------------------- */

/*
 * libgmem.so exports the same heap under the names of POSIX and C as well (malloc, free, realloc,
 * calloc, ... and C++ operator new and delete); libgmem_api.so has the names below only.
 * Each function follows its namesake in malloc(3), posix_memalign(3) and C23 to the letter,
 * errno included. Its memory comes from huge-page-advised extents; a block of at least one GMEM
 * page starts on a GMEM page. Do not mix the two heaps: what gmem_malloc gave goes to gmem_free.
 *
 * Where the current device has memory of its own, blocks of at least 2 MiB lie there (GMEM_DEVICE_THRESHOLD in the
 * environment makes that more: bytes, with K, M, G or T), each in whole GMEM pages; ordinary memory takes its place
 * where the device has none left, and gmemHeapStats() says how often. Smaller ones do where gmem_device_alloc() asks for
 * them. None of these blocks is there in a forked child.
 */

LIBGMEM_NODISCARD void *gmem_malloc(size_t size) LIBGMEM_NOEXCEPT LIBGMEM_MALLOC LIBGMEM_SIZE(1);
LIBGMEM_NODISCARD void *gmem_calloc(size_t count, size_t size) LIBGMEM_NOEXCEPT LIBGMEM_MALLOC LIBGMEM_SIZE2(1, 2);
LIBGMEM_NODISCARD void *gmem_realloc(void *ptr, size_t size) LIBGMEM_NOEXCEPT LIBGMEM_SIZE(2);
LIBGMEM_NODISCARD void *gmem_reallocarray(void *ptr, size_t count, size_t size) LIBGMEM_NOEXCEPT LIBGMEM_SIZE2(2, 3);
void gmem_free(void *ptr) LIBGMEM_NOEXCEPT;
void gmem_free_sized(void *ptr, size_t size) LIBGMEM_NOEXCEPT;
void gmem_free_aligned_sized(void *ptr, size_t alignment, size_t size) LIBGMEM_NOEXCEPT;
int gmem_posix_memalign(void **out, size_t alignment, size_t size) LIBGMEM_NOEXCEPT;
LIBGMEM_NODISCARD void *gmem_aligned_alloc(size_t alignment, size_t size) LIBGMEM_NOEXCEPT LIBGMEM_MALLOC
	LIBGMEM_SIZE(2);
LIBGMEM_NODISCARD void *gmem_memalign(size_t alignment, size_t size) LIBGMEM_NOEXCEPT LIBGMEM_MALLOC LIBGMEM_SIZE(2);
LIBGMEM_NODISCARD void *gmem_valloc(size_t size) LIBGMEM_NOEXCEPT LIBGMEM_MALLOC LIBGMEM_SIZE(1);
LIBGMEM_NODISCARD void *gmem_pvalloc(size_t size) LIBGMEM_NOEXCEPT LIBGMEM_MALLOC;
/**
 * @brief As gmem_aligned_alloc(), for what kernels of the current device read by its address, however small it is.
 *
 * Where the device has memory of its own that the processor uses as well ("cuda" with managed memory, "opencl" with a
 * driver that maps some), blocks below 2 MiB share pages of it, which stay with libgmem when the blocks are freed; a
 * prefetch takes their neighbours along. Where it has none, none left, or pages that only one side may have at a time
 * ("gmem", "ascend"), and in functions that a driver's stream calls, this is gmem_aligned_alloc(). Given to
 * gmem_free(); gmem_realloc() leaves it there. The C++ containers' allocators take their memory here.
 * @param alignment a power of two; a small one costs nothing
 * @param size      bytes; 0 gives a block of its own
 * @return the block; NULL with errno EINVAL for any other alignment, ENOMEM
 */
LIBGMEM_NODISCARD void *gmem_device_alloc(size_t alignment, size_t size) LIBGMEM_NOEXCEPT LIBGMEM_MALLOC
	LIBGMEM_SIZE(2);
/** @brief Bytes that may be used at ptr; 0 for NULL. */
size_t gmem_malloc_usable_size(void *ptr) LIBGMEM_NOEXCEPT;
/** @brief Give idle heap memory back now, in whole GMEM pages. @return 1 if any was, else 0. */
int gmem_malloc_trim(size_t pad) LIBGMEM_NOEXCEPT;

/* ---- what the heap holds, and how much it may ------------------------------------------------ */

/**
 * What the heap holds, in bytes unless the comment says otherwise. Set `size` before the call; a later version
 * adds fields at the end, and fills as many as `size` has room for.
 */
typedef struct {
	size_t size;       /**< in: sizeof(gmemHeapStats_t); out: bytes filled */
	size_t live;       /**< allocated blocks, with what threads keep or pass on (at most 8 MiB) and what pages of
							small blocks have left over */
	size_t idle;       /**< freed, and kept for the next allocation until it goes back */
	size_t metadata;   /**< the heap's own data, and room for it */
	size_t retained;   /**< address space of which nothing is in use; a part of it is resident, where a page of 2 MiB is
							in use in part */
	size_t mapped;     /**< address space, all of it */
	size_t resident;   /**< in memory */
	size_t huge;       /**< of the resident memory: on huge pages */
	size_t given_back; /**< to the kernel, so far */
	size_t soft_limit; /**< 0: none */
	size_t hard_limit; /**< 0: none */
	size_t refused;    /**< number of times that the hard limit refused memory; several for one allocation */
	size_t foreign;    /**< number of calls that brought a block of another allocator */
	size_t arenas;     /**< number of arenas in use */
	size_t device_live;    /**< live blocks in the memory of a device; not in `live`, and under no limit */
	size_t device_idle;    /**< freed ones that are kept for the next */
	size_t device_refused; /**< number of large blocks for which the device had no memory: they are ordinary */
} gmemHeapStats_t;

/**
 * @brief The heap as it is now; other threads go on meanwhile. Takes about a millisecond for each GiB that the
 *        process has mapped, because the kernel counts the pages.
 * @return 0, or -EINVAL: stats is NULL, or its size less than that of two fields
 */
int gmemHeapStats(gmemHeapStats_t *stats) LIBGMEM_NOEXCEPT;

/**
 * @brief The same as one JSON object, with each arena's share, and NUL-terminated: as much as fits.
 * @return the length without the NUL that the whole text has, as snprintf(3); or -EINVAL: buffer is NULL, and
 *         size is not 0
 */
int gmemHeapStatsJson(char *buffer, size_t size) LIBGMEM_NOEXCEPT;

/** @brief Give all idle memory back now, and what the calling thread keeps. @return bytes given back */
size_t gmemHeapTrim(void) LIBGMEM_NOEXCEPT;

/**
 * @brief Limits in bytes on what the heap has in use, live and idle together; 0 is none. They hold from now on.
 *
 * Above `soft` nothing idle is kept: each time the heap takes more, what is idle goes back. At `hard` there is no
 * more: allocations fail with ENOMEM, after what is idle went back and one more attempt. Also set by the variables
 * GMEM_HEAP_SOFT_LIMIT and GMEM_HEAP_HARD_LIMIT: a number with K, M, G or T, or `cgroup` for the limit of the
 * process's control group. Pages of 2 MiB of which a part is in use stay resident as a whole, so the resident memory
 * may exceed the limit: leave room for that where a control group ends what exceeds it.
 *
 * @return 0, or -EINVAL: soft exceeds hard; nothing is changed
 */
int gmemHeapSetLimits(size_t soft, size_t hard) LIBGMEM_NOEXCEPT;

#ifdef __cplusplus
}
#endif

#undef LIBGMEM_MALLOC
#undef LIBGMEM_SIZE
#undef LIBGMEM_SIZE2

#endif /* LIBGMEM_H */
