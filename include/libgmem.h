/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file libgmem.h
 * @brief The C interface of libgmem: memory shared by a CPU and its accelerators.
 *
 * Allocate as usual, say where the data must be next (gmemPrefetch()), and release pages that are no longer needed
 * (gmemFreeEager()): immediately, or in stream order.
 *
 * @par Results
 * A function that returns int returns 0 (or a count) on success and a **negative errno** on failure. After a failure
 * gmemLastError() names the argument, its value, what is allowed and the remedy. docs/errnos.md lists every errno with
 * its remedy. Errors of the kernel that a function does not list are passed on unchanged: -ENOENT without /proc,
 * -EMFILE and -ENFILE without a free file descriptor, -EPERM in a sandbox.
 *
 * @par Ranges
 * A range is [addr, addr + size), in bytes. The **GMEM page** has 2 MiB on every machine (gmemGetPageSize()); it
 * is the huge page of kernels with base pages of 4 KiB. The **base page** is sysconf(_SC_PAGESIZE).
 *
 * @par Thread safety
 * Every function is MT-Safe: any thread may call it at any time, concurrently with others. None is async-signal-safe,
 * just like malloc(3).
 *
 * @par Side effects
 * libgmem never prints, raises a signal or ends the process, with one exception: a pointer that the heap cannot free (a
 * block that is free already, or an address inside a block) is reported on stderr, and ends the process with SIGABRT.
 * GMEM_ABORT_ON_CORRUPTION=0 leaks the block instead. GMEM_LOG=error (or =trace) turns on messages on stderr.
 * Loading the library opens nothing and starts nothing.
 *
 * @par Undefined behaviour
 * C cannot detect a pointer that does not point to a function, or a block that this heap did not allocate.
 */
#ifndef LIBGMEM_H
#define LIBGMEM_H

#include <stddef.h>
#include <stdint.h>

/** Major version of this header; gmemVersion() returns the version of the loaded library. */
#define LIBGMEM_VERSION_MAJOR 0
/** Minor version of this header. */
#define LIBGMEM_VERSION_MINOR 1
/** Patch version of this header. */
#define LIBGMEM_VERSION_PATCH 0

/** @cond PRIVATE */
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
/** @endcond */

/* ---- ranges ------------------------------------------------------------------------------- */

/**
 * @brief Return the physical memory of a range to the kernel.
 *
 * Rounds the range **inward** to whole GMEM pages and touches no byte outside them; a range without a whole page is a
 * success. When the call returns, the pages belong to the kernel again: the resident size of the process shrinks, and
 * the next read returns zeros. The addresses stay mapped.
 *
 * Private and shared anonymous memory, memfd, /dev/shm, System V shared memory, locked private memory and hugetlb
 * memory are all released; shared memory is released for every process that maps it. Memory served by a userfaultfd(2)
 * is released as well: its monitor receives UFFD_EVENT_REMOVE and serves the next access.
 *
 * The pages of a **file that is mapped read-only** are released if they are clean: the process no longer holds them,
 * and the next read brings the file's bytes back. The page cache keeps its copy; gmemFreeEagerFile() drops that,
 * too, and so does a free of what gmemModelOpen() opened. If a whole page of the range holds bytes that the file does
 * not have, because it was written before mprotect(2) made it read-only, nothing is released.
 *
 * Managed memory of the device "cuda" is the exception: reads return unspecified bytes until the memory is written (see
 * docs/devices/cuda.md).
 *
 * @param addr   start of the range: any address
 * @param size   length in bytes: any number with addr + size inside the address space
 * @param stream NULL: the call is synchronous. Otherwise a gmemStream_t, or a stream of the current device's driver:
 * the call queues the work in stream order and returns; gmemStreamSynchronize() reports its failure.
 * @retval 0            done, or queued
 * @retval -EINVAL      addr + size exceeds the address space; the stream is unknown; the range holds a file mapping
 * that may be written or was, or a device mapping (nothing is released), or locked shared memory (mlock(2));
 * GMEM_DEVICE names no device
 * @retval -ENOMEM      part of the whole pages is not mapped (the mapped part is released, as by madvise(2)); out of
 *                      memory
 * @retval -EACCES      shared memory is mapped read-only (nothing is released)
 * @retval -EPERM       a memfd is sealed against writing; read-only anonymous memory is sealed by mseal(2)
 * @retval -EOPNOTSUPP  the device releases whole blocks only (nothing is released); a CUDA stream is being captured
 * @retval -EAGAIN      the stream's queue is full, and the caller is a function that a stream runs
 * @retval -ENODEV      the current device, or the driver of the stream, cannot be used
 * @retval -EIO         the driver failed (gmemLastError() has its code); an external stream's launch function returned
 * a positive code (a negative errno from it is passed on)
 * @retval -EDEADLK     called from a host function of a CUDA stream, where CUDA allows no calls
 * @retval -ENOTRECOVERABLE internal error; please report the text of gmemLastError()
 * @par Thread safety
 * MT-Safe.
 * @par System calls
 * madvise(2): MADV_DONTNEED or MADV_DONTNEED_LOCKED for private memory and files, MADV_REMOVE for shared memory.
 * @see gmemFreeEagerV(), gmemPrefetch(), madvise(2)
 */
int gmemFreeEager(unsigned long addr, size_t size, void *stream) LIBGMEM_NOEXCEPT;

/** The bytes [addr, addr + size): one of the ranges of gmemFreeEagerV() or gmemPrefetchV(). */
typedef struct {
	unsigned long addr; /**< start of the range: any address */
	size_t size;        /**< length in bytes: any number with addr + size inside the address space */
} gmemRange_t;

/**
 * Results of gmemFreeEagerV().
 *
 * Set `size` before the call. Later versions append fields; the library fills as many as `size` has space for. After
 * success, freed + lost is bytes.
 */
typedef struct {
	size_t size;     /**< in: sizeof(gmemFreeReport_t); out: bytes filled */
	int result;      /**< 0, a negative errno, or -EINPROGRESS while the work waits in a stream */
	unsigned blocks; /**< contiguous blocks that the ranges form */
	size_t bytes;    /**< bytes requested, each counted once; 0 if an argument is wrong */
	size_t freed;    /**< bytes of the blocks' whole GMEM pages that were released; a block that failed counts as not
						  released */
	size_t lost;     /**< bytes lost to rounding: they belong to GMEM pages that a block holds only in part */
} gmemFreeReport_t;

/**
 * @brief Return the physical memory of many ranges to the kernel, in one call.
 *
 * Takes the **union of the ranges before it rounds**: ranges that touch or overlap form one block, and each block is
 * rounded inward to whole GMEM pages. Arrays that lie side by side, none of which holds a whole page, are so released
 * together, where a gmemFreeEager() of each would release nothing. Bytes between two ranges are not touched, and keep
 * their page. The order of the ranges does not matter; empty ranges are ignored.
 *
 * All blocks are checked before the first is released. Otherwise as gmemFreeEager().
 *
 * @param ranges the ranges; may be NULL if count is 0. They need not outlive the call.
 * @param count  number of ranges; 0 is a success
 * @param stream NULL: the call is synchronous. Otherwise as for gmemFreeEager(); all ranges are one piece of work.
 * @param report NULL: none. With a stream, it is filled when the stream has passed the work and must stay valid until
 * then; until then report->result is -EINPROGRESS.
 * @retval 0            done, or queued
 * @retval -EINVAL      ranges is NULL and count is not 0; a range or the array exceeds the address space; the stream is
 *                      unknown; report->size is smaller than two fields; a block holds a file mapping that may
 *                      be written or was, or a device mapping; GMEM_DEVICE names no device (nothing is released)
 * @retval -ENOMEM      part of a block's whole pages is not mapped (what is mapped in all blocks is released); out of
 *                      memory
 * @retval -EACCES      shared memory is mapped read-only (nothing is released)
 * @retval -EPERM       a memfd is sealed against writing, or read-only anonymous memory by mseal(2) (the other blocks
 * are released)
 * @retval -EOPNOTSUPP  the device releases whole blocks only (nothing is released); a CUDA stream is being captured
 * @retval -EAGAIN      as gmemFreeEager()
 * @retval -ENODEV      as gmemFreeEager()
 * @retval -EIO         as gmemFreeEager()
 * @retval -EDEADLK     as gmemFreeEager()
 * @retval -ENOTRECOVERABLE internal error; please report the text of gmemLastError()
 * @par Thread safety
 * MT-Safe.
 * @par System calls
 * The system calls of gmemFreeEager(), once for each block.
 * @see gmemFreeEager(), gmemPrefetchV()
 */
int gmemFreeEagerV(const gmemRange_t *ranges, size_t count, void *stream, gmemFreeReport_t *report) LIBGMEM_NOEXCEPT;

/**
 * @brief Bring a range to a memory node so that accesses take no page fault.
 *
 * Rounds the range **outward** to GMEM pages. Missing pages are populated on the node, pages on other nodes move there,
 * and pages that are already there are marked as used. After success, an access that the mapping's protection permits
 * takes no page fault until the kernel undoes that: memory pressure, a fork(2), automatic NUMA balancing, or
 * khugepaged, which unmaps base pages while it collapses them.
 *
 * A writable private file mapping gets private copies; map files read-only to share the page cache. The margin added by
 * rounding is populated where it is private anonymous memory of this process, and skipped elsewhere. Missing pages of a
 * userfaultfd(2) range are requested from its monitor, so the monitor itself must not prefetch that range. Memory that
 * a userfaultfd of this process serves is never part of the margin.
 *
 * @param addr   start of the range: any address
 * @param size   length in bytes: any number with addr + size inside the address space; 0 is a success
 * @param hnid   heterogeneous NUMA id: a node with memory (see gmemGetNumaId()), or an accelerator of the current
 * device (see docs/devices/)
 * @param stream as for gmemFreeEager()
 * @retval 0            done, or queued
 * @retval -EINVAL      addr + size exceeds the address space; hnid is not a memory node; the stream is unknown; the
 * range holds a device mapping, or memory that the device hnid cannot hold (nothing is moved); GMEM_DEVICE names no
 * device
 * @retval -ENOMEM      part of [addr, addr + size) is not mapped, or the node has too little free memory (nothing is
 *                      moved); the kernel ran out of memory
 * @retval -EACCES      part of the range is mapped PROT_NONE, or the cpuset excludes the node (nothing is moved);
 *                      /dev/gmem may not be opened
 * @retval -EBUSY       pages are pinned, or shared between processes, and could not move
 * @retval -EPERM       a sandbox refuses move_pages(2), or memory policies, and pages cannot be put on the node without
 *                      (nothing is moved)
 * @retval -EFAULT      part of a file mapping or a model lies beyond the end of its file; guard pages
 * (MADV_GUARD_INSTALL), or a protection key that refuses access; no hugetlb page is free; an accelerator of the GMEM
 * kernel failed or is full
 * @retval -EOPNOTSUPP  the kernel is older than Linux 5.14; a CUDA stream is being captured; the GMEM kernel's driver
 * does not support the call
 * @retval -EAGAIN      the stream's queue is full, and the caller is a function that a stream runs; the GMEM kernel
 * asks to try again
 * @retval -EEXIST      the GMEM kernel reports a page that the device maps already
 * @retval -ENODEV      the current device, or the driver of the stream, cannot be used
 * @retval -EIO         the driver failed (gmemLastError() has its code); the disk of a model's file failed; an external
 * stream's launch function returned a positive code (a negative errno from it is passed on)
 * @retval -EDEADLK     called from a host function of a CUDA stream, where CUDA allows no calls
 * @retval -ENOTRECOVERABLE internal error; please report the text of gmemLastError()
 * @par Thread safety
 * MT-Safe.
 * @par System calls
 * madvise(2): MADV_POPULATE_WRITE or MADV_POPULATE_READ; move_pages(2) and set_mempolicy(2) where the machine has
 * several memory nodes; PROCMAP_QUERY and PAGEMAP_SCAN, or /proc/self/maps and /proc/self/pagemap.
 * @see gmemPrefetchEx(), gmemFreeEager(), madvise(2), move_pages(2), numa(7)
 */
