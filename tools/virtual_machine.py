# SPDX-License-Identifier: Apache-2.0
"""A virtual machine with three memory nodes, one of them without a processor, that runs a list of programs.

The machine has 3 GiB: nodes 0 and 1 with a processor each, and node 2 with memory alone. Its kernel is one of Debian's,
downloaded and unpacked into build/guest but not installed. Its file system lies in memory: the programs, the shared
libraries that they are linked with, busybox, and cgroup2 in /sys/fs/cgroup. QEMU translates the guest's code, so no KVM is
needed; time in the guest means nothing.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import pathlib
import re
import secrets
import shlex
import shutil
import stat
import subprocess
import tempfile
import time

import machines
import run
import setup

# Modules that the slower tier needs, in the order of loading.
TIER_MODULES = {"6.12": [], "6.1": ["dax_hmem", "kmem"]}
GMEM_KERNEL = setup.ROOT / "tests" / "standins" / "gmem_kernel"
# Three nodes of 1 GiB. The distances are those of two sockets with a memory expander behind both.
NODES = ["-object", "memory-backend-ram,id=m0,size=1G", "-object", "memory-backend-ram,id=m1,size=1G",
         "-object", "memory-backend-ram,id=m2,size=1G",
         "-numa", "node,nodeid=0,cpus=0,memdev=m0", "-numa", "node,nodeid=1,cpus=1,memdev=m1",
         "-numa", "node,nodeid=2,memdev=m2",
         "-numa", "dist,src=0,dst=1,val=20", "-numa", "dist,src=0,dst=2,val=40", "-numa", "dist,src=1,dst=2,val=40"]
# Speeds that the firmware reports where node 2 is a slower tier: (initiator, target) -> (latency in ns, bandwidth).
SPEEDS = {(cpu, node): (300, "10G") if node == 2 else (100, "100G") if node == cpu else (150, "60G")
          for cpu in (0, 1) for node in (0, 1, 2)}
# Linux 6.1 ignores the speeds of a node that is present at boot. There node 2 is special-purpose memory, like that of a
# CXL device, which a driver turns into a node.
SPECIAL_PURPOSE = "memhp_default_state=online_movable memmap=1024M%4096M-1+0xefffffff"
# Automatic NUMA balancing would move pages while a test looks at them.
KERNEL_ARGUMENTS = ("quiet panic=-1 mitigations=off random.trust_cpu=on numa_balancing=disable")
# The programs run one after the other. Each starts without processes, files or missing hugetlb pages of the one before.
INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin HOME=/root
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
mkdir -p /dev/shm; mount -t tmpfs shm /dev/shm; mount -t cgroup2 cgroup /sys/fs/cgroup
stty -F @OUTPUT@ raw -echo
# Where the console is the same port, the kernel only speaks in an emergency.
dmesg -n 1
for module in /modules/*; do [ -e $module ] && insmod $module; done
[ -e /sys/bus/dax/drivers/kmem ] && echo dax0.0 > /sys/bus/dax/drivers/kmem/new_id
[ -e /dev/nvme0n1 ] && mkswap /dev/nvme0n1 > /dev/null && swapon /dev/nvme0n1
for job in /jobs/*; do
    for pool in /sys/devices/system/node/node*/hugepages/hugepages-2048kB/nr_hugepages; do
        echo @HUGEPAGES@ > $pool
    done
    [ -e $job/files ] && cp -r $job/files/. /
    cd /tmp
    echo "@MARK@ begin ${job#/jobs/}" > @OUTPUT@
    sh $job/run < /dev/null > @OUTPUT@ 2>&1
    echo "@MARK@ end $?" > @OUTPUT@
    kill -9 -1 2> /dev/null
    [ -e $job/files ] && (cd $job/files; find . -type f -exec rm -f /{} ";")
    rm -rf /tmp/* /dev/shm/*
done
poweroff -f
"""


@dataclasses.dataclass(frozen=True)
class Machine:
    """A machine to boot. hugepages: 2 MiB pages of hugetlb on each node; swap: MiB of swap space."""
    kernel: str = "6.12"
    architecture: machines.Architecture = machines.X86_64
    tiers: bool = False
    gmem: bool = False
    hugepages: int = 0
    swap: int = 0


