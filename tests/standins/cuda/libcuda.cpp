// SPDX-License-Identifier: Apache-2.0
// Test code: a libcuda.so.1 without a GPU. Streams are threads, managed memory is a shared mapping (so that it can be
// told from what somebody else mapped in its place) with a note of where each page was moved to, and two kernels are
// known by their names. It is stricter than the real one: a lock of its own is held in each call, one that is taken
// again ends the process, a call from a host function is refused, and memory that was discarded or is new has 0xD5 or
// 0x5A in it.
//
// STANDIN_CUDA, words with commas: no_gpu, init_fails, mismatch, version_10, no_context, unmanaged, unconcurrent,
// pageable, two, on_a_node, misaligned, no_memory. STANDIN_CUDA_FREE: bytes of memory, 1 GiB unless set.
// OLD_DRIVER: without functions of CUDA 12 and 13; WITHOUT_FUNCTIONS: with few at all.
#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include <pthread.h>
#include <sys/mman.h>

#define API extern "C" __attribute__((visibility("default")))

namespace {

enum code {
	SUCCESS = 0,
	INVALID_VALUE = 1,
	OUT_OF_MEMORY = 2,
	NO_DEVICE = 100,
	INVALID_DEVICE = 101,
	INVALID_CONTEXT = 201,
	INVALID_HANDLE = 400,
	NOT_FOUND = 500,
	NOT_READY = 600,
	CONTEXT_IS_DESTROYED = 709,
	NOT_PERMITTED = 800,
	MISMATCH = 803,
	CAPTURE_UNSUPPORTED = 900,
	UNKNOWN = 999
};

constexpr std::size_t base_page = 4096;
constexpr std::size_t huge_page = std::size_t{2} << 20U;
constexpr int nowhere = -2;
constexpr int on_the_processor = -1;

bool is_set(const char *word) {
	const char *words = std::getenv("STANDIN_CUDA");
	if (words == nullptr) {
		return false;
	}
	const std::string all = "," + std::string(words) + ",";
	return all.find("," + std::string(word) + ",") != std::string::npos;
}

/// One that says so instead of waiting for ever when the thread has it already.
class driver_lock {
public:
	driver_lock() {
		pthread_mutexattr_t attributes;
		pthread_mutexattr_init(&attributes);
		pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_ERRORCHECK);
		pthread_mutex_init(&mutex_, &attributes);
	}
	void lock() {
		if (pthread_mutex_lock(&mutex_) == EDEADLK) {
			std::fputs("stand-in: the driver was called from inside the driver\n", stderr);
			std::abort();
		}
	}
	void unlock() { pthread_mutex_unlock(&mutex_); }

private:
	pthread_mutex_t mutex_;
};

struct stream {
	std::mutex mutex;
	std::condition_variable changed;
	std::deque<std::function<void()>> work;
	bool busy = false, ends = false, capturing = false;
	/// nullptr: the one that is current.
	void *context = nullptr;
	std::thread thread;

	stream() : thread([this] { run(); }) {}
	void give(std::function<void()> what) {
		const std::lock_guard<std::mutex> hold(mutex);
		work.push_back(std::move(what));
		changed.notify_all();
	}
	void run() {
		std::unique_lock<std::mutex> hold(mutex);
		for (;;) {
			changed.wait(hold, [this] { return ends || !work.empty(); });
			if (work.empty()) {
				return;
			}
			const std::function<void()> next = std::move(work.front());
			work.pop_front();
			busy = true;
			hold.unlock();
			next();
			hold.lock();
			busy = false;
			changed.notify_all();
		}
	}
	bool is_idle() {
		const std::lock_guard<std::mutex> hold(mutex);
		return work.empty() && !busy;
	}
	void wait(const std::atomic<int> &lost) {
		std::unique_lock<std::mutex> hold(mutex);
		while (!(work.empty() && !busy) && lost == 0) {
			changed.wait_for(hold, std::chrono::milliseconds(5));
		}
	}
};