int gmemPrefetch(unsigned long addr, size_t size, int hnid, void *stream) LIBGMEM_NOEXCEPT;

/* ---- prefetch with options and a report -------------------------------------------------------- */

/** Huge-page policies. */
enum { /* NOLINT(performance-enum-size): C has no smaller ones */
	/** Follow the mapping (madvise(2)) and the system's setting. */
	GMEM_HUGE_AS_IS = 0,
	/** Base pages only. */
	GMEM_HUGE_OFF = 1,
	/** Huge pages where the kernel has free ones, also in place of resident base pages; base pages elsewhere. Done on
	 * return, never in the background. */
	GMEM_HUGE_PREFER = 2,
	/** A huge page for each part of the range that can be one as a whole, or an error before anything is touched. Needs
	 * Linux 6.1. Such a part is a GMEM page, or 32 or 512 MiB where base pages have 16 or 64 KiB. */
	GMEM_HUGE_REQUIRE = 3
};

/** A number that the kernel or the device does not report. */
#define GMEM_UNKNOWN SIZE_MAX

/**
 * Results of a prefetch.
 *
 * The numbers cover [addr, addr + size) widened to whole base pages, not the margin up to whole GMEM pages. Set `size`
 * before the call. Later versions append fields; the library fills as many as `size` has space for. A device that does
 * not report what it moved sets already_resident, populated and migrated to GMEM_UNKNOWN. A call that failed before it
 * looked at the pages sets already_resident and failed to it.
 */
typedef struct {
	size_t size;             /**< in: sizeof(gmemPrefetchReport_t); out: bytes filled */
	int result;              /**< 0, a negative errno, or -EINPROGRESS while the work waits in a stream */
	unsigned threads;        /**< threads that did the work, including the caller's */
	size_t bytes;            /**< bytes requested */
	size_t already_resident; /**< base pages that were on the node before */
	size_t populated;        /**< base pages that were not in memory, or swapped out, and are now on the node */
	size_t migrated;         /**< base pages that moved to the node from another one */
	size_t failed;      /**< base pages that are not on the node; GMEM_UNKNOWN if a device failed, or the call failed
							 before it looked at the pages */
	size_t huge;        /**< GMEM pages backed by a huge page; GMEM_UNKNOWN before Linux 6.7 */
	size_t fallen_back; /**< whole GMEM pages that should have been huge (policy or system setting) and are not;
							 GMEM_UNKNOWN before Linux 6.7 */
	unsigned long first_failed; /**< address of the first page that failed; 0: none */
	int first_errno;            /**< why it failed, as a positive errno; 0: none */
	int stalled;                /**< 1: the kernel had to compact memory for huge pages, so the rest got base pages */
	unsigned long long duration_ns; /**< duration of the work in nanoseconds; 0 if a CUDA stream did it */
} gmemPrefetchReport_t;

/**
 * How to prefetch. Zero the structure, set `size`, then the fields you need.
 *
 * The structure need not outlive the call; what it points to must stay valid until the work is done.
 */
typedef struct {
	size_t size;      /**< sizeof(gmemPrefetchOptions_t) */
	int huge;         /**< GMEM_HUGE_...; AS_IS: the range's policy, else the process's */
	unsigned threads; /**< maximum number of threads, including the caller's; 0: as many as help */
	unsigned long long
		timeout_ns; /**< fail with -ETIMEDOUT after this many nanoseconds from the call on; 0: no limit */
	/** If not NULL: the work stops with -ECANCELED once *cancel is not 0. Any thread may set it, atomically. */
	const int *cancel;
	/** If not NULL: called with the bytes done and the total after each piece, on the thread that does the work. A
	 * result other than 0 cancels. */
	int (*progress)(size_t done, size_t total, void *arg);
	void *progress_arg; /**< passed to progress */
	/** If not NULL: called once when the work is over and the report is filled, on the calling thread or the stream's.
	 * Also called if gmemPrefetchEx() fails, unless `size` or `huge` is wrong. */
	void (*finished)(void *arg);
	void *finished_arg; /**< passed to finished */
} gmemPrefetchOptions_t;

/**
 * @brief Prefetch with options, and report what was done.
 *
 * Several threads populate a range of more than 48 MiB if its first 16 MiB had pages to populate: at most as many as
 * the caller may use processors, 16 per call, and GMEM_PREFETCH_THREADS (16) for the process. Work proceeds in pieces
 * of 16 MiB; between pieces the timeout, `cancel` and `progress` are checked. Pages that are done stay in memory. If
 * the kernel has to compact memory for each huge page (compact_stall in /proc/vmstat grows), the rest gets base pages
 * and stays on them, unless khugepaged collapses them later.
 *
 * @param addr    as for gmemPrefetch()
 * @param size    as for gmemPrefetch()
 * @param hnid    as for gmemPrefetch()
 * @param stream  as for gmemPrefetch()
 * @param options NULL: the defaults
 * @param report  NULL: none. With a stream, it is filled when the work is done and must stay valid until then; until
 * then report->result is -EINPROGRESS.
 * @retval 0            done, or queued
 * @retval -EINVAL      as gmemPrefetch(); options->huge is none of the four policies; a `size` field is smaller than
 * two fields (nothing is done)
 * @retval -ENOMEM      as gmemPrefetch(); required huge pages are missing (nothing is touched; gmemLastError() says how
 *                      many, and the remedy)
 * @retval -EACCES      as gmemPrefetch()
 * @retval -EBUSY       as gmemPrefetch()
 * @retval -EPERM       as gmemPrefetch()
 * @retval -EFAULT      as gmemPrefetch()
 * @retval -EOPNOTSUPP  as gmemPrefetch(); huge pages are required, and the system, mapping or device has none (nothing
 * is touched)
 * @retval -ECANCELED   `cancel` or `progress` stopped it
 * @retval -ETIMEDOUT   it took longer than timeout_ns
 * @retval -EAGAIN      as gmemPrefetch()
 * @retval -EEXIST      as gmemPrefetch()
 * @retval -ENODEV      as gmemPrefetch()
 * @retval -EIO         as gmemPrefetch()
 * @retval -EDEADLK     as gmemPrefetch()
 * @retval -ENOTRECOVERABLE internal error; please report the text of gmemLastError()
 * @par Thread safety
 * MT-Safe.
 * @par System calls
 * The system calls of gmemPrefetch(), and madvise(2) with MADV_HUGEPAGE, MADV_NOHUGEPAGE and MADV_COLLAPSE.
 * @see gmemPrefetch(), gmemPrefetchV(), gmemSetHugePolicy(), madvise(2)
 */
int gmemPrefetchEx(unsigned long addr, size_t size, int hnid, void *stream, const gmemPrefetchOptions_t *options,
	gmemPrefetchReport_t *report) LIBGMEM_NOEXCEPT;

/**
 * @brief Prefetch many ranges to one memory node, in one call.
 *
 * Takes the union of the ranges before it rounds: ranges that touch or overlap form one block. The blocks are
 * prefetched in the order of their addresses, up to the first failure; what is done stays in memory. The options, the
 * timeout, the progress and the report cover all blocks: each number of the report is the sum of theirs, and pages of
 * blocks that were not reached count as failed. Empty ranges are ignored. Otherwise as gmemPrefetchEx().
 *
 * @param ranges  the ranges; may be NULL if count is 0. They need not outlive the call.
 * @param count   number of ranges; 0 is a success
 * @param hnid    as for gmemPrefetch(), for all ranges
 * @param stream  as for gmemPrefetch(); all ranges are one piece of work
 * @param options as for gmemPrefetchEx()
 * @param report  as for gmemPrefetchEx()
 * @retval 0            done, or queued
 * @retval -EINVAL      ranges is NULL and count is not 0; a range or the array exceeds the address space (nothing is
 *                      moved); as gmemPrefetchEx()
 * @retval -ENOMEM      as gmemPrefetchEx(), for the block that failed
 * @retval -EACCES      as gmemPrefetch(), for the block that failed
 * @retval -EBUSY       as gmemPrefetch()
 * @retval -EPERM       as gmemPrefetch()
 * @retval -EFAULT      as gmemPrefetch()
 * @retval -EOPNOTSUPP  as gmemPrefetchEx(), for the block that failed
 * @retval -ECANCELED   `cancel` or `progress` stopped it
 * @retval -ETIMEDOUT   it took longer than timeout_ns
 * @retval -EAGAIN      as gmemPrefetch()
 * @retval -EEXIST      as gmemPrefetch()
 * @retval -ENODEV      as gmemPrefetch()
 * @retval -EIO         as gmemPrefetch()
 * @retval -EDEADLK     as gmemPrefetch()
 * @retval -ENOTRECOVERABLE internal error; please report the text of gmemLastError()
 * @par Thread safety
 * MT-Safe.
 * @par System calls
 * The system calls of gmemPrefetchEx(), for each block.
 * @see gmemPrefetchEx(), gmemFreeEagerV()
 */
int gmemPrefetchV(const gmemRange_t *ranges, size_t count, int hnid, void *stream, const gmemPrefetchOptions_t *options,
	gmemPrefetchReport_t *report) LIBGMEM_NOEXCEPT;

/**
 * @brief Set the huge-page policy of the process.
 *
 * It applies to prefetches that request no policy, in ranges that have none. The initial policy is GMEM_HUGE_PAGES from
 * the environment (off, prefer, require), else GMEM_HUGE_AS_IS.
 *
 * @param policy one of the four GMEM_HUGE_* policies
 * @retval 0       set
 * @retval -EINVAL policy is none of the four
 * @retval -ENOTRECOVERABLE internal error; please report the text of gmemLastError()
 * @par Thread safety
 * MT-Safe.
 * @see gmemSetRangeHugePolicy(), gmemGetHugePolicy()
 */
int gmemSetHugePolicy(int policy) LIBGMEM_NOEXCEPT;

/**
 * @brief Set the huge-page policy of a range, and advise the kernel.
 *
 * It applies to prefetches that begin in the range and request no policy. Memory mapped there now is advised
 * immediately. The policy belongs to the addresses and outlives the mapping: set GMEM_HUGE_AS_IS before unmapping. Use
 * it for a few large ranges; each change keeps a few bytes forever.
 *
 * @param addr   start of the range: any address
 * @param size   length in bytes: any number with addr + size inside the address space
 * @param policy one of the four GMEM_HUGE_* policies
 * @retval 0       set
 * @retval -EINVAL addr + size exceeds the address space; policy is none of the four; GMEM_DEVICE names no device
 * @retval -ENODEV the current device cannot be used
 * @retval -ENOMEM out of memory
 * @retval -ENOTRECOVERABLE internal error; please report the text of gmemLastError()
 * @par Thread safety
 * MT-Safe.
 * @par System calls
 * madvise(2) with MADV_HUGEPAGE or MADV_NOHUGEPAGE.
 * @see gmemSetHugePolicy(), madvise(2)
 */
int gmemSetRangeHugePolicy(unsigned long addr, size_t size, int policy) LIBGMEM_NOEXCEPT;

/**
 * @brief Get the policy of a prefetch that begins at an address: the range's, else the process's.
 *
 * @param addr any address
 * @return one of the four GMEM_HUGE_* policies; it never fails
 * @par Thread safety
 * MT-Safe.
 * @see gmemSetRangeHugePolicy()
 */
int gmemGetHugePolicy(unsigned long addr) LIBGMEM_NOEXCEPT;

