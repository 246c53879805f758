/* SPDX-License-Identifier: Apache-2.0 */
/* The library's own descriptors, in children of all kinds and in a program that closes and reuses every number. */
#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <libgmem.h>

#include "../check.h"

enum { FIRST_OF_THE_LIBRARY = 512, GENERATIONS = 40 };

static size_t page;

static unsigned long address_of(const void *start) { return (unsigned long)(uintptr_t)start; }

/* Makes the library open whatever it keeps. */
static void use_the_library(void) {
	char *start = map_private(page, page);
	CHECK_EQUAL(gmemPrefetch(address_of(start), page, gmemGetNumaId(), NULL), 0);
	CHECK_EQUAL(resident_pages(start, page), page / (size_t)sysconf(_SC_PAGESIZE));
	CHECK_EQUAL(gmemFreeEager(address_of(start), page, NULL), 0);
	CHECK_EQUAL(resident_pages(start, page), 0);
	munmap(start, page);
}

static int open_descriptors(void) {
	DIR *folder = opendir("/proc/self/fd");
	int count = 0;
	NEED(folder != NULL);
	while (readdir(folder) != NULL) {
		++count;
	}
	closedir(folder);
	return count;
}

/* A private file mapping where the process that `maps` describes has anonymous memory: freeing it would lose what was
 * written, so it has to be refused. */
static void written_bytes_of_a_file_stay(char *start) {
	const int file = file_of(page);
	NEED(mmap(start, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, file, 0) == start);
	close(file);
	memset(start, 'w', page);
	CHECK_EQUAL(gmemFreeEager(address_of(start), page, NULL), -EINVAL);
	CHECK(is_all(start, page, 'w'));
}

/* The reverse: anonymous memory where the parent has a file is freed. */
static void anonymous_memory_is_freed(char *start) {
	NEED(mmap(start, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == start);
	memset(start, 'w', page);
	CHECK_EQUAL(gmemFreeEager(address_of(start), page, NULL), 0);
	CHECK(is_all(start, page, 0));
	use_the_library();
}

static pid_t raw_clone(void) { return (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, 0); }

#ifdef HAVE_UNDERSCORE_FORK
#define KINDS 3
#else
#define KINDS 2
#endif

static pid_t start_child(int kind) {
	switch (kind) {
	case 0: return fork();
	case 1: return raw_clone();
#ifdef HAVE_UNDERSCORE_FORK
	case 2: return _Fork();
#endif
	default: return -1;
	}
}

static void wait_for(pid_t child) {
	int status = 0;
	NEED(waitpid(child, &status, 0) == child);
	CHECK_EQUAL(status, 0);
}

static void a_child_is_told_of_its_own_mappings(int kind) {
	char *anonymous = map_private(page, page);
	char *second = map_private(page, page);
	const int file = file_of(page);
	NEED(mmap(second, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, file, 0) == second);
	close(file);
	use_the_library();
	const pid_t child = start_child(kind);
	NEED(child >= 0);
	if (child == 0) {
		checks_failed = 0;
		written_bytes_of_a_file_stay(anonymous);
		anonymous_memory_is_freed(second);
		_exit(checks_failed != 0);
	}
	wait_for(child);
	munmap(anonymous, page);
	munmap(second, page);
}

/* Each generation uses the library and starts the next; the last one counts. */
static void generations_leave_no_descriptors(int kind) {
	use_the_library();
	const int before = open_descriptors();
	pid_t child = start_child(kind);
	checks_failed = child == 0 ? 0 : checks_failed;
	for (int generation = 1; child == 0 && generation < GENERATIONS; ++generation) {
		use_the_library();
		if (checks_failed == 0 && generation + 1 < GENERATIONS) {
			child = start_child(kind);
			if (child == 0) {
				continue;
			}
			int status = 1;
			waitpid(child, &status, 0);
			_exit(status != 0);
		}
		CHECK_EQUAL(open_descriptors(), before);
		_exit(checks_failed != 0);
	}
	NEED(child > 0);
	wait_for(child);
	CHECK_EQUAL(open_descriptors(), before);
	use_the_library();
}

/* Opens `name` of a process under each number that the library may have. */
static void put_in_their_place(pid_t process, const char *name) {
	char path[64];
	snprintf(path, sizeof path, "/proc/%d/%s", (int)process, name);
	const int other = open(path, O_RDONLY | O_CLOEXEC);
	NEED(other >= 0);
	for (int number = FIRST_OF_THE_LIBRARY; number < FIRST_OF_THE_LIBRARY + 8; ++number) {
		NEED(dup2(other, number) == number);
	}
	close(other);
}

/* A program closes all descriptors and opens files that reuse their numbers. */
static void other_files_under_the_same_numbers(const char *name) {
	char *start = map_private(page, page);
	use_the_library();
	const pid_t child = fork();
	NEED(child >= 0);
	if (child == 0) {
		for (;;) {
			pause();
		}
	}
	const pid_t user = fork();
	NEED(user >= 0);
	if (user == 0) {
		checks_failed = 0;
		use_the_library();
		put_in_their_place(child, name);
		use_the_library();
		written_bytes_of_a_file_stay(start);
		for (int number = FIRST_OF_THE_LIBRARY; number < FIRST_OF_THE_LIBRARY + 8; ++number) {
			/* Closed by nobody else. */
			CHECK_EQUAL(close(number), 0);
		}
		use_the_library();
		_exit(checks_failed != 0);
	}
	wait_for(user);
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	munmap(start, page);
}

int main(void) {
	page = gmemGetPageSize();
	for (int kind = 0; kind < KINDS; ++kind) {
		a_child_is_told_of_its_own_mappings(kind);
		generations_leave_no_descriptors(kind);
	}
	other_files_under_the_same_numbers("maps");
	other_files_under_the_same_numbers("pagemap");
	return checks_result("descriptors");
}
