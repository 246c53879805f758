# SPDX-License-Identifier: Apache-2.0
"""What the virtual machine of each architecture is made of: QEMU's options, kernels, busybox, the libraries of programs."""

import dataclasses
import pathlib
import platform
import re
import shutil
import subprocess

import cross
import debian
import run
import setup

CACHE = setup.ROOT / "build" / "guest"
KERNEL_CONFIGS = pathlib.Path(__file__).resolve().parent / "guest_kernels"


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A kernel of Debian's: the newest that a package of a suite (None: the machine's own) points to. A kernel with a
    config is built from Debian's source instead."""
    package: str
    suite: str | None = None
    config: str | None = None


@dataclasses.dataclass(frozen=True)
class Architecture:
    """The facts of one architecture."""
    name: str
    qemu: str
    qemu_package: str
    # QEMU's options for the processors, and -M's value.
    processors: tuple
    machine: str
    # Where the console's text and the programs' output go; the same where there is one serial port only.
    console: str
    output: str
    kernel_arguments: str
    kernels: dict


X86_64 = Architecture(
    "x86_64", "qemu-system-x86_64", "qemu-system-x86",
    # One thread translates for both processors: with one each, kernels panic at boot now and then. Without ERMS, because
    # with it the guest's memset is ten times slower.
    ("-accel", "tcg,thread=single", "-cpu", "max,-monitor,-erms", "-smp", "2"), "q35",
    "ttyS0", "ttyS1", "tsc=reliable no_timer_check",
    {"6.12": Kernel("linux-image-6.12-cloud-amd64"), "6.1": Kernel("linux-image-cloud-amd64")})

AARCH64 = Architecture(
    "aarch64", "qemu-system-aarch64", "qemu-system-arm",
    # The processors really run side by side. Pointer authentication is QEMU's quick one.
    ("-accel", "tcg,thread=multi", "-cpu", "max,pauth-impdef=on", "-smp", "2"), "virt,gic-version=3",
    "ttyAMA0", "ttyAMA0", "",
    {"6.12": Kernel("linux-image-arm64", "trixie"), "6.12-16k": Kernel("linux-image-arm64-16k", "trixie"),
     "6.12-64k": Kernel("linux-source-6.12", "trixie", "arm64-64k.config"),
     "6.1": Kernel("linux-image-arm64", "bookworm")})

ARCHITECTURES = {architecture.name: architecture for architecture in (X86_64, AARCH64)}


class Unavailable(Exception):
    """There can be no such machine here; says why."""


def tool(name, package):
    if setup.tool(name) is None and not (setup.apt(package) and setup.tool(name)):
        raise Unavailable(f"{name} is missing: apt-get install {package}")
    return setup.tool(name)


def folder(architecture):
    """Where what is downloaded and built for an architecture lies."""
    return CACHE if architecture is X86_64 else CACHE / architecture.name


def _suite(architecture, kernel):
    if kernel.suite is None:
        return debian.Machine()
    return debian.Suite(kernel.suite, debian.ARCHITECTURES[architecture.name])


# ---- kernels ----------------------------------------------------------------------------------------------


def _built_kernel(architecture, version, place):
    """Build a kernel from Debian's source with a small configuration."""
    wanted = architecture.kernels[version]
    config = KERNEL_CONFIGS / wanted.config
    source = place / "source"
    _suite(architecture, wanted).unpack(place / "package", wanted.package)
    archive = next((place / "package" / "usr" / "src").glob("linux-source-*.tar.xz"))
    source.mkdir()
    run.command("tar", "xf", archive, "-C", source, "--strip-components=1", quiet=True)
    shutil.rmtree(place / "package")
    for name, package in {"flex": "flex", "bison": "bison", "bc": "bc", "make": "make"}.items():
        tool(name, package)
    run.step(f"building Linux {version} for {architecture.name} (once, up to 40 minutes)")
    make = [*make_command(architecture), "-C", source]
    for words in ([f"KCONFIG_ALLCONFIG={config}", "allnoconfig"], ["-j2", "Image", "modules"]):
        done = run.command("nice", "-n", "19", *make, *words, quiet=True, check=False)
        if done.returncode != 0:
            raise Unavailable(f"Linux {version} does not build: {done.stdout[-1500:]}")
    shutil.copy(source / "arch" / "arm64" / "boot" / "Image", place / "vmlinuz")


def _packaged_kernel(architecture, version, place, modules):
    wanted = architecture.kernels[version]
    suite = _suite(architecture, wanted)
    # The package of that name only points to the newest of its series.
    number = re.escape(version.partition("-")[0])
    packages = suite.dependencies(wanted.package, rf"linux-image-{number}\.\S*")
    if not packages:
        raise Unavailable(f"{suite.name} has no {wanted.package}")
    suite.unpack(place / "package", packages[0])
    for module in modules:
        next((place / "package").rglob(module.name)).rename(module)
    next((place / "package" / "boot").glob("vmlinuz-*")).rename(place / "vmlinuz")
    (place / "release").write_text(packages[0].removeprefix("linux-image-"))
    shutil.rmtree(place / "package")


def kernel(architecture, version, module_names=()):
    """The kernel's image and those of its modules, made once."""
    place = folder(architecture) / version
    image, modules = place / "vmlinuz", [place / f"{name}.ko" for name in module_names]
    release = [] if architecture.kernels[version].config else [place / "release"]
    if not all(file.exists() for file in [image, *release, *modules]):
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        try:
            if architecture.kernels[version].config:
                _built_kernel(architecture, version, place)
            else:
                _packaged_kernel(architecture, version, place, modules)
        except debian.Missing as missing:
            raise Unavailable(f"Linux {version} for {architecture.name} cannot be had: {missing}") from None
    return image, modules


