#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Lists the system calls that a program makes inside libgmem, with how often: system_calls.py PROGRAM [ARGUMENT...]

It runs the program under strace with stack traces (Debian's package strace) and counts the calls with a function of libgmem on the
stack, also those that the C library makes on libgmem's behalf. Calls that docs/system-calls.md does not list are marked.
"""

import collections
import pathlib
import re
import subprocess
import sys
import tempfile

import setup

PAGE = setup.ROOT / "docs" / "system-calls.md"


def calls_in_libgmem(trace):
    """The names of the calls in a trace of strace -k that have a frame of libgmem below them."""
    name = None
    for line in trace:
        call = re.match(r"(?:\d+ +)?(?:<\.\.\. )?(\w+)(?:\(| resumed)", line)
        if call:
            name = call[1]
        elif name and line.startswith(" > ") and "/libgmem" in line:
            yield name
            name = None


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    if setup.tool("strace") is None and not setup.apt("strace"):
        sys.exit("strace is missing: apt-get install strace")
    with tempfile.NamedTemporaryFile("r", errors="replace") as trace:
        done = subprocess.run(["strace", "-f", "-k", "-qq", "-o", trace.name, *sys.argv[1:]], check=False)
        counts = collections.Counter(calls_in_libgmem(trace))
    listed = set(re.findall(r"`(\w+)`", PAGE.read_text(encoding="utf-8")))
    for name, count in sorted(counts.items()):
        print(f"{count:>9} {name}{'' if name in listed else '   not in docs/system-calls.md'}")
    sys.exit(done.returncode)


main()
