#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Repeats tests under unfair schedules to find rare faults, and keeps the core dump and output of each failure.

  tools/repeat.py BUILD [PATTERN] [--times N] [--seconds S] [--jobs J] [--out FOLDER]

PATTERN selects tests of BUILD by ctest name; the default is the heap, device, thread and fork tests. Each round runs each
test once, under the next of these schedules: as it is; all threads on one processor; round-robin real-time priority on
one processor (where permitted); lowest priority beside two busy loops on the same processor. The checked tests
also yield at each change of the heap's state (`./dev test checked` builds their library).
"""

import argparse
import collections
import concurrent.futures
import os
import pathlib
import resource
import subprocess
import sys
import time

import ctests

DEFAULT = r"^(checked\.(heap|capi|cpp|streams|devices)|heap\.(linked|model|stress|introspection|injected)|devices\.(cuda|ascend|opencl)|capi\.(streams|foreign)|hostile\.racing|cpp\.operators|streams\.executor)"
BUSY = ["sh", "-c", "while :; do :; done"]
SCHEDULES = {
    "as it is": [],
    "one processor": ["taskset", "-c", "0"],
    "round robin": ["taskset", "-c", "0", "chrt", "--rr", "1"],
    "crowded": ["taskset", "-c", "1", "nice", "-n", "19"],
}


def permitted(schedule):
    return subprocess.run([*schedule, "true"], capture_output=True, check=False).returncode == 0


def run(number, test, schedule, out):
    """None, or what went wrong."""
    name, command, environment, limit = test
    folder = out / f"{number:06}.{name}"
    folder.mkdir(parents=True)
    busy = [subprocess.Popen(["taskset", "-c", "1", *BUSY]) for _ in range(2)] if schedule == "crowded" else []
    started = time.monotonic()
    try:
        with open(folder / "output", "wb") as output:
            done = subprocess.run([*SCHEDULES[schedule], *command], cwd=folder, env={**os.environ, **environment}, stdout=output,
                                  stderr=subprocess.STDOUT, timeout=4 * limit, check=False,
                                  preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY,) * 2))
        code = done.returncode
    except subprocess.TimeoutExpired:
        code = "time-out"
    finally:
        for process in busy:
            process.kill()
            process.wait()
    if code in (0, 77):
        for file in folder.iterdir():
            if file.is_file():
                file.unlink()
        try:
            folder.rmdir()
        except OSError:
            pass
        return None
    return f"{name} ({schedule}): {code} after {time.monotonic() - started:.1f} s, see {folder}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=pathlib.Path)
    parser.add_argument("pattern", nargs="?", default=DEFAULT)
    parser.add_argument("--times", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--out", type=pathlib.Path)
    arguments = parser.parse_args()
    out = (arguments.out or arguments.build / "repeat").resolve()
    out.mkdir(parents=True, exist_ok=True)
    if not pathlib.Path("/proc/sys/kernel/core_pattern").read_text().startswith("core"):
        print("note: /proc/sys/kernel/core_pattern sends core dumps elsewhere", file=sys.stderr)
    chosen = list(ctests.listed(arguments.build, arguments.pattern))
    if not chosen:
        sys.exit(f"no test of {arguments.build} matches {arguments.pattern!r}")
    schedules = [name for name, prefix in SCHEDULES.items() if permitted(prefix)]
    print(f"{len(chosen)} tests, schedules: {', '.join(schedules)}", flush=True)
    counts, failures, end = collections.Counter(), [], time.monotonic() + arguments.seconds

    def one(job):
        number, test, schedule = job
        if time.monotonic() > end:
            return None
        failure = run(number, test, schedule, out)
        counts[test[0]] += 1
        if failure:
            failures.append(failure)
            print(failure, flush=True)
        return failure

    jobs = ((index * len(chosen) + place, test, schedules[(index + place) % len(schedules)])
            for index in range(arguments.times) for place, test in enumerate(chosen))
    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        while time.monotonic() <= end:
            some = [pool.submit(one, job) for job, _ in zip(jobs, range(64))]
            if not some:
                break
            concurrent.futures.wait(some)
    for name, count in sorted(counts.items()):
        print(f"{count:7} {name}")
    print(f"{sum(counts.values())} runs, {len(failures)} failures")
    sys.exit(bool(failures))


main()
