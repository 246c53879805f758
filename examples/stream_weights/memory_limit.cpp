// SPDX-License-Identifier: Apache-2.0
#include "memory_limit.hpp"

#include <fstream>

#include <sys/stat.h>
#include <unistd.h>

namespace stream_weights {
namespace {

/// The folder of this process's group in a hierarchy: the line "N:memory:/path" or "0::/path" of /proc/self/cgroup.
std::string own_group(const std::string &controller) {
	std::ifstream groups("/proc/self/cgroup");
	for (std::string line; std::getline(groups, line);) {
		const std::size_t first = line.find(':'), second = line.find(':', first + 1);
		if (second != std::string::npos && line.substr(first + 1, second - first - 1) == controller) {
			return line.substr(second + 1);
		}
	}
	return "";
}

bool write(const std::string &path, const std::string &text) {
	std::ofstream file(path);
	file << text << std::flush;
	return file.good();
}

} // namespace

memory_limit::memory_limit(std::size_t bytes) {
	const std::string name = "/stream_weights." + std::to_string(getpid());
	const struct {
		std::string folder, file;
		int version;
	} choices[] = {{"/sys/fs/cgroup/memory" + own_group("memory"), "/memory.limit_in_bytes", 1},
		{"/sys/fs/cgroup/memory", "/memory.limit_in_bytes", 1}, {"/sys/fs/cgroup" + own_group(""), "/memory.max", 2},
		{"/sys/fs/cgroup", "/memory.max", 2}};
	for (const auto &choice : choices) {
		const std::string folder = choice.folder + name;
		if (mkdir(folder.c_str(), 0755) != 0) {
			continue;
		}
		if (write(folder + choice.file, std::to_string(bytes))) {
			folder_ = folder;
			version_ = choice.version;
			return;
		}
		rmdir(folder.c_str());
	}
}

memory_limit::~memory_limit() {
	if (is_enforced()) {
		rmdir(folder_.c_str());
	}
}

std::string memory_limit::description() const {
	return is_enforced()
			   ? "a memory cgroup, version " + std::to_string(version_)
			   : "nothing: no memory cgroup can be made here (run as root, or with systemd-run --scope -p MemoryMax=)";
}

void memory_limit::enter() const {
	if (is_enforced()) {
		write(folder_ + "/cgroup.procs", std::to_string(getpid()));
	}
}

} // namespace stream_weights