/// The work that an event was last recorded behind.
struct recording {
	std::mutex mutex;
	std::condition_variable changed;
	bool passed = true;
};

/// A context that a program makes. The next one has the address of one that was destroyed, and another id.
struct made_context {
	bool is_alive = false;
	std::uint64_t id = 0;
};

/// It ends with the context in which it was made.
struct event {
	void *context;
	std::uint64_t context_id;
	std::shared_ptr<recording> last = std::make_shared<recording>();
};

struct block {
	std::size_t size;
	void *mapped;
	std::size_t mapped_size;
	bool managed;
	std::vector<int> where;
	/// The GPU on which a page has room, also after it went back: that is somebody else's only when it is needed.
	std::vector<int> room = where;
	/// Where it was last asked to go, whether that was done or not.
	std::vector<int> asked = where;
};

struct state {
	driver_lock lock;
	std::mutex memory;
	std::map<std::uintptr_t, block> blocks;
	std::set<stream *> streams;
	stream *legacy = nullptr;
	int capturing_globally = 0;
	std::map<std::string, long> counts;
	std::atomic<int> lost{0};
	std::size_t taken = 0;
	int retained[2] = {};      // how often each GPU's context is, whose address is its handle
	made_context made[2];      // the same
	std::uint64_t last_id = 2; // the retained ones have 1 and 2
	std::mutex host_functions; // one at a time, as the real one has it
	bool initialized = false;
};

/// Never destroyed: threads use it while the process ends.
state &all() {
	static state *const it = new state;
	return *it;
}

thread_local bool in_host_function = false;
thread_local std::vector<void *> contexts;
/// Made when it is first named.
thread_local stream *per_thread = nullptr;
/// CU_STREAM_CAPTURE_MODE_GLOBAL
[[maybe_unused]] thread_local int capture_mode = 0;

struct entry {
	explicit entry(const char *name) : hold(all().lock), result(SUCCESS) {
		++all().counts[name];
		if (in_host_function) {
			++all().counts["violations"];
			result = NOT_PERMITTED;
		} else if (all().lost != 0) {
			result = all().lost;
		}
	}
	std::lock_guard<driver_lock> hold;
	int result;
};
#define ENTER                                                                                                          \
	const entry entered(__func__);                                                                                     \
	if (entered.result != SUCCESS) {                                                                                   \
		return entered.result;                                                                                         \
	}

std::size_t total_memory() {
	const char *bytes = std::getenv("STANDIN_CUDA_FREE");
	return bytes != nullptr ? std::strtoull(bytes, nullptr, 10) : std::size_t{1} << 30U;
}

std::size_t on_gpu(int ordinal) {
	const std::lock_guard<std::mutex> hold(all().memory);
	std::size_t pages = 0;
	for (const auto &[start, found] : all().blocks) {
		for (const int room : found.room) {
			pages += room == ordinal ? 1 : 0;
		}
	}
	return pages * base_page + all().taken;
}

/// Room that is kept for what has gone goes to others; the caller has `memory`.
void take_unused_room(int ordinal) {
	for (auto &[start, found] : all().blocks) {
		for (std::size_t page = 0; page < found.room.size(); ++page) {
			if (found.room[page] == ordinal && found.where[page] != ordinal) {
				found.room[page] = nowhere;
			}
		}
	}
}

/// The block with an address; the caller has `memory`.
std::map<std::uintptr_t, block>::iterator find(std::uintptr_t address) {
	auto next = all().blocks.upper_bound(address);
	if (next == all().blocks.begin()) {
		return all().blocks.end();
	}
	--next;
	return address < next->first + next->second.size ? next : all().blocks.end();
}

bool is_managed(std::uintptr_t start, std::size_t size) {
	const std::lock_guard<std::mutex> hold(all().memory);
	const auto found = find(start);
	return found != all().blocks.end() && found->second.managed && start + size <= found->first + found->second.size;
}

