# SPDX-License-Identifier: Apache-2.0
"""symbols.py LIBRARY...: symbol versions that the libraries define, and the oldest systems that they need."""

import re
import subprocess
import sys

# openEuler 22.03 has glibc 2.34 and GCC 10.3.
NEWEST = {"GLIBC": (2, 34), "GLIBCXX": (3, 4, 28), "CXXABI": (1, 3, 12), "GCC": (10, 0, 0)}
OURS = re.compile(r"gmem|_ZN4gmem")


def symbols(library, which):
    """(name, version) of each dynamic symbol."""
    lines = subprocess.run(["nm", "-D", which, library], text=True, capture_output=True, check=True).stdout.splitlines()
    for line in lines:
        kind, name = line.split()[-2:]
        # Type A is the name of a version.
        if kind != "A":
            name, _, of = name.partition("@")
            yield name, of.strip("@")


def check(library):
    for name, of in symbols(library, "--defined-only"):
        wanted = "LIBGMEM_0.1" if OURS.match(name) else ""
        if of != wanted:
            yield f"{name} has the version {of!r} and not {wanted!r}"
    for name, of in symbols(library, "--undefined-only"):
        family, _, number = of.partition("_")
        if not of or family not in NEWEST:
            if of:
                yield f"{name} needs {of}, of which nothing is known here"
            continue
        if tuple(map(int, number.split("."))) > NEWEST[family]:
            yield f"{name} needs {of}; {family}_{'.'.join(map(str, NEWEST[family]))} is the newest allowed"


def main():
    complaints = [f"{library}: {text}" for library in sys.argv[1:] for text in check(library)]
    sys.exit("\n".join(complaints) if complaints else 0)


main()
