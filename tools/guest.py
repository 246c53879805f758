#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs a program in a virtual machine with three memory nodes, one of them without a processor.

usage: guest.py [--kernel 6.12|6.1] [--hugepages N] [--timeout SECONDS] PROGRAM [ARGUMENT...]

The machine has 3 GiB: nodes 0 and 1 with a processor each, node 2 with memory alone, and N pages of hugetlb on
each. It runs a kernel of the distribution, which is downloaded and unpacked into build/guest, not installed, and
a file system in memory with the program, the libraries that it is linked with, and busybox. QEMU translates (it
needs no KVM), so a boot takes about three seconds, and time means nothing in there.

What the program prints is printed; its exit status is this program's. 77, with the reason in the last line, where
there can be no such machine.
"""

import argparse
import pathlib
import platform
import re
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True
import run
import setup

CACHE = setup.ROOT / "build" / "guest"
KERNELS = {"6.12": "linux-image-6.12-cloud-amd64", "6.1": "linux-image-cloud-amd64"}
# Each of 1 GiB; the distances are those of two sockets and an expander behind both.
NODES = ["-object", "memory-backend-ram,id=m0,size=1G", "-object", "memory-backend-ram,id=m1,size=1G",
         "-object", "memory-backend-ram,id=m2,size=1G",
         "-numa", "node,nodeid=0,cpus=0,memdev=m0", "-numa", "node,nodeid=1,cpus=1,memdev=m1",
         "-numa", "node,nodeid=2,memdev=m2",
         "-numa", "dist,src=0,dst=1,val=20", "-numa", "dist,src=0,dst=2,val=40", "-numa", "dist,src=1,dst=2,val=40"]
# Automatic balancing would move pages behind a test's back.
KERNEL_ARGUMENTS = ("console=ttyS0 quiet panic=-1 mitigations=off random.trust_cpu=on tsc=reliable no_timer_check "
                    "numa_balancing=disable")
INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin HOME=/root
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
mkdir -p /dev/shm; mount -t tmpfs shm /dev/shm
stty -F /dev/ttyS1 raw -echo
for pool in /sys/devices/system/node/node*/hugepages/hugepages-2048kB/nr_hugepages; do echo @HUGEPAGES@ > $pool; done
cd /tmp
/command < /dev/null > /dev/ttyS1 2>&1
echo "guest: status $?" > /dev/ttyS0
poweroff -f
"""


def skip(why):
    print(f"guest: no virtual machine: {why}")
    sys.exit(77)


def tool(name, package):
    if setup.tool(name) is None and not (setup.apt(package) and setup.tool(name)):
        skip(f"{name} is missing: apt-get install {package}")
    return setup.tool(name)


def kernel(version):
    """The kernel's image, downloaded once."""
    folder = CACHE / version
    if not (folder / "vmlinuz").exists():
        if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
            skip("it runs a kernel of Debian's, and this is another distribution")
        run.step(f"fetching Linux {version} (once)")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        subprocess.run(["apt-get", "update"], capture_output=True, check=False)
        found = subprocess.run(["apt-cache", "depends", KERNELS[version]], text=True, capture_output=True, check=False)
        # The package of that name only names the newest of its series.
        package = re.search(rf"Depends: (linux-image-{re.escape(version)}\.\S*)", found.stdout)
        if package is None:
            skip(f"the distribution has no {KERNELS[version]}")
        done = subprocess.run(["apt-get", "download", package[1]], cwd=folder, text=True, capture_output=True,
                              check=False)
        archive = next(folder.glob("*.deb"), None)
        if done.returncode != 0 or archive is None:
            skip(f"{package[1]} cannot be downloaded: {done.stderr.strip()}")
        run.command("dpkg", "-x", archive, folder / "package", quiet=True)
        next((folder / "package" / "boot").glob("vmlinuz-*")).rename(folder / "vmlinuz")
        shutil.rmtree(folder / "package")
        archive.unlink()
    return folder / "vmlinuz"


def cpio_entry(name, mode, content=b""):
    """One file of the archive format that the kernel unpacks ("newc")."""
    path = name.encode() + b"\0"
    numbers = (0, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(path), 0)
    header = b"070701" + b"".join(b"%08X" % number for number in numbers)
    padded = header + path
    padded += bytes(-len(padded) % 4)
    return padded + content + bytes(-len(content) % 4)


def file_system(program, arguments, hugepages):
    """The archive: busybox, the program, the libraries of both."""
    files = {"bin/busybox": pathlib.Path(tool("busybox", "busybox-static")), "program": program}
    linked = subprocess.run(["ldd", program], text=True, capture_output=True, check=False).stdout
    for library in re.findall(r"(/\S+) \(0x", linked):
        files[library.lstrip("/")] = pathlib.Path(library)
    folders = {"dev", "proc", "sys", "tmp", "root"}
    for name in files:
        folders |= {str(parent) for parent in pathlib.PurePath(name).parents} - {"."}
    archive = [cpio_entry(folder, stat.S_IFDIR | 0o755) for folder in sorted(folders)]
    archive += [cpio_entry(name, stat.S_IFREG | 0o755, path.read_bytes()) for name, path in files.items()]
    command = f"#!/bin/sh\nexec /program {' '.join(map(shlex.quote, arguments))}\n"
    archive.append(cpio_entry("command", stat.S_IFREG | 0o755, command.encode()))
    archive.append(cpio_entry("init", stat.S_IFREG | 0o755, INIT.replace("@HUGEPAGES@", str(hugepages)).encode()))
    return b"".join(archive) + cpio_entry("TRAILER!!!", 0)


def boot(qemu, image, archive, timeout):
    """Returns (what the console said, what the program printed)."""
    with tempfile.TemporaryDirectory(prefix="guest-") as folder:
        folder = pathlib.Path(folder)
        (folder / "initrd").write_bytes(archive)
        # One thread translates for both processors: with one each, kernels panic at boot now and then. And without
        # ERMS, or the guest's memset would be ten times slower.
        command = [qemu, "-M", "q35", "-accel", "tcg,thread=single", "-cpu", "max,-monitor,-erms", "-smp", "2",
                   "-m", "3G", *NODES, "-kernel", image, "-initrd", folder / "initrd", "-append", KERNEL_ARGUMENTS, "-nodefaults",
                   "-display", "none", "-monitor", "none", "-no-reboot",
                   "-serial", f"file:{folder / 'console'}", "-serial", f"file:{folder / 'output'}"]
        try:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, text=True, capture_output=True, timeout=timeout,
                                  check=False)
            said = done.stderr
        except subprocess.TimeoutExpired:
            said = f"guest: stopped after {timeout} s\n"
        console, output = ((folder / name).read_text(errors="replace") if (folder / name).exists() else ""
                           for name in ("console", "output"))
        return console + said, output


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernel", choices=KERNELS, default="6.12")
    parser.add_argument("--hugepages", type=int, default=0)
    parser.add_argument("--timeout", type=int, default=240)
    parser.add_argument("program", type=pathlib.Path)
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    args = parser.parse_args()
    if platform.machine() != "x86_64":
        skip(f"its kernel is for x86_64, and this is {platform.machine()}")
    qemu = tool("qemu-system-x86_64", "qemu-system-x86")
    image = kernel(args.kernel)
    console, output = boot(qemu, image, file_system(args.program, args.arguments, args.hugepages), args.timeout)
    print(output.replace("\r\n", "\n"), end="")
    status = re.search(r"guest: status (\d+)", console)
    if status is None:
        print(console[-3000:])
        sys.exit("guest: the machine ended before the program did; what its console said is above")
    sys.exit(int(status[1]))


main()
