/* SPDX-License-Identifier: Apache-2.0 */
/* A device that chooses itself: which one, why, and at what cost. On a stock kernel, and on the stand-in for a GMEM
 * kernel in the virtual machine. Run without GMEM_DEVICE. */
#include <dlfcn.h>
#include <signal.h>
#include <sys/ptrace.h>

#include "../nodes/nodes.h"

static const char parameters[] = "/sys/module/gmem_kernel/parameters/";
static char text[1 << 16];

static void set(const char *parameter, long value) {
	char path[128], number[24];
	snprintf(path, sizeof path, "%s%s", parameters, parameter);
	snprintf(number, sizeof number, "%ld", value);
	NEED(write_file(path, number) == 0);
}

/* The choice, and the words of its reason in the topology. */
static void is_chosen(const char *device, const char *reason) {
	CHECK_EQUAL(gmemSetDevice("auto"), 0);
	if (strcmp(gmemGetDevice(), device) != 0) {
		fprintf(stderr, "%s was chosen instead of %s\n", gmemGetDevice(), device);
		++checks_failed;
	}
	char wanted[256];
	snprintf(wanted, sizeof wanted, "device: %s, chosen: %s", device, reason);
	CHECK(gmemTopologyText(text, sizeof text) > 0);
	if (strstr(text, wanted) == NULL) {
		fprintf(stderr, "the topology does not say \"%s\":\n%s\n", wanted, text);
		++checks_failed;
	}
	snprintf(wanted, sizeof wanted, "\"device\":\"%s\",\"device_reason\":\"chosen: %s", device, reason);
	CHECK(gmemTopologyJson(text, sizeof text) > 0 && strstr(text, wanted) != NULL);
}

static int is_node(int fd) {
	char path[64], target[64] = "";
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	return readlink(path, target, sizeof target - 1) > 0 && strcmp(target, "/dev/gmem") == 0;
}

static int node_is_open(void) {
	for (int fd = 3; fd < 1024; ++fd) {
		if (is_node(fd)) {
			return 1;
		}
	}
	return 0;
}

/* System calls of a child's first gmemGetDevice(). A device that is named needs a few, too. */
static long calls_of_first_use(const char *device) {
	const pid_t child = fork();
	NEED(child >= 0);
	if (child == 0) {
		if (device != NULL) {
			setenv("GMEM_DEVICE", device, 1);
		}
		NEED(ptrace(PTRACE_TRACEME, 0, NULL, NULL) == 0);
		raise(SIGSTOP);
		syscall(SYS_getppid);
		const char *name = gmemGetDevice();
		syscall(SYS_getppid);
		_exit(name == NULL || strcmp(name, "host") != 0);
	}
	int status = 0, markers = 0;
	long stops = 0;
	NEED(waitpid(child, &status, 0) == child && WIFSTOPPED(status));
	NEED(ptrace(PTRACE_SETOPTIONS, child, NULL, PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL) == 0);
	for (;;) {
		NEED(ptrace(PTRACE_SYSCALL, child, NULL, NULL) == 0);
		NEED(waitpid(child, &status, 0) == child);
		if (WIFEXITED(status)) {
			break;
		}
		struct __ptrace_syscall_info info;
		NEED(WSTOPSIG(status) == (SIGTRAP | 0x80));
		NEED(ptrace(PTRACE_GET_SYSCALL_INFO, child, sizeof info, &info) > 0);
		if (info.op == PTRACE_SYSCALL_INFO_ENTRY) {
			markers += info.entry.nr == SYS_getppid;
			stops += markers == 1;
		}
	}
	CHECK_EQUAL(WEXITSTATUS(status), 0);
	/* The first marker was counted. */
	return stops - 1;
}

static void costs_next_to_nothing(void) {
	const long named = calls_of_first_use("host"), chosen = calls_of_first_use(NULL);
	printf("the first use takes %ld system calls, and %ld if the device is named\n", chosen, named);
	/* Two of them make the page by which a fork is noticed. */
	CHECK(chosen <= named + 6);
}

static void malloc_does_not_choose(void) {
	char *block = (char *)gmem_malloc((size_t)8 << 20);
	NEED(block != NULL);
	block = (char *)gmem_realloc(block, (size_t)16 << 20);
	NEED(block != NULL);
	gmem_free(block);
	CHECK(!node_is_open());
}

