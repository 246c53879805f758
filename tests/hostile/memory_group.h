/* SPDX-License-Identifier: Apache-2.0 */
/* A memory control group, of version 1 or 2, for children that enter it. The limit is on the group above theirs. */
#ifndef GMEM_TESTS_MEMORY_GROUP_H
#define GMEM_TESTS_MEMORY_GROUP_H

#include <fcntl.h>
#include <sys/stat.h>

#include "../check.h"

struct memory_group {
	char outer[128], inner[160];
	int is_version_two;
};

static inline int write_to_group(const char *folder, const char *file, const char *text) {
	char path[256];
	snprintf(path, sizeof path, "%s/%s", folder, file);
	const int fd = open(path, O_WRONLY | O_CLOEXEC);
	const ssize_t written = fd < 0 ? -1 : write(fd, text, strlen(text));
	if (fd >= 0) {
		close(fd);
	}
	return written == (ssize_t)strlen(text);
}

static inline void remove_memory_group(const struct memory_group *group) {
	rmdir(group->inner);
	rmdir(group->outer);
}

/* Returns 0, with errno set and nothing left, where no group can be made. */
static inline int make_memory_group(struct memory_group *group, size_t limit) {
	char text[32];
	const char *root = "/sys/fs/cgroup/memory";
	group->is_version_two = access("/sys/fs/cgroup/cgroup.controllers", F_OK) == 0;
	if (group->is_version_two) {
		root = "/sys/fs/cgroup";
		write_to_group(root, "cgroup.subtree_control", "+memory");
	}
	snprintf(group->outer, sizeof group->outer, "%s/gmem-test-%d", root, (int)getpid());
	snprintf(group->inner, sizeof group->inner, "%s/inner", group->outer);
	snprintf(text, sizeof text, "%zu", limit);
	if (mkdir(group->outer, 0755) != 0) {
		return 0;
	}
	if (!group->is_version_two) {
		write_to_group(group->outer, "memory.use_hierarchy", "1");
	}
	if (write_to_group(group->outer, group->is_version_two ? "memory.max" : "memory.limit_in_bytes", text) &&
		mkdir(group->inner, 0755) == 0) {
		return 1;
	}
	const int why = errno;
	remove_memory_group(group);
	errno = why;
	return 0;
}

/* The most memory that the group has had, in bytes, as the kernel counts it; 0 before Linux 5.19 with version 2. */
static inline size_t peak_of_memory_group(const struct memory_group *group) {
	char path[256];
	size_t peak = 0;
	snprintf(
		path, sizeof path, "%s/%s", group->outer, group->is_version_two ? "memory.peak" : "memory.max_usage_in_bytes");
	FILE *file = fopen(path, "re");
	if (file != NULL) {
		NEED(fscanf(file, "%zu", &peak) == 1);
		fclose(file);
	}
	return peak;
}

/* The calling process, from now on. */
static inline void enter_memory_group(const struct memory_group *group) {
	NEED(write_to_group(group->inner, "cgroup.procs", "0"));
}

#endif
