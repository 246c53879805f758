#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Lists the system calls that libgmem makes.

  system_calls.py PROGRAM [ARGUMENT...]    those of a program, with how often
  system_calls.py --tests BUILD [PATTERN]  those of the tests of a build that docs/system-calls.md does not list; the default
                                           is all that run here and link a shared library

It runs programs under strace with stack traces (Debian's package strace). A call is libgmem's if its innermost function that is
not of the C library is libgmem's. So the calls of drivers and of functions that a stream runs do not count.
"""

import collections
import os
import pathlib
import re
import subprocess
import sys
import tempfile

import ctests
import setup

PAGE = setup.ROOT / "docs" / "system-calls.md"
TESTS = r"^(capi|cpp|devices|docs\.errnos|fuzz|heap|hostile|loading|model|streams)\."
# Static programs have the same code. What lasts minutes makes the same calls again and again.
NOT_TRACED = r"static|_sanitizer|\.build$|heap\.soak|system_calls"
C_LIBRARY = re.compile(r" > (?:\S*/(?:libc|ld-linux-[\w-]+|libpthread|libstdc\+\+|libgcc_s)\.so\.[\d.]+\(|\[vdso\]|unexpected_backtracing_error)")


def calls_in_libgmem(trace):
    """The names of the calls in a trace of strace -k that libgmem makes."""
    name = None
    for line in trace:
        call = re.match(r"(?:\d+ +)?(?:<\.\.\. )?(\w+)(?:\(| resumed)", line)
        if call:
            # A call that goes on has its stack behind its end.
            name = None if line.rstrip().endswith("<unfinished ...>") else call[1]
        elif not line.startswith(" > "):
            name = None  # a signal, which may have a stack as well, or the end of a process
        elif name and not C_LIBRARY.match(line):
            if re.match(r" > \S*/libgmem", line):
                yield name
            name = None


def listed():
    """The calls on the page."""
    text = PAGE.read_text(encoding="utf-8")
    return set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)) | set(re.findall(r"`(\w+)`", text.partition("## Needed by")[2]))


def traced(command, *options, **settings):
    """Runs a command under strace; returns its exit status and how often libgmem made each call."""
    with tempfile.NamedTemporaryFile("r", errors="replace") as trace:
        done = subprocess.run(["strace", "-f", "-k", "-qq", *options, "-o", trace.name, *command], check=False, **settings)
        return done.returncode, collections.Counter(calls_in_libgmem(trace))


def trace_program(*command):
    code, counts = traced(command)
    for name, count in sorted(counts.items()):
        print(f"{count:>9} {name}{'' if name in listed() else '   not in docs/system-calls.md'}")
    return code


def trace_tests(build, pattern=TESTS):
    # Only what is not listed stops the program. "?": whether this architecture has it or not.
    others = ["--seccomp-bpf", "-e", "trace=!" + ",".join(f"?{name}" for name in sorted(listed()))]
    unlisted, count = collections.defaultdict(list), 0
    for test in ctests.listed(build, pattern):
        if re.search(NOT_TRACED, test.name):
            continue
        with tempfile.TemporaryDirectory() as folder:
            try:
                code, calls = traced(test.command, *others, cwd=folder, env={**os.environ, **test.environment}, timeout=600,
                                     stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            except subprocess.TimeoutExpired:
                code, calls = "time-out", {}
        count += 1
        for name in calls:
            unlisted[name].append(test.name)
        print(f"{test.name}: {code}{''.join(f', {name} {number}' for name, number in sorted(calls.items()))}", flush=True)
    print(f"{count} tests; calls that docs/system-calls.md does not list: {', '.join(sorted(unlisted)) or 'none'}")
    return int(bool(unlisted) or count == 0)


def main():
    if len(sys.argv) < 2 or sys.argv[1:] == ["--tests"]:
        sys.exit(__doc__)
    if setup.tool("strace") is None and not setup.apt("strace"):
        print("strace is missing: apt-get install strace")
        sys.exit(77)
    if sys.argv[1] == "--tests":
        sys.exit(trace_tests(pathlib.Path(sys.argv[2]), *sys.argv[3:]))
    sys.exit(trace_program(*sys.argv[1:]))


main()