/**
 * @brief Get the heterogeneous NUMA id of the current device.
 *
 * | device | id |
 * | --- | --- |
 * | host | the memory node nearest to the calling thread's CPU |
 * | gmem, ascend | the first accelerator attached to the process; asked anew on each call |
 * | opencl | as host if the device is the processor, else an id beyond those of memory nodes |
 * | cuda | the kernel's node of the GPU's memory if it has one, else an id beyond those of memory nodes |
 *
 * @return an id >= 0 for gmemPrefetch(), or a negative errno
 * @retval -EINVAL GMEM_DEVICE names no device
 * @retval -ENODEV the current device cannot be used, or no accelerator is attached to the process
 * @retval -EACCES /dev/gmem may not be opened
 * @retval -ENOTRECOVERABLE internal error; please report the text of gmemLastError()
 * @par Thread safety
 * MT-Safe.
 * @par System calls
 * getcpu(2) on host; ioctl(2) on /dev/gmem on gmem and ascend.
 * @see gmemSetDevice(), gmemTopology(), numa(7)
 */
int gmemGetNumaId(void) LIBGMEM_NOEXCEPT;

/**
 * @brief Get the size of the GMEM page, the granularity of gmemPrefetch() and gmemFreeEager().
 *
 * @return bytes, a power of two; it never fails
 * @par Thread safety
 * MT-Safe.
 * @see gmemPrefetch(), gmemFreeEager()
 */
size_t gmemGetPageSize(void) LIBGMEM_NOEXCEPT;

/* ---- model files ------------------------------------------------------------------------------ */

/**
 * A file of weights whose bytes are addresses of this process, for reading.
 *
 * gmemPrefetch() brings a range of them into memory, gmemFreeEager() drops it, and the next prefetch brings the file's
 * bytes back, any number of times: with the same options, reports, streams and errors as for other memory. A range need
 * not be aligned. The GMEM page in which the file ends counts as whole if the range reaches the file's last byte.
 *
 * A read of what was not prefetched finds the file's bytes, too, at the cost of page faults and of the page cache. A
 * fault scope (gmemFaultScopeBegin()) finds such reads.
 *
 * A forked child has its parent's models. See docs/models.md.
 */
typedef struct gmemModel *gmemModel_t;

/** How the bytes of a file get into memory. */
enum { /* NOLINT(performance-enum-size): C has no smaller ones */
	/** The best way; gmemModelGetInfo() tells which, and why. */
	GMEM_MODEL_AUTOMATIC = 0,
	/** The pages of the page cache itself are mapped. An eager free drops them from the page cache as well, unless they
	 * are dirty or another process maps them. */
	GMEM_MODEL_SHARED = 1,
	/** Private huge pages are filled by reads past the page cache, several in flight, on the node that is asked for. */
	GMEM_MODEL_PRIVATE = 2
};

/** Whose private memory is. */
enum { /* NOLINT(performance-enum-size): C has no smaller ones */
	/** The memory of this process. */
	GMEM_COPY_OWN = 0,
	/** One copy for this process and others, which join it by the descriptor of gmemModelCopyDescriptor(). A page is
	 * read by one of them, and its memory goes back to the kernel when the last of those that prefetched it has freed
	 * it, closed the model, or ended. The mode is GMEM_MODEL_PRIVATE. */
	GMEM_COPY_COMMON = 1,
	/** Join the copy of another process: copy_descriptor says which. */
	GMEM_COPY_JOIN = 2
};

/** How to open a model. Zero the structure, set `size`, then the fields you need. Later versions append fields. */
typedef struct {
	size_t size; /**< sizeof(gmemModelOptions_t) */
	int mode;    /**< GMEM_MODEL_... */
	int huge;    /**< GMEM_HUGE_... for private memory, where a prefetch asks for none; AS_IS prefers huge pages */
	int copy;    /**< GMEM_COPY_... */
	int copy_descriptor; /**< for GMEM_COPY_JOIN: a descriptor of the copy. It may be closed after gmemModelOpen(). */
} gmemModelOptions_t;

/** An open model. Set `size` before the call. Later versions append fields. */
typedef struct {
	size_t size;        /**< in: sizeof(gmemModelInfo_t); out: bytes filled */
	int mode;           /**< GMEM_MODEL_SHARED or GMEM_MODEL_PRIVATE */
	int direct;         /**< 1: the file system has reads past the page cache (O_DIRECT) */
	const void *data;   /**< the file's first byte, on a GMEM page; NULL if it is empty */
	size_t bytes;       /**< bytes in the file when it was opened */
	size_t loaded;      /**< bytes in private memory now, in whole GMEM pages */
	size_t read;        /**< bytes of the file that were read into private memory so far */
	const char *reason; /**< why it has this mode; never freed */
} gmemModelInfo_t;

/**
 * @brief Open a model file. Nothing is read, except, in the automatic mode, 2 MiB of the first file of each file
 * system, to learn whether the page cache has huge pages for it.
 *
 * The size of the file is taken now; bytes that are appended later are not seen. A file that is replaced or deleted
 * keeps its bytes. Bytes that are overwritten are seen by later prefetches. If the file is truncated, what was
 * prefetched into private memory stays; other addresses behind its end raise SIGBUS, as in every mapping.
 *
 * @param path    a regular file
 * @param options NULL: the defaults
 * @param model   receives the handle
 * @retval 0       open
 * @retval -EINVAL path or model is NULL; the file is a pipe, a socket, a device, or a file of /proc or /sys;
 *                 options->mode, options->huge or options->copy is unknown; a copy is asked for with
 *                 GMEM_MODEL_SHARED; options->copy_descriptor is not of a copy of this file, or the file has changed
 *                 since; options->size is smaller than two fields
 * @retval -EBADF  options->copy_descriptor is not open
 * @retval -EUSERS 56 processes have the copy open
 * @retval -EISDIR the path is a directory
 * @retval -ENOENT the file does not exist
 * @retval -EACCES the file may not be read
 * @retval -EMFILE 4096 models are open; the process has no free file descriptor
 * @retval -ENOMEM out of memory, or of addresses for the file
 * @retval -ENOTRECOVERABLE internal error; please report the text of gmemLastError()
 * @par Thread safety
 * MT-Safe.
 * @par System calls
 * openat(2), mmap(2); mincore(2) of a sample if the mode is automatic.
 * @see gmemModelGetInfo(), gmemModelRange(), gmemModelClose(), open(2)
 */
int gmemModelOpen(const char *path, const gmemModelOptions_t *options, gmemModel_t *model) LIBGMEM_NOEXCEPT;

/**
 * @brief Tell where a model's bytes are, and how they get into memory.
 *
 * @param model a gmemModel_t
 * @param info  filled; set info->size first
 * @retval 0       done
 * @retval -EINVAL the model is unknown; info is NULL; info->size is smaller than two fields
 * @retval -ENOTRECOVERABLE internal error; please report the text of gmemLastError()
 * @par Thread safety
 * MT-Safe.
 * @see gmemModelOpen()
 */
int gmemModelGetInfo(gmemModel_t model, gmemModelInfo_t *info) LIBGMEM_NOEXCEPT;

/**
 * @brief Get the addresses of a part of a model.
 *
 * @param model  a gmemModel_t
 * @param offset of the first byte in the file
 * @param length in bytes
 * @param range  receives the addresses
 * @retval 0       done
 * @retval -EINVAL the model is unknown; range is NULL; the part exceeds the file
 * @retval -ENOTRECOVERABLE internal error; please report the text of gmemLastError()
 * @par Thread safety
 * MT-Safe.
 * @see gmemModelOpen(), gmemPrefetch(), gmemFreeEager()
 */
int gmemModelRange(gmemModel_t model, size_t offset, size_t length, gmemRange_t *range) LIBGMEM_NOEXCEPT;

/**
 * @brief Get a descriptor with which other processes can join a model's copy.
 *
 * Pass it to a process of the same PID namespace: over a Unix socket (SCM_RIGHTS), by pidfd_getfd(2), by inheritance,
 * or as the path /proc/PID/fd/NUMBER, which that process opens for reading and writing. It joins with gmemModelOpen(),
 * the same file, GMEM_COPY_JOIN and the descriptor.
 *
 * Each process has addresses of its own for the file, and prefetches what it needs; what another one has read already
 * is there without a read. A free makes the pages of this process show the file; the others keep theirs. A page that a
 * process which ended had in use is released when the next process joins.
 *
 * A child of fork(3) is a process of its own, which has prefetched nothing. A child of clone(2) or _Fork(3) has no
 * memory where its parent had prefetched pages, so reads there raise SIGSEGV, and its calls fail with -EINVAL.
 *
 * @param model a gmemModel_t that was opened with GMEM_COPY_COMMON or GMEM_COPY_JOIN
 * @return a descriptor, which the caller owns and exec closes, or a negative errno
 * @retval -EINVAL the model is unknown, or has no copy in common
 * @retval -EBADF  the program has closed the library's descriptor
 * @retval -EMFILE the process has no free file descriptor
 * @retval -ENOTRECOVERABLE internal error; please report the text of gmemLastError()
 * @par Thread safety
 * MT-Safe.
 * @see gmemModelOpen(), memfd_create(2), unix(7)
 */
int gmemModelCopyDescriptor(gmemModel_t model) LIBGMEM_NOEXCEPT;

/**
 * @brief Close a model. Its addresses become invalid.
 *
 * Synchronize streams with work on it first; a pipeline keeps its models open.
 *
 * @param model a gmemModel_t
 * @retval 0       closed
 * @retval -EINVAL the model is unknown, or was closed before
 * @retval -ENOTRECOVERABLE internal error; please report the text of gmemLastError()
 * @par Thread safety
 * MT-Safe.
 * @par System calls
 * munmap(2), close(2).
 * @see gmemModelOpen()
 */
int gmemModelClose(gmemModel_t model) LIBGMEM_NOEXCEPT;

/**
 * A pipeline: it brings parts of models into memory before they are used, and drops them when they were used, so that
 * no more than a budget of them is in memory.
 *
 * The user of the parts is a stream, or, without one, the threads that call. It announces each use by
 * gmemPipelineWant(), and its end by gmemPipelineDone(). A forked child has none of its parent's pipelines.
 */
typedef struct gmemPipeline *gmemPipeline_t;

/** The order in which the parts of a pipeline are used. */
enum { /* NOLINT(performance-enum-size): C has no smaller ones */
	/** One after the other, once: each is dropped when it was used. */
	GMEM_PIPELINE_SEQUENCE = 0,
	/** One after the other, and again from the first. As many stay in memory as fit: the one that is used last goes. */
	GMEM_PIPELINE_CYCLE = 1,
	/** Known late, as for the experts of a mixture: the one that was used least recently goes. */
	GMEM_PIPELINE_ANY = 2
};

/** How a pipeline works. Zero the structure, set `size`, then the fields you need. Later versions append fields. */
typedef struct {
	size_t size;         /**< sizeof(gmemPipelineOptions_t) */
	size_t budget;       /**< bytes in memory at a time, in whole GMEM pages; at least as much as the largest part */
	unsigned look_ahead; /**< parts to bring ahead of the one in use, where the order is known */
	int order;           /**< GMEM_PIPELINE_... */
	int hnid;            /**< where to, as for gmemPrefetch() */
	void *stream;        /**< the stream that uses the parts; NULL: the threads that call */
} gmemPipelineOptions_t;

/** What a pipeline did. Set `size` before the call. Later versions append fields. */
typedef struct {
	size_t size;                  /**< in: sizeof(gmemPipelineReport_t); out: bytes filled */
	size_t wants;                 /**< calls of gmemPipelineWant() */
	size_t waits;                 /**< those for which the user of the part had to wait */
	unsigned long long waited_ns; /**< how long it waited, in nanoseconds */
	size_t prefetches;            /**< prefetches of parts */
	size_t bytes;                 /**< bytes of those parts */
	size_t drops;                 /**< parts that were dropped */
	size_t peak;                  /**< the most bytes in memory at a time, in whole GMEM pages */
} gmemPipelineReport_t;

