/* SPDX-License-Identifier: Apache-2.0 */
/* gmemTopology, as data, text and JSON: on any machine compared with what other interfaces say, and in the virtual
 * machine (with its kernel's version as argument) with how tools/guest.py makes it. */
#include <sys/sysinfo.h>

#include <libgmem.h>

#include "../check.h"

enum { MOST_NODES = 64 };

static gmemTopology_t machine;
static gmemNode_t nodes[MOST_NODES];
static int node_count;

static void read_topology(void) {
	memset(&machine, 0x55, sizeof machine);
	memset(nodes, 0x55, sizeof nodes);
	machine.size = sizeof machine;
	node_count = gmemTopology(&machine, nodes, MOST_NODES, sizeof *nodes);
	NEED(node_count > 0 && node_count <= MOST_NODES);
	CHECK_EQUAL(machine.size, sizeof machine);
}

/* The first word of a file that stands in brackets, as the kernel shows what is chosen. */
static void chosen(const char *path, char *word) {
	char text[256] = "";
	FILE *file = fopen(path, "re");
	word[0] = 0;
	if (file != NULL && fgets(text, sizeof text, file) != NULL && strchr(text, '[') != NULL) {
		(void)sscanf(strchr(text, '['), "[%15[^]]", word);
	}
	if (file != NULL) {
		fclose(file);
	}
}

static void the_machine_is_as_other_interfaces_say(void) {
	struct sysinfo info;
	NEED(sysinfo(&info) == 0);
	CHECK_EQUAL(machine.base_page, sysconf(_SC_PAGESIZE));
	CHECK_EQUAL(machine.gmem_page, gmemGetPageSize());
	CHECK_EQUAL(machine.swap_total, info.totalswap * info.mem_unit);
	CHECK(machine.swap_free <= machine.swap_total);
	char word[16];
	chosen("/sys/kernel/mm/transparent_hugepage/enabled", word);
	CHECK(strcmp(word, machine.thp_enabled) == 0);
	chosen("/sys/kernel/mm/transparent_hugepage/defrag", word);
	CHECK(strcmp(word, machine.thp_defrag) == 0);
	chosen("/sys/kernel/mm/transparent_hugepage/shmem_enabled", word);
	CHECK(strcmp(word, machine.thp_shmem) == 0);
	CHECK(machine.numa_balancing >= -1 && machine.numa_balancing <= 3);
	CHECK(machine.demotion >= -1 && machine.demotion <= 1 && machine.lru_gen >= -1 && machine.lru_gen <= 1);
	const int can_populate = madvise(NULL, 0, 23 /* MADV_POPULATE_WRITE */) == 0;
	CHECK_EQUAL((machine.features & GMEM_HAS_POPULATE) != 0, can_populate);

	size_t total = 0;
	int cpus = 0, allowed = 0;
	for (int i = 0; i < node_count; ++i) {
		const gmemNode_t *node = &nodes[i];
		CHECK(i == 0 || node->node > nodes[i - 1].node);
		CHECK(node->free < node->total && node->hugetlb_free <= node->hugetlb_total && node->tier >= -1);
		CHECK(strcmp(node->device, "host") == 0);
		CHECK_EQUAL(gmemNodeDistance(node->node, node->node), 10);
		total += node->total;
		cpus += node->cpus;
		allowed += node->allowed;
	}
	/* The kernel's image and its memory map are counted by neither or by one. A virtual machine whose host takes memory
	 * away (a balloon) counts that per node at once, and in the total of the machine not at all. */
	CHECK(total > info.totalram * info.mem_unit / 10 && total < info.totalram * info.mem_unit / 10 * 11);
	CHECK(cpus <= sysconf(_SC_NPROCESSORS_ONLN) && allowed >= 1);
	CHECK(gmemPrefetch((uintptr_t)&machine, 1, nodes[0].node, NULL) == 0);
}

static void a_smaller_and_a_larger_structure_are_fine(void) {
	struct {
		gmemNode_t known;
		long of_the_future;
	} larger[MOST_NODES];
	memset(larger, 0x55, sizeof larger);
	CHECK_EQUAL(gmemTopology(NULL, &larger[0].known, MOST_NODES, sizeof *larger), node_count);
	int smaller[2 * MOST_NODES];
	CHECK_EQUAL(gmemTopology(NULL, (gmemNode_t *)smaller, MOST_NODES, 2 * sizeof *smaller), node_count);
	for (int i = 0; i < node_count; ++i) {
		CHECK_EQUAL(larger[i].known.node, nodes[i].node);
		CHECK_EQUAL(larger[i].known.total, nodes[i].total);
		CHECK_EQUAL(larger[i].of_the_future, 0);
		CHECK_EQUAL(smaller[2 * i], nodes[i].node);
		CHECK_EQUAL(smaller[2 * i + 1], nodes[i].tier);
	}
	/* No more than there is room for, and the number of all all the same. */
	memset(larger, 0x55, sizeof larger);
	CHECK_EQUAL(gmemTopology(NULL, &larger[0].known, 1, sizeof *larger), node_count);
	CHECK(larger[0].known.node == nodes[0].node && larger[1].of_the_future == 0x5555555555555555);
	CHECK_EQUAL(gmemTopology(NULL, NULL, 0, 0), node_count);

	gmemTopology_t part;
	memset(&part, 0x55, sizeof part);
	part.size = 2 * sizeof(size_t);
	CHECK_EQUAL(gmemTopology(&part, NULL, 0, 0), node_count);
	CHECK(part.size == 2 * sizeof(size_t) && part.base_page == machine.base_page);
	CHECK_EQUAL(part.gmem_page, 0x5555555555555555);
}

