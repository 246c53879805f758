#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compiles the headers with the oldest Clang that is supported, with each standard library, under the warnings of ctest's
cpp.strict. The compiler and libc++ are Debian's, unpacked into build/clang-14.

usage: oldest_clang.py SOURCE INCLUDE_FOLDER... -- WARNING...

Exit status: 0 if all compile, 1 if not, 77 where the packages cannot be had.
"""

import os
import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tools"))
sys.dont_write_bytecode = True

import debian  # noqa: E402

# The standard, and further options.
CASES = (("17",), ("20",), ("2b",), ("17", "-fno-exceptions", "-fno-rtti"))


def fetched():
    """The folder with the compiler and libc++."""
    folder = ROOT / "build" / "clang-14"
    if not folder.exists():
        partial = folder.with_name("clang-14.partial")
        shutil.rmtree(partial, ignore_errors=True)
        machine = debian.Machine()
        machine.unpack(partial, *machine.with_dependencies("clang-14"), *machine.with_dependencies("libc++-14-dev"))
        partial.rename(folder)
    return folder


def main():
    split = sys.argv.index("--")
    source, includes, warnings = sys.argv[1], sys.argv[2:split], sys.argv[split + 1:]
    try:
        folder = fetched()
    except debian.Missing as why:
        print(why)
        sys.exit(77)
    llvm = folder / "usr" / "lib" / "llvm-14"
    libraries = {str(library.parent) for library in folder.rglob("lib*.so.*")}
    environment = {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(libraries)}
    standard_libraries = {"libstdc++": [], "libc++": ["-nostdinc++", "-isystem", llvm / "include" / "c++" / "v1"]}
    failed = 0
    for library, words in standard_libraries.items():
        for standard, *options in CASES:
            done = subprocess.run([llvm / "bin" / "clang++", f"-std=c++{standard}", "-fsyntax-only", *warnings, *options, *words,
                                   *(f"-I{include}" for include in includes), source], env=environment, text=True,
                                  capture_output=True, check=False)
            print(f"clang 14, {library}, C++{standard} {' '.join(options)}: {'ok' if done.returncode == 0 else 'FAILED'}")
            if done.returncode != 0:
                failed += 1
                print(done.stderr)
    sys.exit(1 if failed else 0)


main()