/**
 * @brief Make a pipeline, and begin to bring its first parts.
 *
 * @param ranges  the parts, in the order of their use if it is known; each inside a model. They may overlap.
 * @param count   number of parts
 * @param options how it works
 * @param pipeline receives the handle
 * @retval 0       made
 * @retval -EINVAL ranges is NULL and count is not 0; options or pipeline is NULL; a range exceeds the address space, is
 *                 not inside a model, or exceeds the budget; options->order, options->hnid or options->stream is
 *                 unknown; options->size is smaller than two fields; GMEM_DEVICE names no device
 * @retval -ENOMEM out of memory
 * @retval -EAGAIN no thread can be started
 * @retval -ENODEV the current device cannot be used
 * @retval -ENOTRECOVERABLE internal error; please report the text of gmemLastError()
 * @par Thread safety
 * MT-Safe.
 * @see gmemPipelineWant(), gmemPipelineDone(), gmemPipelineDestroy()
 */
int gmemPipelineCreate(const gmemRange_t *ranges, size_t count, const gmemPipelineOptions_t *options,
	gmemPipeline_t *pipeline) LIBGMEM_NOEXCEPT;

/**
 * @brief Say that a part is used from now on.
 *
 * Without a stream it is in memory on return. With one, the work that is registered on the stream from now on finds it
 * in memory; if it cannot be brought, the stream fails.
 *
 * @param pipeline a gmemPipeline_t
 * @param index    of the part in `ranges`
 * @retval 0       in memory, or registered
 * @retval -EINVAL the pipeline or its stream is unknown; index is none of its parts
 * @retval -ENOMEM the parts in use leave too little of the budget; as gmemPrefetch()
 * @retval -EFAULT as gmemPrefetch(): the file was truncated
 * @retval -EIO    the disk failed
 * @retval -EBADF  the program has closed the model's file descriptor
 * @retval -EAGAIN as gmemStreamWaitEvent()
 * @retval -EDEADLK as gmemStreamWaitEvent()
 * @retval -ENOTRECOVERABLE internal error; please report the text of gmemLastError()
 * @par Thread safety
 * MT-Safe.
 * @see gmemPipelineDone()
 */
int gmemPipelineWant(gmemPipeline_t pipeline, size_t index) LIBGMEM_NOEXCEPT;

/**
 * @brief Say that a part will be wanted soon: it is brought if there is room beside what is in use.
 *
 * @param pipeline a gmemPipeline_t
 * @param index    of the part in `ranges`
 * @retval 0       on its way, or there is no room now
 * @retval -EINVAL the pipeline is unknown; index is none of its parts
 * @retval -ENOMEM out of memory
 * @retval -ENOTRECOVERABLE internal error; please report the text of gmemLastError()
 * @par Thread safety
 * MT-Safe.
 * @see gmemPipelineWant()
 */
int gmemPipelineSoon(gmemPipeline_t pipeline, size_t index) LIBGMEM_NOEXCEPT;

/**
 * @brief Say that a part was used: without a stream by now, with one when the stream has passed what is registered on
 * it.
 *
 * @param pipeline a gmemPipeline_t
 * @param index    of a part; once for each gmemPipelineWant() of it
 * @retval 0       done, or registered
 * @retval -EINVAL the pipeline or its stream is unknown; index is none of its parts, or the part is not in use
 * @retval -ENOMEM out of memory
 * @retval -EAGAIN as gmemEventRecord()
 * @retval -EDEADLK as gmemEventRecord()
 * @retval -ENOTRECOVERABLE internal error; please report the text of gmemLastError()
 * @par Thread safety
 * MT-Safe.
 * @see gmemPipelineWant()
 */
int gmemPipelineDone(gmemPipeline_t pipeline, size_t index) LIBGMEM_NOEXCEPT;

/**
 * @brief Report what a pipeline did, and how long the user of its parts waited.
 *
 * @param pipeline a gmemPipeline_t
 * @param report   filled; set report->size first
 * @retval 0       done
 * @retval -EINVAL the pipeline is unknown; report is NULL; report->size is smaller than two fields
 * @retval -ENOTRECOVERABLE internal error; please report the text of gmemLastError()
 * @par Thread safety
 * MT-Safe.
 * @see gmemPipelineWant()
 */
int gmemPipelineGetReport(gmemPipeline_t pipeline, gmemPipelineReport_t *report) LIBGMEM_NOEXCEPT;

/**
 * @brief Drop the parts that nobody uses, and destroy a pipeline.
 *
 * Without a stream, their memory is back with the kernel on return.
 *
 * @param pipeline a gmemPipeline_t
 * @retval 0       destroyed
 * @retval -EINVAL the pipeline is unknown, or was destroyed before
 * @retval -ENOMEM out of memory
 * @retval -ENOTRECOVERABLE internal error; please report the text of gmemLastError()
 * @par Thread safety
 * MT-Safe.
 * @see gmemPipelineCreate()
 */
int gmemPipelineDestroy(gmemPipeline_t pipeline) LIBGMEM_NOEXCEPT;

/* ---- the machine ----------------------------------------------------------------------------- */

/** One memory node. Later versions append fields. */
typedef struct {
	int node;             /**< heterogeneous NUMA id, for gmemPrefetch() */
	int tier;             /**< memory tier, lower is faster; -1: unknown (before Linux 6.1, or a device's node) */
	int cpus;             /**< online processors on the node; 0: memory only, such as a CXL expander or a device */
	int allowed;          /**< 1: this process may use its memory; 0: the cpuset forbids it */
	const char *device;   /**< name of the device that owns the memory, "host" for the machine's; never freed */
	size_t total;         /**< bytes; 0: the device does not say */
	size_t free;          /**< unused bytes; the kernel can free more by shrinking caches. 0: the device does not say */
	size_t hugetlb_total; /**< pages in the node's hugetlb pool, of the GMEM page's size */
	size_t hugetlb_free;  /**< unused pages of that pool */
} gmemNode_t;

/** Kernel features that this process may use. They are probed, not derived from the kernel's version. */
enum {                            /* NOLINT(performance-enum-size): C has no smaller ones */
	GMEM_HAS_POPULATE = 1,        /**< MADV_POPULATE_READ and _WRITE (Linux 5.14), required by gmemPrefetch() */
	GMEM_HAS_DONTNEED_LOCKED = 2, /**< MADV_DONTNEED_LOCKED (5.18): eager free of locked memory */
	GMEM_HAS_COLLAPSE = 4,        /**< MADV_COLLAPSE (6.1) */
	GMEM_HAS_PAGEMAP_SCAN = 8,    /**< the ioctl PAGEMAP_SCAN (6.7) */
	GMEM_HAS_PROCMAP_QUERY = 16,  /**< the ioctl PROCMAP_QUERY (6.11) */
	GMEM_HAS_FAULT_COUNTER = 32,  /**< the software counter of page faults, see GMEM_FAULTS_THREAD */
	GMEM_HAS_MEMORY_POLICY = 64,  /**< set_mempolicy(2) and get_mempolicy(2), which containers refuse by default */
	GMEM_HAS_MOVE_PAGES = 128     /**< move_pages(2), which containers refuse by default */
};

/**
 * The machine. Set `size` before the call. Later versions append fields; the library fills as many as `size` has space
 * for. Modes are the kernel's words, "" if it has no such mode; -1 stands for a switch that it does not have.
 */
typedef struct {
	size_t size;          /**< in: sizeof(gmemTopology_t); out: bytes filled */
	size_t base_page;     /**< bytes in a base page */
	size_t gmem_page;     /**< bytes in a GMEM page */
	size_t swap_total;    /**< bytes of swap space; 0: none */
	size_t swap_free;     /**< unused bytes of swap space */
	unsigned features;    /**< the GMEM_HAS_* that work here */
	int numa_balancing;   /**< kernel.numa_balancing: 0 off, 1 on, 2 between tiers, 3 both */
	int demotion;         /**< 1: idle memory moves to slower nodes instead of being swapped out */
	int lru_gen;          /**< 1: the kernel ages pages by multi-generational LRU */
	char thp_enabled[16]; /**< transparent huge pages: "always", "madvise", "never" */
	char thp_defrag[16];  /**< effort on a fault: "always", "defer", "defer+madvise", "madvise", "never" */
	char thp_shmem[16];   /**< shared memory: "always", "within_size", "advise", "never", "deny", "force" */
} gmemTopology_t;

/**
 * @brief Read the machine's memory nodes and features.
 *
 * Nodes of the current device follow those of the machine, if the device has nodes of its own and can be used.
 *
 * @param machine   filled unless NULL
 * @param nodes     array for the nodes with memory, in ascending order; filled up to `count`
 * @param count     elements of `nodes`; 0, with `nodes` NULL, only counts the nodes
 * @param node_size sizeof(gmemNode_t) in bytes. Fields that the library does not know are set to 0.
 * @return the number of nodes, which may exceed `count`, or a negative errno
 * @retval -EINVAL machine->size is smaller than two fields; nodes is NULL and count is not 0; node_size is smaller than
 *                 one field
 * @retval -ENOMEM out of memory
 * @retval -ENOTRECOVERABLE internal error; please report the text of gmemLastError()
 * @par Thread safety
 * MT-Safe.
 * @par System calls
 * read(2) below /sys/devices/system/node, /sys/kernel/mm and /proc/sys; sysinfo(2).
 * @see gmemNodeDistance(), gmemTopologyText(), numa(7)
 */
int gmemTopology(gmemTopology_t *machine, gmemNode_t *nodes, size_t count, size_t node_size) LIBGMEM_NOEXCEPT;

/**
 * @brief Get the distance between two nodes from the firmware's table: 10 is local, 20 is twice as far.
 *
 * @param from a memory node, or a node of processors only
 * @param to   a memory node of the machine
 * @return the distance, >= 10, or a negative errno
 * @retval -EINVAL `to` is no memory node, `from` is no node, or one of them belongs to a device
 * @retval -ENOTRECOVERABLE internal error; please report the text of gmemLastError()
 * @par Thread safety
 * MT-Safe.
 * @par System calls
 * read(2) of /sys/devices/system/node/nodeN/distance.
 * @see gmemTopology(), numa(7)
 */
int gmemNodeDistance(int from, int to) LIBGMEM_NOEXCEPT;

/**
 * @brief Describe the machine as text: a table of nodes with distances, and three lines about the machine.
 *
 * The last line names the current device and the reason why it is that one. A GMEM kernel adds a line with its
 * statistics in its own words (/proc/gmemstats, formerly gmemstat).
 *
 * @param buffer receives as much of the text as fits, NUL-terminated; may be NULL if size is 0
 * @param size   bytes in buffer
 * @return the length of the whole text without the NUL, as snprintf(3), or a negative errno
 * @retval -EINVAL buffer is NULL and size is not 0
 * @retval -ENOMEM out of memory
 * @retval -ENOTRECOVERABLE internal error; please report the text of gmemLastError()
 * @par Thread safety
 * MT-Safe.
 * @par System calls
 * The system calls of gmemTopology().
 * @see gmemTopology(), snprintf(3)
 */
int gmemTopologyText(char *buffer, size_t size) LIBGMEM_NOEXCEPT;

/**
 * @brief Describe the machine as one JSON object.
 *
 * Unknown values are null. The GMEM kernel's statistics are "gmem_statistics". "device" is the current device, and
 * "device_reason" the reason why it is that one; "device" is null if it cannot be used.
 *
 * @param buffer as for gmemTopologyText()
 * @param size   as for gmemTopologyText()
 * @return as gmemTopologyText()
 * @retval -EINVAL buffer is NULL and size is not 0
 * @retval -ENOMEM out of memory
 * @retval -ENOTRECOVERABLE internal error; please report the text of gmemLastError()
 * @par Thread safety
 * MT-Safe.
 * @par System calls
 * The system calls of gmemTopology().
 * @see gmemTopologyText(), snprintf(3)
 */
int gmemTopologyJson(char *buffer, size_t size) LIBGMEM_NOEXCEPT;

/* ---- where pages are --------------------------------------------------------------------------- */

