// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/* A stand-in for openEuler's GMEM kernel, for the tests in the virtual machine (tools/guest.py --gmem). Never
 * installed.
 *
 * It serves /dev/gmem, mmap(2) with MAP_PEER_SHARED, /sys/kernel/mm/gmem and /proc/gmemstats on a kernel of the
 * distribution, with the behaviour that openEuler documents: what is checked in which order, what is rounded, which
 * codes come out. The device is memory of the kernel's own: a page that is prefetched leaves the processor and lies
 * there until the processor touches it, is told to drop it, or unmaps it.
 *
 * Three functions of the kernel are taken over at their entry (kprobes): those of mmap(2), of munmap(2) and of page
 * faults. Peer-shared memory stays ordinary private memory to the kernel, told by flags that no madvise(2) sets
 * together.
 *
 * What it is not: a page that comes back is mapped before it is filled, and what is written to a page while it goes to
 * the device is lost. So one thread at a time uses a page.
 */
#include <linux/fs.h>
#include <linux/highmem.h>
#include <linux/kernfs.h>
#include <linux/kprobes.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/mman.h>
#include <linux/mmu_notifier.h>
#include <linux/module.h>
#include <linux/nodemask.h>
#include <linux/proc_fs.h>
#include <linux/sched/mm.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/version.h>
#include <linux/vmalloc.h>

/* ---- the architecture ---------------------------------------------------------------------------------- */

/* The entry of a system call, and argument number n of the program that makes it. */
#ifdef CONFIG_ARM64
#define SYSCALL(name) "__arm64_sys_" name
#define USER_ARGUMENT(user, n) ((user)->regs[n])
#else
#define SYSCALL(name) "__x64_sys_" name
#define USER_ARGUMENT(user, n) regs_get_kernel_argument((struct pt_regs *)(user), n)
#endif

/* ---- the kernel's interface, as the documentation has it --------------------------------------------- */

struct hnid_argument {
	int *hnid;
};

struct madvise_argument {
	int hnid;
	unsigned long start;
	size_t length;
	int behavior;
};

#define GMEM_GET_HNUMA_ID _IOW(0x55, 1, struct hnid_argument)
#define GMEM_MADVISE _IOW(0x55, 2, struct madvise_argument)

enum { GMEM_PREFETCH = 0x1000 };
/* The kernel's positive codes; only these two leave it. */
enum { RET_NOMEM = 1, RET_FAILURE_UNKNOWN = 5 };

/* ---- parameters, which tests write to /sys/module/gmem_kernel/parameters ------------------------------- */

/* Historical values of the bit: 0x8000000, 0x1000000, 0x10000000. */
static ulong map_peer_shared = 0x10000000;
module_param(map_peer_shared, ulong, 0644);
MODULE_PARM_DESC(map_peer_shared, "the flag of mmap(2)");
/* gmem=on of the command line. */
static bool enabled = true;
module_param(enabled, bool, 0644);
/* The first kernels take the flag with anything, and say so in smaps alone. */
static bool checks_flags = true;
module_param(checks_flags, bool, 0644);
/* Whether a driver has attached the process. */
static bool attached = true;
module_param(attached, bool, 0644);
/* The next so many GMEM_MADVISE end with this number before they do anything: a negative errno or a positive code. */
static int inject;
module_param(inject, int, 0644);
static uint inject_count;
module_param(inject_count, uint, 0644);
/* The next so many pages fail on their way to the device. */
static uint broken_pages;
module_param(broken_pages, uint, 0644);
static int open_error;
module_param(open_error, int, 0644);
/* Every ioctl ends with this negative errno, as those of another driver or in a sandbox do. */
static int ioctl_error;
module_param(ioctl_error, int, 0644);
/* Of each device, in pages of 2 MiB. */
static uint capacity = 64;
module_param(capacity, uint, 0644);
/* Counters: pages of 2 MiB, and calls. */
static uint calls, to_device, hot, to_host, dropped;
module_param(calls, uint, 0444);
module_param(to_device, uint, 0444);
module_param(hot, uint, 0444);
module_param(to_host, uint, 0444);
module_param(dropped, uint, 0444);

