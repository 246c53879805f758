# SPDX-License-Identifier: Apache-2.0
"""Builds the .deb packages, installs them and nothing else of libgmem in a fresh Debian 12, uses them, and purges them.

The fresh root is a cached archive, build/package/debian-12.tar, made by mmdebstrap.
"""

import os
import pathlib
import shutil
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(ROOT / "tools"))
sys.dont_write_bytecode = True

import package  # noqa: E402
import run  # noqa: E402

# A user who builds C++ with CMake and reads manual pages has these.
INCLUDED = "cmake,g++,make,man-db,pkg-config,python3-minimal"
# apt and dpkg write these on any installation.
NOT_OURS = ("var/lib/dpkg/", "var/lib/apt/", "var/cache/", "var/log/", "etc/ld.so.cache", "tmp/")


def fresh_root():
    """A Debian 12 in a folder."""
    archive = package.OUT / "debian-12.tar"
    if not archive.exists():
        package.need("mmdebstrap")
        run.step("mmdebstrap: a Debian 12 (a few minutes, once)")
        made = archive.with_suffix(".new.tar")
        # Manual pages are left out of small installations, but here they are looked at.
        run.command("mmdebstrap", "--variant=minbase", f"--include={INCLUDED}", "bookworm", made, quiet=True)
        made.rename(archive)
    root = package.OUT / "root"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    run.command("tar", "--extract", "--file", archive, "--directory", root)
    return root


def inside(root, *command):
    """Run a command in the root; returns its output."""
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LANG": "C.UTF-8",
                   "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(["chroot", root, *command], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          check=False, env=environment)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\n{done.stdout}\nexit status {done.returncode}")
    return done.stdout


def files(root):
    """Everything in the root that a package could have left."""
    found = set()
    for folder, folders, names in os.walk(root):
        below = os.path.relpath(folder, root)
        if below == ".":
            folders.remove("proc")
        found.update(os.path.normpath(os.path.join(below, name)) for name in folders + names)
    return {path for path in found if not path.startswith(NOT_OURS)}


def has(text, wanted):
    if wanted not in text:
        sys.exit(f"there is no {wanted!r} in\n{text}")


def consumer(root, way, flavours):
    """The project that tests/package builds, with what is installed."""
    for flavour in flavours:
        build = f"/tmp/{way}-{flavour}"
        inside(root, "cmake", "-S", "/tmp/consumer", "-B", build, f"-DWAY={way}", f"-DFLAVOUR={flavour}")
        inside(root, "cmake", "--build", build)
        has(inside(root, f"{build}/consumer"), "hnid")


def dlopen_client(root):
    """As the frameworks do it, by the unversioned name, with the runtime package alone."""
    shutil.copy(HERE / "dlopen_client.cpp", root / "tmp")
    inside(root, "c++", "-o", "/tmp/dlopen_client", "/tmp/dlopen_client.cpp", "-ldl")
    inside(root, "/tmp/dlopen_client")


def preloaded(root):
    """Another program's malloc."""
    inside(root, "env", "LD_PRELOAD=libgmem.so", "python3", "-c", "import sys; x = [bytes(n) for n in range(5000)]; sys.exit(len(x) != 5000)")
    said = inside(root, "env", "LD_PRELOAD=libgmem.so", "GMEM_STATS=1", "python3", "-c", "x = bytearray(1 << 25)")
    has(said, "gmem")
    has(inside(root, "env", "LD_PRELOAD=libgmem.so", "python3", "-c", "print(open('/proc/self/maps').read())"), "libgmem.so.0")


def manual_pages(root, packages):
    """Each page is found by its name, and formatted without a warning."""
    pages = [path for path in inside(root, "dpkg", "-L", *packages).splitlines() if "/man/man" in path and path.endswith(".gz")]
    for page in pages:
        name, section = pathlib.Path(page).stem.rsplit(".", 1)
        has(inside(root, "man", "--warnings", section, name), name)
    print(f"{len(pages)} manual pages")


def main():
    if os.geteuid() != 0:
        print("a chroot needs root")
        sys.exit(77)
    packages = sorted((package.OUT / "deb").glob("*.deb")) if "--built" in sys.argv else package.deb()
    packages = [path for path in packages if "-dbgsym_" not in path.name]
    names = [path.name.split("_")[0] for path in packages]
    root = fresh_root()
    subprocess.run(["mount", "-t", "proc", "proc", root / "proc"], check=True)
    try:
        (root / "debs").mkdir()
        before = files(root)
        for path in packages:
            shutil.copy(path, root / "debs")
        runtime = [f"/debs/{path.name}" for path in packages if path.name.startswith("libgmem0_")]
        shutil.copytree(ROOT / "tests" / "package" / "consumer", root / "tmp" / "consumer")
        run.step("the runtime package alone")
        inside(root, "dpkg", "--install", *runtime)
        dlopen_client(root)
        preloaded(root)
        run.step("all packages")
        inside(root, "dpkg", "--install", *(f"/debs/{path.name}" for path in packages))
        consumer(root, "find_package", ("libgmem", "api", "static"))
        consumer(root, "pkgconfig", ("libgmem", "api", "static"))
        manual_pages(root, names)
        run.step("purge")
        inside(root, "dpkg", "--purge", *names)
        shutil.rmtree(root / "debs")
        (root / "debs").mkdir()
        if files(root) != before:
            sys.exit(f"purging leaves {sorted(files(root) - before)}, and takes {sorted(before - files(root))}")
    finally:
        subprocess.run(["umount", root / "proc"], check=True)
    shutil.rmtree(root)
    print(f"installed, used and purged: {' '.join(names)}")


main()
