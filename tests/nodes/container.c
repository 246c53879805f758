/* SPDX-License-Identifier: Apache-2.0 */
/* Containers: a sandbox that refuses memory policies, or to move pages, or both. The test runs outside and sees with
 * move_pages(2) where the pages of the process inside are: a prefetch that returned 0 has put all of them on the node,
 * and one that failed says which call is refused. */
#include <sched.h>
#include <sys/mount.h>

#include "../hostile/children.h"
#include "nodes.h"

enum { GMEM_PAGES = 4 };

/* ---- sandboxes -------------------------------------------------------------------------------------- */

/* What Docker's and containerd's default profiles refuse a process without capabilities, as far as memory is concerned.
 */
static const long PROFILE[] = {SYS_get_mempolicy, SYS_set_mempolicy, SYS_mbind, SYS_move_pages, SYS_migrate_pages,
	SYS_userfaultfd, SYS_perf_event_open, SYS_process_madvise, SYS_process_vm_readv, SYS_process_vm_writev, SYS_kcmp,
	SYS_bpf, SYS_ptrace, SYS_add_key, SYS_request_key, SYS_keyctl, SYS_quotactl, SYS_mount, SYS_umount2, SYS_pivot_root,
	SYS_swapon, SYS_swapoff, SYS_reboot, SYS_settimeofday, SYS_clock_settime, SYS_acct, SYS_setns, SYS_unshare,
	SYS_open_by_handle_at, SYS_name_to_handle_at, SYS_fanotify_init, SYS_lookup_dcookie};

static const struct sandbox {
	const char *name;
	const long *calls;
	size_t count;
	int can_move;
	int can_ask; /* which node a page is on, exactly */
	int has_policies;
} SANDBOXES[] = {
	{"the default profile", PROFILE, sizeof PROFILE / sizeof *PROFILE, 0, 0, 0},
	{"get_mempolicy", (const long[]){SYS_get_mempolicy}, 1, 1, 1, 0},
	{"set_mempolicy", (const long[]){SYS_set_mempolicy}, 1, 1, 1, 0},
	{"mbind", (const long[]){SYS_mbind}, 1, 1, 1, 1},
	{"move_pages", (const long[]){SYS_move_pages}, 1, 0, 1, 1},
};

static const struct sandbox *sandbox;
static int refused_with;
static int is_container;

static int is_masked(const char *path) {
	return access(path, F_OK) != 0 || mount("/dev/null", path, NULL, MS_BIND, NULL) == 0;
}

/* The rest of a container: a user namespace without capabilities outside, and parts of /proc and /sys that are masked
 * or read-only. */
static void enter_container(void) {
	NEED(unshare(CLONE_NEWNS) == 0);
	NEED(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0);
	NEED(is_masked("/proc/kcore") && is_masked("/proc/keys") && is_masked("/proc/timer_list"));
	NEED(mount("/proc/sys", "/proc/sys", NULL, MS_BIND, NULL) == 0);
	NEED(mount(NULL, "/proc/sys", NULL, MS_BIND | MS_REMOUNT | MS_RDONLY, NULL) == 0);
	NEED(mount(NULL, "/sys", NULL, MS_BIND | MS_REMOUNT | MS_RDONLY, NULL) == 0);
	NEED(unshare(CLONE_NEWUSER) == 0);
}

/* ---- what the process inside tells the one outside --------------------------------------------------- */

static struct report {
	char *start;
	size_t size;
	int node;
	int result;
	volatile int stage;
	int failed;
} *told;

/* Wait until the process outside has looked at the pages. */
static void show(char *start, size_t size, int node, int result) {
	told->start = start;
	told->size = size;
	told->node = node;
	told->result = result;
	const int stage = told->stage + 1;
	__atomic_store_n(&told->stage, stage, __ATOMIC_RELEASE);
	while (__atomic_load_n(&told->stage, __ATOMIC_ACQUIRE) == stage) {
		usleep(200);
	}
}

