#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compares large blocks of glibc's malloc, as it is and tuned, with libgmem's: benches/heap_blocks.cpp says what is measured.

usage: bench_blocks.py BUILD_FOLDER [--rounds N]

The three take turns. Prints each figure's median, and its ratio to libgmem's in pairs of the same round.
"""

import argparse
import os
import pathlib
import random
import statistics
import subprocess
import sys

# No .pyc files in the source tree.
sys.dont_write_bytecode = True

import memory  # noqa: E402
import run  # noqa: E402
from engine_packages import TUNED  # noqa: E402

LIBGMEM = "libgmem"
# Most of what the program has at a time, in MiB.
PEAK = 1200


def start(folder, way, rest):
    environments = {"glibc": {}, "tuned glibc": {"GLIBC_TUNABLES": TUNED}, LIBGMEM: {"LD_PRELOAD": str(folder / "libgmem.so")}}
    kept = {key: value for key, value in os.environ.items() if key not in ("LD_PRELOAD", "GLIBC_TUNABLES")}
    return subprocess.Popen([folder / "benches" / "heap_blocks", "--rest", str(rest)], env={**kept, **environments[way]}, text=True,
                            stdout=subprocess.PIPE)


def finish(process):
    text = process.communicate()[0]
    if process.returncode != 0:
        run.fail(f"heap_blocks: exit status {process.returncode}")
    return {name: float(value) for name, value in (line.split() for line in text.splitlines())}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("build_folder", type=pathlib.Path)
    parser.add_argument("--rounds", type=int, default=7)
    asked = parser.parse_args()
    ways = ("glibc", "tuned glibc", LIBGMEM)
    # The rest is long, and nothing else is read from these.
    resting = {way: start(asked.build_folder, way, 40) for way in ways}
    after_rest = {way: finish(process)["after_rest"] for way, process in resting.items()}
    runs = {way: [] for way in ways}
    for number in range(asked.rounds):
        for way in random.Random(number).sample(ways, len(ways)):
            memory.warm(PEAK)
            runs[way].append({**finish(start(asked.build_folder, way, 0)), "after_rest": after_rest[way]})
    print(f"load {os.getloadavg()[0]:.1f}, {asked.rounds} rounds: median, and ratio to libgmem's")
    print("| | glibc | tuned glibc | libgmem |\n|---|---|---|---|")
    for name in runs[LIBGMEM][0]:
        cells = []
        for way in ways:
            values = [each[name] for each in runs[way]]
            text = f"{statistics.median(values):.4g}"
            if way != LIBGMEM and name.endswith("_ms"):
                pairs = [value / own[name] for value, own in zip(values, runs[LIBGMEM])]
                text += f" ({statistics.median(pairs):.3g}: {min(pairs):.3g} to {max(pairs):.3g})"
            cells.append(text)
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