/** The state of a page. */
enum {                      /* NOLINT(performance-enum-size): C has no smaller ones */
	GMEM_PAGE_MAPPED = 1,   /**< something is mapped there */
	GMEM_PAGE_RESIDENT = 2, /**< in memory and in this process's page table. A page of a file or of shared memory that
								 this process has not touched is not resident; memory of a device is mapped only */
	GMEM_PAGE_HUGE = 4,     /**< part of a huge page that is mapped as a whole, including hugetlb */
	GMEM_PAGE_SWAPPED = 8,  /**< private and swapped out, or being migrated. Shared memory that is swapped out counts as
								 not resident */
	GMEM_PAGE_SHARED = 16,  /**< resident, and a page of a file or of shared memory, which others may map, too */
	GMEM_PAGE_ZERO = 32,    /**< resident as the kernel's zero page: read but never written, takes no memory */
	GMEM_PAGE_HOT = 64, /**< marked referenced or active. The kernel sets this when system calls use the page and when
						   it reclaims memory, not on each access */
	GMEM_KNOWS_NODE = 1 << 15 /**< only in gmemResidency_t::known: resident pages have a node */
};

/** One base page. Its size never changes, because arrays of it are large. */
typedef struct {
	short node;           /**< memory node; -1: not resident, or unknown (as for the zero page) */
	unsigned short flags; /**< GMEM_PAGE_* */
} gmemPageState_t;

/**
 * The pages of a range, counted in base pages. Set `size` before the call. Later versions append fields; the library
 * fills as many as `size` has space for.
 */
typedef struct {
	size_t size;        /**< in: sizeof(gmemResidency_t); out: bytes filled */
	unsigned long addr; /**< address of the first page */
	size_t page_size;   /**< bytes in a base page */
	size_t pages;       /**< pages in the range */
	/** The GMEM_PAGE_* that are known, and GMEM_KNOWS_NODE. A flag that is unknown is set in no page, although it may
	 * hold: huge before Linux 6.7 if the kernel's counts allow several answers; zero before 6.7; hot unless requested
	 * and permitted (root); the node where system calls are filtered. */
	unsigned known;
	size_t mapped;   /**< pages with GMEM_PAGE_MAPPED */
	size_t resident; /**< pages with GMEM_PAGE_RESIDENT */
	size_t huge;     /**< pages with GMEM_PAGE_HUGE */
	size_t swapped;  /**< pages with GMEM_PAGE_SWAPPED */
	size_t shared;   /**< pages with GMEM_PAGE_SHARED */
	size_t zero;     /**< pages with GMEM_PAGE_ZERO */
	size_t hot;      /**< pages with GMEM_PAGE_HOT */
} gmemResidency_t;

/** Page states that gmemResidency() looks up on request only. */
enum {               /* NOLINT(performance-enum-size): C has no smaller ones */
	GMEM_ASK_HOT = 1 /**< GMEM_PAGE_HOT: looks up each base page, which takes twenty times as long as everything else */
};

/**
 * @brief Read where each page of a range of this process is.
 *
 * Rounds the range **outward** to base pages. Nothing is touched, moved or populated; holes count as not mapped. A
 * million base pages take about 20 ms, huge ones 1 to 2 ms. With several memory nodes each base page is looked up by
 * move_pages(2), which takes several times as long.
 *
 * @param addr    start of the range: any address
 * @param size    length in bytes: any number with addr + size inside the address space
 * @param ask     0 or GMEM_ASK_HOT
 * @param pages   array for one state per page, filled up to `count`
 * @param count   elements of `pages`; 0, with `pages` NULL, for the summary only
 * @param summary filled unless NULL
 * @retval 0       done
 * @retval -EINVAL addr + size exceeds the address space; ask has unknown bits; pages is NULL and count is not 0;
 *                 summary->size is smaller than two fields
 * @retval -ENOMEM out of memory
 * @retval -ENOTRECOVERABLE internal error; please report the text of gmemLastError()
 * @par Thread safety
 * MT-Safe.
 * @par System calls
 * ioctl(2) PAGEMAP_SCAN and PROCMAP_QUERY, or reads of /proc/self/pagemap and /proc/self/maps; move_pages(2);
 * /proc/kpageflags for hot pages.
 * @see gmemResidencyText(), mincore(2), move_pages(2)
 */
int gmemResidency(unsigned long addr, size_t size, unsigned ask, gmemPageState_t *pages, size_t count,
	gmemResidency_t *summary) LIBGMEM_NOEXCEPT;

/**
 * @brief Describe a residency as text: its counts, and a line per GMEM page with one sign per 64th of it.
 *
 * It uses nothing but its arguments, so it may be called much later.
 *
 * @param summary filled by gmemResidency(), at least up to `known`
 * @param pages   summary->pages states
 * @param buffer  receives as much of the text as fits, NUL-terminated; may be NULL if size is 0
 * @param size    bytes in buffer
 * @return the length of the whole text without the NUL, as snprintf(3), or a negative errno
 * @retval -EINVAL summary is NULL, or pages, or buffer with a size other than 0; summary->size does not reach `known`;
 *                 page_size, addr or pages of the summary is impossible
 * @retval -ENOMEM out of memory
 * @retval -ENOTRECOVERABLE internal error; please report the text of gmemLastError()
 * @par Thread safety
 * MT-Safe.
 * @see gmemResidency(), snprintf(3)
 */
int gmemResidencyText(
	const gmemResidency_t *summary, const gmemPageState_t *pages, char *buffer, size_t size) LIBGMEM_NOEXCEPT;

/**
 * @brief Describe a residency as one JSON object.
 *
 * Adjacent pages in the same state form a run; unknown counts are null.
 *
 * @param summary as for gmemResidencyText()
 * @param pages   as for gmemResidencyText()
 * @param buffer  as for gmemResidencyText()
 * @param size    as for gmemResidencyText()
 * @return as gmemResidencyText()
 * @retval -EINVAL as gmemResidencyText()
 * @retval -ENOMEM out of memory
 * @retval -ENOTRECOVERABLE internal error; please report the text of gmemLastError()
 * @par Thread safety
 * MT-Safe.
 * @see gmemResidency(), snprintf(3)
 */
int gmemResidencyJson(
	const gmemResidency_t *summary, const gmemPageState_t *pages, char *buffer, size_t size) LIBGMEM_NOEXCEPT;

/**
 * @brief Draw a residency as an SVG document: a square per page, or per GMEM page beyond 64 MiB.
 *
 * @param summary as for gmemResidencyText()
 * @param pages   as for gmemResidencyText()
 * @param buffer  as for gmemResidencyText()
 * @param size    as for gmemResidencyText()
 * @return as gmemResidencyText()
 * @retval -EINVAL as gmemResidencyText()
 * @retval -ENOMEM out of memory
 * @retval -ENOTRECOVERABLE internal error; please report the text of gmemLastError()
 * @par Thread safety
 * MT-Safe.
 * @see gmemResidency(), snprintf(3)
 */
int gmemResidencySvg(
	const gmemResidency_t *summary, const gmemPageState_t *pages, char *buffer, size_t size) LIBGMEM_NOEXCEPT;

/** A mapping of a file: one of those of gmemMappingsOf(). */
typedef struct {
	unsigned long addr;        /**< its first byte */
	size_t size;               /**< its bytes */
	unsigned long long offset; /**< of the first byte in the file */
	int writable;              /**< 1: the program may write to it */
	int shared;                /**< 1: writing changes the file; 0: a private copy */
} gmemMapping_t;

/**
 * @brief Find where a file lies in the address space of this process.
 *
 * An engine that maps a model hides the addresses of its weights. With them, the weights can be prefetched
 * (gmemPrefetchV()), and looked at (gmemResidency()).
 *
 * @param path     of the file; symbolic links are followed
 * @param mappings array for the mappings, in ascending order; filled up to `count`. May be NULL if count is 0.
 * @param count    elements of `mappings`
 * @return the number of mappings, which may exceed `count`, or a negative errno
 * @retval -EINVAL path is NULL; mappings is NULL and count is not 0
 * @retval -ENOENT there is no such file, or no /proc
 * @retval -ENOTRECOVERABLE internal error; please report the text of gmemLastError()
 * @par Thread safety
 * MT-Safe.
 * @par System calls
 * stat(2), readlink(2); read(2) of /proc/self/maps.
 * @see gmemPrefetchV(), gmemResidency(), mmap(2)
 */
int gmemMappingsOf(const char *path, gmemMapping_t *mappings, size_t count) LIBGMEM_NOEXCEPT;

/**
 * @brief Return the memory of a mapped file to the kernel, with the page cache's copy of it.
 *
 * For files that the program, or a library in it, has mapped. gmemFreeEager() takes their pages out of this process
 * only: the resident size falls, and the page cache keeps them. This call drops them from the page cache as well,
 * except for pages that are dirty or that another mapping still uses. The next read brings the file's bytes back.
 *
 * Rounds the range inward to GMEM pages, as gmemFreeEager() does. A gmemModel_t needs no such call: its pages leave the
 * page cache by gmemFreeEager().
 *
 * @param addr       start of the range: any address
 * @param size       length in bytes: any number with addr + size inside the address space
 * @param descriptor of the file that is mapped there, open for reading. It may be closed when the call returns.
 * @param stream     as for gmemFreeEager()
 * @retval 0       done, or queued
 * @retval -EINVAL addr + size exceeds the address space; something else than the file is mapped in the range, or shared
 *                 memory; the file mapping may be written or was (nothing is released); the stream is unknown;
 *                 GMEM_DEVICE names no device
 * @retval -EBADF  descriptor is not open, or cannot be mapped (O_PATH)
 * @retval -EACCES descriptor is not open for reading, or is not of a regular file
 * @retval -ENODEV descriptor is of a directory, a pipe or a socket; as gmemFreeEager()
 * @retval -EMFILE the process has no free file descriptor
 * @retval -ENOMEM part of the whole pages is not mapped (the mapped part is released); out of memory
 * @retval -EAGAIN as gmemFreeEager()
 * @retval -EIO    as gmemFreeEager()
 * @retval -ENOTRECOVERABLE internal error; please report the text of gmemLastError()
 * @par Thread safety
 * MT-Safe.
 * @par System calls
 * Those of gmemFreeEager(); fcntl(2), fstat(2), mmap(2) of one page, posix_fadvise(2).
 * @see gmemFreeEager(), gmemMappingsOf(), posix_fadvise(2)
 */
int gmemFreeEagerFile(unsigned long addr, size_t size, int descriptor, void *stream) LIBGMEM_NOEXCEPT;

/* ---- page faults ----------------------------------------------------------------------------- */

/** A counter of page faults, filled by gmemFaultScopeBegin(). The fields are private. */
typedef struct {
	int counter;              /**< private */
	int kind;                 /**< private */
	unsigned long long state; /**< private */
} gmemFaultScope_t;

/** Whose faults to count. */
enum { /* NOLINT(performance-enum-size): C has no smaller ones */
	/** The calling thread's, by the kernel's software counter (perf_event_open(2)): faults that the thread takes, not
	 * pages that a system call populates. Where that counter is forbidden, by getrusage(2), which counts both. */
	GMEM_FAULTS_THREAD = 0,
	/** Faults of all threads, including ended ones, by getrusage(2). */
	GMEM_FAULTS_PROCESS = 1,
	/** Faults of all threads, including ones that start later, less the pages that the library populates to prefetch,
	 * on whichever thread. */
	GMEM_FAULTS_PROGRAM = 2
};

/**
 * @brief Start counting page faults.
 *
 * A thread's scope holds a file descriptor (close-on-exec) until gmemFaultScopeEnd().
 *
 * @param scope the counter to fill
 * @param whose GMEM_FAULTS_THREAD, GMEM_FAULTS_PROCESS or GMEM_FAULTS_PROGRAM
 * @retval 0       counting
 * @retval -EINVAL scope is NULL; whose is none of the three
 * @retval -ENOTRECOVERABLE internal error; please report the text of gmemLastError()
 * @par Thread safety
 * MT-Safe.
 * @par System calls
 * perf_event_open(2), getrusage(2).
 * @see gmemFaultScopeCount(), gmemFaultScopeEnd()
 */
