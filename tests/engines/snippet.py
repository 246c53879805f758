#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compiles and runs the program in a page of docs/engines, with the library that it is about from Debian.

usage: snippet.py BUILD_FOLDER NAME
"""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import engine_packages  # noqa: E402
import run  # noqa: E402

# Packages, folders of headers in them, and what to link.
LIBRARIES = {"eigen": (("libeigen3-dev",), "usr/include/eigen3", ()),
             "onednn": (("libdnnl-dev", "libdnnl2"), "usr/include", ("-ldnnl",))}


def main():
    build_folder, name = pathlib.Path(sys.argv[1]), sys.argv[2]
    packages, headers, libraries = LIBRARIES[name]
    work = engine_packages.WORK / "snippets" / name
    with engine_packages.locked(name):
        folder = engine_packages.WORK / "packages" / packages[0]
        if not folder.exists():
            try:
                engine_packages.from_debian(*packages)(folder)
            except engine_packages.Missing as why:
                print(why)
                sys.exit(77)
        prefix = engine_packages.installed(build_folder)
        page = ROOT / "docs" / "engines" / f"{name}.md"
        run.command(sys.executable, ROOT / "tests" / "docs" / "cookbook.py", page, work, quiet=True)
        paths = [str(prefix / "lib"), *map(str, engine_packages.debian_libraries(folder))]
        run.command(os.environ.get("CXX", "c++"), "-std=c++17", "-O2", "-Wall", "-Wextra", work / f"{name}.cpp", "-o", work / name,
                    f"-I{prefix}/include", "-isystem", folder / headers, *(f"-L{path}" for path in paths), "-lgmem_api",
                    *libraries, f"-Wl,-rpath,{':'.join(paths)}")
    done = subprocess.run([work / name], check=False)
    print(f"{name}: exit status {done.returncode}")
    sys.exit(done.returncode)


main()