void place(std::uintptr_t start, std::size_t size, int where) {
	const bool is_full = where >= 0 && on_gpu(where) + size > total_memory();
	const std::lock_guard<std::mutex> hold(all().memory);
	if (is_full) {
		take_unused_room(where);
	}
	const auto found = find(start);
	if (found == all().blocks.end()) {
		return;
	}
	const std::size_t first = (start - found->first) / base_page;
	const std::size_t behind = (start + size - found->first + base_page - 1) / base_page;
	for (std::size_t page = first; page < behind && page < found->second.where.size(); ++page) {
		found->second.where[page] = where;
		found->second.room[page] = where >= 0 ? where : found->second.room[page];
	}
}

stream *known(void *handle) {
	const auto number = reinterpret_cast<std::uintptr_t>(handle);
	if (number == 0 || number == 1) {
		return all().legacy;
	}
	if (number == 2) {
		if (per_thread == nullptr) {
			per_thread = new stream;
			all().streams.insert(per_thread);
		}
		return per_thread;
	}
	auto *found = static_cast<stream *>(handle);
	return all().streams.count(found) != 0 ? found : nullptr;
}

int give(void *handle, std::function<void()> work) {
	stream *const to = known(handle);
	if (to == nullptr) {
		return INVALID_HANDLE;
	}
	if (to->capturing) {
		return CAPTURE_UNSUPPORTED;
	}
	to->give([work = std::move(work)] {
		if (all().lost == 0) {
			work();
		}
	});
	return SUCCESS;
}

/// The id of a context; 0 if it was destroyed, or never was one.
std::uint64_t id_of(void *context) {
	for (const made_context &made : all().made) {
		if (context == &made) {
			return made.is_alive ? made.id : 0;
		}
	}
	for (const int &retained : all().retained) {
		if (context == &retained) {
			return static_cast<std::uint64_t>(&retained - all().retained) + 1;
		}
	}
	return 0;
}

/// The work behind which an event is. One that has ended is memory that was freed to the real driver.
std::shared_ptr<recording> &last_of(void *handle) {
	auto *const found = static_cast<event *>(handle);
	if (id_of(found->context) != found->context_id) {
		std::fputs("stand-in: an event was used after its context was destroyed\n", stderr);
		std::abort();
	}
	return found->last;
}

void end(stream *gone) {
	all().streams.erase(gone);
	{
		const std::lock_guard<std::mutex> hold(gone->mutex);
		gone->ends = true;
		gone->changed.notify_all();
	}
	// Work queued on it still runs. The memory stays, as the real driver's does for a while.
	gone->thread.detach();
}

enum class kind { managed, plain, pinned };

int allocate(std::uintptr_t *out, std::size_t size, kind of) {
	if (size == 0) {
		return INVALID_VALUE;
	}
	if (is_set("no_memory")) {
		return OUT_OF_MEMORY;
	}
	const std::size_t room = size + 2 * huge_page;
	void *const mapped = mmap(nullptr, room, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (mapped == MAP_FAILED) {
		return OUT_OF_MEMORY;
	}
	madvise(mapped, room, MADV_DONTFORK);
	std::uintptr_t start = (reinterpret_cast<std::uintptr_t>(mapped) + huge_page - 1) & ~(huge_page - 1);
	start += is_set("misaligned") ? 16 * base_page : 0;
	constexpr std::size_t scribbled = std::size_t{64} << 20U;
	std::memset(reinterpret_cast<void *>(start), 0x5A, size < scribbled ? size : scribbled);
	const std::lock_guard<std::mutex> hold(all().memory);
	const int where = of == kind::plain ? 0 : nowhere;
	all().blocks[start] = {
		size, mapped, room, of == kind::managed, std::vector<int>((size + base_page - 1) / base_page, where)};
	*out = start;
	return SUCCESS;
}

int release(std::uintptr_t start) {
	const std::lock_guard<std::mutex> hold(all().memory);
	const auto found = all().blocks.find(start);
	if (found == all().blocks.end()) {
		return INVALID_VALUE;
	}
	munmap(found->second.mapped, found->second.mapped_size);
	all().blocks.erase(found);
	return SUCCESS;
}

} // namespace

