# SPDX-License-Identifier: Apache-2.0
"""sh ./autogen.sh; ./configure; make; make install: as users of the original build it, and with mistakes."""

import argparse
import os
import pathlib
import re
import shutil
import subprocess
import sys


def run(*command, expect=0, **options):
    """Run a command and return its output; show it if the outcome is not the expected one."""
    done = subprocess.run([str(word) for word in command], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          check=False, **options)
    if (done.returncode == 0) != (expect == 0):
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}\nexit status {done.returncode}")
    return done.stdout


def fresh(folder):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def cache(folder):
    """What CMake was told."""
    lines = (folder / "build" / "make" / "CMakeCache.txt").read_text().splitlines()
    return dict(re.match(r"(\w+):\w+=(.*)", line).groups() for line in lines if re.match(r"\w+:\w+=", line))


def mistakes(args):
    """Each gets one sentence that names it."""
    for options, sentence in {
        ("--with-device=toaster",): "LIBGMEM_DEVICE=toaster is no device of libgmem; the devices are:",
        ("--with-device",): "--with-device has no value",
        ("--without-device",): "libgmem always has a device",
        ("--with-devise=host", "--frobnicate"): "unknown options: --with-devise=host --frobnicate",
        ("FOO=1",): "unknown variable FOO",
        ("host",): "unknown argument host",
        ("--prefix=here",): "--prefix=here is relative",
        ("--prefix=/usr", "--libdir=/opt/lib"): "--libdir=/opt/lib is not below the prefix /usr",
        ("--host=vax-dec-vms",): "--host=vax-dec-vms: there is no",
        ("--build-type=Fast",): "--build-type=Fast is none of",
        ("CMAKE=/nowhere/cmake",): "/nowhere/cmake is missing",
        ("CC=/nowhere/cc",): "/nowhere/cc",
    }.items():
        said = run(args.source / "configure", f"CARGO={args.cargo}", *options, expect=1, cwd=fresh(args.work / "mistakes"))
        if sentence not in " ".join(said.split()):
            sys.exit(f"./configure {' '.join(options)} should say: {sentence}\nbut says:\n{said}")


def options(args):
    """Options reach CMake: those of rpm and debhelper, a compiler, and folders as distributions write them."""
    work = fresh(args.work / "options")
    compilers = {"CC": work / "my cc", "CXX": work / "my c++"}
    for name, path in {"CC": args.cc, "CXX": args.cxx}.items():
        compilers[name].write_text(f'#!/bin/sh\nexec "{path}" "$@"\n')
        compilers[name].chmod(0o755)
    run(args.source / "configure", f"CARGO={args.cargo}", f"CC={compilers['CC']}", f"CXX={compilers['CXX']}",
        "CFLAGS=-g1", "CPPFLAGS=-DCHECK", "--build=x86_64-linux-gnu", "--prefix=/usr", "--sysconfdir=/etc",
        "--libdir=${prefix}/lib/some where", "--mandir=${prefix}/share/man", "--disable-dependency-tracking",
        "--disable-option-checking", "--disable-nls", "--enable-offline", "--build-type=MinSizeRel", cwd=work)
    told = cache(work)
    wanted = {"CMAKE_C_COMPILER": str(compilers["CC"]), "CMAKE_CXX_COMPILER": str(compilers["CXX"]),
              "CMAKE_C_FLAGS": "-g1 -DCHECK", "CMAKE_CXX_FLAGS": "-DCHECK", "CMAKE_INSTALL_PREFIX": "/usr",
              "CMAKE_INSTALL_LIBDIR": "lib/some where", "CMAKE_BUILD_TYPE": "MinSizeRel", "LIBGMEM_CARGO_OFFLINE": "ON"}
    for name, value in wanted.items():
        if told.get(name, "").strip() != value:
            sys.exit(f"{name} is {told.get(name)!r} and not {value!r}")


def build(args):
    """Build, install to DESTDIR, and uninstall again."""
    work = fresh(args.work / "build")
    run(args.source / "configure", f"CARGO={args.cargo}", f"CC={args.cc}", f"CXX={args.cxx}", "--prefix=/opt/gmem",
        "--libdir=/opt/gmem/lib", f"--with-device={args.device}", f"-DLIBGMEM_CARGO_TARGET_DIR={args.cargo_target_dir}", cwd=work)
    run("make", "-j2", cwd=work)
    staged = work / "staged"
    run("make", "install", f"DESTDIR={staged}", cwd=work)
    found = {str(path.relative_to(staged / "opt/gmem")) for path in staged.rglob("*") if not path.is_dir()}
    listed = (args.source / "tests/package/installed.txt").read_text().replace("CONFIG", "release").splitlines()
    wanted = {line for line in listed if line and not line.startswith("#")}
    if found != wanted:
        sys.exit(f"missing {sorted(wanted - found)}, not in the list {sorted(found - wanted)}")
    # As the seed's users look it up.
    run(sys.executable, "-c", "import ctypes, sys; ctypes.CDLL(sys.argv[1]).gmemFreeEager", staged / "opt/gmem/lib/libgmem.so")
    if "./configure --enable-tests" not in run("make", "check", expect=1, cwd=work):
        sys.exit("make check does not say how the tests are built")
    run("make", "uninstall", f"DESTDIR={staged}", cwd=work)
    left = [str(path) for path in staged.rglob("*") if not path.is_dir()]
    if left:
        sys.exit(f"make uninstall leaves {left}")
    run("make", "distclean", cwd=work)
    if (work / "Makefile").exists() or (work / "build/make").exists():
        sys.exit("make distclean leaves its files")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--source", "--work", "--cmake", "--cargo", "--cargo-target-dir", "--cc", "--cxx"):
        parser.add_argument(name, required=True, type=pathlib.Path)
    parser.add_argument("--device", required=True)
    args = parser.parse_args()
    for name in ("MAKEFLAGS", "DESTDIR", "CC", "CXX", "CFLAGS", "CXXFLAGS", "CPPFLAGS", "LDFLAGS"):
        os.environ.pop(name, None)
    os.environ["PATH"] = f"{args.cmake.parent}{os.pathsep}{os.environ['PATH']}"
    run("sh", args.source / "autogen.sh", cwd=args.source)
    if "--with-device=DEVICE" not in run(args.source / "configure", "--help"):
        sys.exit("--help does not name --with-device")
    mistakes(args)
    options(args)
    build(args)


main()