# ---- modules for kernels ----------------------------------------------------------------------------------


def is_native(architecture):
    return architecture.name == platform.machine()


def make_command(architecture):
    """make, with what a kernel or a module for it is built with."""
    command = [tool("make", "make")]
    if is_native(architecture):
        compiler = "gcc-12" if shutil.which("gcc-12") else "gcc"
        return [*command, f"CC={tool(compiler, 'gcc')}"]
    prefix = cross.TARGETS[architecture.name][1]
    tool(f"{prefix}-gcc", f"gcc-{prefix}")
    return [*command, f"ARCH={debian.ARCHITECTURES[architecture.name]}", f"CROSS_COMPILE={prefix}-", f"CC={prefix}-gcc"]


def _with_own_libc(programs, root):
    """Have programs of a newer Debian run by that release's own dynamic linker."""
    linker = next(root.glob("**/ld-linux-*.so.*"))
    folders = ":".join(sorted({str(library.parent) for library in root.glob("**/lib/**/*.so.*")}))
    for program in programs:
        if program.is_file() and not program.is_symlink() and program.read_bytes()[:4] == b"\x7fELF":
            real = program.rename(program.with_name(f"{program.name}.elf"))
            # Some look for others by their own name.
            program.write_text(f'#!/bin/sh\nexec "{linker}" --argv0 "{program}" --library-path "{folders}" "{real}" "$@"\n')
            program.chmod(0o755)


def _unpack_headers(architecture, wanted, name, packages):
    """Unpack the headers of that name, the files that they refer to, and the programs that build modules."""
    suite = _suite(architecture, wanted)
    needed = suite.dependencies(name, r"linux-(?:headers|kbuild)-\S*")
    kbuild = [package for package in needed if package.startswith("linux-kbuild-")]
    suite.unpack(packages, name, *(package for package in needed if package not in kbuild))
    # The programs run on this machine.
    here = debian.Suite(suite.name) if wanted.suite else suite
    here.unpack(packages, *(package.partition(":")[0] for package in kbuild))
    if wanted.suite:
        here.unpack(packages / "root", "libc6", "libelf1t64" if here.versions("libelf1t64") else "libelf1",
                    "zlib1g", "libzstd1")
        _with_own_libc(list((packages / "usr" / "lib").rglob("scripts/**/*")), packages / "root")


def headers(architecture, version):
    """The folder that modules for a kernel are built in."""
    wanted = architecture.kernels[version]
    place = folder(architecture) / version
    kernel(architecture, version)
    if wanted.config:
        return place / "source"
    name = f"linux-headers-{(place / 'release').read_text()}"
    packages = place / "headers"
    found = packages / "usr" / "src" / name
    if not found.exists():
        shutil.rmtree(packages, ignore_errors=True)
        try:
            _unpack_headers(architecture, wanted, name, packages)
        except debian.Missing as missing:
            shutil.rmtree(packages, ignore_errors=True)
            raise Unavailable(f"{name} cannot be had: {missing}") from None
        makefile = found / "Makefile"
        makefile.write_text(makefile.read_text().replace("/usr/src/", f"{packages}/usr/src/"))
    return found


# ---- programs ---------------------------------------------------------------------------------------------


def busybox(architecture):
    """A busybox that needs no libraries."""
    if is_native(architecture):
        return pathlib.Path(tool("busybox", "busybox-static"))
    place = folder(architecture) / "busybox"
    if not place.exists():
        unpacked = folder(architecture) / "busybox-package"
        suite = debian.Suite("bookworm", debian.ARCHITECTURES[architecture.name])
        try:
            suite.unpack(unpacked, "busybox-static")
        except debian.Missing as missing:
            raise Unavailable(str(missing)) from None
        next(unpacked.glob("**/bin/busybox")).rename(place)
        shutil.rmtree(unpacked)
    return place


def libraries(architecture, binary):
    """The shared libraries of a program: path in the guest -> source."""
    if is_native(architecture):
        linked = subprocess.run(["ldd", binary], text=True, capture_output=True, check=False).stdout
        return {library.lstrip("/"): pathlib.Path(library) for library in re.findall(r"(/\S+) \(0x", linked)}
    prefix = cross.TARGETS[architecture.name][1]
    found, seen, left = {}, set(), [pathlib.Path(binary)]
    while left:
        said = subprocess.run([f"{prefix}-readelf", "-dl", left.pop()], text=True, capture_output=True, check=False).stdout
        own = [folder for path in re.findall(r"R(?:UN)?PATH\)\s+\S+ \S+ \[(.*)\]", said) for folder in path.split(":")]
        names = re.findall(r"NEEDED\)\s+\S+ \S+ \[(.*)\]", said)
        names += [pathlib.PurePath(name).name for name in re.findall(r"interpreter: (\S+)\]", said)]
        for name in names:
            if name in seen:
                continue
            seen.add(name)
            # As in the guest: where the program says, else /lib.
            system = pathlib.Path("/usr") / prefix / "lib" / name
            place = next((pathlib.Path(folder) / name for folder in own if (pathlib.Path(folder) / name).exists()), None)
            found[str(place).lstrip("/") if place else f"lib/{name}"] = place or system
            left.append(place or system)
    return found
