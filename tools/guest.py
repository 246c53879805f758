#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs a program in a virtual machine with three memory nodes, one of them without a processor.

usage: guest.py [--kernel 6.12|6.1] [--hugepages N] [--tiers] [--swap MIB] [--gmem] [--env NAME=VALUE]...
                [--file PATH=SOURCE]... [--timeout SECONDS] PROGRAM [ARGUMENT...]

The machine has 3 GiB: nodes 0 and 1 with a processor each, node 2 with memory alone, and N pages of hugetlb on
each. With --tiers, node 2 is a slower tier, to which the kernel demotes what is cold; with --swap there is swap
space; with --gmem the kernel behaves as openEuler's GMEM kernel does (tests/standins/gmem_kernel). The kernel is the distribution's, downloaded and unpacked into build/guest, not installed; the file system
is in memory, with the program, the libraries that it is linked with, busybox, cgroup2 in /sys/fs/cgroup, and what --file
names. QEMU translates (it needs no KVM), so a boot takes about three seconds, and time means nothing in there.

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
# In the order of loading.
MODULES = {"6.12": [], "6.1": ["dax_hmem", "kmem"]}
GMEM_KERNEL = setup.ROOT / "tests" / "standins" / "gmem_kernel"
# Each of 1 GiB; the distances are those of two sockets and an expander behind both.
NODES = ["-object", "memory-backend-ram,id=m0,size=1G", "-object", "memory-backend-ram,id=m1,size=1G",
         "-object", "memory-backend-ram,id=m2,size=1G",
         "-numa", "node,nodeid=0,cpus=0,memdev=m0", "-numa", "node,nodeid=1,cpus=1,memdev=m1",
         "-numa", "node,nodeid=2,memdev=m2",
         "-numa", "dist,src=0,dst=1,val=20", "-numa", "dist,src=0,dst=2,val=40", "-numa", "dist,src=1,dst=2,val=40"]
# Automatic balancing would move pages behind a test's back.
# What the firmware says of a slower node 2: (initiator, target) -> (latency in ns, bandwidth).
SPEEDS = {(cpu, node): (300, "10G") if node == 2 else (100, "100G") if node == cpu else (150, "60G")
          for cpu in (0, 1) for node in (0, 1, 2)}
# Linux 6.1 asks for no speeds of a node that is there at boot. There node 2 is memory for special purposes, as that
# of CXL is, which a driver makes a node of.
SPECIAL_PURPOSE = "memhp_default_state=online_movable memmap=1024M%4096M-1+0xefffffff"
KERNEL_ARGUMENTS = ("console=ttyS0 quiet panic=-1 mitigations=off random.trust_cpu=on tsc=reliable no_timer_check "
                    "numa_balancing=disable")
INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin HOME=/root
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
mkdir -p /dev/shm; mount -t tmpfs shm /dev/shm; mount -t cgroup2 cgroup /sys/fs/cgroup
stty -F /dev/ttyS1 raw -echo
for module in /modules/*; do [ -e $module ] && insmod $module; done
[ -e /sys/bus/dax/drivers/kmem ] && echo dax0.0 > /sys/bus/dax/drivers/kmem/new_id
[ -e /dev/nvme0n1 ] && mkswap /dev/nvme0n1 > /dev/null && swapon /dev/nvme0n1
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


def download(packages, folder):
    """Unpack packages of the distribution into a folder, without installing them."""
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        skip("it runs a kernel of Debian's, and this is another distribution")
    subprocess.run(["apt-get", "update"], capture_output=True, check=False)
    with tempfile.TemporaryDirectory(prefix="guest-") as archives:
        done = subprocess.run(["apt-get", "download", *packages], cwd=archives, text=True, capture_output=True,
                              check=False)
        if done.returncode != 0:
            skip(f"{' '.join(packages)} cannot be downloaded: {done.stderr.strip()}")
        for archive in pathlib.Path(archives).glob("*.deb"):
            run.command("dpkg", "-x", archive, folder, quiet=True)


def dependencies(package, pattern):
    """Packages that a package needs, of those whose name matches."""
    found = subprocess.run(["apt-cache", "depends", package], text=True, capture_output=True, check=False)
    return re.findall(rf"Depends: ({pattern})$", found.stdout, re.MULTILINE)


def kernel(version):
    """The kernel's image and modules, downloaded once."""
    folder = CACHE / version
    image, modules = folder / "vmlinuz", [folder / f"{name}.ko" for name in MODULES[version]]
    if not all(file.exists() for file in [image, *modules]):
        run.step(f"fetching Linux {version} (once)")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        # The package of that name only names the newest of its series.
        packages = dependencies(KERNELS[version], rf"linux-image-{re.escape(version)}\.\S*")
        if not packages:
            skip(f"the distribution has no {KERNELS[version]}")
        download(packages, folder / "package")
        for module in modules:
            next((folder / "package").rglob(module.name)).rename(module)
        next((folder / "package" / "boot").glob("vmlinuz-*")).rename(image)
        shutil.rmtree(folder / "package")
    return image, modules


def release(image):
    """The kernel's full version, as its image says it."""
    data = image.read_bytes()
    at = 0x200 + int.from_bytes(data[0x20E:0x210], "little")
    return data[at:data.index(b" ", at)].decode()


def headers(image):
    """What modules for a kernel are built with, downloaded once."""
    folder = image.parent / "headers"
    name = f"linux-headers-{release(image)}"
    found = folder / "usr" / "src" / name
    if not found.exists():
        run.step(f"fetching {name} (once)")
        shutil.rmtree(folder, ignore_errors=True)
        download([name, *dependencies(name, r"linux-(?:headers|kbuild)-\S*")], folder)
        makefile = found / "Makefile"
        makefile.write_text(makefile.read_text().replace("/usr/src/", f"{folder}/usr/src/"))
    return found


def gmem_kernel(image):
    """The stand-in for a GMEM kernel, built for this one."""
    folder = image.parent / "gmem_kernel"
    module, sources = folder / "gmem_kernel.ko", list(GMEM_KERNEL.iterdir())
    newest = max(source.stat().st_mtime for source in sources)
    if not module.exists() or module.stat().st_mtime < newest:
        folder.mkdir(exist_ok=True)
        for source in sources:
            shutil.copy(source, folder)
        compiler = "gcc-12" if shutil.which("gcc-12") else "gcc"
        # Without the last setting, 6.12 asks for a tool that is no use here.
        done = run.command(tool("make", "make"), "-C", headers(image), f"M={folder}", f"CC={tool(compiler, 'gcc')}",
                           "CONFIG_DEBUG_INFO_BTF_MODULES=", "modules", quiet=True, check=False)
        if done.returncode != 0:
            print(done.stdout)
            sys.exit("guest: the stand-in for a GMEM kernel does not compile")
    return module


def cpio_entry(name, mode, content=b""):
    """One file of the archive format that the kernel unpacks ("newc")."""
    path = name.encode() + b"\0"
    numbers = (0, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(path), 0)
    header = b"070701" + b"".join(b"%08X" % number for number in numbers)
    padded = header + path
    padded += bytes(-len(padded) % 4)
    return padded + content + bytes(-len(content) % 4)


def file_system(program, arguments, environment, hugepages, modules, further):
    """The archive: busybox, the program, further files, the libraries of all, the modules to load."""
    files = {"bin/busybox": pathlib.Path(tool("busybox", "busybox-static")), "program": program}
    files |= {f"modules/{number}.ko": module for number, module in enumerate(modules)}
    files |= further
    for binary in [program, *further.values()]:
        linked = subprocess.run(["ldd", binary], text=True, capture_output=True, check=False).stdout
        for library in re.findall(r"(/\S+) \(0x", linked):
            files[library.lstrip("/")] = pathlib.Path(library)
    folders = {"dev", "proc", "sys", "tmp", "root"}
    for name in files:
        folders |= {str(parent) for parent in pathlib.PurePath(name).parents} - {"."}
    archive = [cpio_entry(folder, stat.S_IFDIR | 0o755) for folder in sorted(folders)]
    archive += [cpio_entry(name, stat.S_IFREG | 0o755, path.read_bytes()) for name, path in files.items()]
    command = f"#!/bin/sh\nexec env {shlex.join(environment)} /program {shlex.join(arguments)}\n"
    archive.append(cpio_entry("command", stat.S_IFREG | 0o755, command.encode()))
    archive.append(cpio_entry("init", stat.S_IFREG | 0o755, INIT.replace("@HUGEPAGES@", str(hugepages)).encode()))
    return b"".join(archive) + cpio_entry("TRAILER!!!", 0)


def machine(kernel_version, tiers):
    """QEMU's options for the memory, and the kernel's."""
    if not tiers:
        return ["-M", "q35", *NODES], ""
    if kernel_version == "6.1":
        return ["-M", "q35", *NODES], SPECIAL_PURPOSE
    options = ["-M", "q35,hmat=on", *(f"{option},initiator=0" if "nodeid=2" in option else option for option in NODES)]
    for (cpu, node), (latency, bandwidth) in SPEEDS.items():
        speed = f"hmat-lb,initiator={cpu},target={node},hierarchy=memory"
        options += ["-numa", f"{speed},data-type=access-latency,latency={latency}",
                    "-numa", f"{speed},data-type=access-bandwidth,bandwidth={bandwidth}"]
    return options, ""


def boot(qemu, options, image, archive, arguments, swap, timeout):
    """Returns (what the console said, what the program printed)."""
    with tempfile.TemporaryDirectory(prefix="guest-") as folder:
        folder = pathlib.Path(folder)
        (folder / "initrd").write_bytes(archive)
        # One thread translates for both processors: with one each, kernels panic at boot now and then. And without
        # ERMS, or the guest's memset would be ten times slower.
        command = [qemu, *options, "-accel", "tcg,thread=single", "-cpu", "max,-monitor,-erms", "-smp", "2", "-m", "3G",
                   "-kernel", image, "-initrd", folder / "initrd", "-append", f"{KERNEL_ARGUMENTS} {arguments}",
                   "-nodefaults", "-display", "none", "-monitor", "none", "-no-reboot",
                   "-serial", f"file:{folder / 'console'}", "-serial", f"file:{folder / 'output'}"]
        if swap:
            with (folder / "swap").open("wb") as disk:
                disk.truncate(swap << 20)
            command += ["-drive", f"if=none,id=swap,format=raw,file={folder / 'swap'}",
                        "-device", "nvme,drive=swap,serial=swap"]
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
    parser.add_argument("--tiers", action="store_true")
    parser.add_argument("--swap", type=int, metavar="MIB", default=0)
    parser.add_argument("--gmem", action="store_true")
    parser.add_argument("--env", metavar="NAME=VALUE", action="append", default=[])
    parser.add_argument("--file", metavar="PATH=SOURCE", action="append", default=[])
    parser.add_argument("--timeout", type=int, default=240)
    parser.add_argument("program", type=pathlib.Path)
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    args = parser.parse_args()
    if platform.machine() != "x86_64":
        skip(f"its kernel is for x86_64, and this is {platform.machine()}")
    qemu = tool("qemu-system-x86_64", "qemu-system-x86")
    image, modules = kernel(args.kernel)
    options, kernel_arguments = machine(args.kernel, args.tiers)
    loaded = [*(modules if args.tiers else []), *([gmem_kernel(image)] if args.gmem else [])]
    further = {path.lstrip("/"): pathlib.Path(source) for path, source in (file.split("=", 1) for file in args.file)}
    archive = file_system(args.program, args.arguments, args.env, args.hugepages, loaded, further)
    console, output = boot(qemu, options, image, archive, kernel_arguments, args.swap, args.timeout)
    print(output.replace("\r\n", "\n"), end="")
    status = re.search(r"guest: status (\d+)", console)
    if status is None:
        print(console[-3000:])
        sys.exit("guest: the machine ended before the program did; what its console said is above")
    sys.exit(int(status[1]))


main()