// ---- what tests ask for ---------------------------------------------------------------------------------

/// How often a function was called; "violations" for calls from host functions.
API long standin_cuda_count(const char *name) {
	const std::lock_guard<driver_lock> hold(all().lock);
	return all().counts[name];
}

/// Bytes of [start, start + size) that are on a GPU (-1: in the processor's memory, -2: nowhere).
API std::size_t standin_cuda_bytes_on(int where, std::uintptr_t start, std::size_t size) {
	const std::lock_guard<std::mutex> hold(all().memory);
	std::size_t pages = 0;
	for (std::uintptr_t at = start & ~(base_page - 1); at < start + size; at += base_page) {
		const auto found = find(at);
		pages += found != all().blocks.end() && found->second.where[(at - found->first) / base_page] == where ? 1 : 0;
	}
	return pages * base_page;
}

/// Whether [start, start + size) is all mapped as the driver mapped it.
API int standin_cuda_is_intact(std::uintptr_t start, std::size_t size) {
	std::ifstream maps("/proc/self/maps");
	std::uintptr_t at = start;
	for (std::string line; at < start + size && std::getline(maps, line);) {
		unsigned long first = 0, behind = 0;
		char sharing = 0;
		if (std::sscanf(line.c_str(), "%lx-%lx %*c%*c%*c%c", &first, &behind, &sharing) == 3 && first <= at &&
			at < behind) {
			if (sharing != 's') {
				return 0;
			}
			at = behind;
		}
	}
	return at >= start + size ? 1 : 0;
}

/// As after a kernel's bad access.
API void standin_cuda_lose_context() { all().lost = 700; }

/// Another process has so much of the memory.
API void standin_cuda_take(std::size_t bytes) { all().taken = bytes; }

// ---- CUDA -----------------------------------------------------------------------------------------------

API int cuInit(unsigned) {
	ENTER
	if (is_set("no_gpu")) {
		return NO_DEVICE;
	}
	if (is_set("init_fails")) {
		return UNKNOWN;
	}
	if (is_set("mismatch")) {
		return MISMATCH;
	}
	if (!all().initialized) {
		all().initialized = true;
		all().legacy = new stream;
	}
	return SUCCESS;
}

API int cuDriverGetVersion(int *version) {
	ENTER
#ifdef OLD_DRIVER
	*version = 11040;
#else
	*version = is_set("version_10") ? 10020 : 13000;
#endif
	return SUCCESS;
}

#ifndef WITHOUT_FUNCTIONS

API int cuDeviceGetCount(int *count) {
	ENTER
	*count = is_set("two") ? 2 : 1;
	return SUCCESS;
}

API int cuDeviceGet(int *device, int ordinal) {
	ENTER
	*device = ordinal;
	return SUCCESS;
}

API int cuDeviceGetName(char *name, int room, int device) {
	ENTER
	std::snprintf(name, static_cast<std::size_t>(room), "stand-in %d", device);
	return SUCCESS;
}

API int cuDeviceGetUuid(unsigned char *uuid, int device) {
	ENTER
	std::memset(uuid, 0xA0 + device, 16);
	return SUCCESS;
}

API int cuDeviceGetAttribute(int *value, int attribute, int device) {
	ENTER
	switch (attribute) {
	case 16: *value = 4; return SUCCESS;
	case 83: *value = is_set("unmanaged") ? 0 : 1; return SUCCESS;
	case 88: *value = is_set("pageable") ? 1 : 0; return SUCCESS;
	case 89: *value = is_set("unconcurrent") ? 0 : 1; return SUCCESS;
	case 130: *value = is_set("on_a_node") ? 1 : 0; return SUCCESS;
	case 131: *value = is_set("on_a_node") ? 900 + device : -1; return SUCCESS;
	default: return INVALID_VALUE;
	}
}

