/* SPDX-License-Identifier: Apache-2.0 */
/* gmemPrefetch to a node that has no room: refused before anything is moved, nobody is killed, and no byte is lost.
 * It fills the node, so it runs in a virtual machine. */
#include "nodes.h"

static int full; /* the node that is filled */

/* More than what is left of the node, and less. */
enum { LEFT_MIB = 96, MORE_MIB = 128, LESS_MIB = 16 };
static const size_t more = (size_t)MORE_MIB << 20, less = (size_t)LESS_MIB << 20;

/* The node's pool of hugetlb pages, which is quick to fill and to empty. */
static void set_pool(size_t count) {
	char path[96], text[24];
	snprintf(
		path, sizeof path, "/sys/devices/system/node/node%d/hugepages/hugepages-%zukB/nr_hugepages", full, page >> 10);
	snprintf(text, sizeof text, "%zu", count);
	NEED(write_file(path, text) == 0);
}

/* Take all of the node but for `left` bytes, and the reserve that the kernel holds: `size` bytes with pages of our own,
 * of 2 MiB or small ones, the rest with the pool. Ours are not all zero: such pages the kernel takes back when it runs
 * short. */
static char *occupy(size_t left, size_t size, int huge) {
	set_pool(0);
	NEED(free_bytes(full) > left + size);
	set_pool((free_bytes(full) - left - size) / page);
	char *start = map_pages(size, huge);
	unsigned long mask = 1ul << full;
	NEED(syscall(SYS_mbind, start, size, 1 /* MPOL_PREFERRED */, &mask, 8 * sizeof mask, 0) == 0);
	memset(start, 'o', size);
	return start;
}

static long kills_at_start;

static void nobody_was_killed(void) { CHECK_EQUAL(read_number("/proc/vmstat", "oom_kill "), kills_at_start); }

/* The message says what it takes and what there is. */
static void is_refused(const char *start) {
	CHECK_EQUAL(prefetch_to(start, more, full), -ENOMEM);
	char node[16], needed[32];
	snprintf(node, sizeof node, "node %d", full);
	snprintf(needed, sizeof needed, "%zu", more);
	const char *message = gmemLastError();
	if (strstr(message, node) == NULL || strstr(message, needed) == NULL || strstr(message, "free") == NULL) {
		fprintf(stderr, "the message names neither \"%s\" nor \"%s\" bytes, or not what is free: %s\n", node, needed,
			message);
		++checks_failed;
	}
	nobody_was_killed();
}

static void untouched_memory_stays_untouched(void) {
	for (int huge = 0; huge < 2; ++huge) {
		char *start = map_pages(more, huge);
		const size_t before = free_bytes(full);
		is_refused(start);
		CHECK_EQUAL(resident_pages(start, more), 0);
		CHECK(free_bytes(full) + less > before);
		munmap(start, more);
	}
}

static void pages_elsewhere_stay_there(void) {
	for (int huge = 0; huge < 2; ++huge) {
		char *start = map_pages(more, huge);
		CHECK_EQUAL(prefetch_to(start, more, nodes[0]), 0);
		fill(start, more, 1);
		is_refused(start);
		CHECK_EQUAL(pages_on(start, more, nodes[0]), more / base);
		CHECK_EQUAL(huge_kib(start), huge ? more >> 10 : 0);
		CHECK(is_filled(start, more, 1));
		munmap(start, more);
	}
}

static void what_fits_is_moved(void) {
	for (int huge = 0; huge < 2; ++huge) {
		char *start = map_pages(less, huge);
		CHECK_EQUAL(prefetch_to(start, less, nodes[0]), 0);
		fill(start, less, 1);
		CHECK_EQUAL(prefetch_to(start, less, full), 0);
		CHECK_EQUAL(pages_on(start, less, full), less / base);
		CHECK(is_filled(start, less, 1));
		munmap(start, less);
	}
}

/* A node that is full of the very pages that are asked for has room enough. */
static void what_is_there_needs_no_room(char *occupied) {
	CHECK_EQUAL(pages_on(occupied, more, full), more / base);
	CHECK_EQUAL(prefetch_to(occupied, more, full), 0);
	CHECK_EQUAL(pages_on(occupied, more, full), more / base);
	CHECK(is_all(occupied, more, 'o'));
}

/* Room enough, but in small pieces, which compaction cannot join: huge pages come apart or stay, and lose nothing. */
static void huge_pages_that_find_no_huge_room(void) {
	char *pieces = occupy(page, more, 0);
	NEED(write_file("/proc/sys/vm/compact_unevictable_allowed", "0") == 0);
	NEED(mlock(pieces, more) == 0);
	for (size_t at = 0; at < more; at += 2 * base) {
		NEED(madvise(pieces + at, base, 24 /* MADV_DONTNEED_LOCKED */) == 0);
	}
	const size_t moved = 3 * less; /* more than what the kernel holds in reserve */
	char *start = map_pages(moved, 1);
	CHECK_EQUAL(prefetch_to(start, moved, nodes[0]), 0);
	fill(start, moved, 1);
	const int result = prefetch_to(start, moved, full);
	CHECK(result == 0 || result == -ENOMEM || result == -EBUSY);
	const size_t there = pages_on(start, moved, full);
	printf("no room for huge pages: %d, %zu of %zu pages moved, %zu KiB huge\n", result, there, moved / base,
		huge_kib(start));
	CHECK_EQUAL(there + pages_on(start, moved, nodes[0]), moved / base);
	CHECK(result != 0 || there == moved / base);
	CHECK(is_filled(start, moved, 1));
	nobody_was_killed();
	munmap(start, moved);
	munmap(pieces, more);
}

int main(void) {
	need_virtual_machine();
	full = nodes[2];
	kills_at_start = read_number("/proc/vmstat", "oom_kill ");
	NEED(kills_at_start >= 0);
	char *occupied = occupy((size_t)LEFT_MIB << 20, more, 1);
	untouched_memory_stays_untouched();
	pages_elsewhere_stay_there();
	what_fits_is_moved();
	what_is_there_needs_no_room(occupied);
	munmap(occupied, more);
	set_pool(0);
	/* The call succeeds once the node has free memory. */
	char *start = map_pages(more, 0);
	CHECK_EQUAL(prefetch_to(start, more, full), 0);
	CHECK_EQUAL(pages_on(start, more, full), more / base);
	munmap(start, more);
	huge_pages_that_find_no_huge_room();
	return checks_result("full");
}