/* ---- pages on the device ------------------------------------------------------------------------------- */

enum { DEVICES = 2 };
/* A page of the device: 2 MiB, however large the kernel's own pages are. */
#define HUGE (2UL << 20)
#define HUGE_FLOOR(address) ((address) & ~(HUGE - 1))

/* Read-ahead both ways and nothing for a child: each alone is a user's, together they are ours. */
#define PEER_SHARED (VM_WIPEONFORK | VM_RAND_READ | VM_SEQ_READ)

struct device_page {
	struct list_head list;
	struct mm_struct *mm;
	unsigned long address;
	int hnid;
	void *bytes;
};

/* A process with peer-shared memory. */
struct process {
	struct list_head list;
	struct mmu_notifier notifier;
};

static LIST_HEAD(device_pages);
static LIST_HEAD(processes);
/* For the two lists; taken where nothing may sleep. */
static DEFINE_SPINLOCK(lock);
/* One page at a time goes to the device or comes back. Taken with mmap_lock held, for reading. */
static DEFINE_MUTEX(moving);
static int first_hnid;
static uint on_device[DEVICES];

static bool is_device(int hnid) { return hnid >= first_hnid && hnid < first_hnid + DEVICES; }

static bool is_peer_shared(const struct vm_area_struct *vma) { return (vma->vm_flags & PEER_SHARED) == PEER_SHARED; }

/* With the lock held. */
static struct device_page *find_locked(struct mm_struct *mm, unsigned long address) {
	struct device_page *page;

	list_for_each_entry(
		page, &device_pages, list) if (page->mm == mm && page->address == HUGE_FLOOR(address)) return page;
	return NULL;
}

static bool is_on_device(struct mm_struct *mm, unsigned long address) {
	unsigned long flags;
	bool found;

	spin_lock_irqsave(&lock, flags);
	found = find_locked(mm, address);
	spin_unlock_irqrestore(&lock, flags);
	return found;
}

/* Takes it off the list; the caller frees it. */
static struct device_page *take(struct mm_struct *mm, unsigned long address) {
	struct device_page *page;
	unsigned long flags;

	spin_lock_irqsave(&lock, flags);
	page = find_locked(mm, address);
	if (page) {
		list_del(&page->list);
		--on_device[page->hnid - first_hnid];
	}
	spin_unlock_irqrestore(&lock, flags);
	return page;
}

static void free_device_page(struct device_page *page) {
	vfree(page->bytes);
	kfree(page);
}

static uint drop(struct mm_struct *mm, unsigned long start, unsigned long end) {
	struct device_page *page, *next;
	unsigned long flags;
	LIST_HEAD(gone);
	uint count = 0;

	spin_lock_irqsave(&lock, flags);
	list_for_each_entry_safe(
		page, next, &device_pages, list) if (page->mm == mm && page->address >= start && page->address < end) {
		list_move(&page->list, &gone);
		--on_device[page->hnid - first_hnid];
		++count;
	}
	spin_unlock_irqrestore(&lock, flags);
	list_for_each_entry_safe(page, next, &gone, list) free_device_page(page);
	return count;
}

/* Copies one GMEM page between the processor's pages and the device's. mmap_lock is held. */
static int copy(struct mm_struct *mm, unsigned long address, char *bytes, bool to_processor) {
	int i;

	for (i = 0; i < HUGE / PAGE_SIZE; ++i) {
		struct page *page;
		char *mapped;
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 5, 0)
		long got = get_user_pages_remote(
			mm, address + i * PAGE_SIZE, 1, to_processor ? FOLL_WRITE | FOLL_FORCE : 0, &page, NULL, NULL);
#else
		long got = get_user_pages_remote(
			mm, address + i * PAGE_SIZE, 1, to_processor ? FOLL_WRITE | FOLL_FORCE : 0, &page, NULL);
#endif
		if (got != 1)
			return -EFAULT;
		mapped = kmap_local_page(page);
		if (to_processor)
			memcpy(mapped, bytes + i * PAGE_SIZE, PAGE_SIZE);
		else
			memcpy(bytes + i * PAGE_SIZE, mapped, PAGE_SIZE);
		kunmap_local(mapped);
		if (to_processor)
			set_page_dirty_lock(page);
		put_page(page);
	}
	return 0;
}