API int cuDeviceTotalMem_v2(std::size_t *bytes, int) {
	ENTER
	*bytes = total_memory();
	return SUCCESS;
}

API int cuDevicePrimaryCtxRetain(void **context, int device) {
	ENTER
	if (is_set("no_context")) {
		return OUT_OF_MEMORY;
	}
	*context = &all().retained[device];
	++all().retained[device];
	return SUCCESS;
}
API int cuDevicePrimaryCtxRelease_v2(int device) {
	ENTER
	--all().retained[device];
	return SUCCESS;
}
API int cuCtxGetCurrent(void **context) {
	ENTER
	*context = contexts.empty() ? nullptr : contexts.back();
	return SUCCESS;
}
API int cuCtxSetCurrent(void *context) {
	ENTER
	contexts.assign(1, context);
	return SUCCESS;
}
API int cuCtxPushCurrent_v2(void *context) {
	ENTER
	contexts.push_back(context);
	return SUCCESS;
}
API int cuCtxPopCurrent_v2(void **context) {
	const entry entered(__func__);
	if (contexts.empty()) {
		return INVALID_CONTEXT;
	}
	*context = contexts.back();
	contexts.pop_back();
	return SUCCESS;
}
API int cuCtxCreate_v2(void **context, unsigned, int) {
	ENTER
	for (made_context &made : all().made) {
		if (!made.is_alive) {
			made = {true, ++all().last_id};
			contexts.push_back(&made);
			*context = &made;
			return SUCCESS;
		}
	}
	return OUT_OF_MEMORY;
}
API int cuCtxDestroy_v2(void *context) {
	ENTER
	if (id_of(context) == 0) {
		return INVALID_CONTEXT;
	}
	static_cast<made_context *>(context)->is_alive = false;
	const std::set<stream *> streams = all().streams;
	for (stream *each : streams) {
		if (each->context == context) {
			end(each);
		}
	}
	if (!contexts.empty() && contexts.back() == context) {
		contexts.pop_back();
	}
	return SUCCESS;
}
#ifndef OLD_DRIVER
API int cuCtxGetId(void *context, std::uint64_t *id) {
	ENTER
	*id = id_of(context);
	return *id != 0 ? SUCCESS : CONTEXT_IS_DESTROYED;
}
#endif
API int cuCtxSynchronize() {
	const int result = [] {
		ENTER
		return static_cast<int>(SUCCESS);
	}();
	for (stream *each : all().streams) {
		each->wait(all().lost);
	}
	return result;
}

API int cuMemGetInfo_v2(std::size_t *free, std::size_t *total) {
	ENTER
	const std::size_t used = on_gpu(0);
	*total = total_memory();
	*free = used < *total ? *total - used : 0;
	return SUCCESS;
}
namespace {
/// A call that would spoil whatever graph is being captured.
void spoil_captures() {
	all().counts["spoiled captures"] += all().capturing_globally != 0 && capture_mode == 0 ? 1 : 0;
}
} // namespace

