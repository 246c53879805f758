#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Shows which misuse of malloc each allocator catches: it ends the process, or reports the misuse and goes on.

Each case of benches/heap_misuse.c runs in three processes for each allocator. The last rows are what it costs: CPU
time over glibc's for the same work, the median of three runs in turns, with the spread.
"""

import argparse
import os
import pathlib
import resource
import statistics
import subprocess

import peers

RUNS = 3
# mimalloc goes on, and says nothing unless asked.
SAY_IT = {"MIMALLOC_SHOW_ERRORS": "1"}
WORK = ("pair-64", "batch64-256", "larson-2")


def environment(library, settings):
    return {**os.environ, **({"LD_PRELOAD": library} if library else {}), **settings}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    folder = parser.parse_args().folder
    ours = str(folder / "libgmem.so")
    others, notes = peers.hardened()
    allocators = {"libgmem": (ours, {}), "libgmem, GMEM_HARDEN=1": (ours, {"GMEM_HARDEN": "1"}),
                  **{name: (library, SAY_IT) for name, library in others.items()}}
    program, load = str(folder / "benches" / "heap_misuse"), str(folder / "benches" / "heap_load")
    cases = subprocess.run([program], text=True, capture_output=True, check=True).stdout.splitlines()
    print("| misuse |", " | ".join(allocators), "|")
    print("|---|" + "---|" * len(allocators))
    caught = dict.fromkeys(allocators, 0)
    for number, case in enumerate(cases):
        cells = []
        for name, (library, settings) in allocators.items():
            outcomes = {outcome(program, number, environment(library, settings)) for _ in range(RUNS)}
            caught[name] += outcomes in ({"caught"}, {"reported"})
            cells.append(outcomes.pop() if len(outcomes) == 1 else "at times")
        print(f"| {case} |", " | ".join(cells), "|", flush=True)
    print(f"| **always caught, of {len(cases)}** |", " | ".join(map(str, caught.values())), "|")
    for work in WORK:
        print(f"| time of `{work}` / glibc |", " | ".join(cost(load, work, allocators)), "|", flush=True)
    print()
    print(*notes, sep="\n")


def outcome(program, number, variables):
    done = subprocess.run([program, str(number)], env=variables, capture_output=True, timeout=60, check=False,
                          preexec_fn=without_core)
    if done.returncode < 0:
        return "caught"
    return "reported" if done.stderr else "-"


def without_core():
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def cost(load, work, allocators):
    seconds = {name: [] for name in allocators}
    for _ in range(RUNS):
        for name, (library, settings) in allocators.items():
            done = subprocess.run([load, "--no-rest", work], env=environment(library, settings), text=True, capture_output=True,
                                  check=True)
            figures = dict(line.split() for line in done.stdout.splitlines())
            seconds[name].append(float(figures["seconds"]))
    for name, values in seconds.items():
        ratios = [value / other for value, other in zip(values, seconds["glibc"], strict=True)]
        yield f"{statistics.median(ratios):.2f} [{min(ratios):.2f}..{max(ratios):.2f}]"


if __name__ == "__main__":
    main()