/* The file is there, but is no library that could be loaded. */
static void nothing_is_loaded(void) {
	unsigned char header[64];
	const int self = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	NEED(self >= 0 && read(self, header, sizeof header) == sizeof header);
	close(self);
	NEED(mkdir("/tmp/cann", 0755) == 0 && mkdir("/tmp/cann/lib64", 0755) == 0);
	const char *const path = "/tmp/cann/lib64/libascendcl.so";
	const int file = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
	NEED(file >= 0 && write(file, header, sizeof header) == sizeof header);
	setenv("ASCEND_HOME_PATH", "/tmp/cann", 1);
	is_chosen("ascend", "the kernel has GMEM, and Ascend's runtime is loaded or installed");
	CHECK(dlopen("libascendcl.so", RTLD_NOW | RTLD_NOLOAD) == NULL);
	/* Of another architecture. */
	header[18] ^= 1;
	NEED(pwrite(file, header, sizeof header, 0) == sizeof header);
	is_chosen("gmem", "the kernel has GMEM, and Ascend's runtime was not found");
	close(file);
	unsetenv("ASCEND_HOME_PATH");
	NEED(unlink(path) == 0 && rmdir("/tmp/cann/lib64") == 0 && rmdir("/tmp/cann") == 0);
}

static void ordinary_memory_is_freed(void) {
	char *start = map_private(2 * page, page);
	memset(start, 'x', 2 * page);
	CHECK_EQUAL(gmemFreeEager((unsigned long)(uintptr_t)start, 2 * page, NULL), 0);
	CHECK_EQUAL(resident_pages(start, 2 * page), 0);
	munmap(start, 2 * page);
}

static void close_node(void) {
	for (int fd = 3; fd < 1024; ++fd) {
		if (is_node(fd)) {
			close(fd);
		}
	}
}

/* /dev/gmem as a container, a sandbox or another driver of this name presents it. */
static void a_node_that_is_of_no_use_means_host(void) {
	static const int errnos[] = {ENOTTY, EPERM};
	for (size_t i = 0; i < sizeof errnos / sizeof *errnos; ++i) {
		set("ioctl_error", -errnos[i]);
		is_chosen("host", "the kernel has GMEM, but /dev/gmem refuses the calls of GMEM: ");
		ordinary_memory_is_freed();
		/* By name there is a clear error. */
		CHECK_EQUAL(gmemSetDevice("gmem"), 0);
		CHECK_EQUAL(gmemGetNumaId(), -ENODEV);
		CHECK(strstr(gmemLastError(), "seccomp") != NULL);
	}
	set("ioctl_error", 0);
	/* The library opens it again. */
	close_node();
	set("open_error", -EACCES);
	is_chosen("host", "the kernel has GMEM, but /dev/gmem cannot be opened: ");
	ordinary_memory_is_freed();
	set("open_error", 0);
	NEED(rename("/dev/gmem", "/dev/gmem.away") == 0);
	is_chosen("host", "the kernel has GMEM, but there is no /dev/gmem.");
	ordinary_memory_is_freed();
	NEED(rename("/dev/gmem.away", "/dev/gmem") == 0);
	/* An accelerator may be attached later. */
	set("attached", 0);
	is_chosen("gmem", "the kernel has GMEM");
	CHECK_EQUAL(gmemGetNumaId(), -ENODEV);
	set("attached", 1);
	CHECK(gmemGetNumaId() > nodes[node_count - 1]);
}

int main(void) {
	NEED(getenv("GMEM_DEVICE") == NULL);
	malloc_does_not_choose();
	if (access("/dev/gmem", F_OK) != 0) {
		costs_next_to_nothing();
		is_chosen("host", "the kernel has no GMEM");
		CHECK_EQUAL(gmemSetDevice("host"), 0);
		CHECK(gmemTopologyText(text, sizeof text) > 0);
		CHECK(strstr(text, "\ndevice: host, named by gmemSetDevice()\n") != NULL);
		return checks_result("auto");
	}
	if (access(parameters, F_OK) != 0) {
		printf("a GMEM kernel of its own: it cannot be told to fail\n");
		return SKIPPED;
	}
	page = gmemGetPageSize();
	base = (size_t)sysconf(_SC_PAGESIZE);
	find_nodes();
	CHECK(strcmp(gmemGetDevice(), "gmem") == 0);
	CHECK(node_is_open());
	is_chosen("gmem", "the kernel has GMEM, and Ascend's runtime was not found");
	nothing_is_loaded();
	a_node_that_is_of_no_use_means_host();
	return checks_result("auto");
}