API int cuMemAllocManaged(std::uintptr_t *out, std::size_t size, unsigned flags) {
	ENTER
	spoil_captures();
	return flags != 1 ? INVALID_VALUE : contexts.empty() ? INVALID_CONTEXT : allocate(out, size, kind::managed);
}
API int cuMemAlloc_v2(std::uintptr_t *out, std::size_t size) {
	ENTER
	return allocate(out, size, kind::plain);
}
/// Waits for all that the GPU has to do, as the real one does.
API int cuMemFree_v2(std::uintptr_t start) {
	std::vector<stream *> streams;
	{
		ENTER
		spoil_captures();
		streams.assign(all().streams.begin(), all().streams.end());
	}
	for (stream *each : streams) {
		each->wait(all().lost);
	}
	ENTER
	return release(start);
}
API int cuMemAllocHost_v2(void **out, std::size_t size) {
	ENTER
	std::uintptr_t start = 0;
	const int result = allocate(&start, size, kind::pinned);
	*out = reinterpret_cast<void *>(start);
	return result;
}
API int cuMemFreeHost(void *start) {
	ENTER
	return release(reinterpret_cast<std::uintptr_t>(start));
}
API int cuMemcpyAsync(std::uintptr_t to, std::uintptr_t from, std::size_t size, void *on) {
	ENTER
	return give(on, [=] { std::memcpy(reinterpret_cast<void *>(to), reinterpret_cast<const void *>(from), size); });
}
API int cuMemsetD8Async(std::uintptr_t to, unsigned char value, std::size_t size, void *on) {
	ENTER
	return give(on, [=] {
		place(to, size, 0);
		std::memset(reinterpret_cast<void *>(to), value, size);
	});
}

namespace {
int move(std::uintptr_t start, std::size_t size, int where, void *on) {
	if (where >= 0 && all().retained[where] == 0) {
		return INVALID_DEVICE;
	}
	if (is_managed(start, size)) {
		const int result = give(on, [=] { place(start, size, where); });
		const std::lock_guard<std::mutex> hold(all().memory);
		const auto found = find(start);
		const std::size_t first = (start - found->first) / base_page,
						  behind = (start + size - found->first) / base_page;
		for (std::size_t page = first; result == SUCCESS && page < behind; ++page) {
			found->second.asked[page] = where;
		}
		return result;
	}
	if (!is_set("pageable")) {
		return INVALID_VALUE;
	}
	return give(on, [] {});
}
} // namespace

API int cuMemPrefetchAsync(std::uintptr_t start, std::size_t size, int device, void *on) {
	ENTER
	return device < -1 || device > 1 ? INVALID_DEVICE : move(start, size, device, on);
}
#ifndef OLD_DRIVER
struct location {
	int kind, id;
};
API int cuMemPrefetchAsync_v2(std::uintptr_t start, std::size_t size, location to, unsigned flags, void *on) {
	ENTER
	if (flags != 0 || to.kind < 1 || to.kind > 3) {
		return INVALID_VALUE;
	}
	return move(start, size, to.kind == 1 ? to.id : on_the_processor, on);
}
API int cuMemDiscardBatchAsync(
	std::uintptr_t *starts, std::size_t *sizes, std::size_t count, unsigned long long flags, void *on) {
	ENTER
	if (reinterpret_cast<std::uintptr_t>(on) < 2 || flags != 0 || count == 0) {
		return INVALID_VALUE;
	}
	for (std::size_t i = 0; i < count; ++i) {
		const std::uintptr_t start = starts[i];
		const std::size_t size = sizes[i];
		if (!is_managed(start, size)) {
			return INVALID_VALUE;
		}
		const int result = give(on, [=] {
			place(start, size, nowhere);
			std::memset(reinterpret_cast<void *>(start), 0xD5, size);
		});
		if (result != SUCCESS) {
			return result;
		}
	}
	return SUCCESS;
}
#endif

API int cuMemRangeGetAttribute(void *out, std::size_t room, int attribute, std::uintptr_t start, std::size_t size) {
	ENTER
	if (attribute != 4 || room != 4 || !is_managed(start, size)) {
		return INVALID_VALUE;
	}
	const std::lock_guard<std::mutex> hold(all().memory);
	const auto found = find(start);
	const std::vector<int> &asked = found->second.asked;
	int last = asked[(start - found->first) / base_page];
	for (std::size_t at = (start - found->first) / base_page; at < (start + size - found->first) / base_page; ++at) {
		last = asked[at] == last ? last : nowhere;
	}
	std::memcpy(out, &last, sizeof last);
	return SUCCESS;
}
API int cuPointerGetAttribute(void *out, int attribute, std::uintptr_t address) {
	ENTER
	const std::lock_guard<std::mutex> hold(all().memory);
	const auto found = find(address);
	if (found == all().blocks.end()) {
		return INVALID_VALUE;
	}
	switch (attribute) {
	case 8: *static_cast<unsigned char *>(out) = found->second.managed ? 1 : 0; return SUCCESS;
	case 11: std::memcpy(out, &found->first, sizeof found->first); return SUCCESS;
	case 12: std::memcpy(out, &found->second.size, sizeof found->second.size); return SUCCESS;
	default: return INVALID_VALUE;
	}
}