static void zap(struct vm_area_struct *vma, unsigned long start, unsigned long length) {
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 3, 0)
	zap_page_range(vma, start, length);
#else
	zap_page_range_single(vma, start, length, NULL);
#endif
}

static int move_to_device(struct vm_area_struct *vma, unsigned long address, int hnid) {
	struct device_page *page;
	unsigned long flags;

	if (is_on_device(vma->vm_mm, address)) {
		++hot;
		return 0;
	}
	if (broken_pages) {
		--broken_pages;
		return -EFAULT;
	}
	if (on_device[hnid - first_hnid] >= capacity)
		return -EFAULT;
	page = kzalloc(sizeof(*page), GFP_KERNEL);
	if (!page)
		return -EFAULT;
	page->bytes = vmalloc(HUGE);
	if (!page->bytes || copy(vma->vm_mm, address, page->bytes, false)) {
		free_device_page(page);
		return -EFAULT;
	}
	page->mm = vma->vm_mm;
	page->address = address;
	page->hnid = hnid;
	/* Before it is on the list: what is zapped there is dropped. */
	zap(vma, address, HUGE);
	spin_lock_irqsave(&lock, flags);
	list_add(&page->list, &device_pages);
	++on_device[hnid - first_hnid];
	spin_unlock_irqrestore(&lock, flags);
	++to_device;
	return 0;
}

/* ---- the life of a process ------------------------------------------------------------------------------ */

static int unmapped(struct mmu_notifier *notifier, const struct mmu_notifier_range *range) {
	/* Of other events the pages stay where they are. */
	if (range->event == MMU_NOTIFY_UNMAP || range->event == MMU_NOTIFY_CLEAR)
		drop(notifier->mm, range->start, range->end);
	return 0;
}

static void ended(struct mmu_notifier *notifier, struct mm_struct *mm) {
	struct process *process = container_of(notifier, struct process, notifier);
	unsigned long flags;

	drop(mm, 0, ULONG_MAX);
	/* The few bytes of its own stay: the module lives as long as the machine. */
	spin_lock_irqsave(&lock, flags);
	list_del(&process->list);
	spin_unlock_irqrestore(&lock, flags);
}

static const struct mmu_notifier_ops life = {
	.invalidate_range_start = unmapped,
	.release = ended,
};

static bool is_known(struct mm_struct *mm) {
	struct process *process;
	unsigned long flags;
	bool found = false;

	spin_lock_irqsave(&lock, flags);
	list_for_each_entry(process, &processes, list) found |= process->notifier.mm == mm;
	spin_unlock_irqrestore(&lock, flags);
	return found;
}

static int follow(struct mm_struct *mm) {
	struct process *process;
	unsigned long flags;
	int failed;

	if (is_known(mm))
		return 0;
	process = kzalloc(sizeof(*process), GFP_KERNEL);
	if (!process)
		return -ENOMEM;
	process->notifier.ops = &life;
	failed = mmu_notifier_register(&process->notifier, mm);
	if (failed) {
		kfree(process);
		return failed;
	}
	spin_lock_irqsave(&lock, flags);
	list_add(&process->list, &processes);
	spin_unlock_irqrestore(&lock, flags);
	return 0;
}

/* ---- mmap(2), munmap(2), page faults ----------------------------------------------------------------------- */