int gmemFaultScopeBegin(gmemFaultScope_t *scope, int whose) LIBGMEM_NOEXCEPT;

/**
 * @brief Get the number of minor and major page faults since gmemFaultScopeBegin().
 *
 * A thread's scope is read on the thread that began it, any other on any thread.
 *
 * @param scope filled by gmemFaultScopeBegin() and not ended
 * @return the number of faults, >= 0, or a negative errno
 * @retval -EINVAL scope is NULL
 * @retval -EBADF  the scope was never begun, or has ended; its descriptor was closed by someone else
 * @retval -ENOTRECOVERABLE internal error; please report the text of gmemLastError()
 * @par Thread safety
 * MT-Safe.
 * @par System calls
 * read(2), getrusage(2).
 * @see gmemFaultScopeBegin()
 */
LIBGMEM_NODISCARD long long gmemFaultScopeCount(const gmemFaultScope_t *scope) LIBGMEM_NOEXCEPT;

/**
 * @brief Stop counting page faults, and close the descriptor.
 *
 * @param scope filled by gmemFaultScopeBegin(); NULL, or one that was never begun or has ended, is ignored
 * @par Thread safety
 * MT-Safe.
 * @par System calls
 * close(2).
 * @see gmemFaultScopeBegin()
 */
void gmemFaultScopeEnd(gmemFaultScope_t *scope) LIBGMEM_NOEXCEPT;

/* ---- errors, version, device ---------------------------------------------------------------- */

/**
 * @brief Get the text of the calling thread's last failed libgmem call.
 *
 * It names the argument, its value, what is allowed and the remedy.
 *
 * @return never NULL; "" before the first failure. The address stays the same for the life of the thread; its text is
 *   that of the latest failure.
 * @par Thread safety
 * MT-Safe: each thread has its own text.
 * @see gmemVersion(), strerror(3)
 */
const char *gmemLastError(void) LIBGMEM_NOEXCEPT;

/**
 * @brief Get the version of the loaded library.
 *
 * @return "major.minor.patch"; never NULL, never freed
 * @par Thread safety
 * MT-Safe.
 * @see gmemLastError()
 */
const char *gmemVersion(void) LIBGMEM_NOEXCEPT;

/**
 * @brief Select the current device of the process.
 *
 * Without this call the first use of a device selects GMEM_DEVICE from the environment, else the device that the
 * library was configured with (-DLIBGMEM_DEVICE, "auto" unless changed).
 *
 * | name | memory | details |
 * | --- | --- | --- |
 * | "auto" | chooses "ascend", "gmem" or "host" | docs/devices/README.md |
 * | "host" | the machine's memory nodes, CXL included | docs/devices/host.md |
 * | "gmem" | openEuler's GMEM kernel and its accelerators | docs/devices/gmem.md |
 * | "ascend" | as "gmem", with Ascend's streams | docs/devices/ascend.md |
 * | "opencl" | an OpenCL device with shared virtual memory | docs/devices/opencl.md |
 * | "cuda" | an NVIDIA GPU | docs/devices/cuda.md |
 *
 * "auto" chooses now, for this kernel: "ascend" if it has GMEM and Ascend's runtime is loaded or installed, "gmem" if
 * it has GMEM, else "host". A device that was chosen serves ranges and gmem_device_alloc(). malloc() uses a device's
 * memory only if the device was named, because a forked child does not have that memory. gmemTopologyText() has the
 * reason for the choice.
 *
 * @param name one of the names above
 * @retval 0       selected
 * @retval -EINVAL name is NULL or unknown (gmemLastError() lists the names)
 * @retval -ENODEV "opencl" or "cuda" cannot be used; gmemLastError() says what is missing. The device stays what it
 * was. "gmem" and "ascend" can always be selected; calls that need the accelerator fail instead.
 * @retval -ENOTRECOVERABLE internal error; please report the text of gmemLastError()
 * @par Thread safety
 * MT-Safe. Calls that run concurrently use either device.
 * @par System calls
 * dlopen(3) of the driver's library for "opencl" and "cuda".
 * @see gmemGetDevice(), gmemGetNumaId()
 */
int gmemSetDevice(const char *name) LIBGMEM_NOEXCEPT;

/**
 * @brief Get the name of the current device.
 *
 * @return the name, never freed; the device that "auto" chose, never "auto"; NULL if GMEM_DEVICE names no device that
 * can be used (gmemLastError() says why)
 * @par Thread safety
 * MT-Safe.
 * @see gmemSetDevice()
 */
const char *gmemGetDevice(void) LIBGMEM_NOEXCEPT;

/**
 * @brief Get the driver's context that the current device's memory belongs to.
 *
 * Create kernels that use libgmem's memory by its address in this context.
 *
 * @return the cl_context of "opencl", the CUcontext of "cuda", valid for the life of the process; NULL on other
 * devices, and if the device cannot be used
 * @par Thread safety
 * MT-Safe.
 * @see gmemSetDevice()
 */
void *gmemGetDeviceContext(void) LIBGMEM_NOEXCEPT;

/* ---- streams ---------------------------------------------------------------------------------- */

/**
 * A work stream: runs queued work in order, one piece at a time.
 *
 * **libgmem's streams** (gmemStreamCreate()). At most four threads serve any number of streams. They start on first
 * use, block all signals and live until the process exits; a program whose main thread ends with pthread_exit(3) must
 * still call exit(3). Work that waits for other work uses gmemStreamWaitEvent(), which holds no thread, or
 * gmemStreamSynchronize() and gmemEventSynchronize(), which let another thread take over. Four pieces of work that wait
 * by other means block everything else, and two streams that synchronize each other deadlock.
 *
 * **Batching.** An eager free with only eager frees behind it is deferred for 0.1 ms, up to 4 ms while more arrive, so
 * that adjacent ranges become one system call. Other work behind it, a query or a synchronize ends the delay.
 *
 * **Driver streams.** Every function that takes a stream also takes a stream of the current device's driver: an
 * aclrtStream on "ascend", a CUstream or cudaStream_t on "cuda". See docs/devices/README.md.
 *
 * **External streams** (gmemStreamWrap()) run on another executor.
 *
 * **fork and exit.** A forked child has none of its parent's streams and events: they are unknown there (-EINVAL). Work
 * that is pending when the process exits is dropped, even in the middle of a function; synchronize first. It still runs
 * while exit(3) runs handlers and destructors.
 */
typedef struct gmemStream *gmemStream_t;

/** A function that a stream runs. It must return: no exception, no longjmp(3), no pthread_exit(3). */
typedef void (*gmemHostFn)(void *arg);

/**
 * @brief Create a stream.
 *
 * @param stream receives the handle
 * @retval 0       created
 * @retval -EINVAL stream is NULL
 * @retval -EAGAIN no thread can be started
 * @retval -ENOMEM out of memory
 * @retval -ENOTRECOVERABLE internal error; please report the text of gmemLastError()
 * @par Thread safety
 * MT-Safe.
 * @par System calls
 * clone(2), for the first streams of a process.
 * @see gmemStreamDestroy(), gmemStreamWrap(), pthread_create(3)
 */
int gmemStreamCreate(gmemStream_t *stream) LIBGMEM_NOEXCEPT;

/**
 * @brief Queue fn(arg) behind the work on a stream, and return.
 *
 * A stream holds at most 65,536 pieces of waiting work. A call beyond that waits until half of them are done, unless it
 * comes from a function that a stream runs.
 *
 * @param stream a gmemStream_t, or a stream of the current device's driver
 * @param fn     the function; where a driver's stream runs it, it must not call the driver
 * @param arg    passed to fn
 * @retval 0            queued; on an error nothing is queued
 * @retval -EINVAL      the stream is unknown; fn is NULL
 * @retval -ENOMEM      out of memory
 * @retval -EAGAIN      the queue is full, and the caller is a function that a stream runs
 * @retval -EIO         an external stream's launch function returned a positive code (a negative errno from it is
 * passed on); the driver failed
 * @retval -ENODEV      the driver of the stream cannot be used
 * @retval -EOPNOTSUPP  a CUDA stream is being captured; an Ascend stream is in use with the other launch call
 * @retval -EDEADLK     called from a host function of a CUDA stream, on a CUDA stream
 * @retval -ENOTRECOVERABLE internal error; please report the text of gmemLastError()
 * @par Thread safety
 * MT-Safe.
 * @par System calls
 * futex(2), if a thread sleeps.
 * @see gmemStreamSynchronize(), gmemStreamQuery()
 */
int gmemStreamLaunch(gmemStream_t stream, gmemHostFn fn, void *arg) LIBGMEM_NOEXCEPT;

/**
 * @brief Check whether all work on a stream is done.
 *
 * @param stream a gmemStream_t, or a stream of the current device's driver
 * @retval 0            all work is done
 * @retval -EBUSY       work is pending; this is no failure, and gmemLastError() keeps its text
 * @retval -EINVAL      the stream is unknown
 * @retval -ENODEV      the driver of the stream cannot be used
 * @retval -EIO         the driver failed
 * @retval -EOPNOTSUPP  a CUDA stream is being captured
 * @retval -EDEADLK     called from a host function of a CUDA stream, on a CUDA stream
 * @retval -ENOTRECOVERABLE internal error; please report the text of gmemLastError()
 * @par Thread safety
 * MT-Safe.
 * @see gmemStreamSynchronize()
 */
int gmemStreamQuery(gmemStream_t stream) LIBGMEM_NOEXCEPT;

/**
 * @brief Wait until all work queued before this call is done.
 *
 * The stream continues after a failure. Each failure is reported once; gmemLastError() says which call failed, on which
 * range, and why.
 *
 * @param stream a gmemStream_t, or a stream of the current device's driver
 * @return 0, or the errno of the first failure since the last synchronize: any that the queued calls list
 * @retval -EINVAL      the stream is unknown
 * @retval -EDEADLK     called from work on the same stream; called from a host function of a CUDA stream, on a CUDA
 * stream
 * @retval -EAGAIN      called from work on another stream, and no thread can be started to take over
 * @retval -ECANCELED   an executor dropped a function (gmemLaunchDropped()); a C++ callable threw
 * @retval -ENODEV      the driver of the stream cannot be used
 * @retval -EIO         the driver failed, or its context is lost
 * @retval -EOPNOTSUPP  a CUDA stream is being captured
 * @retval -ENOTRECOVERABLE internal error; please report the text of gmemLastError()
 * @par Thread safety
 * MT-Safe.
 * @par System calls
 * futex(2).
 * @see gmemStreamQuery(), gmemEventSynchronize()
 */
int gmemStreamSynchronize(gmemStream_t stream) LIBGMEM_NOEXCEPT;

/**
 * @brief Destroy a stream.
 *
 * Work on it still runs; its handle is unknown from now on. A driver's stream stays as it is; libgmem only forgets it.
 *
 * @param stream a gmemStream_t, or a stream of the current device's driver
 * @retval 0       destroyed; also for a driver's stream that libgmem has not seen
 * @retval -EINVAL the stream is unknown, or was destroyed before
 * @retval -ENODEV the driver of the stream cannot be used
 * @retval -ENOTRECOVERABLE internal error; please report the text of gmemLastError()
 * @par Thread safety
 * MT-Safe.
 * @see gmemStreamCreate()
 */
int gmemStreamDestroy(gmemStream_t stream) LIBGMEM_NOEXCEPT;

/* ---- external streams --------------------------------------------------------------------------- */

/**
 * Passes a function to an executor, which must call fn(arg) **once**, on any thread, after the work `native` already
 * has and before its later work. It may call fn(arg) before it returns; it must not wait for another thread to do so,
 * and must not throw.
 *
 * @return 0, or another number if fn(arg) will not be called: a negative errno, which becomes the result of the libgmem
 *   call, or a positive code, which becomes -EIO with the code in gmemLastError()
 */