@dataclasses.dataclass(frozen=True)
class Program:
    """A program to run in it. files: further files, path in the guest -> source."""
    name: str
    path: pathlib.Path
    arguments: tuple = ()
    environment: tuple = ()
    files: tuple = ()

    def sources(self, architecture):
        """Every file that it needs: path in the guest -> source."""
        found = {f"programs/{self.path.name}": self.path}
        for binary in [self.path, *(source for _, source in self.files)]:
            found |= machines.libraries(architecture, binary)
        return found

    def digest(self, architecture):
        """A number that changes with the program, its libraries, its files and how it is called."""
        state = hashlib.sha256(repr((self.name, self.arguments, self.environment, self.files)).encode())
        for source in [*self.sources(architecture).values(), *(source for _, source in self.files)]:
            state.update(hashlib.sha256(source.read_bytes()).digest())
        return state.hexdigest()


@dataclasses.dataclass
class Outcome:
    """The end of a program. status: its exit status, 1 if it never ended; output: what it printed, and what happened."""
    name: str
    status: int
    output: str
    seconds: float


# ---- what a machine is made of ----------------------------------------------------------------------------


@contextlib.contextmanager
def _cache():
    """One process at a time downloads and builds."""
    machines.CACHE.mkdir(parents=True, exist_ok=True)
    with (machines.CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def gmem_kernel(architecture, version):
    """The stand-in for a GMEM kernel, built for this kernel."""
    folder = machines.folder(architecture) / version / "gmem_kernel"
    module, sources = folder / "gmem_kernel.ko", list(GMEM_KERNEL.iterdir())
    newest = max(source.stat().st_mtime for source in sources)
    if not module.exists() or module.stat().st_mtime < newest:
        folder.mkdir(parents=True, exist_ok=True)
        for source in sources:
            shutil.copy(source, folder)
        # Without these settings, Linux 6.12 asks for a tool that has no use here and for a newer compiler.
        done = run.command(*machines.make_command(architecture), "-C", machines.headers(architecture, version),
                           f"M={folder}", "CONFIG_DEBUG_INFO_BTF_MODULES=", "CONFIG_CC_HAS_MIN_FUNCTION_ALIGNMENT=",
                           "modules", quiet=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{done.stdout}\nthe stand-in for a GMEM kernel does not compile")
    return module


def prepare(architecture=machines.X86_64, versions=None):
    """Download and build all that the machines of an architecture need."""
    with _cache():
        machines.tool(architecture.qemu, architecture.qemu_package)
        machines.busybox(architecture)
        for version in versions or architecture.kernels:
            machines.kernel(architecture, version, _tier_modules(architecture, version))
            gmem_kernel(architecture, version)


def _tier_modules(architecture, version):
    return TIER_MODULES[version] if architecture is machines.X86_64 else []


# ---- the file system in memory ----------------------------------------------------------------------------


def _cpio_entry(name, mode, content=b""):
    """One file of the archive format that the kernel unpacks ("newc")."""
    path = name.encode() + b"\0"
    numbers = (0, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(path), 0)
    header = b"070701" + b"".join(b"%08X" % number for number in numbers)
    padded = header + path
    padded += bytes(-len(padded) % 4)
    return padded + content + bytes(-len(content) % 4)


def _file_system(machine, programs, mark, modules):
    """The archive: busybox, the kernel's modules, the programs with their libraries, and a job for each program."""
    init = INIT.replace("@HUGEPAGES@", str(machine.hugepages)).replace("@MARK@", mark)
    init = init.replace("@OUTPUT@", f"/dev/{machine.architecture.output}")
    files = {"bin/busybox": machines.busybox(machine.architecture).read_bytes(),
             "init": init.encode()}
    files |= {f"modules/{number}.ko": module.read_bytes() for number, module in enumerate(modules)}
    for number, program in enumerate(programs):
        job = f"jobs/{number:03}"
        words = ["exec", "env", *program.environment, f"/programs/{program.path.name}", *program.arguments]
        files[f"{job}/run"] = (shlex.join(words) + "\n").encode()
        for path, source in program.files:
            files[f"{job}/files/{path.lstrip('/')}"] = source.read_bytes()
        needed = program.sources(machine.architecture)
        files |= {path: source.read_bytes() for path, source in needed.items() if path not in files}
    folders = {"dev", "proc", "sys", "tmp", "root"}
    for name in files:
        folders |= {str(parent) for parent in pathlib.PurePath(name).parents} - {"."}
    archive = [_cpio_entry(folder, stat.S_IFDIR | 0o755) for folder in sorted(folders)]
    archive += [_cpio_entry(name, stat.S_IFREG | 0o755, content) for name, content in files.items()]
    return b"".join(archive) + _cpio_entry("TRAILER!!!", 0)


# ---- running it -------------------------------------------------------------------------------------------


def _memory(machine):
    """QEMU's options for the memory, and the kernel's."""
    if not machine.tiers:
        return ["-M", machine.architecture.machine, *NODES], ""
    if machine.kernel == "6.1":
        return ["-M", "q35", *NODES], SPECIAL_PURPOSE
    options = ["-M", "q35,hmat=on", *(f"{option},initiator=0" if "nodeid=2" in option else option for option in NODES)]
    for (cpu, node), (latency, bandwidth) in SPEEDS.items():
        speed = f"hmat-lb,initiator={cpu},target={node},hierarchy=memory"
        options += ["-numa", f"{speed},data-type=access-latency,latency={latency}",
                    "-numa", f"{speed},data-type=access-bandwidth,bandwidth={bandwidth}"]
    return options, ""


def _qemu(machine, image, folder):
    """The command that boots it: the console and what the programs print go to two files."""
    options, arguments = _memory(machine)
    target = machine.architecture
    serial = ["console"] if target.console == target.output else ["console", "output"]
    command = [machines.tool(target.qemu, target.qemu_package), *options, *target.processors, "-m", "3G",
               "-kernel", image, "-initrd", folder / "initrd",
               "-append", f"console={target.console} {KERNEL_ARGUMENTS} {target.kernel_arguments} {arguments}",
               "-nodefaults", "-display", "none", "-monitor", "none", "-no-reboot",
               *(word for name in serial for word in ("-serial", f"file:{folder / name}"))]
    if machine.swap:
        with (folder / "swap").open("wb") as disk:
            disk.truncate(machine.swap << 20)
        command += ["-drive", f"if=none,id=swap,format=raw,file={folder / 'swap'}", "-device", "nvme,drive=swap,serial=swap"]
    return [str(word) for word in command]


def _text(path):
    return path.read_text(errors="replace").replace("\r\n", "\n") if path.exists() else ""


def _starved(process):
    """Seconds for which a process was ready to run but got no processor: other work on the host is no fault of a test."""
    waited = [0]
    for thread in pathlib.Path(f"/proc/{process.pid}/task").glob("*/schedstat"):
        with contextlib.suppress(OSError, IndexError):
            waited.append(int(thread.read_text().split()[1]))
    return max(waited) / 1e9


def _boot(machine, image, modules, programs, timeout):
    """Boot once and run programs until all have ended or the machine has; returns the outcomes, in order.

    The last outcome is that of the program that was running when the machine ended, if it did not end by itself.
    """
    mark = f"guest-{secrets.token_hex(8)}:"
    ended = re.compile(rf"{mark} begin \d+\n(.*?){mark} end (\d+)\n", re.DOTALL)
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="guest-") as name:
        folder = pathlib.Path(name)
        printed_to = folder / ("console" if machine.architecture.console == machine.architecture.output else "output")
        (folder / "initrd").write_bytes(_file_system(machine, programs, mark, modules))
        with (folder / "qemu").open("w") as said:
            process = subprocess.Popen(_qemu(machine, image, folder), stdin=subprocess.DEVNULL, stdout=said, stderr=said)
        began, why = time.monotonic(), "the machine ended before the program did"
        starved = 0.0
        try:
            while True:
                # Before the look at the output, which is then complete if the machine has ended.
                running = process.poll() is None
                found = ended.findall(_text(printed_to))
                now = time.monotonic()
                for output, status in found[len(outcomes):]:
                    outcomes.append(Outcome(programs[len(outcomes)].name, int(status), output, now - began))
                    began, starved = now, _starved(process)
                if not running or len(outcomes) == len(programs):
                    break
                if now - began - (_starved(process) - starved) > timeout:
                    why = f"stopped after {timeout} s"
                    break
                time.sleep(0.1)
        finally:
            process.kill()
            process.wait()
        if len(outcomes) < len(programs):
            left = _text(printed_to).rpartition(f"{mark} begin ")[2]
            printed = left.partition("\n")[2] if f"{mark} end" not in left else ""
            console = (_text(folder / "console") + _text(folder / "qemu"))[-3000:]
            outcomes.append(Outcome(programs[len(outcomes)].name, 1,
                                    f"{printed}\n{console}\nguest: {why}; the end of its console is above\n",
                                    time.monotonic() - began))
    return outcomes


def run_programs(machine, programs, timeout, report):
    """Run programs one after the other in one machine; `report` gets each Outcome.

    A program that hangs or takes the machine down fails; the machine is booted again for the rest.
    """
    target = machine.architecture
    with _cache():
        machines.tool(target.qemu, target.qemu_package)
        image, tier_modules = machines.kernel(target, machine.kernel, _tier_modules(target, machine.kernel))
        modules = [*(tier_modules if machine.tiers else []),
                   *([gmem_kernel(target, machine.kernel)] if machine.gmem else [])]
    left = list(programs)
    while left:
        for outcome in _boot(machine, image, modules, left, timeout):
            report(outcome)
            left.pop(0)