static bool huge_pages_are_off(void) {
	char text[64] = "";
	loff_t at = 0;
	struct file *file = filp_open("/sys/kernel/mm/transparent_hugepage/enabled", O_RDONLY, 0);

	if (IS_ERR(file))
		return true;
	kernel_read(file, text, sizeof(text) - 1, &at);
	filp_close(file, NULL);
	return strstr(text, "[never]");
}

/* In the place of ksys_mmap_pgoff(), for calls that have the bit. */
static unsigned long map(unsigned long hint, unsigned long length, unsigned long protection, unsigned long flags,
	unsigned long fd, unsigned long offset) {
	struct mm_struct *mm = current->mm;
	const bool is_fixed = flags & (MAP_FIXED | MAP_FIXED_NOREPLACE);
	struct vm_area_struct *vma;
	unsigned long start, begin;

	if (checks_flags &&
		(!enabled || (flags & MAP_TYPE) != MAP_PRIVATE || (flags & MAP_HUGETLB) || !(flags & MAP_ANONYMOUS)))
		return -EINVAL;
	length = ALIGN(length, HUGE);
	if (!length)
		return -EINVAL;
	if (huge_pages_are_off() || !attached || (is_fixed && !IS_ALIGNED(hint, HUGE)) || follow(mm))
		return -ENOMEM;
	/* A margin on either side, so that the kernel joins it with no neighbour. */
	flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
	begin = is_fixed ? vm_mmap(NULL, hint, length, protection, flags | MAP_FIXED_NOREPLACE, 0)
					 : vm_mmap(NULL, 0, length + 2 * HUGE, protection, flags, 0);
	if (IS_ERR_VALUE(begin))
		return begin == (unsigned long)-EEXIST ? begin : -ENOMEM;
	start = is_fixed ? begin : ALIGN(begin + PAGE_SIZE, HUGE);
	if (!is_fixed) {
		vm_munmap(begin, start - begin);
		vm_munmap(start + length, begin + HUGE * 2 - start);
	}
	mmap_write_lock(mm);
	vma = find_vma(mm, start);
	if (vma && vma->vm_start == start && vma->vm_end == start + length) {
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 3, 0)
		vma->vm_flags |= PEER_SHARED;
#else
		vm_flags_set(vma, PEER_SHARED);
#endif
		mmap_write_unlock(mm);
		return start;
	}
	mmap_write_unlock(mm);
	vm_munmap(start, length);
	return -ENOMEM;
}

/* Called by the processor's trap or by ftrace: the function that it stands at is left for another one. */
static int go_to(struct pt_regs *registers, const void *instead) {
	instruction_pointer_set(registers, (unsigned long)instead);
	return 1;
}

static int at_mmap(struct kprobe *probe, struct pt_regs *registers) {
	/* As the first kernels without gmem=on: the bit means nothing. */
	if (!current->mm || !(regs_get_kernel_argument(registers, 3) & map_peer_shared) || (!checks_flags && !enabled))
		return 0;
	return go_to(registers, map);
}

/* In the place of munmap(2), for processes with peer-shared memory. */
static long unmap(const struct pt_regs *user) {
	const unsigned long start = USER_ARGUMENT(user, 0), end = start + USER_ARGUMENT(user, 1);
	struct mm_struct *mm = current->mm;
	struct vm_area_struct *vma;
	unsigned long length = USER_ARGUMENT(user, 1);
	bool misaligned;

	mmap_read_lock(mm);
	vma = find_vma(mm, start);
	misaligned = vma && vma->vm_start <= start && is_peer_shared(vma) && !IS_ALIGNED(start, HUGE);
	vma = find_vma(mm, end - 1);
	if (end > start && vma && vma->vm_start < end && is_peer_shared(vma))
		length = ALIGN(end, HUGE) - start;
	mmap_read_unlock(mm);
	return misaligned ? -EINVAL : vm_munmap(start, length);
}