static size_t pages_of_child_on(pid_t child, const char *start, size_t size, int node) {
	const size_t count = size / base;
	const void **pages = (const void **)calloc(count, sizeof *pages);
	int *status = (int *)calloc(count, sizeof *status);
	size_t found = 0;
	NEED(pages != NULL && status != NULL);
	for (size_t i = 0; i < count; ++i) {
		pages[i] = start + i * base;
	}
	NEED(syscall(SYS_move_pages, child, count, pages, NULL, status, 0) == 0);
	for (size_t i = 0; i < count; ++i) {
		found += status[i] == node;
	}
	free(pages);
	free(status);
	return found;
}

static void watch(pid_t child) {
	int status = 0;
	for (;;) {
		if (waitpid(child, &status, WNOHANG) == child) {
			break;
		}
		const int stage = __atomic_load_n(&told->stage, __ATOMIC_ACQUIRE);
		if (stage % 2 == 0) {
			usleep(200);
			continue;
		}
		if (told->result == 0) {
			CHECK_EQUAL(pages_of_child_on(child, told->start, told->size, told->node), told->size / base);
		}
		__atomic_store_n(&told->stage, stage + 1, __ATOMIC_RELEASE);
	}
	if (status != 0) {
		describe_end(status);
		++checks_failed;
	}
}

/* ---- inside ------------------------------------------------------------------------------------------ */

static int has_processors(int node) {
	char path[64], list[64] = "";
	snprintf(path, sizeof path, "/sys/devices/system/node/node%d/cpulist", node);
	FILE *file = fopen(path, "re");
	NEED(file != NULL);
	if (fgets(list, sizeof list, file) == NULL) {
		list[0] = '\n';
	}
	fclose(file);
	return list[0] != '\n';
}

static void prefetch_new(int node, int huge) {
	const size_t size = GMEM_PAGES * page;
	const int can = sandbox->can_move || sandbox->has_policies || has_processors(node);
	char *start = map_pages(size, huge);
	const int result = prefetch_to(start, size, node);
	CHECK_EQUAL(result, can ? 0 : -EPERM);
	if (!can) {
		CHECK(strstr(gmemLastError(), "mempolicy") != NULL);
		CHECK_EQUAL(resident_pages(start, size), 0);
	} else {
		CHECK_EQUAL(faults_of_writing(start, size), 0);
	}
	show(start, size, node, result);
	/* The same again: the pages are there. */
	CHECK_EQUAL(prefetch_to(start, size, node), result);
	munmap(start, size);
}

/* Pages that were written before the sandbox was entered, on each node. */
static char *old_pages[1024];

static void prefetch_old(int index, int node) {
	const size_t size = GMEM_PAGES * page;
	char *start = old_pages[index];
	const int stays = nodes[index] == node;
	const int result = prefetch_to(start, size, node);
	CHECK_EQUAL(result, stays || sandbox->can_move ? 0 : -EPERM);
	if (result != 0) {
		CHECK(strstr(gmemLastError(), "move_pages") != NULL);
		/* Nothing has moved. */
		show(start, size, nodes[index], 0);
	}
	show(start, size, node, result);
}

static void nodes_of_pages_are_known_or_unknown(void) {
	static gmemPageState_t states[GMEM_PAGES << 9];
	gmemResidency_t all = {.size = sizeof all};
	char *start = map_pages(GMEM_PAGES * page, 0);
	memset(start, 'x', GMEM_PAGES * page);
	CHECK_EQUAL(gmemResidency((unsigned long)(uintptr_t)start, GMEM_PAGES * page, 0, states, GMEM_PAGES << 9, &all), 0);
	CHECK_EQUAL(all.resident, GMEM_PAGES * page / base);
	CHECK_EQUAL((all.known & GMEM_KNOWS_NODE) != 0, sandbox->can_ask || sandbox->can_move);
	CHECK_EQUAL(states[0].node >= 0, sandbox->can_ask || sandbox->can_move);
	munmap(start, GMEM_PAGES * page);
}

