# SPDX-License-Identifier: Apache-2.0
"""The machine's memory before a measurement."""

import mmap


def warm(mib):
    """Touches so much memory, in huge pages, and frees it.

    The host of a virtual machine may take back memory that is free for some seconds. Who touches it next waits for the host, up
    to 30 times as long as for the kernel's own work; that would be measured instead."""
    with mmap.mmap(-1, mib << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(mmap.MADV_HUGEPAGE)
        for at in range(0, len(memory), mmap.PAGESIZE):
            memory[at] = 1
