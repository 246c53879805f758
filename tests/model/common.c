/* SPDX-License-Identifier: Apache-2.0 */
/* Models whose private memory several processes have in common. */
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "files.h"

static size_t page, bytes;
static int node;
static const char path[] = "gmem-common-test.bin";

static unsigned long addr(const void *at) { return (unsigned long)(uintptr_t)at; }

static int open_copy(int copy, int descriptor, gmemModel_t *model) {
	const gmemModelOptions_t options = {sizeof options, GMEM_MODEL_AUTOMATIC, 0, copy, descriptor};
	return gmemModelOpen(path, &options, model);
}

static gmemModel_t joined(int descriptor) {
	gmemModel_t model = NULL;
	if (open_copy(descriptor < 0 ? GMEM_COPY_COMMON : GMEM_COPY_JOIN, descriptor, &model) != 0) {
		fprintf(stderr, "%s\n", gmemLastError());
		exit(1);
	}
	return model;
}

/* GMEM pages of memory that the copy takes, whoever uses them. */
static size_t pages_in_memory(int descriptor) {
	struct stat status;
	NEED(fstat(descriptor, &status) == 0);
	return (size_t)status.st_blocks * 512 / page;
}

static void tell(int fd) { NEED(write(fd, "x", 1) == 1); }
static void await(int fd) {
	char byte;
	NEED(read(fd, &byte, 1) == 1);
}