typedef int (*gmemLaunchFn)(void *native, gmemHostFn fn, void *arg);

/**
 * @brief Create an external stream: work runs on another executor, such as a CUDA or HIP stream, an OpenCL queue or a
 *   thread pool.
 *
 * Every function that takes a stream or an event accepts it. Each call takes a ticket in the executor's order, so it
 * runs after the executor's earlier work and before its later work. Calls stay in order, one at a time, even if the
 * executor runs several functions concurrently. Adjacent ranges are joined if the executor has reached both tickets.
 *
 * libgmem calls `launch` from the thread that makes the call, one thread at a time. gmemStreamWaitEvent() blocks the
 * executor's thread, because the executor's own work must wait as well. gmemStreamDestroy() does not touch the
 * executor; outstanding tickets still do their work. An executor that ends without calling fn(arg) must call
 * gmemLaunchDropped(arg), or a synchronize waits forever.
 *
 * C++ adapters: <libgmem/streams/cuda.hpp> and its neighbours. A stream of the current device's driver needs no
 * wrapping.
 *
 * @param launch passes a function to the executor
 * @param native passed to launch; any value, NULL included. It must outlive all calls on the stream.
 * @param stream receives the handle
 * @retval 0       created
 * @retval -EINVAL launch or stream is NULL
 * @retval -ENOMEM out of memory
 * @retval -ENOTRECOVERABLE internal error; please report the text of gmemLastError()
 * @par Thread safety
 * MT-Safe.
 * @see gmemLaunchDropped(), gmemStreamDestroy()
 */
int gmemStreamWrap(gmemLaunchFn launch, void *native, gmemStream_t *stream) LIBGMEM_NOEXCEPT;

/**
 * @brief Tell libgmem that an executor will not call fn(arg).
 *
 * The work of that ticket is not done, and gmemStreamSynchronize() returns -ECANCELED.
 *
 * @param arg as passed to gmemLaunchFn; one that is not outstanding is ignored
 * @par Thread safety
 * MT-Safe.
 * @see gmemStreamWrap()
 */
void gmemLaunchDropped(void *arg) LIBGMEM_NOEXCEPT;

/* ---- events ------------------------------------------------------------------------------------- */

/**
 * A point in a stream that other streams and threads wait for.
 *
 * It may be recorded repeatedly; each call uses the latest recording. An event that was never recorded has passed. A
 * failure of earlier work stays with the stream, and the event passes.
 */
typedef struct gmemEvent *gmemEvent_t;

/**
 * @brief Create an event.
 *
 * @param event receives the handle
 * @retval 0       created
 * @retval -EINVAL event is NULL
 * @retval -ENOMEM out of memory
 * @retval -ENOTRECOVERABLE internal error; please report the text of gmemLastError()
 * @par Thread safety
 * MT-Safe.
 * @see gmemEventRecord(), gmemEventDestroy()
 */
int gmemEventCreate(gmemEvent_t *event) LIBGMEM_NOEXCEPT;

/**
 * @brief Record an event behind the work on a stream; it passes when that work is done.
 *
 * @param event  a gmemEvent_t
 * @param stream a gmemStream_t, or a stream of the current device's driver
 * @retval 0            recorded; after an error the event is unchanged
 * @retval -EINVAL      the event or the stream is unknown
 * @retval -ENOMEM      as gmemStreamLaunch()
 * @retval -EAGAIN      as gmemStreamLaunch()
 * @retval -EIO         as gmemStreamLaunch()
 * @retval -ENODEV      as gmemStreamLaunch()
 * @retval -EOPNOTSUPP  as gmemStreamLaunch()
 * @retval -EDEADLK     as gmemStreamLaunch()
 * @retval -ENOTRECOVERABLE internal error; please report the text of gmemLastError()
 * @par Thread safety
 * MT-Safe.
 * @see gmemStreamWaitEvent(), gmemEventSynchronize()
 */
int gmemEventRecord(gmemEvent_t event, gmemStream_t stream) LIBGMEM_NOEXCEPT;

/**
 * @brief Make later work on a stream wait for an event.
 *
 * A libgmem stream waits without holding a thread. The event, and the stream it was recorded on, may be destroyed
 * meanwhile. An external stream waits in a function that its executor runs: an executor with a single thread stands
 * still, so what it waits for must not need that thread, not even through a third stream. Two CUDA streams wait for
 * each other by the driver's own means. A libgmem stream that waits for a CUDA stream whose context is lost waits
 * forever; gmemEventSynchronize() reports the loss.
 *
 * @param stream the stream that waits
 * @param event  the event to wait for
 * @retval 0            queued
 * @retval -EINVAL      the stream or the event is unknown
 * @retval -ENOMEM      as gmemStreamLaunch()
 * @retval -EAGAIN      as gmemStreamLaunch()
 * @retval -EIO         as gmemStreamLaunch()
 * @retval -ENODEV      as gmemStreamLaunch()
 * @retval -EOPNOTSUPP  as gmemStreamLaunch()
 * @retval -EDEADLK     as gmemStreamLaunch()
 * @retval -ENOTRECOVERABLE internal error; please report the text of gmemLastError()
 * @par Thread safety
 * MT-Safe.
 * @see gmemEventRecord()
 */
int gmemStreamWaitEvent(gmemStream_t stream, gmemEvent_t event) LIBGMEM_NOEXCEPT;

/**
 * @brief Check whether an event has passed.
 *
 * @param event a gmemEvent_t
 * @retval 0        passed
 * @retval -EBUSY   not yet; this is no failure, and gmemLastError() keeps its text
 * @retval -EINVAL  the event is unknown
 * @retval -EIO     it was recorded on a CUDA stream whose context is lost, so it never will
 * @retval -EDEADLK called from a host function of a CUDA stream, for an event on a CUDA stream
 * @retval -ENOTRECOVERABLE internal error; please report the text of gmemLastError()
 * @par Thread safety
 * MT-Safe.
 * @see gmemEventSynchronize()
 */
int gmemEventQuery(gmemEvent_t event) LIBGMEM_NOEXCEPT;

/**
 * @brief Wait until an event has passed.
 *
 * @param event a gmemEvent_t
 * @retval 0        passed
 * @retval -EINVAL  the event is unknown
 * @retval -EDEADLK called from earlier work on the event's stream; called from a host function of a CUDA stream, for an
 *                  event on a CUDA stream
 * @retval -EAGAIN  called from work on another stream, and no thread can be started to take over
 * @retval -EIO     it was recorded on a CUDA stream whose context is lost
 * @retval -ENOTRECOVERABLE internal error; please report the text of gmemLastError()
 * @par Thread safety
 * MT-Safe.
 * @par System calls
 * futex(2).
 * @see gmemEventQuery(), gmemStreamSynchronize()
 */
int gmemEventSynchronize(gmemEvent_t event) LIBGMEM_NOEXCEPT;

/**
 * @brief Destroy an event. Streams and threads that wait for it keep waiting.
 *
 * @param event a gmemEvent_t
 * @retval 0       destroyed
 * @retval -EINVAL the event is unknown, or was destroyed before
 * @retval -ENOTRECOVERABLE internal error; please report the text of gmemLastError()
 * @par Thread safety
 * MT-Safe.
 * @see gmemEventCreate()
 */
int gmemEventDestroy(gmemEvent_t event) LIBGMEM_NOEXCEPT;

/* ---- the heap ----------------------------------------------------------------------------------- */

/*
 * libgmem.so exports the same heap as malloc, free, realloc, calloc, ... and C++ operator new and delete as well;
 * libgmem_api.so has only the names below. Do not mix the two heaps of a process: free a block of gmem_malloc() with
 * gmem_free().
 *
 * Memory comes from extents that are advised to be huge; a block of at least one GMEM page starts on a GMEM page.
 * Where the current device was named and has memory of its own, blocks of at least 2 MiB (GMEM_DEVICE_THRESHOLD) live
 * there, in whole GMEM pages. If the device has none left, ordinary memory takes their place, which gmemHeapStats()
 * counts. A forked child does not have these blocks.
 */

/**
 * @brief Allocate memory.
 *
 * @param size bytes; 0 allocates a unique block
 * @return the block, aligned for any fundamental type, with unspecified contents; NULL with errno set on failure
 * @retval ENOMEM out of memory, or size exceeds PTRDIFF_MAX
 * @par Thread safety
 * MT-Safe.
 * @par System calls
 * mmap(2) and madvise(2) with MADV_HUGEPAGE, for new extents.
 * @see gmem_free(), malloc(3)
 */
LIBGMEM_NODISCARD void *gmem_malloc(size_t size) LIBGMEM_NOEXCEPT LIBGMEM_MALLOC LIBGMEM_SIZE(1);

/**
 * @brief Allocate zeroed memory for an array.
 *
 * @param count elements
 * @param size  bytes per element
 * @return the block, all zeros; NULL with errno set on failure
 * @retval ENOMEM out of memory, or count * size overflows
 * @par Thread safety
 * MT-Safe.
 * @see gmem_malloc(), calloc(3)
 */
LIBGMEM_NODISCARD void *gmem_calloc(size_t count, size_t size) LIBGMEM_NOEXCEPT LIBGMEM_MALLOC LIBGMEM_SIZE2(1, 2);

/**
 * @brief Resize a block.
 *
 * Large blocks move by remapping pages, not by copying, where the kernel allows it. The result is aligned as that of
 * gmem_malloc(), whatever the alignment of ptr was; see gmem_aligned_realloc().
 *
 * @param ptr  a block of this heap, or NULL to allocate
 * @param size new size in bytes; 0 frees ptr and returns NULL, as in glibc
 * @return the block, which may have moved; NULL with errno set on failure, and ptr is still valid
 * @retval ENOMEM out of memory, or size exceeds PTRDIFF_MAX
 * @par Thread safety
 * MT-Safe.
 * @par System calls
 * mremap(2), for large blocks.
 * @see gmem_reallocarray(), realloc(3)
 */
LIBGMEM_NODISCARD void *gmem_realloc(void *ptr, size_t size) LIBGMEM_NOEXCEPT LIBGMEM_SIZE(2);

/**
 * @brief Resize an array.
 *
 * @param ptr   a block of this heap, or NULL to allocate
 * @param count elements
 * @param size  bytes per element
 * @return as gmem_realloc()
 * @retval ENOMEM out of memory, or count * size overflows
 * @par Thread safety
 * MT-Safe.
 * @see gmem_realloc(), reallocarray(3)
 */
LIBGMEM_NODISCARD void *gmem_reallocarray(void *ptr, size_t count, size_t size) LIBGMEM_NOEXCEPT LIBGMEM_SIZE2(2, 3);

/**
 * @brief Free a block. errno keeps its value.
 *
 * @param ptr a block of this heap, or NULL
 * @par Thread safety
 * MT-Safe. Any thread may free a block.
 * @see gmem_malloc(), free(3)
 */
void gmem_free(void *ptr) LIBGMEM_NOEXCEPT;

/**
 * @brief Free a block of known size, as C23's free_sized().
 *
 * @param ptr  a block of gmem_malloc(), gmem_calloc() or gmem_realloc(), or NULL
 * @param size the bytes requested for it
 * @par Thread safety
 * MT-Safe.
 * @see gmem_free(), free(3)
 */
void gmem_free_sized(void *ptr, size_t size) LIBGMEM_NOEXCEPT;

/**
 * @brief Free a block of known alignment and size, as C23's free_aligned_sized().
 *
 * @param ptr       a block of gmem_aligned_alloc(), or NULL
 * @param alignment the alignment requested for it, in bytes
 * @param size      the bytes requested for it
 * @par Thread safety
 * MT-Safe.
 * @see gmem_free(), free(3)
 */
void gmem_free_aligned_sized(void *ptr, size_t alignment, size_t size) LIBGMEM_NOEXCEPT;