static void wrong_arguments_are_refused(void) {
	gmemTopology_t none = {0};
	CHECK_EQUAL(gmemTopology(&none, NULL, 0, 0), -EINVAL);
	CHECK(strstr(gmemLastError(), "machine->size = 0") != NULL);
	CHECK_EQUAL(gmemTopology(NULL, NULL, 1, sizeof *nodes), -EINVAL);
	CHECK_EQUAL(gmemTopology(NULL, nodes, 1, 3), -EINVAL);
	CHECK(strstr(gmemLastError(), "node_size = 3") != NULL);
	CHECK_EQUAL(gmemNodeDistance(nodes[0].node, 1023), -EINVAL);
	CHECK_EQUAL(gmemNodeDistance(1023, nodes[0].node), -EINVAL);
	CHECK(strstr(gmemLastError(), "hnid = 1023") != NULL);
	CHECK_EQUAL(gmemNodeDistance(-1, -1), -EINVAL);
	CHECK_EQUAL(gmemTopologyText(NULL, 1), -EINVAL);
	CHECK_EQUAL(gmemTopologyJson(NULL, 1), -EINVAL);
}

static void text_and_json_are_cut_as_snprintf_does(void) {
	static char text[1 << 16], piece[11];
	int (*const writers[])(char *, size_t) = {gmemTopologyText, gmemTopologyJson};
	for (int i = 0; i < 2; ++i) {
		const int length = writers[i](text, sizeof text);
		CHECK(length > 200 && (size_t)length == strlen(text));
		/* Bytes that are free change their length meanwhile. */
		CHECK(abs(writers[i](NULL, 0) - length) < 64);
		memset(piece, 'x', sizeof piece);
		CHECK(writers[i](piece, sizeof piece) > 200);
		CHECK(strlen(piece) == sizeof piece - 1 && strncmp(piece, text, sizeof piece - 1) == 0);
	}
	char expected[64];
	snprintf(expected, sizeof expected, "{\"base_page\":%zu,\"gmem_page\":%zu,", machine.base_page, machine.gmem_page);
	CHECK(strncmp(text, expected, strlen(expected)) == 0);
	snprintf(expected, sizeof expected, "{\"node\":%d,\"device\":\"host\",\"cpus\":%d,", nodes[0].node, nodes[0].cpus);
	CHECK(strstr(text, expected) != NULL && strcmp(text + strlen(text) - 4, "]}]}") == 0);
}

/* tools/guest.py: three nodes of 1 GiB, the last without a processor, 8 pages of hugetlb on each. */
static void the_virtual_machine_is_as_it_was_made(int is_old) {
	static const int distances[3][3] = {{10, 20, 40}, {20, 10, 40}, {40, 40, 10}};
	NEED(node_count == 3);
	for (int i = 0; i < 3; ++i) {
		CHECK_EQUAL(nodes[i].node, i);
		CHECK_EQUAL(nodes[i].cpus, i < 2);
		CHECK_EQUAL(nodes[i].allowed, 1);
		CHECK(nodes[i].total > (size_t)800 << 20 && nodes[i].total <= (size_t)1 << 30);
		CHECK_EQUAL(nodes[i].hugetlb_total, 8);
		CHECK_EQUAL(nodes[i].hugetlb_free, 8);
		CHECK(nodes[i].tier >= 0);
		for (int j = 0; j < 3; ++j) {
			CHECK_EQUAL(gmemNodeDistance(i, j), distances[i][j]);
		}
	}
	CHECK_EQUAL(gmemNodeDistance(0, 3), -EINVAL);
	const unsigned new_ones = GMEM_HAS_PAGEMAP_SCAN | GMEM_HAS_PROCMAP_QUERY;
	CHECK_EQUAL(machine.features & new_ones, is_old ? 0 : new_ones);
	const unsigned both = GMEM_HAS_POPULATE | GMEM_HAS_DONTNEED_LOCKED | GMEM_HAS_COLLAPSE | GMEM_HAS_FAULT_COUNTER;
	CHECK_EQUAL(machine.features & both, both);
	CHECK_EQUAL(machine.numa_balancing, 0);
	CHECK_EQUAL(machine.demotion, 0);
	/* As Debian configures them. */
	CHECK_EQUAL(machine.lru_gen, !is_old);
	CHECK_EQUAL(machine.swap_total, 0);

	/* A page of the pool that is taken is free no more, and the program sees it where it is. */
	char *page =
		mmap(NULL, machine.gmem_page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB_2MB, -1, 0);
	NEED(page != MAP_FAILED);
	CHECK_EQUAL(gmemPrefetch((uintptr_t)page, machine.gmem_page, 2, NULL), 0);
	read_topology();
	CHECK_EQUAL(nodes[0].hugetlb_free + nodes[1].hugetlb_free + nodes[2].hugetlb_free, 23);
	CHECK_EQUAL(nodes[2].hugetlb_free, 7);
	munmap(page, machine.gmem_page);

	static char text[1 << 16];
	CHECK(gmemTopologyJson(text, sizeof text) > 0);
	CHECK(strstr(text, "\"distances\":[10,20,40]}") != NULL && strstr(text, "\"distances\":[40,40,10]}") != NULL);
	CHECK(gmemTopologyText(text, sizeof text) > 0);
	puts(text);
}

int main(int count, char **arguments) {
	read_topology();
	the_machine_is_as_other_interfaces_say();
	a_smaller_and_a_larger_structure_are_fine();
	wrong_arguments_are_refused();
	text_and_json_are_cut_as_snprintf_does();
	if (count > 1) {
		the_virtual_machine_is_as_it_was_made(strcmp(arguments[1], "6.1") == 0);
	}
	return checks_result("topology");
}