static int at_munmap(struct kprobe *probe, struct pt_regs *registers) {
	return current->mm && is_known(current->mm) ? go_to(registers, unmap) : 0;
}

/* In the place of handle_mm_fault() where the page is on the device. */
static vm_fault_t fault(
	struct vm_area_struct *vma, unsigned long address, unsigned int flags, struct pt_regs *registers) {
	struct mm_struct *mm = vma->vm_mm;
	struct device_page *page;
	int failed = 0;

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 4, 0)
	if (flags & FAULT_FLAG_VMA_LOCK) {
		vma_end_read(vma);
		return VM_FAULT_RETRY;
	}
#endif
	mutex_lock(&moving);
	page = take(mm, address);
	if (page) {
		failed = copy(mm, page->address, page->bytes, true);
		free_device_page(page);
		++to_host;
	}
	mutex_unlock(&moving);
	return failed ? VM_FAULT_SIGBUS : handle_mm_fault(vma, address, flags, registers);
}

static int at_fault(struct kprobe *probe, struct pt_regs *registers) {
	struct vm_area_struct *vma = (struct vm_area_struct *)regs_get_kernel_argument(registers, 0);

	return is_peer_shared(vma) && is_on_device(vma->vm_mm, regs_get_kernel_argument(registers, 1))
			   ? go_to(registers, fault)
			   : 0;
}

/* ---- /dev/gmem --------------------------------------------------------------------------------------------- */

static long get_hnid(unsigned long user) {
	struct hnid_argument argument;

	if (copy_from_user(&argument, (void __user *)user, sizeof(argument)))
		return -EFAULT;
	if (!attached)
		return -ENODEV;
	return put_user(first_hnid, (int __user *)argument.hnid) ? -EFAULT : 0;
}

static long move_range(struct mm_struct *mm, unsigned long start, size_t length, int hnid) {
	unsigned long from = HUGE_FLOOR(start), end = ALIGN(start + length, HUGE), at;
	struct vm_area_struct *vma;
	long result = 0;

	if (start + length < start || end < from)
		return -EINVAL;
	/* The documentation has it so: of an unaligned address, its page even for no byte. */
	if (from == end)
		return 0;
	mmap_read_lock(mm);
	mutex_lock(&moving);
	vma = find_vma(mm, from);
	if (!vma || vma->vm_start > from || vma->vm_end < end || !is_peer_shared(vma)) {
		result = RET_FAILURE_UNKNOWN;
	} else {
		/* The others go on where one fails. */
		for (at = from; at < end; at += HUGE)
			if (move_to_device(vma, at, hnid))
				result = -EFAULT;
	}
	mutex_unlock(&moving);
	mmap_read_unlock(mm);
	return result;
}

static long free_pages_of(struct mm_struct *mm, unsigned long start, size_t length) {
	unsigned long from = ALIGN(start, HUGE), end = HUGE_FLOOR(start + length);
	struct vm_area_struct *vma;

	if (start + length < start || (start && !from))
		return -EINVAL;
	if (from >= end)
		return 0;
	mmap_read_lock(mm);
	for (vma = find_vma(mm, from); vma && vma->vm_start < end; vma = find_vma(mm, vma->vm_end)) {
		const unsigned long first = max(vma->vm_start, from), last = min(vma->vm_end, end);

		if (is_peer_shared(vma)) {
			drop(mm, first, last);
			zap(vma, first, last - first);
			dropped += (last - first) / HUGE;
		}
		if (vma->vm_end >= end)
			break;
	}
	mmap_read_unlock(mm);
	return 0;
}

static long advise(unsigned long user) {
	struct madvise_argument argument;

	if (copy_from_user(&argument, (void __user *)user, sizeof(argument)))
		return -EFAULT;
	++calls;
	if (inject_count) {
		--inject_count;
		return inject;
	}
	if (argument.hnid == -1 ? argument.behavior != MADV_DONTNEED : !is_device(argument.hnid))
		return -EINVAL;
	switch (argument.behavior) {
	case GMEM_PREFETCH: return move_range(current->mm, argument.start, argument.length, argument.hnid);
	case MADV_DONTNEED: return free_pages_of(current->mm, argument.start, argument.length);
	default: return -EINVAL;
	}
}