/**
 * @brief Allocate aligned memory, and return the error instead of setting errno.
 *
 * @param out       receives the block; unchanged on failure
 * @param alignment bytes: a power of two and a multiple of sizeof(void *)
 * @param size      bytes; 0 allocates a unique block
 * @retval 0      allocated
 * @retval EINVAL alignment is not a power of two, or not a multiple of sizeof(void *)
 * @retval ENOMEM out of memory
 * @par Thread safety
 * MT-Safe.
 * @see gmem_aligned_alloc(), posix_memalign(3)
 */
int gmem_posix_memalign(void **out, size_t alignment, size_t size) LIBGMEM_NOEXCEPT;

/**
 * @brief Allocate aligned memory.
 *
 * @param alignment bytes: a power of two
 * @param size      bytes: any number; 0 allocates a unique block
 * @return the block; NULL with errno set on failure
 * @retval EINVAL alignment is not a power of two
 * @retval ENOMEM out of memory
 * @par Thread safety
 * MT-Safe.
 * @see gmem_posix_memalign(), aligned_alloc(3)
 */
LIBGMEM_NODISCARD void *gmem_aligned_alloc(size_t alignment, size_t size) LIBGMEM_NOEXCEPT LIBGMEM_MALLOC
	LIBGMEM_SIZE(2);

/**
 * @brief Allocate aligned memory; the alignment is rounded up to a power of two.
 *
 * @param alignment bytes: up to the largest power of two in a size_t
 * @param size      bytes; 0 allocates a unique block
 * @return the block; NULL with errno set on failure
 * @retval EINVAL alignment has no power of two above it
 * @retval ENOMEM out of memory
 * @par Thread safety
 * MT-Safe.
 * @see gmem_aligned_alloc(), memalign(3)
 */
LIBGMEM_NODISCARD void *gmem_memalign(size_t alignment, size_t size) LIBGMEM_NOEXCEPT LIBGMEM_MALLOC LIBGMEM_SIZE(2);

/**
 * @brief Resize a block, and keep it aligned.
 *
 * gmem_realloc() keeps no alignment but C's. A block of at least 2 MiB starts on a GMEM page after either.
 *
 * @param ptr       a block of this heap, or NULL to allocate
 * @param alignment bytes: a power of two, which may differ from the block's
 * @param size      new size in bytes; 0 frees ptr and returns NULL
 * @return the block, which may have moved; NULL with errno set on failure, and ptr is still valid
 * @retval EINVAL alignment is not a power of two
 * @retval ENOMEM out of memory, or size exceeds PTRDIFF_MAX
 * @par Thread safety
 * MT-Safe.
 * @par System calls
 * mremap(2), for large blocks.
 * @see gmem_realloc(), gmem_aligned_alloc()
 */
LIBGMEM_NODISCARD void *gmem_aligned_realloc(void *ptr, size_t alignment, size_t size) LIBGMEM_NOEXCEPT LIBGMEM_SIZE(3);

/**
 * @brief Allocate memory that starts on a base page.
 *
 * @param size bytes; 0 allocates a unique block
 * @return the block; NULL with errno set on failure
 * @retval ENOMEM out of memory
 * @par Thread safety
 * MT-Safe.
 * @see gmem_pvalloc(), valloc(3)
 */
LIBGMEM_NODISCARD void *gmem_valloc(size_t size) LIBGMEM_NOEXCEPT LIBGMEM_MALLOC LIBGMEM_SIZE(1);

/**
 * @brief Allocate whole base pages.
 *
 * @param size bytes, rounded up to whole base pages, at least one
 * @return the block; NULL with errno set on failure
 * @retval ENOMEM out of memory
 * @par Thread safety
 * MT-Safe.
 * @see gmem_valloc(), pvalloc(3)
 */
LIBGMEM_NODISCARD void *gmem_pvalloc(size_t size) LIBGMEM_NOEXCEPT LIBGMEM_MALLOC;

/**
 * @brief Allocate memory that kernels of the current device access by its address, however small the block.
 *
 * If the device has memory that the processor can use at the same time ("cuda" with managed memory, "opencl" with a
 * driver that maps its own), blocks below 2 MiB share pages of it. These pages stay with libgmem when the blocks are
 * freed, and a prefetch of a block takes its neighbours along. Blocks of at least 2 MiB have pages of their own, on
 * every device with memory of its own, whether it was named or chosen by "auto". Otherwise, if that memory is used up,
 * or inside a function that a driver's stream runs, this is gmem_aligned_alloc(). gmem_realloc() keeps the block in
 * the device's memory. The C++ allocators use this function.
 *
 * @param alignment bytes: a power of two; small alignments cost nothing
 * @param size      bytes; 0 allocates a unique block
 * @return the block, to be freed by gmem_free(); NULL with errno set on failure
 * @retval EINVAL alignment is not a power of two
 * @retval ENOMEM out of memory
 * @par Thread safety
 * MT-Safe.
 * @see gmem_aligned_alloc(), gmemSetDevice()
 */
LIBGMEM_NODISCARD void *gmem_device_alloc(size_t alignment, size_t size) LIBGMEM_NOEXCEPT LIBGMEM_MALLOC
	LIBGMEM_SIZE(2);

/**
 * @brief Get the usable size of a block, which may exceed the size requested.
 *
 * @param ptr a block of this heap, or NULL
 * @return bytes; 0 for NULL
 * @par Thread safety
 * MT-Safe.
 * @see malloc_usable_size(3)
 */
size_t gmem_malloc_usable_size(void *ptr) LIBGMEM_NOEXCEPT;

/**
 * @brief Return idle heap memory to the kernel, in whole GMEM pages.
 *
 * @param pad accepted for compatibility with malloc_trim(3), and ignored: all idle memory is returned
 * @return 1 if memory was returned, else 0
 * @par Thread safety
 * MT-Safe.
 * @par System calls
 * madvise(2) with MADV_DONTNEED.
 * @see gmemHeapTrim(), malloc_trim(3)
 */
int gmem_malloc_trim(size_t pad) LIBGMEM_NOEXCEPT;

/* ---- heap statistics and limits -------------------------------------------------------------- */

/**
 * The state of the heap, in bytes unless stated otherwise. Set `size` before the call. Later versions append fields;
 * the library fills as many as `size` has space for.
 */
typedef struct {
	size_t size;       /**< in: sizeof(gmemHeapStats_t); out: bytes filled */
	size_t live;       /**< allocated blocks, including thread caches (at most 8 MiB in transit) and the slack of pages
							of small blocks */
	size_t idle;       /**< freed, and kept for reuse until released */
	size_t metadata;   /**< the heap's own data, including reserved space */
	size_t retained;   /**< unused address space; a part of it is resident where a 2 MiB page is partly in use */
	size_t mapped;     /**< all address space */
	size_t resident;   /**< in memory */
	size_t huge;       /**< resident memory on huge pages */
	size_t released;   /**< released to the kernel so far */
	size_t soft_limit; /**< 0: none */
	size_t hard_limit; /**< 0: none */
	size_t refused;    /**< times that the hard limit refused memory; an allocation may count several times */
	size_t foreign_blocks; /**< calls that passed a block of another allocator */
	size_t arenas;         /**< arenas in use */
	size_t device_live;    /**< live blocks in a device's memory; not part of `live`, and not limited */
	size_t device_idle;    /**< freed blocks in a device's memory, kept for reuse */
	size_t device_refused; /**< large blocks that fell back to ordinary memory because the device had none left */
} gmemHeapStats_t;

/**
 * @brief Read the state of the heap; other threads keep allocating meanwhile.
 *
 * It takes about a millisecond per GiB that the process has mapped, because the kernel counts the pages.
 *
 * @param stats filled; set stats->size first
 * @retval 0       done
 * @retval -EINVAL stats is NULL; stats->size is smaller than two fields
 * @retval -ENOTRECOVERABLE internal error; please report the text of gmemLastError()
 * @par Thread safety
 * MT-Safe.
 * @par System calls
 * read(2) of /proc/self/smaps.
 * @see gmemHeapStatsJson(), mallinfo2(3)
 */
int gmemHeapStats(gmemHeapStats_t *stats) LIBGMEM_NOEXCEPT;

/**
 * @brief Describe the heap as one JSON object, including the share of each arena.
 *
 * @param buffer receives as much of the text as fits, NUL-terminated; may be NULL if size is 0
 * @param size   bytes in buffer
 * @return the length of the whole text without the NUL, as snprintf(3), or a negative errno
 * @retval -EINVAL buffer is NULL and size is not 0
 * @retval -ENOTRECOVERABLE internal error; please report the text of gmemLastError()
 * @par Thread safety
 * MT-Safe.
 * @par System calls
 * The system calls of gmemHeapStats().
 * @see gmemHeapStats(), malloc_info(3)
 */
int gmemHeapStatsJson(char *buffer, size_t size) LIBGMEM_NOEXCEPT;

/**
 * @brief Write a profile of the heap: which code has allocated what is live, by samples.
 *
 * The program has to run with GMEM_HEAP_PROFILE in its environment: `1`, or the mean number of bytes from one sample to
 * the next. The file has the format of jemalloc's and gperftools' heap profiles; jeprof(1) and pprof(1) show it:
 * `jeprof --text PROGRAM FILE`. With GMEM_HEAP_PROFILE_FILE=PATH a profile is written when the process exits as well:
 * what is in it then was never freed.
 *
 * @param path the file, which is created or overwritten
 * @retval 0            it was written
 * @retval -EINVAL      path is NULL
 * @retval -ENOENT      a directory of the path does not exist, or the path is empty
 * @retval -EACCES      the file may not be created or written
 * @retval -EOPNOTSUPP  no profile is being made
 * @retval -EIO         the file could not be written; other errnos are those of open(2)
 * @par Thread safety
 * MT-Safe. Blocks of a device's memory are not sampled.
 * @par System calls
 * openat(2), creat(2), write(2), and openat(2) of /proc/self/maps.
 * @see gmemHeapStats(), jemalloc(3)
 */
int gmemHeapProfileDump(const char *path) LIBGMEM_NOEXCEPT;

/**
 * @brief Release all idle heap memory and the calling thread's cached blocks.
 *
 * @return bytes released
 * @par Thread safety
 * MT-Safe.
 * @par System calls
 * madvise(2) with MADV_DONTNEED.
 * @see gmem_malloc_trim(), malloc_trim(3)
 */
size_t gmemHeapTrim(void) LIBGMEM_NOEXCEPT;

/**
 * @brief Limit the heap's memory from now on.
 *
 * Above `soft` the heap keeps nothing idle: whenever it grows, it releases idle memory first. The soft limit compares
 * live and idle memory. At `hard` an allocation fails with ENOMEM after idle memory was released and one retry. The
 * hard limit compares resident memory: the heap stays within it, whatever the sizes and order of blocks, except for a
 * few MiB of metadata. Blocks in a device's memory do not count.
 *
 * GMEM_HEAP_SOFT_LIMIT and GMEM_HEAP_HARD_LIMIT set the limits at start: a number with K, M, G or T; `cgroup` for the
 * smallest memory limit of the process's control groups, less an eighth (16 to 512 MiB) for what is not on the heap; or
 * `cgroup-64M` or `cgroup*0.9` to choose how much is left for that.
 *
 * @param soft bytes; 0: no limit
 * @param hard bytes, at least soft; 0: no limit
 * @retval 0       set
 * @retval -EINVAL soft exceeds hard (nothing changes)
 * @retval -ENOTRECOVERABLE internal error; please report the text of gmemLastError()
 * @par Thread safety
 * MT-Safe.
 * @see gmemHeapStats(), gmemHeapTrim(), cgroups(7)
 */
int gmemHeapSetLimits(size_t soft, size_t hard) LIBGMEM_NOEXCEPT;

#ifdef __cplusplus
}
#endif

#undef LIBGMEM_MALLOC
#undef LIBGMEM_SIZE
#undef LIBGMEM_SIZE2

#endif /* LIBGMEM_H */