API int cuStreamCreate(void **out, unsigned) {
	ENTER
	auto *const made = new stream;
	made->context = contexts.empty() ? nullptr : contexts.back();
	all().streams.insert(made);
	*out = made;
	return SUCCESS;
}
API int cuStreamDestroy_v2(void *handle) {
	ENTER
	stream *const gone = known(handle);
	if (gone == nullptr || gone == all().legacy || gone == per_thread) {
		return INVALID_HANDLE;
	}
	end(gone);
	return SUCCESS;
}
API int cuStreamQuery(void *handle) {
	ENTER
	stream *const found = known(handle);
	return found == nullptr   ? INVALID_HANDLE
		   : found->capturing ? CAPTURE_UNSUPPORTED
		   : found->is_idle() ? SUCCESS
							  : NOT_READY;
}
API int cuStreamSynchronize(void *handle) {
	stream *found = nullptr;
	{
		ENTER
		found = known(handle);
		if (found == nullptr) {
			return INVALID_HANDLE;
		}
		if (found->capturing) {
			return CAPTURE_UNSUPPORTED;
		}
	}
	found->wait(all().lost);
	return all().lost;
}
API int cuStreamIsCapturing(void *handle, int *status) {
	ENTER
	const stream *const found = known(handle);
	if (found == nullptr) {
		return INVALID_HANDLE;
	}
	*status = found->capturing ? 1 : 0;
	return SUCCESS;
}
API int cuStreamGetCtx(void *handle, void **context) {
	ENTER
	stream *const found = known(handle);
	if (found == nullptr) {
		return INVALID_HANDLE;
	}
	*context = found->context != nullptr ? found->context : contexts.empty() ? nullptr : contexts.back();
	return *context == nullptr ? INVALID_CONTEXT : SUCCESS;
}
API int cuThreadExchangeStreamCaptureMode(int *mode) {
	const entry entered(__func__);
	std::swap(*mode, capture_mode);
	return SUCCESS;
}
#ifndef OLD_DRIVER
API int cuStreamGetId(void *handle, std::uint64_t *id) {
	ENTER
	stream *const found = known(handle);
	*id = reinterpret_cast<std::uintptr_t>(found) >> 4U;
	return found != nullptr ? SUCCESS : INVALID_HANDLE;
}
#endif
API int cuStreamBeginCapture_v2(void *handle, int mode) {
	ENTER
	all().capturing_globally += mode == 0 ? 1 : 0;
	stream *const found = known(handle);
	if (found == nullptr || found == all().legacy) {
		return INVALID_HANDLE;
	}
	found->capturing = true;
	return SUCCESS;
}
API int cuStreamEndCapture(void *handle, void **graph) {
	ENTER
	stream *const found = known(handle);
	if (found == nullptr) {
		return INVALID_HANDLE;
	}
	found->capturing = false;
	all().capturing_globally = 0;
	*graph = nullptr;
	return SUCCESS;
}