static void topology_names_what_is_refused(void) {
	gmemTopology_t machine = {.size = sizeof machine};
	char text[8192];
	CHECK_EQUAL(gmemTopology(&machine, NULL, 0, sizeof(gmemNode_t)), node_count);
	CHECK_EQUAL((machine.features & GMEM_HAS_MOVE_PAGES) != 0, sandbox->can_move);
	CHECK_EQUAL((machine.features & GMEM_HAS_MEMORY_POLICY) != 0, sandbox->has_policies);
	CHECK(gmemTopologyText(text, sizeof text) > 0);
	const int names_an_option = strstr(text, "--cap-add SYS_NICE") != NULL || strstr(text, "--security-opt") != NULL;
	CHECK_EQUAL(names_an_option, !sandbox->can_move || !sandbox->has_policies);
}

static void the_rest_works(void) {
	gmemStream_t stream;
	gmemFaultScope_t scope;
	const size_t size = GMEM_PAGES * page;
	char *start = map_pages(size, 0);
	const unsigned long addr = (unsigned long)(uintptr_t)start;
	CHECK_EQUAL(gmemStreamCreate(&stream), 0);
	CHECK_EQUAL(gmemPrefetch(addr, size, gmemGetNumaId(), stream), 0);
	CHECK_EQUAL(gmemStreamSynchronize(stream), 0);
	CHECK_EQUAL(gmemFaultScopeBegin(&scope, GMEM_FAULTS_PROCESS), 0);
	memset(start, 'x', size);
	gmemFaultScopeEnd(&scope);
	CHECK_EQUAL(gmemFreeEager(addr, size, stream), 0);
	CHECK_EQUAL(gmemStreamSynchronize(stream), 0);
	CHECK_EQUAL(resident_pages(start, size), 0);
	CHECK_EQUAL(gmemStreamDestroy(stream), 0);
	for (size_t bytes = 16; bytes < (size_t)64 << 20; bytes *= 3) {
		char *block = (char *)gmem_malloc(bytes);
		CHECK(block != NULL);
		if (block != NULL) {
			memset(block, 'x', bytes);
		}
		gmem_free(block);
	}
	munmap(start, size);
}

static int inside(const void *unused) {
	(void)unused;
	for (int i = 0; i < node_count; ++i) {
		old_pages[i] = map_pages(GMEM_PAGES * page, i % 2);
		CHECK_EQUAL(prefetch_to(old_pages[i], GMEM_PAGES * page, nodes[i]), 0);
	}
	if (is_container) {
		enter_container();
	}
	if (!refuse_calls(sandbox->calls, sandbox->count, refused_with)) {
		return SKIPPED;
	}
	for (int i = 0; i < node_count; ++i) {
		prefetch_new(nodes[i], 0);
		prefetch_new(nodes[i], 1);
		for (int j = 0; j < node_count; ++j) {
			prefetch_old(i, nodes[j]);
		}
	}
	nodes_of_pages_are_known_or_unknown();
	topology_names_what_is_refused();
	the_rest_works();
	return checks_failed != 0;
}

static void try_sandbox(void) {
	const int before = checks_failed;
	fflush(NULL);
	told->stage = 0;
	const pid_t child = fork();
	NEED(child >= 0);
	if (child == 0) {
		alarm(60);
		checks_failed = 0;
		_exit(inside(NULL));
	}
	watch(child);
	if (checks_failed != before) {
		fprintf(stderr, "refused: %s, with %s%s\n", sandbox->name, strerror(refused_with),
			is_container ? ", in a container" : "");
	}
}

static void in_a_container(const char *cgroup) {
	CHECK_EQUAL(write_cgroup(cgroup, "memory.max", "400000000"), 0);
	is_container = 1;
	sandbox = &SANDBOXES[0];
	refused_with = EPERM;
	try_sandbox();
}

int main(void) {
	static const int errors[] = {EPERM, ENOSYS, EACCES};
	need_virtual_machine();
	told = (struct report *)mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	NEED(told != MAP_FAILED);
	for (size_t i = 0; i < sizeof SANDBOXES / sizeof *SANDBOXES; ++i) {
		for (size_t j = 0; j < sizeof errors / sizeof *errors; ++j) {
			sandbox = &SANDBOXES[i];
			refused_with = errors[j];
			try_sandbox();
		}
	}
	in_cgroup("gmem-container", in_a_container);
	return checks_result("container");
}