/* Run `other` in a process of its own, with one end of a socket; `here` has the other end. */
static void with_another(void (*here)(int end, pid_t other), void (*other)(int end)) {
	int ends[2];
	NEED(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
	const pid_t child = fork();
	NEED(child >= 0);
	if (child == 0) {
		close(ends[0]);
		checks_failed = 0;
		other(ends[1]);
		_exit(checks_failed != 0);
	}
	close(ends[1]);
	here(ends[0], child);
	close(ends[0]);
	int status = 0;
	NEED(waitpid(child, &status, 0) == child);
	CHECK(status == 0 || (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL));
}

static void send_descriptor(int end, int descriptor) {
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr aligned;
	} control;
	memset(&control, 0, sizeof control);
	char byte = 'x';
	struct iovec part = {&byte, 1};
	struct msghdr message = {
		.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
	struct cmsghdr *const head = CMSG_FIRSTHDR(&message);
	head->cmsg_level = SOL_SOCKET;
	head->cmsg_type = SCM_RIGHTS;
	head->cmsg_len = CMSG_LEN(sizeof descriptor);
	memcpy(CMSG_DATA(head), &descriptor, sizeof descriptor);
	NEED(sendmsg(end, &message, 0) == 1);
}

static int receive_descriptor(int end) {
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr aligned;
	} control;
	char byte;
	struct iovec part = {&byte, 1};
	struct msghdr message = {
		.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
	NEED(recvmsg(end, &message, 0) == 1);
	int descriptor = -1;
	memcpy(&descriptor, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof descriptor);
	return descriptor;
}

/* ---- one copy ------------------------------------------------------------------------------------- */

static void reads_nothing_again(int end) {
	gmemModel_t model = joined(receive_descriptor(end));
	const char *const data = info_of(model).data;
	CHECK_EQUAL(info_of(model).loaded, 0);
	CHECK_EQUAL(gmemPrefetch(addr(data), bytes, node, NULL), 0);
	CHECK_EQUAL(info_of(model).read, 0);
	CHECK_EQUAL(info_of(model).loaded, 5 * page);
	if (FAULTS_ARE_THE_TESTS) {
		CHECK_EQUAL(faults_of_reading(data, bytes), 0);
	}
	CHECK(has_the_files_bytes(data, 0, bytes));
	/* What this process frees, the other one keeps. */
	CHECK_EQUAL(gmemFreeEager(addr(data), 2 * page, NULL), 0);
	CHECK(has_the_files_bytes(data, 0, bytes));
	tell(end);
	await(end);
	/* What the other one freed, this one keeps. */
	CHECK(has_the_files_bytes(data, 0, bytes));
	CHECK_EQUAL(info_of(model).loaded, 3 * page);
	CHECK_EQUAL(gmemFreeEager(addr(data), bytes, NULL), 0);
	CHECK_EQUAL(gmemModelClose(model), 0);
	tell(end);
}

static void has_read_it(int end, pid_t other) {
	(void)other;
	gmemModel_t model = joined(-1);
	const gmemModelInfo_t info = info_of(model);
	CHECK_EQUAL(info.mode, GMEM_MODEL_PRIVATE);
	const char *const data = info.data;
	const int descriptor = gmemModelCopyDescriptor(model);
	NEED(descriptor >= 0);
	CHECK_EQUAL(gmemPrefetch(addr(data), bytes, node, NULL), 0);
	CHECK_EQUAL(info_of(model).read, bytes);
	CHECK(has_the_files_bytes(data, 0, bytes));
	CHECK(cached_bytes(path) <= bytes / 50);
	CHECK_EQUAL(pages_in_memory(descriptor), 5);
	send_descriptor(end, descriptor);
	await(end);
	CHECK_EQUAL(pages_in_memory(descriptor), 5);
	CHECK(has_the_files_bytes(data, 0, bytes));
	CHECK_EQUAL(gmemFreeEager(addr(data), bytes, NULL), 0);
	CHECK_EQUAL(info_of(model).loaded, 0);
	/* The first two were the last in use here. */
	CHECK_EQUAL(pages_in_memory(descriptor), 3);
	CHECK(has_the_files_bytes(data, 0, bytes));
	tell(end);
	await(end);
	CHECK_EQUAL(pages_in_memory(descriptor), 0);
	close(descriptor);
	CHECK_EQUAL(gmemModelClose(model), 0);
}

/* ---- at the same time ------------------------------------------------------------------------------ */

enum { ROUNDS = 8 };

static size_t load_in_rounds(int end, gmemModel_t model) {
	const char *const data = info_of(model).data;
	for (int i = 0; i < ROUNDS; ++i) {
		tell(end);
		await(end);
		CHECK_EQUAL(gmemPrefetch(addr(data), bytes, node, NULL), 0);
		CHECK(has_the_files_bytes(data, 0, bytes));
		CHECK_EQUAL(gmemFreeEager(addr(data), bytes, NULL), 0);
		CHECK(has_the_files_bytes(data, 0, bytes));
	}
	return info_of(model).read;
}

static void loads_as_well(int end) {
	gmemModel_t model = joined(receive_descriptor(end));
	const size_t read = load_in_rounds(end, model);
	NEED(write(end, &read, sizeof read) == sizeof read);
}

/* Both load and free all of it again and again: each page is read by one, and never while the other one shows it. */
static void loads_too(int end, pid_t other) {
	(void)other;
	gmemModel_t model = joined(-1);
	const int descriptor = gmemModelCopyDescriptor(model);
	send_descriptor(end, descriptor);
	const size_t read = load_in_rounds(end, model);
	size_t others = 0;
	NEED(recv(end, &others, sizeof others, MSG_WAITALL) == sizeof others);
	CHECK(read + others >= bytes && read + others <= 2 * ROUNDS * bytes);
	close(descriptor);
	CHECK_EQUAL(gmemModelClose(model), 0);
}

/* ---- ends ------------------------------------------------------------------------------------------- */

static void is_killed(int end) {
	gmemModel_t model = joined(receive_descriptor(end));
	CHECK_EQUAL(gmemPrefetch(addr(info_of(model).data), bytes, node, NULL), 0);
	tell(end);
	await(end);
}

static void outlives_it(int end, pid_t other) {
	gmemModel_t model = joined(-1);
	const int descriptor = gmemModelCopyDescriptor(model);
	send_descriptor(end, descriptor);
	await(end);
	CHECK_EQUAL(pages_in_memory(descriptor), 5);
	NEED(kill(other, SIGKILL) == 0);
	siginfo_t ended;
	NEED(waitid(P_PID, (id_t)other, &ended, WEXITED | WNOWAIT) == 0);
	/* The next one that joins cleans up. */
	gmemModel_t next = joined(descriptor);
	CHECK_EQUAL(pages_in_memory(descriptor), 0);
	const char *const data = info_of(next).data;
	CHECK_EQUAL(gmemPrefetch(addr(data), bytes, node, NULL), 0);
	CHECK(has_the_files_bytes(data, 0, bytes));
	close(descriptor);
	CHECK_EQUAL(gmemModelClose(next), 0);
	CHECK_EQUAL(gmemModelClose(model), 0);
}

static gmemModel_t inherited;
static void is_a_process_of_its_own(int end) {
	const char *const data = info_of(inherited).data;
	CHECK_EQUAL(info_of(inherited).loaded, 0);
	CHECK(has_the_files_bytes(data, 0, bytes));
	CHECK_EQUAL(gmemPrefetch(addr(data), bytes, node, NULL), 0);
	tell(end);
	await(end);
	CHECK(has_the_files_bytes(data, 0, bytes));
	CHECK_EQUAL(gmemFreeEager(addr(data), bytes, NULL), 0);
	CHECK_EQUAL(gmemModelClose(inherited), 0);
	tell(end);
}

static void has_children(int end, pid_t other) {
	(void)other;
	const int descriptor = gmemModelCopyDescriptor(inherited);
	const char *const data = info_of(inherited).data;
	await(end);
	CHECK_EQUAL(gmemFreeEager(addr(data), bytes, NULL), 0);
	CHECK_EQUAL(pages_in_memory(descriptor), 5);
	tell(end);
	await(end);
	CHECK_EQUAL(pages_in_memory(descriptor), 0);
	close(descriptor);
}

static void what_is_no_copy_is_refused(void) {
	gmemModel_t model = NULL, common = joined(-1);
	const int descriptor = gmemModelCopyDescriptor(common);
	CHECK_EQUAL(open_copy(7, 0, &model), -EINVAL);
	CHECK_EQUAL(open_copy(GMEM_COPY_JOIN, -1, &model), -EBADF);
	CHECK_EQUAL(open_copy(GMEM_COPY_JOIN, STDIN_FILENO, &model), -EINVAL);
	gmemModelOptions_t options = {sizeof options, GMEM_MODEL_SHARED, 0, GMEM_COPY_COMMON, 0};
	CHECK_EQUAL(gmemModelOpen(path, &options, &model), -EINVAL);
	/* Of the file as it was. */
	options = (gmemModelOptions_t){sizeof options, 0, 0, GMEM_COPY_JOIN, descriptor};
	CHECK_EQUAL(gmemModelOpen("/proc/self/exe", &options, &model), -EINVAL);
	CHECK(strstr(gmemLastError(), "gmemModelCopyDescriptor") != NULL);
	CHECK(model == NULL);
	gmemModel_t own = open_model(path, GMEM_MODEL_PRIVATE);
	CHECK_EQUAL(gmemModelCopyDescriptor(own), -EINVAL);
	CHECK_EQUAL(gmemModelCopyDescriptor(NULL), -EINVAL);
	CHECK_EQUAL(gmemModelClose(own), 0);
	close(descriptor);
	CHECK_EQUAL(gmemModelClose(common), 0);
}

int main(void) {
	page = gmemGetPageSize();
	node = gmemGetNumaId();
	bytes = 4 * page + 12345;
	write_file(path, bytes);
	with_another(has_read_it, reads_nothing_again);
	with_another(loads_too, loads_as_well);
	with_another(outlives_it, is_killed);
	inherited = joined(-1);
	CHECK_EQUAL(gmemPrefetch(addr(info_of(inherited).data), bytes, node, NULL), 0);
	with_another(has_children, is_a_process_of_its_own);
	CHECK_EQUAL(gmemModelClose(inherited), 0);
	what_is_no_copy_is_refused();
	NEED(unlink(path) == 0);
	return checks_result("common");
}