API int cuEventCreate(void **out, unsigned) {
	ENTER
	void *const context = contexts.empty() ? nullptr : contexts.back();
	*out = new event{context, id_of(context)};
	return SUCCESS;
}
API int cuEventDestroy_v2(void *handle) {
	ENTER
	delete static_cast<event *>(handle);
	return SUCCESS;
}
API int cuEventRecord(void *handle, void *on) {
	ENTER
	// Who waits for the one before still does.
	const auto what = std::make_shared<recording>();
	what->passed = false;
	last_of(handle) = what;
	return give(on, [what] {
		const std::lock_guard<std::mutex> hold(what->mutex);
		what->passed = true;
		what->changed.notify_all();
	});
}
API int cuStreamWaitEvent(void *on, void *handle, unsigned) {
	ENTER
	const std::shared_ptr<recording> what = last_of(handle);
	return give(on, [what] {
		std::unique_lock<std::mutex> hold(what->mutex);
		what->changed.wait(hold, [&] { return what->passed; });
	});
}
API int cuEventQuery(void *handle) {
	ENTER
	const std::shared_ptr<recording> what = last_of(handle);
	const std::lock_guard<std::mutex> hold(what->mutex);
	return what->passed ? SUCCESS : NOT_READY;
}
API int cuEventSynchronize(void *handle) {
	std::shared_ptr<recording> what;
	{
		ENTER
		what = last_of(handle);
	}
	std::unique_lock<std::mutex> hold(what->mutex);
	while (!what->passed && all().lost == 0) {
		what->changed.wait_for(hold, std::chrono::milliseconds(5));
	}
	return all().lost;
}

API int cuLaunchHostFunc(void *on, void (*function)(void *), void *argument) {
	ENTER
	return give(on, [=] {
		const std::lock_guard<std::mutex> one(all().host_functions);
		in_host_function = true;
		function(argument);
		in_host_function = false;
	});
}

API int cuModuleLoadData(void **module, const void *image) {
	ENTER
	// With the lock held, as the real one's compiler takes memory.
	std::vector<char> compiled(4 * huge_page, 'c');
	*module = std::strstr(static_cast<const char *>(image), ".target") != nullptr ? compiled.data() : nullptr;
	return *module != nullptr ? SUCCESS : INVALID_VALUE;
}
API int cuModuleUnload(void *) {
	ENTER
	return SUCCESS;
}
API int cuModuleGetFunction(void **function, void *, const char *name) {
	ENTER
	static char known_kernels[2];
	if (std::strcmp(name, "add") == 0) {
		*function = &known_kernels[0];
	} else if (std::strcmp(name, "sum") == 0) {
		*function = &known_kernels[1];
	} else {
		return NOT_FOUND;
	}
	const int which = *function == &known_kernels[0] ? 0 : 1;
	static int names[2] = {0, 1};
	*function = &names[which];
	return SUCCESS;
}
namespace {
// A GPU does it, so what orders it is none of a sanitizer's business.
__attribute__((no_sanitize("thread"))) void run_add(float *data, std::uint64_t count, float value) {
	for (std::uint64_t i = 0; i < count; ++i) {
		data[i] += value;
	}
}
__attribute__((no_sanitize("thread"))) void run_sum(const float *data, std::uint64_t count, float *out) {
	double sum = 0;
	for (std::uint64_t i = 0; i < count; ++i) {
		sum += data[i];
	}
	*out += static_cast<float>(sum);
}
} // namespace

/// add(float *data, u64 count, float value); sum(const float *data, u64 count, float *out)
API int cuLaunchKernel(void *function, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void *on,
	void **parameters, void **) {
	ENTER
	float *const data = *static_cast<float **>(parameters[0]);
	const std::uint64_t count = *static_cast<std::uint64_t *>(parameters[1]);
	const auto touch = [=] { place(reinterpret_cast<std::uintptr_t>(data), count * sizeof(float), 0); };
	if (*static_cast<int *>(function) == 0) {
		const float value = *static_cast<float *>(parameters[2]);
		return give(on, [=] {
			touch();
			run_add(data, count, value);
		});
	}
	float *const out = *static_cast<float **>(parameters[2]);
	return give(on, [=] {
		touch();
		run_sum(data, count, out);
	});
}

#endif