static long control(struct file *file, unsigned int command, unsigned long argument) {
	if (ioctl_error)
		return ioctl_error;
	switch (command) {
	case GMEM_GET_HNUMA_ID: return get_hnid(argument);
	case GMEM_MADVISE: return advise(argument);
	default: return -EINVAL;
	}
}

static int opened(struct inode *inode, struct file *file) { return open_error; }

static const struct file_operations operations = {
	.owner = THIS_MODULE,
	.open = opened,
	.unlocked_ioctl = control,
};

static struct miscdevice node = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "gmem",
	.fops = &operations,
	.mode = 0600,
};

/* ---- files --------------------------------------------------------------------------------------------------- */

static struct kobject *devices[DEVICES];

static int index_of(const struct kobject *device) { return device == devices[0] ? 0 : 1; }

static ssize_t max_memsize_show(struct kobject *device, struct kobj_attribute *attribute, char *text) {
	return sysfs_emit(text, "%lu\n", capacity * HUGE);
}

static ssize_t nr_activepages_show(struct kobject *device, struct kobj_attribute *attribute, char *text) {
	return sysfs_emit(text, "%u\n", on_device[index_of(device)]);
}

static ssize_t nr_freepages_show(struct kobject *device, struct kobj_attribute *attribute, char *text) {
	return sysfs_emit(text, "%u\n", capacity - on_device[index_of(device)]);
}

static struct kobj_attribute max_memsize = __ATTR_RO(max_memsize);
static struct kobj_attribute nr_activepages = __ATTR_RO(nr_activepages);
static struct kobj_attribute nr_freepages = __ATTR_RO(nr_freepages);
static struct attribute *attributes[] = {&max_memsize.attr, &nr_activepages.attr, &nr_freepages.attr, NULL};
static const struct attribute_group group = {.attrs = attributes};

static int show_statistics(struct seq_file *file, void *unused) {
	seq_puts(file, "migrating H2D: 0\nmigrating D2H: 0\n");
	return 0;
}

static int make_files(void) {
	/* Looked up by its name in /sys/kernel: Linux 6.1 for arm64 has no kallsyms of data (CONFIG_KALLSYMS_ALL). */
	struct kernfs_node *memory = kernfs_find_and_get(kernel_kobj->sd, "mm");
	struct kobject *folder = memory ? kobject_create_and_add("gmem", memory->priv) : NULL;
	char name[16];
	int i;

	if (!folder)
		return -ENOENT;
	for (i = 0; i < DEVICES; ++i) {
		snprintf(name, sizeof(name), "hnode%d", first_hnid + i);
		devices[i] = kobject_create_and_add(name, folder);
		if (!devices[i] || sysfs_create_group(devices[i], &group))
			return -ENOMEM;
	}
	return proc_create_single("gmemstats", 0444, NULL, show_statistics) ? 0 : -ENOMEM;
}

static struct kprobe probes[] = {
	{.symbol_name = "ksys_mmap_pgoff", .pre_handler = at_mmap},
	{.symbol_name = SYSCALL("munmap"), .pre_handler = at_munmap},
	{.symbol_name = "handle_mm_fault", .pre_handler = at_fault},
};

static int __init start(void) {
	int i, failed;

	/* The first id behind those that memory nodes may have. */
	first_hnid = nr_node_ids;
	failed = make_files();
	for (i = 0; !failed && i < ARRAY_SIZE(probes); ++i)
		failed = register_kprobe(&probes[i]);
	/* Nothing is undone: the virtual machine is thrown away. */
	return failed ? failed : misc_register(&node);
}
module_init(start);

MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Stand-in for a GMEM kernel, for libgmem's tests");
